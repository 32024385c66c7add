"""ODE inversion of Gaussian data, whose noise is known in closed form: order, round trip, another request, masks."""

import math

import pytest
import torch

from facegen.flow.inversion import invert, regenerate
from facegen.flow.sampler import time_schedule

S = 0.4  # data N(mean, S^2): the flow takes noise e to mean + S e
X = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 3, 3)


def exact_velocity(path, mean):
    def v(x, t):
        alpha, sigma = (1 - t, t) if path == "linear" else (math.cos(math.pi * t / 2), math.sin(math.pi * t / 2))
        variance = alpha**2 * S**2 + sigma**2
        data = mean + alpha * S**2 / variance * (x - alpha * mean)
        noise = sigma / variance * (x - alpha * mean)
        return noise - data if path == "linear" else alpha * noise - sigma * data

    return v


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("corrections", [0, 1])
def test_inversion_finds_the_noise_at_second_order(path, corrections):
    errors = []
    for steps in (32, 64):
        points = invert(
            exact_velocity(path, 0.7), X, time_schedule(steps, shift=1.0), path=path, corrections=corrections
        )
        assert len(points) == steps + 1 and torch.equal(points[-1], X)
        errors.append(float((points[0] - (X - 0.7) / S).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.25)
    assert errors[1] < 0.02


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_the_way_back_gives_the_picture(path):
    schedule, velocity = time_schedule(25, shift=1.0), exact_velocity(path, 0.7)

    def error(corrections):
        points = invert(velocity, X, schedule, path=path, corrections=corrections)
        return float((regenerate(velocity, points, schedule, None, path=path) - X).abs().max())

    errors = [error(n) for n in (0, 1, 12)]
    assert errors[1] < 0.2 * errors[0] < 0.01 and errors[2] < 1e-9


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_another_request_moves_the_data_and_keeps_the_noise(path):
    schedule = time_schedule(100, shift=1.0)
    points = invert(exact_velocity(path, 0.7), X, schedule, path=path, corrections=3)
    moved = regenerate(exact_velocity(path, -0.5), points, schedule, None, path=path)
    torch.testing.assert_close(moved, X - 1.2, atol=1e-3, rtol=0)


def test_outside_the_mask_the_trajectory_itself_comes_back():
    schedule, done = time_schedule(20, shift=1.0), []
    points = invert(
        exact_velocity("linear", 0.7), X, schedule, path="linear", corrections=0, on_step=lambda *at: done.append(at)
    )
    masks = torch.zeros(2, 1, 1, 3, 3, dtype=torch.bool)
    masks[:, ..., 0] = True  # tight
    masks[1, ..., 1] = True  # wide
    moved = regenerate(exact_velocity("linear", -0.5), points, schedule, masks, path="linear")
    assert torch.equal(moved[..., 1:], X[..., 1:])
    assert float((moved - X)[..., 0].abs().min()) > 0.5
    assert done == [(n, 20) for n in range(1, 21)]
