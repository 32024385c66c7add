"""Attention maps: equal to the plain attention, complete, differentiable, and gone afterwards."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from facegen.personalize.attention import AttentionMaps, select_layers
from tests.personalize.made_networks import WIDTH, made, unet

KINDS = ["1.x", "2.x"]
NETS = {kind: unet(kind) for kind in KINDS}
DEEP = unet(num_levels=4)
X, T, TEXT = made(2, 4, 8, 12), torch.tensor([3, 700]), made(2, 6, WIDTH)  # 8 high, 12 wide


def run(net, text=TEXT):
    return net(X, T, encoder_hidden_states=text).sample


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plain", [AttnProcessor, AttnProcessor2_0])
def test_the_picture_is_that_of_the_plain_attention(kind, plain):
    net = unet(kind)
    net.set_attn_processor(plain())
    with AttentionMaps(net, select_layers(net, "all")):
        read = run(net)
    expected = run(net)
    torch.testing.assert_close(read, expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.01


def test_masked_tokens_and_unusual_layers_are_as_the_plain_attention_has_them():
    net = unet()
    for name in select_layers(net, "all"):
        layer = net.get_submodule(name)
        layer.rescale_output_factor, layer.residual_connection = 1.7, True
    there = torch.tensor([[1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1]])

    def masked():
        return net(X, T, encoder_hidden_states=TEXT, encoder_attention_mask=there).sample

    with AttentionMaps(net, select_layers(net, "all")) as maps:
        read = masked()
        assert all(probs[0, ..., 3:5].abs().max() == 0 for probs in maps.probs)
    torch.testing.assert_close(read, masked(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_they_are_as_near_as_its_precision(kind):
    net = NETS[kind]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with AttentionMaps(net, select_layers(net, "all")) as maps:
            read = run(net)
            assert all((probs.float().sum(dim=-1) - 1).abs().max() < 0.02 for probs in maps.probs)
        expected = run(net)
    assert (read - expected).abs().max() < 0.05 * expected.std()


@pytest.mark.parametrize("kind", KINDS)
def test_the_maps_are_the_softmax_of_what_the_layers_see(kind):
    net, seen = NETS[kind], {}
    layers = select_layers(net, "all")
    assert len(layers) == 4
    handles = [
        net.get_submodule(name).register_forward_hook(lambda module, args, out, name=name: seen.update({name: args[0]}))
        for name in layers
    ]
    with AttentionMaps(net, layers) as maps:
        run(net)
    for handle in handles:
        handle.remove()
    grids = [(8, 12), (4, 6), (8, 12), (8, 12)]  # down 0, mid, up 1 twice
    for name, probs, (h, w) in zip(layers, maps.probs, grids, strict=True):
        layer, x = net.get_submodule(name), seen[name]
        heads, width = layer.heads, layer.to_q.out_features // layer.heads
        q = (x @ layer.to_q.weight.T).view(2, h * w, heads, width)
        k = (TEXT @ layer.to_k.weight.T).view(2, 6, heads, width)
        expected = torch.einsum("bphd,blhd->bhpl", q, k).div(width**0.5).softmax(dim=-1)
        torch.testing.assert_close(probs, expected.view(2, heads, h, w, 6))
        assert expected.std() > 1e-4


def test_a_place_of_the_map_is_that_place_of_the_picture():
    """Outside a receptive field nothing changes: a corner that is moved moves its own corner of the map most."""
    net = unet()
    with AttentionMaps(net, [select_layers(net, "all")[0]]) as maps:
        run(net)
        before = maps.probs[0]
        x = X.clone()
        x[:, :, :2, -2:] += 3  # top right
        net(x, T, encoder_hidden_states=TEXT)
        moved = (maps.probs[0] - before).abs().sum(dim=(0, 1, 4))
    assert moved.shape == (8, 12)
    assert moved[:2, -2:].mean() > 3 * max(moved[-2:, -2:].mean(), moved[:2, :2].mean(), moved[-2:, :2].mean())


def test_gradients_run_from_the_maps_to_the_text():
    text = TEXT.clone().requires_grad_(True)
    with AttentionMaps(NETS["1.x"]) as maps:
        run(NETS["1.x"], text)
        maps.probs[0][0, ..., 2].sum().backward()
    assert text.grad[0].abs().amax(dim=1).min() > 0  # every token competes
    assert text.grad[1].abs().max() == 0


def test_only_the_chosen_layers_change_and_all_are_restored():
    net = unet()
    before = dict(net.attn_processors)
    chosen = select_layers(net, "all")[1:3]
    with AttentionMaps(net, chosen):
        inside = net.attn_processors
        changed = {name.removesuffix(".processor") for name in before if inside[name] is not before[name]}
        assert changed == set(chosen)
    with pytest.raises(KeyError), AttentionMaps(net, chosen):
        raise KeyError
    assert all(net.attn_processors[name] is p for name, p in before.items())
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_each_pass_has_its_own_maps():
    net = NETS["1.x"]
    maps = AttentionMaps(net)
    with maps, pytest.raises(RuntimeError, match="run the UNet inside the context"):
        _ = maps.probs
    with maps:
        run(net)
        first = maps.probs
        run(net, TEXT.flip(1))
        second = maps.probs
    with maps, pytest.raises(RuntimeError, match="no whole pass has been read"):
        run(net)
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            run(net, TEXT[..., 1:])
        _ = maps.probs  # not those of the pass before
    assert len(first) == len(second) == len(maps.layers)
    torch.testing.assert_close(first[0], second[0].flip(-1))  # the first layer sees no other token
    assert (first[0] - second[0]).abs().max() > 1e-3


def test_middle_is_fastcomposers_choice_on_a_network_of_four_grids():
    blocks = [name.split(".attentions.")[0] for name in select_layers(DEEP)]
    assert list(dict.fromkeys(blocks)) == [
        "down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.1", "up_blocks.2",
    ]  # fmt: skip
    assert len(blocks) == 1 + 1 + 1 + 2 + 2
    everything = select_layers(DEEP, "all")
    assert len(everything) == len(blocks) + 3 and everything[0].startswith("down_blocks.0")
    assert everything[-1].startswith("up_blocks.3.attentions.1")


def test_with_two_grids_none_is_left_out():
    assert select_layers(NETS["1.x"]) == select_layers(NETS["1.x"], "all")


def test_quantiles_of_depth_choose_a_part():
    names = select_layers(DEEP, "all")  # 10 of them
    assert select_layers(DEEP, "all", depths=(0, 0)) == names[:1]
    assert select_layers(DEEP, "all", depths=(1, 1)) == names[-1:]
    assert select_layers(DEEP, "all", depths=(0.3, 0.7)) == names[3:7]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(which="finest"), "which is 'finest'; allowed: middle, all"),
        (dict(depths=(0.6, 0.4)), "expected two quantiles"),
        (dict(depths=(0.01, 0.02)), "no cross-attention layer of UNet2DConditionModel is left"),
    ],
)
def test_a_choice_of_nothing_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        select_layers(DEEP, **given)


def test_a_layer_that_is_none_is_named():
    own = select_layers(DEEP)[0].replace("attn2", "attn1")
    with pytest.raises(ValueError, match=r"attn1 is no cross-attention layer; there are: down_blocks\.0"):
        AttentionMaps(DEEP, [own])
