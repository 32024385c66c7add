"""Shared attention against explicit maps and against two passes that store them; received attention; tempering."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from facegen.models.dit import LatentDiT, modulate
from facegen.models.sharing import Sharing, received_attention, shared_attention, temperature, tempered
from facegen.rng import torch_generator

R, HEADS, N, D = 5, 2, 7, 8
SOURCE = torch.tensor([0, 1, 0, 1, 0])


def qkv(dtype=torch.float64):
    g = torch_generator(0, "qkv")
    return [2 * torch.randn(R, HEADS, N, D, generator=g, dtype=dtype) for _ in range(3)]


def explicit(q, k, v, source, share):
    """Attention as it is written down: logits, mixed row by row, softmax, product."""
    out = torch.empty_like(v)
    for r in range(len(q)):
        for h in range(q.shape[1]):
            own, other = (q[i, h] @ k[i, h].T / math.sqrt(q.shape[3]) for i in (r, int(source[r])))
            out[r, h] = torch.softmax(share * other + (1 - share) * own, dim=1) @ v[r, h]
    return out


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_6_injected_attention_equals_explicit_maps(share):
    q, k, v = qkv()
    found = shared_attention(q, k, v, source=SOURCE, share=share)
    torch.testing.assert_close(found, explicit(q, k, v, SOURCE, share), atol=1e-12, rtol=1e-12)
    plain = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(found[:2], plain[:2], atol=1e-12, rtol=1e-12)  # who borrows from itself is as it was
    assert bool(((found[2:] - plain[2:]).abs().amax(dim=(1, 2, 3)) > 0.1).all()) == (share > 0)


def test_6_the_paired_form_is_one_attention_over_both_streams_values():
    q, k, v = (x[:4] for x in qkv())
    source = torch.tensor([0, 1, 0, 1])
    both = F.scaled_dot_product_attention(q[:2], k[:2], torch.cat([v[:2], v[2:]], dim=3))
    paired = torch.cat(both.split(D, dim=3))
    torch.testing.assert_close(shared_attention(q, k, v, source=source, share=1.0), paired, atol=1e-12, rtol=1e-12)


def test_no_source_or_no_share_is_plain_attention_bit_for_bit():
    q, k, v = qkv(torch.float32)
    plain = F.scaled_dot_product_attention(q, k, v)
    assert torch.equal(shared_attention(q, k, v, source=None, share=0.7), plain)
    assert torch.equal(shared_attention(q, k, v, source=SOURCE, share=0.0), plain)


def test_7_a_shift_of_a_row_of_logits_changes_nothing():
    """A constant beside every key shifts a query's logits alike: neither the output nor what is received moves."""
    q, k, v = qkv()
    shift = torch.randn(R, HEADS, 1, D, generator=torch_generator(1, "shift"), dtype=torch.float64)
    for share in (0.0, 0.4, 1.0):
        before, after = (shared_attention(q, keys, v, source=SOURCE, share=share) for keys in (k, k + shift))
        torch.testing.assert_close(after, before, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(received_attention(q, k + shift), received_attention(q, k), atol=1e-5, rtol=1e-5)


def test_7_a_temperature_equals_the_published_mix_of_moments():
    """z' = (z - mean) / sd * (half of each sd) + (half of each mean), per query over the keys; softmax(z') = softmax(rho z)."""
    g = torch_generator(2, "logits")
    z, z_empty = (torch.randn(3, N, 32, generator=g, dtype=torch.float64) * s for s in (2.0, 0.7))
    mean, sd = z.mean(2, keepdim=True), z.std(2, keepdim=True)
    mean_e, sd_e = z_empty.mean(2, keepdim=True), z_empty.std(2, keepdim=True)
    published = (z - mean) / sd * (0.5 * sd_e + 0.5 * sd) + (0.5 * mean_e + 0.5 * mean)
    rho = temperature(sd, sd_e, share=0.5)
    torch.testing.assert_close(torch.softmax(rho * z, 2), torch.softmax(published, 2), atol=1e-13, rtol=1e-12)
    assert rho.flatten().tolist() == pytest.approx((0.5 * (1 + sd_e / sd)).flatten().tolist())
    assert temperature(torch.zeros(1), torch.ones(1), share=0.5).item() == 1.0


def test_received_attention_is_the_mean_over_heads_and_queries():
    q, k, _ = qkv(torch.float32)
    found = received_attention(q, k)
    for r in range(R):
        total = [0.0] * N
        for h in range(HEADS):
            for query in range(N):
                logits = [float(q[r, h, query] @ k[r, h, key]) / math.sqrt(D) for key in range(N)]
                weights = [math.exp(z - max(logits)) for z in logits]
                total = [a + w / sum(weights) for a, w in zip(total, weights, strict=True)]
        assert found[r].tolist() == pytest.approx([value / max(total) for value in total], rel=1e-5)
    assert found.shape == (R, N) and bool((found.amax(dim=1) == 1).all())


def test_received_attention_is_exact_under_autocast():
    q, k, _ = qkv(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = received_attention(q, k)
    assert found.dtype == torch.float32 and torch.equal(found, received_attention(q, k))


def modulation(blocks=2):
    return torch.randn(3, 6 * blocks, 16, generator=torch_generator(3, "modulation"), dtype=torch.float64) + 0.5


BORROWS = Sharing(source=torch.tensor([0, 1, 0]), share=0.0, blocks=(), tempering_share=0.4)


def test_tempering_changes_the_spread_of_each_vector_and_keeps_its_mean():
    before = modulation()
    after = tempered(before, replace(BORROWS, tempering="temperature"))
    torch.testing.assert_close(after[:2], before[:2], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(after[2].mean(dim=1), before[2].mean(dim=1), atol=1e-12, rtol=1e-12)
    spread = 0.6 * before[2].std(dim=1) + 0.4 * before[0].std(dim=1)
    torch.testing.assert_close(after[2].std(dim=1), spread, atol=1e-12, rtol=1e-12)


def test_tempering_of_gates_mixes_those_and_nothing_else():
    before = modulation()
    after = tempered(before, replace(BORROWS, tempering="gates"))
    gates, rest = [2, 5, 8, 11], [0, 1, 3, 4, 6, 7, 9, 10]
    assert torch.equal(after[:, rest], before[:, rest])
    torch.testing.assert_close(after[2, gates], 0.6 * before[2, gates] + 0.4 * before[0, gates], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(after[:2], before[:2], atol=1e-12, rtol=1e-12)


def test_no_tempering_leaves_the_modulation_as_it_is():
    before = modulation()
    assert tempered(before, BORROWS) is before
    assert tempered(before, replace(BORROWS, tempering="gates", tempering_share=0.0)) is before


def network(depth=3):
    model = LatentDiT(
        sample_size=8, in_channels=4, patch_size=2, hidden_size=32, depth=depth, num_heads=2, mlp_ratio=2.0,
        attribute_names=["Male", "Smiling"], identity_dim=6,
    )  # fmt: skip
    for i, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, std=0.15, generator=torch_generator(4, "weights", i))
    return model.eval()


def pairs(num=3):
    """x_t twice: under the empty identity, and, for two of them, under their own."""
    g = torch_generator(5, "pairs")
    x, t = torch.randn(num, 4, 8, 8, generator=g), torch.rand(1, generator=g).expand(num)
    y = torch.randint(-1, 2, (num, 2), generator=g)
    e = F.normalize(torch.randn(num, 6, generator=g), dim=1)
    rows = torch.cat([torch.arange(num), torch.tensor([0, num - 1])])
    return rows, (x[rows], t[rows], y[rows], e[rows], torch.arange(num + 2) >= num)


def stored(model, x, t, y, e, share, blocks):
    """One picture in two passes, as published: the first under the empty identity, keeping its logits; the second mixes."""
    kept, results = {}, []
    for identity in (None, e):
        c = model.condition(t, y, identity, None)
        m = model.adaLN_modulation(c).view(1, -1, 32)
        tokens = model.x_embedder(x).flatten(2).transpose(1, 2) + model.positions
        for i, block in enumerate(model.blocks):
            gamma1, beta1, gate1, gamma2, beta2, gate2 = m[:, 6 * i : 6 * i + 6].unbind(1)
            q, k, v = block.attn.qkv(modulate(block.norm1(tokens), gamma1, beta1)).view(1, 16, 3, 2, 16).unbind(2)
            logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / 4
            if identity is None:
                kept[i] = logits
            elif i in blocks:
                logits = share * kept[i] + (1 - share) * logits
            seen = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(3), v).reshape(1, 16, 32)
            tokens = tokens + gate1[:, None] * block.attn.proj(seen)
            tokens = tokens + gate2[:, None] * block.mlp(modulate(block.norm2(tokens), gamma2, beta2))
        results.append(model.unpatchify(model.final_linear(modulate(model.final_norm(tokens), m[:, -2], m[:, -1]))))
    return results[0][0], results[1][0]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("blocks", [(0, 1, 2), (1,), (2,)])
def test_6_one_pass_over_pairs_equals_two_passes_that_store_their_maps(share, blocks):
    model, (rows, inputs) = network(), pairs()
    with torch.no_grad():
        v = model(*inputs, sharing=Sharing(source=rows, share=share, blocks=blocks)).sample
        for place, row in ((3, 0), (4, 2)):
            one = [a[row : row + 1] for a in inputs[:3]]
            empty, own = stored(model, *one, inputs[3][row : row + 1], share, blocks)
            torch.testing.assert_close(v[row], empty, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(v[place], own, atol=1e-5, rtol=1e-5)
            plain = model(*one, inputs[3][row : row + 1]).sample[0]
            assert bool((v[place] - plain).abs().max() > 1e-3) == (share > 0)


def test_blocks_that_are_mapped_tell_what_their_own_tokens_receive():
    model, (rows, inputs) = network(), pairs()
    seen = {}
    for index in (0, 2):
        model.blocks[index].attn.qkv.register_forward_hook(lambda _, __, out, index=index: seen.update({index: out}))
    with torch.no_grad():
        out = model(*inputs, sharing=Sharing(source=rows, share=0.5, blocks=(0, 1), mapped=(0, 2)))
    assert out.received.shape == (2, 5, 16)
    for place, index in enumerate((0, 2)):
        q, k, _ = seen[index].view(5, 16, 3, 2, 16).permute(2, 0, 3, 1, 4)
        torch.testing.assert_close(out.received[place], received_attention(q, k))
    v, received = model(
        *inputs, sharing=Sharing(source=rows, share=0.5, blocks=(0, 1), mapped=(0, 2)), return_dict=False
    )
    assert torch.equal(v, out.sample) and torch.equal(received, out.received)
    assert model(*inputs, sharing=Sharing(source=rows, share=0.5, blocks=(0,)), return_dict=False)[1] is None
    assert len(model(*inputs, return_dict=False)) == 1 and model(*inputs).received is None


def test_tempering_acts_inside_the_network_on_those_that_borrow():
    model, (rows, inputs) = network(), pairs()
    with torch.no_grad():
        plain = model(*inputs).sample
        for kind in ("temperature", "gates"):
            sharing = Sharing(source=rows, share=0.0, blocks=(), tempering=kind, tempering_share=0.5)
            v = model(*inputs, sharing=sharing).sample
            torch.testing.assert_close(v[:3], plain[:3], atol=1e-5, rtol=1e-5)
            assert bool(((v[3:] - plain[3:]).abs().amax(dim=(1, 2, 3)) > 1e-4).all())


def test_nothing_of_a_shared_pass_stays_behind():
    model, (rows, inputs) = network(), pairs()
    with torch.no_grad():
        before = model(*inputs).sample
        held = {name: sorted(vars(module)) for name, module in model.named_modules()}
        model(*inputs, sharing=Sharing(source=rows, share=1.0, blocks=(0, 1, 2), mapped=(1,)))
        assert torch.equal(model(*inputs).sample, before)
    assert {name: sorted(vars(module)) for name, module in model.named_modules()} == held
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_compiled_network_shares_as_the_plain_one_does_at_any_batch():
    model = network(depth=2)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for num, share in ((3, 0.5), (4, 1.0)):
        rows, inputs = pairs(num)
        sharing = Sharing(source=rows, share=share, blocks=(1,), mapped=(0,))
        with torch.no_grad():
            expected = model(*inputs, sharing=sharing, return_dict=False)
            found = compiled(*inputs, sharing=sharing, return_dict=False)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    torch.compiler.reset()
