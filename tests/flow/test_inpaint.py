"""Masks of latents against brute force; jumps against their closed form; resampling against an exact conditional."""

import itertools
import math

import numpy as np
import pytest
import torch

from facegen.flow.inpaint import flow_step, forward_point, inpaint, jump_back, partial_schedule, step_noise
from facegen.flow.latent_masks import any_touch, dilate, mask_at, nested_masks, snap, soft_mask
from facegen.flow.path import coefficients, interpolate, velocity
from facegen.rng import torch_generator

PATHS = ["linear", "cosine"]


def numbers(t, path):
    return [float(v) for v in coefficients(torch.tensor(t, dtype=torch.float64), path=path)]


def thin_mask():
    mask = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    mask[0, 0, 43:45, 20:40] = True  # a lip of 2 px
    mask[1, 0, 63, 0] = True  # one pixel in a corner
    return mask


def test_a_cell_counts_as_soon_as_a_pixel_touches_it():
    cells = any_touch(thin_mask(), factor=4)
    assert cells.shape == (2, 1, 16, 16)
    for b, y, x in np.ndindex(2, 16, 16):
        block = thin_mask()[b, 0, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        assert bool(cells[b, 0, y, x]) == bool(block.any())
    assert cells[1].sum() == 1 and cells[1, 0, 15, 0]


def test_dilation_and_tokens_against_brute_force():
    cells = any_touch(thin_mask(), factor=4)
    grown, tokens = dilate(cells, cells=2), snap(cells, patch=4)
    for b, y, x in np.ndindex(2, 16, 16):
        near = cells[b, 0, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        own = cells[b, 0, y // 4 * 4 : y // 4 * 4 + 4, x // 4 * 4 : x // 4 * 4 + 4]
        assert bool(grown[b, 0, y, x]) == bool(near.any())
        assert bool(tokens[b, 0, y, x]) == bool(own.any())


def test_masks_are_nested_and_shrink_from_whole_tokens_to_the_cells_that_are_touched():
    nested = nested_masks(thin_mask(), factor=4, patch=4, cells=2)
    assert nested.shape == (4, 2, 1, 16, 16)
    for tight, wide in itertools.pairwise(nested):
        assert (tight <= wide).all() and tight.sum() < wide.sum()
    assert torch.equal(mask_at(nested, 1.0), nested[-1])
    assert torch.equal(mask_at(nested, 0.3), any_touch(thin_mask(), factor=4))
    assert torch.equal(mask_at(nested, 0.0), nested[0])
    areas = [int(mask_at(nested, t).sum()) for t in np.linspace(1, 0, 50)]
    assert areas == sorted(areas, reverse=True) and len(set(areas)) == 4
    soft = soft_mask(nested)
    assert (soft[nested[0]] == 1).all() and (soft[~nested[-1]] == 0).all()
    assert set(soft.unique().tolist()) == {0.0, 0.25, 0.5, 0.75, 1.0}
    with pytest.raises(ValueError, match="dilation is -1"):
        nested_masks(thin_mask(), factor=4, patch=4, cells=-1)
    with pytest.raises(ValueError, match="multiple of 7"):
        any_touch(thin_mask(), factor=7)


@pytest.mark.parametrize("path", PATHS)
def test_a_step_keeps_data_and_noise(path):
    x0, eps = (torch.randn(3, 2, 4, 4, generator=torch_generator(0, name)) for name in ("data", "noise"))
    for t, t_next in ((1.0, 0.9), (0.5, 0.1), (0.1, 0.0)):
        times = torch.full((3,), t)
        x_t, v = interpolate(x0, eps, times, path=path), velocity(x0, eps, times, path=path)
        stepped = flow_step(x_t, v, t, t_next, path=path)
        assert stepped.dtype == torch.float32
        torch.testing.assert_close(stepped, interpolate(x0, eps, torch.full((3,), t_next), path=path))
        torch.testing.assert_close(stepped, forward_point(x0, eps, t_next, path=path))
        if path == "linear":
            torch.testing.assert_close(stepped, x_t + (t_next - t) * v)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("low", "high"), [(0.0, 0.4), (0.3, 0.35), (0.9, 1.0), (0.5, 0.5)])
def test_a_jump_has_the_marginal_of_its_time(path, low, high):
    """x = alpha' z + sigma' e goes to mean alpha z and variance sigma^2, exactly."""
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    ratio = float(jump_back(one, zero, low, high, path=path))
    spread = float(jump_back(zero, one, low, high, path=path))
    (alpha_low, sigma_low), (alpha, sigma) = numbers(low, path), numbers(high, path)
    assert ratio * alpha_low == pytest.approx(alpha, abs=1e-12)
    assert (ratio * sigma_low) ** 2 + spread**2 == pytest.approx(sigma**2, abs=1e-12)
    if path == "linear":
        assert ratio == pytest.approx((1 - high) / (1 - low))


def correlated_velocity(covariance, path):
    """E[v | x_t] of data N(0, covariance) over the positions of a row."""

    def v(x, t):
        alpha, sigma = numbers(t, path)
        inverse = torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(2, dtype=x.dtype))
        data, noise = x @ (alpha * covariance @ inverse).T, x @ (sigma * inverse).T
        return noise - data if path == "linear" else alpha * noise - sigma * data

    return v


@pytest.mark.parametrize("path", PATHS)
def test_resampling_draws_from_the_conditional_and_blending_does_not(path):
    """Two positions with correlation 0.9; the first is kept at 1.5, so that the second is N(1.35, 0.19)."""
    num, rho, kept = 160, 0.9, 1.5
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
    source = torch.tensor([kept, -3.0], dtype=torch.float64).expand(num, 1, 1, 2)
    masks = torch.tensor([False, True]).expand(1, num, 1, 1, 2)
    seeds = list(range(num))
    eps = step_noise(seeds, (1, 1, 2), "start").double()

    def painted(resamples):
        return inpaint(
            correlated_velocity(covariance, path), source, masks, partial_schedule(40, shift=1.0, strength=1.0),
            path=path, seeds=seeds, eps=eps, resamples=resamples,
        )  # fmt: skip

    once, often = painted(1), painted(8)
    assert torch.equal(once[..., 0], source[..., 0]) and torch.equal(often[..., 0], source[..., 0])
    assert float(often[..., 1].mean()) == pytest.approx(rho * kept, abs=0.15)
    assert float(often[..., 1].var()) == pytest.approx(1 - rho**2, abs=0.07)
    assert float(once[..., 1].mean()) < 0.8 and float(once[..., 1].var()) > 0.35


@pytest.mark.parametrize("path", PATHS)
def test_the_kept_part_stays_a_point_of_the_forward_process_through_the_jumps(path):
    source = torch.randn(1, 4, 32, 32, generator=torch_generator(1, "source"))
    masks = torch.zeros(1, 1, 1, 32, 32, dtype=torch.bool)
    seen = []

    def looking(x, t):
        alpha, sigma = numbers(t, path)
        seen.append((t, (x - alpha * source) / sigma))
        return torch.zeros_like(x)

    eps = step_noise([7], (4, 32, 32), "start")
    inpaint(looking, source, masks, torch.tensor([0.8, 0.4, 0.0]), path=path, seeds=[7], eps=eps, resamples=4)
    assert [t for t, _ in seen] == pytest.approx([0.8] * 4 + [0.4] * 4)
    torch.testing.assert_close(seen[0][1], eps, atol=1e-5, rtol=1e-5)
    for (t_before, before), (t, after) in itertools.pairwise(seen):
        assert float(after.std()) == pytest.approx(1.0, abs=0.05) and abs(float(after.mean())) < 0.05
        jumped = float((before - after).abs().mean())  # within a step; from one step to the next the noise is kept
        assert jumped > 0.3 if t == t_before else jumped < 1e-5


def test_a_picture_does_not_depend_on_its_batch():
    source = torch.randn(3, 2, 4, 4, generator=torch_generator(2, "source"))
    masks = torch.zeros(1, 3, 1, 4, 4, dtype=torch.bool)
    masks[..., :2] = True

    def paint(rows, seeds):
        return inpaint(
            lambda x, t: torch.tanh(x) * t, source[rows], masks[:, rows], partial_schedule(6, shift=1.0, strength=1.0),
            path="linear", seeds=seeds, eps=step_noise(seeds, (2, 4, 4), "start"), resamples=3,
        )  # fmt: skip

    together = paint([0, 1, 2], [5, 6, 7])
    torch.testing.assert_close(paint([2], [7])[0], together[2])
    assert float((paint([2], [8])[0] - together[2]).abs().max()) > 0.1


def test_the_mask_of_the_new_time_decides_what_is_put_back():
    """Wide at 1, tight below 0.3: the cell between them is the photograph's again at the end, the touched one is not."""
    source = torch.full((1, 1, 1, 3), 5.0)
    nested = torch.tensor([[True, False, False], [True, True, False]]).view(2, 1, 1, 1, 3)
    seen = {}

    def pulling(x, t):
        seen[round(t, 2)] = x.clone()
        return torch.ones_like(x)

    schedule = torch.tensor([1.0, 0.9, 0.2, 0.0])
    eps = torch.zeros(1, 1, 1, 3)
    result = inpaint(pulling, source, nested, schedule, path="linear", seeds=[0], eps=eps)
    torch.testing.assert_close(seen[0.9].flatten(), torch.tensor([-0.1, -0.1, 0.5]))
    torch.testing.assert_close(seen[0.2].flatten(), torch.tensor([-0.8, 4.0, 4.0]))
    torch.testing.assert_close(result.flatten(), torch.tensor([-1.0, 5.0, 5.0]))


def test_a_lower_strength_starts_from_the_photograph_itself():
    schedule = partial_schedule(10, shift=1.0, strength=0.55)
    assert schedule.tolist() == pytest.approx([0.55, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert partial_schedule(10, shift=1.0, strength=0.5).tolist() == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert len(partial_schedule(10, shift=1.0, strength=1.0)) == 11
    source, eps, seen = torch.full((1, 1, 2, 2), 2.0), torch.ones(1, 1, 2, 2), []

    def looking(x, t):
        seen.append(x)
        return eps - source

    done = []
    out = inpaint(
        looking, source, torch.ones(1, 1, 1, 2, 2, dtype=torch.bool), schedule, path="linear", seeds=[0], eps=eps,
        on_step=lambda n, total: done.append((n, total)),
    )  # fmt: skip
    torch.testing.assert_close(seen[0], 0.45 * source + 0.55 * eps)
    torch.testing.assert_close(out, source)
    assert done == [(n, 6) for n in range(1, 7)]
    for strength in (0.0, 1.01, math.nan):
        with pytest.raises(ValueError, match="strength is"):
            partial_schedule(10, shift=1.0, strength=strength)
