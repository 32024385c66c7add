"""The losses' closed forms and limits, and who receives gradients when all of them act on a frozen model."""

from __future__ import annotations

import pytest
import torch

from facegen.personalize.attention import AttentionMaps
from facegen.personalize.injection import encode_prompts
from facegen.personalize.losses import cgdr_loss, diffusion_loss, localization_loss, masked_loss
from facegen.personalize.mapping import Mapper
from facegen.personalize.prompts import build_prompt
from tests.personalize.made_networks import WIDTH, WordTokenizer, drawn, made, text_model, unet

SHAPE = (3, 4, 6, 8)
E_ID, NOISE, E_CLASS = (made(*SHAPE, seed=i) for i in range(3))
MASK = (made(3, 1, 6, 8, seed=4) > 0.5).float()
ONES, ZEROS = torch.ones_like(MASK), torch.zeros_like(MASK)


def close(a, b):
    torch.testing.assert_close(torch.as_tensor(a, dtype=torch.float32), torch.as_tensor(b, dtype=torch.float32))


def test_diffusion_is_the_mean_square():
    close(diffusion_loss(torch.full(SHAPE, 3.0), torch.ones(SHAPE)), 4)
    close(diffusion_loss(E_ID, NOISE), ((E_ID - NOISE) ** 2).mean())


def test_class_guidance_is_both_parts_together():
    expected = (MASK * (E_ID - NOISE)).square().mean() + ((1 - MASK) * (E_ID - E_CLASS)).square().mean()
    close(cgdr_loss(E_ID, NOISE, E_CLASS, MASK, background_weight=1.0), expected)
    less = (MASK * (E_ID - NOISE)).square().mean() + 0.25 * ((1 - MASK) * (E_ID - E_CLASS)).square().mean()
    close(cgdr_loss(E_ID, NOISE, E_CLASS, MASK, background_weight=0.25), less)


def test_a_soft_mask_mixes_the_targets():
    soft = torch.full_like(MASK, 0.3)
    expected = (E_ID - (0.3 * NOISE + 0.7 * E_CLASS)).square().mean()
    close(cgdr_loss(E_ID, NOISE, E_CLASS, soft, background_weight=1.0), expected)


def test_under_a_full_mask_it_is_the_diffusion_loss():
    close(cgdr_loss(E_ID, NOISE, E_CLASS, ONES, background_weight=1.0), diffusion_loss(E_ID, NOISE))
    close(cgdr_loss(E_ID, NOISE, E_CLASS, ZEROS, background_weight=1.0), diffusion_loss(E_ID, E_CLASS))


def test_where_both_predictions_agree_the_background_has_no_gradient():
    prediction = E_CLASS.clone().requires_grad_(True)
    cgdr_loss(prediction, NOISE, E_CLASS, MASK, background_weight=1.0).backward()
    assert (prediction.grad * (1 - MASK)).abs().max() == 0
    assert (prediction.grad * MASK).abs().max() > 0


def test_the_class_prediction_learns_nothing():
    guide, prediction = E_CLASS.clone().requires_grad_(True), E_ID.clone().requires_grad_(True)
    cgdr_loss(prediction, NOISE, guide, MASK, background_weight=1.0).backward()
    assert guide.grad is None
    close(prediction.grad, 2 * (E_ID - MASK * NOISE - (1 - MASK) * E_CLASS) / E_ID.numel())


def test_the_masked_loss_is_divided_by_its_area():
    within = torch.zeros(2, 1, 6, 8)
    within[0, :, :2], within[1, :, 3, 5] = 1, 1
    square = (E_ID[:2] - NOISE[:2]) ** 2
    close(masked_loss(E_ID[:2], NOISE[:2], within), (square[0, :, :2].mean() + square[1, :, 3, 5].mean()) / 2)
    close(masked_loss(E_ID, NOISE, ONES), diffusion_loss(E_ID, NOISE))
    close(masked_loss(E_ID, NOISE, ZEROS), 0)  # and no NaN


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_they_are_computed_in_float32(dtype):
    loss = cgdr_loss(E_ID.to(dtype), NOISE.to(dtype), E_CLASS.to(dtype), MASK, background_weight=1.0)
    assert loss.dtype == masked_loss(E_ID.to(dtype), NOISE.to(dtype), MASK).dtype == torch.float32
    close(
        loss,
        cgdr_loss(
            E_ID.to(dtype).float(), NOISE.to(dtype).float(), E_CLASS.to(dtype).float(), MASK, background_weight=1.0
        ),
    )


@pytest.mark.parametrize("mask", [MASK[:2], MASK[:, 0], MASK.expand(-1, 4, -1, -1), MASK[..., :4]])
def test_masks_of_other_shapes_are_refused(mask):
    with pytest.raises(ValueError, match=r"expected \(3, 1, 6, 8\)"):
        cgdr_loss(E_ID, NOISE, E_CLASS, mask, background_weight=1.0)
    with pytest.raises(ValueError, match=r"expected \(3, 1, 6, 8\)"):
        masked_loss(E_ID, NOISE, mask)


def test_predictions_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="expected two of one"):
        diffusion_loss(E_ID, NOISE[:1])
    with pytest.raises(ValueError, match="expected two of one"):
        cgdr_loss(E_ID, NOISE, E_CLASS[:1], MASK, background_weight=1.0)


GRIDS = [(8, 12), (4, 6)]
LEFT, RIGHT = torch.zeros(16, 24), torch.zeros(16, 24)
LEFT[:, :12], RIGHT[:, 12:] = 1, 1
TWO = torch.stack([LEFT, RIGHT])[None]  # (1, 2, 16, 24)
PLACES, BOTH = torch.tensor([[1, 4]]), torch.tensor([[True, True]])


def looking(own, *, tokens=7, heads=2):
    """Maps in which both tokens of subject 0 (at 1) and 1 (at 4) are looked at from `own` (2, 16, 24)."""
    maps = []
    for h, w in GRIDS:
        probs = torch.zeros(1, heads, h, w, tokens)
        small = own[:, :: 16 // h, :: 24 // w]
        for subject, place in enumerate((1, 4)):
            probs[..., place] = probs[..., place + 1] = small[subject]
        maps.append(probs)
    return maps


def test_looking_within_gives_minus_1_elsewhere_plus_1_evenly_0():
    assert localization_loss(looking(TWO[0]), PLACES, TWO, BOTH) == pytest.approx(-1, abs=1e-4)
    assert localization_loss(looking(TWO[0].flip(0)), PLACES, TWO, BOTH) == pytest.approx(1, abs=1e-4)
    assert localization_loss(looking(torch.full((2, 16, 24), 0.3)), PLACES, TWO, BOTH) == pytest.approx(0, abs=1e-4)


def test_both_tokens_of_a_pair_count():
    maps = looking(TWO[0])
    for probs in maps:
        probs[..., 2] = 0.5  # subject 0's second token, evenly
    assert localization_loss(maps, PLACES, TWO, BOTH) == pytest.approx(-0.75, abs=1e-4)
    assert localization_loss(maps, PLACES, TWO, BOTH, tokens=1) == pytest.approx(-1, abs=1e-4)


def test_only_subjects_that_are_there_count_and_each_image_evenly():
    maps = [probs.expand(3, -1, -1, -1, -1) for probs in looking(TWO[0].flip(0))]  # all looked at from elsewhere: +1
    masks, places = TWO.expand(3, -1, -1, -1), torch.tensor([[1, 4], [1, 999], [-5, -5]])
    valid = torch.tensor([[True, True], [True, False], [False, False]])
    assert localization_loss(maps, places, masks, valid) == pytest.approx((1 + 1 + 0) / 3, abs=1e-4)
    swapped = masks.flip(1)  # now subject 0 and 1 are looked at from within
    assert localization_loss(maps, places, swapped, valid) == pytest.approx(-2 / 3, abs=1e-4)


def test_it_is_the_written_out_formula():
    probs = [made(2, 3, h, w, 9, seed=h).softmax(dim=-1) for h, w in GRIDS]
    masks = (made(2, 2, 16, 24, seed=9) > 0).float()
    masks = torch.nn.functional.avg_pool2d(masks, 5, stride=1, padding=2)
    places, valid = torch.tensor([[1, 5], [3, 0]]), torch.tensor([[True, True], [True, False]])
    per_image = []
    for b in range(2):
        terms = []
        for layer in probs:
            cell = 16 // layer.shape[2]
            small = masks.unflatten(3, (-1, cell)).unflatten(2, (-1, cell)).mean(dim=(3, 5))
            for k in range(2):
                if valid[b, k]:
                    m = small[b, k]
                    for token in range(2):
                        for head in range(3):
                            a = layer[b, head, ..., places[b, k] + token]
                            terms.append((a * (1 - m)).sum() / (1 - m).sum() - (a * m).sum() / m.sum())
        per_image.append(torch.stack(terms).mean())
    torch.testing.assert_close(localization_loss(probs, places, masks, valid), sum(per_image) / 2, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("probs", "masks", "valid"), [([], TWO, BOTH), (looking(TWO[0]), TWO[:, :1], BOTH), (looking(TWO[0]), TWO, BOTH[0])]
)
def test_shapes_that_disagree_are_refused(probs, masks, valid):
    with pytest.raises(ValueError, match=r"expected a layer at least, \(B, K\)"):
        localization_loss(probs, PLACES, masks, valid)


@pytest.mark.parametrize("kind", ["1.x", "2.x"])
def test_the_mapper_and_its_null_expression_alone_receive_gradients(kind):
    """Everything together: two people in a prompt, class guidance, localisation; the rest is frozen."""
    tokenizer, text, net = WordTokenizer(), text_model(), unet(kind)
    mapper = drawn(Mapper(12, 5, 16, WIDTH, 0.1)).train().requires_grad_(True)
    vectors = mapper(made(2, 12))
    x, t = made(1, 4, 8, 12), torch.tensor([400])
    prompt = build_prompt(tokenizer, "<id:0> and <id:1> smiling", num_subjects=2)
    with AttentionMaps(net) as maps:
        hidden = encode_prompts(text, tokenizer, [prompt], vectors)
        prediction, probs = net(x, t, encoder_hidden_states=hidden).sample, maps.probs
    with torch.no_grad():
        guide = net(x, t, encoder_hidden_states=encode_prompts(text, tokenizer, ["a man and a man smiling"])).sample
    mask = TWO.amax(dim=1, keepdim=True)[..., ::2, ::2] * torch.eye(8, 12)
    places = torch.tensor([[position for _, position in prompt.positions]])
    for loss in (
        cgdr_loss(prediction, made(1, 4, 8, 12, seed=5), guide, mask, background_weight=1.0),
        localization_loss(probs, places, TWO, BOTH),
    ):
        mapper.zero_grad()
        loss.backward(retain_graph=True)
        for name, parameter in mapper.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert mapper.null_exp.grad.abs().min() > 0
    assert all(p.grad is None for module in (text, net) for p in module.parameters())
