"""The closed form of the flow: Gaussian data has an exact velocity, and the ODE maps x to m + s x exactly."""

import math

import pytest
import torch

from facegen.flow.path import derivative, interpolate, sample_times, to_data, to_noise, velocity
from facegen.flow.sampler import euler, heun, time_schedule
from facegen.rng import torch_generator

M, S = 0.7, 0.4  # data N(M, S^2), noise N(0, 1)


def exact_velocity(path):
    """E[v | x_t] of Gaussian data: a regression of one Gaussian on another."""

    def v(x, t):
        alpha, sigma = (1 - t, t) if path == "linear" else (math.cos(math.pi * t / 2), math.sin(math.pi * t / 2))
        var = alpha**2 * S**2 + sigma**2
        x0 = M + alpha * S**2 / var * (x - alpha * M)
        eps = sigma / var * (x - alpha * M)
        return eps - x0 if path == "linear" else alpha * eps - sigma * x0

    return v


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (heun, 2)])
def test_ode_maps_noise_to_data_at_the_solvers_order(path, solver, order):
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 3, 3)
    errors = []
    for steps in (64, 128):
        out = solver(exact_velocity(path), x, time_schedule(steps, shift=1.0), path=path)
        errors.append(float((out - (M + S * x)).abs().max()))
    assert errors[1] < 0.02
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_data_and_noise_are_recovered_and_v_is_the_derivative(path):
    g = torch_generator(0, "test")
    x0, eps = (torch.randn(5, 2, 4, 4, generator=g, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    x_t, v = interpolate(x0, eps, t, path=path), velocity(x0, eps, t, path=path)
    torch.testing.assert_close(to_data(x_t, v, t, path=path), x0)
    torch.testing.assert_close(to_noise(x_t, v, t, path=path), eps)
    h = 1e-6
    slope = (interpolate(x0, eps, t + h, path=path) - interpolate(x0, eps, t - h, path=path)) / (2 * h)
    torch.testing.assert_close(derivative(v, path=path), slope, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        interpolate(x0, eps, torch.ones(5, dtype=torch.float64), path=path), eps
    )  # t = 1 is noise


def test_times_are_logit_normal_and_stratified():
    t = sample_times(20000, mean=-0.5, std=1.2, generator=torch_generator(0, "t"), device="cpu").double()
    logit = torch.log(t / (1 - t))
    assert float(logit.mean()) == pytest.approx(-0.5, abs=0.01)
    assert float(logit.std()) == pytest.approx(1.2, abs=0.01)
    few = sample_times(8, mean=0.0, std=1.0, generator=torch_generator(1, "t"), device="cpu").double()
    quantiles = torch.special.ndtr(torch.log(few / (1 - few)))
    assert ((quantiles * 8).floor() == torch.arange(8)).all()


def test_schedule_runs_from_noise_to_data_and_shift_dwells_near_noise():
    plain, shifted = time_schedule(10, shift=1.0), time_schedule(10, shift=3.0)
    assert plain[0] == 1 and plain[-1] == 0 and len(plain) == 11
    assert (shifted[1:-1] > plain[1:-1]).all()
    with pytest.raises(ValueError, match="num_steps"):
        time_schedule(0, shift=1.0)
