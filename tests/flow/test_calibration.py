"""The threshold of a target: times of switching against a plain loop and the sampler itself, the smallest by trial."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from facegen.flow.calibration import first_identity_time, median_time, threshold_for
from facegen.flow.sampler import initial_noise, time_schedule
from facegen.flow.two_stage import TwoStage, two_stage
from facegen.rng import torch_generator

TIMES = time_schedule(10, shift=1.0)
NAN = math.nan


def noisy(steps=10, runs=31, seed=0):
    """Distances that fall on the whole, none at the first step."""
    g = torch_generator(seed, "distances")
    d = torch.linspace(3, 0.5, steps)[:, None] * torch.rand(steps, runs, generator=g)
    d[0] = NAN
    return d


def by_hand(distances, times, *, threshold, early, late, patience):
    found = []
    for column in distances.T.tolist():
        switch, small = 0.0, 0
        for k, t in enumerate(times[:-1].tolist()):
            if t <= late + 1e-6:
                switch = t
                break
            small = small + 1 if column[k] < threshold else 0
            if t <= early + 1e-6 and small >= patience:
                switch = float(times[k + 1])
                break
        found.append(switch)
    return found


@pytest.mark.parametrize("patience", [1, 2, 4])
@pytest.mark.parametrize(("early", "late"), [(1.0, 0.0), (0.8, 0.3), (0.55, 0.45)])
def test_times_of_switching_are_those_of_a_plain_loop(patience, early, late):
    d, seen = noisy(), set()
    for threshold in (-math.inf, 0.2, 0.5, 1.0, 2.0, math.inf):
        rule = dict(threshold=threshold, early=early, late=late, patience=patience)
        found = first_identity_time(d, TIMES, **rule)
        assert found.tolist() == pytest.approx(by_hand(d, TIMES, **rule), abs=1e-6)
        seen |= set(found.tolist())
    assert len(seen) >= 3 or early == 0.55


def test_a_distance_that_equals_the_threshold_is_not_below_it():
    d = torch.tensor([[NAN], [0.5], [0.25], [0.25]])
    times = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
    switch = [
        float(first_identity_time(d, times, threshold=at, early=1.0, late=0.0, patience=1)[0])
        for at in (0.25, 0.26, 0.5, 0.51)
    ]
    assert switch == [0.0, 0.25, 0.25, 0.5]  # after the last step there is no step left to have the identity


def smooth(x, t, y, e, known, sharing):
    """A network whose data estimate wanders with t, in every row in its own way."""
    g = torch_generator(3, "phases")
    phase = 6 * torch.rand(4, 8, 8, generator=g)
    row = torch.arange(len(x)).view(-1, 1, 1, 1) % 24
    wander = (1 + row / 8) * torch.sin((7 + row) * t.view(-1, 1, 1, 1) + phase)
    return x - (0.5 * x + wander), None


@pytest.mark.parametrize("patience", [1, 2, 3])
@pytest.mark.parametrize("clock", ["log_snr", "time"])
def test_times_of_switching_are_those_of_the_sampler(patience, clock):
    x, schedule = initial_noise(range(24), (4, 8, 8)) * 3, time_schedule(24, shift=2.0)
    never = TwoStage(
        guidance_scale=2.0, early=0.6, late=0.0, criterion="x0", threshold=-1.0, patience=patience, clock=clock
    )

    def draw(settings):
        return two_stage(
            smooth, x, schedule, path="linear", attributes=torch.zeros(24, 0), identity=torch.zeros(24, 3),
            settings=settings,
        )  # fmt: skip

    distances, varied = draw(never).distances, 0
    for quantile in (0.0, 0.05, 0.1, 0.3, 0.6, 1.0):
        threshold = float(distances[distances.isfinite()].quantile(quantile))
        for late in (0.0, 0.2):
            found = draw(replace(never, threshold=threshold, late=late)).switch
            rule = dict(threshold=threshold, early=0.6, late=late, patience=patience)
            assert torch.equal(first_identity_time(distances, schedule, **rule), found)
            varied += len(found.unique()) > 2
    assert varied >= 3


@pytest.mark.parametrize("patience", [1, 2, 3])
@pytest.mark.parametrize("runs", [30, 31])
@pytest.mark.parametrize("target", [0.45, 0.58, 0.6])
def test_the_threshold_is_the_smallest_that_reaches_the_target(patience, runs, target):
    rule = dict(early=0.9, late=0.3, patience=patience)
    for seed in range(2):
        d = noisy(runs=runs, seed=seed)
        threshold = threshold_for(d, TIMES, target=target, **rule)
        below = float(torch.nextafter(torch.tensor(threshold), torch.tensor(-math.inf)))
        medians = [median_time(first_identity_time(d, TIMES, threshold=at, **rule)) for at in (below, threshold)]
        assert medians[0] < target - 1e-6 <= medians[1]
        reached = [  # by trying every one
            value
            for value in d[1:].flatten().tolist()
            if median_time(first_identity_time(d, TIMES, threshold=value, **rule)) >= target - 1e-6
        ]
        assert not reached or threshold <= min(reached)


def test_a_target_on_a_time_of_the_grid_is_reached_there():
    d = noisy(runs=101)
    rule = dict(early=0.9, late=0.3, patience=1)
    threshold = threshold_for(d, TIMES, target=0.6, **rule)
    assert median_time(first_identity_time(d, TIMES, threshold=threshold, **rule)) == pytest.approx(0.6, abs=1e-6)


def test_the_median_of_an_even_number_lies_between_the_two_in_the_middle():
    assert median_time(torch.tensor([0.9, 0.1, 0.5, 0.7])) == pytest.approx(0.6)
    assert median_time(torch.tensor([0.9, 0.1, 0.5])) == pytest.approx(0.5)


@pytest.mark.parametrize("target", [0.3, 0.2, 0.81, 1.0])
def test_targets_that_no_threshold_or_every_one_reaches(target):
    with pytest.raises(ValueError, match=r"can only be brought above 0.3 and up to 0.8"):
        threshold_for(noisy(), TIMES, target=target, early=0.9, late=0.3, patience=1)


def test_distances_that_never_were():
    with pytest.raises(ValueError, match=r"up to 0\.3"):
        threshold_for(torch.full((10, 5), NAN), TIMES, target=0.6, early=0.9, late=0.3, patience=1)


@pytest.mark.parametrize("shape", [(9, 5), (10,)])
def test_shapes_that_disagree(shape):
    with pytest.raises(ValueError, match=r"times \(11,\); expected \(steps, runs\)"):
        first_identity_time(torch.zeros(shape), TIMES, threshold=1.0, early=0.9, late=0.3, patience=1)
