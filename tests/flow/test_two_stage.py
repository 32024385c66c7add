"""Two-stage sampling: the acceptance tests by number, and the whole sampler against one written row by row."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch.nn import functional as F

from facegen.flow.calibration import first_identity_time, median_time, threshold_for
from facegen.flow.guidance import guided_velocity
from facegen.flow.path import interpolate
from facegen.flow.sampler import euler, initial_noise, time_schedule
from facegen.flow.two_stage import Crossing, TwoStage, log_snr, two_stage
from facegen.models.dit import LatentDiT
from facegen.models.sharing import received_attention
from facegen.rng import torch_generator

S, E, DEPTH = 12, 6, 3
ALL = tuple(range(DEPTH))
PATHS = ["linear", "cosine"]
UNKNOWN = torch.full((5, 2), -1)
STATES = torch.tensor([[1, 0], [-1, 1], [0, 0], [1, -1], [-1, -1]])
PLAIN = TwoStage(guidance_scale=3.0, early=0.98, late=0.3, criterion=None, clock="time")


def awake(path="linear"):
    model = LatentDiT(
        sample_size=8, in_channels=4, patch_size=2, hidden_size=32, depth=DEPTH, num_heads=2, mlp_ratio=2.0,
        attribute_names=["Male", "Smiling"], identity_dim=E, path=path,
    )  # fmt: skip
    for i, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, std=0.12, generator=torch_generator(0, "weights", i))
    return model.eval().requires_grad_(False)


MODEL = awake()


def network(x, t, y, e, known, sharing):
    v, *told = MODEL(x, t, y, e, known, sharing=sharing, return_dict=False)
    return v, told[0] if told else None


def starts(num=5):
    x = initial_noise(range(num), (4, 8, 8)) * torch.linspace(0.4, 2.0, num).view(-1, 1, 1, 1)  # unlike each other
    return x, F.normalize(torch.randn(num, E, generator=torch_generator(1, "people")), dim=1)


def draw(settings, *, num=5, net=network, steps=S, path="linear", states=UNKNOWN, mapped=(0, 2), **changes):
    x, e = starts(num)
    given = {"x": x, "schedule": time_schedule(steps, shift=1.0), "identity": e, **changes}
    return two_stage(net, path=path, attributes=states[: len(given["x"])], settings=settings, mapped=mapped, **given)


def close(a, b):
    torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


def empty_sampler(path, states=UNKNOWN):
    x, _ = starts()
    v = lambda x_t, t: MODEL(x_t, torch.full((len(x_t),), t), states).sample  # noqa: E731
    return euler(v, x, time_schedule(S, shift=1.0), path=path)


@pytest.mark.parametrize("path", PATHS)
def test_1_always_on_without_injection_is_plain_guidance(path):
    x, e = starts()

    def velocity(x_t, t):
        return guided_velocity(
            lambda *a, **k: MODEL(*a, **k).sample,
            x_t, t, UNKNOWN, scale=3.0, interval=(0.0, 1.0), attribute_scales={}, identity=e,
        )  # fmt: skip

    expected = euler(velocity, x, time_schedule(S, shift=1.0), path=path)
    adaptive = replace(PLAIN, criterion="x0", share=0.5, blocks=ALL, tempering="gates", tempering_share=1.0)
    for settings in (replace(PLAIN, late=1.0), PLAIN.one_stage(), adaptive.one_stage()):
        drawn = draw(settings, path=path)
        close(drawn.latents, expected)
        assert drawn.switch.tolist() == [1.0] * 5 and drawn.evaluations.tolist() == [2 * S] * 5
        assert drawn.distances.isnan().all() and drawn.distances.shape == (S, 5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_2_an_identity_that_is_the_empty_one_changes_nothing_at_any_scale(share, monkeypatch):
    same = awake()
    same.identity_embedder.weight.zero_()
    same.identity_embedder.bias.copy_(same.identity_null)
    monkeypatch.setitem(globals(), "MODEL", same)
    expected = empty_sampler("linear")
    for scale in (1.0, 9.0):
        for late in (1.0, 0.5):
            close(draw(replace(PLAIN, guidance_scale=scale, late=late, share=share, blocks=ALL)).latents, expected)


@pytest.mark.parametrize("criterion", ["attn_recv", "x0", "gap"])
@pytest.mark.parametrize("path", PATHS)
def test_3_a_threshold_below_all_and_no_latest_time_is_the_empty_sampler(criterion, path):
    never = replace(PLAIN, criterion=criterion, threshold=-1.0, late=0.0, share=0.5, blocks=ALL)
    drawn = draw(never, path=path)
    close(drawn.latents, empty_sampler(path))
    assert drawn.switch.tolist() == [0.0] * 5
    assert drawn.evaluations.tolist() == [(2 if criterion == "gap" else 1) * S] * 5
    assert drawn.distances[0].isnan().all() and drawn.distances[1:-1].isfinite().all()


@pytest.mark.parametrize("criterion", ["attn_recv", "x0", "gap"])
@pytest.mark.parametrize(("patience", "first"), [(1, 2), (3, 4)])
def test_4_a_threshold_above_all_switches_at_the_third_step(criterion, patience, first):
    schedule = torch.linspace(0.992, 0, S + 1, dtype=torch.float64)
    always = replace(PLAIN, criterion=criterion, threshold=math.inf, early=1.0, late=0.0, patience=patience)
    drawn = draw(always, schedule=schedule)
    assert drawn.switch.tolist() == pytest.approx([float(schedule[first])] * 5)
    off = 2 if criterion == "gap" else 1
    assert drawn.evaluations.tolist() == [off * first + 2 * (S - first)] * 5
    assert drawn.distances[1:first].isfinite().all()
    assert drawn.distances[first:].isnan().all()  # nobody looks any more


def test_4_nobody_goes_over_before_the_earliest_time_and_everybody_by_the_latest():
    always = replace(PLAIN, criterion="x0", threshold=math.inf, late=0.0)
    times = time_schedule(S, shift=1.0).tolist()
    for early, step in ((1.0, 2), (times[3], 4), (times[3] - 0.01, 5), (times[6], 7)):
        assert draw(replace(always, early=early)).switch.tolist() == pytest.approx([times[step]] * 5)
    for late, step in ((times[4], 4), (times[4] + 0.01, 4), (times[4] - 0.01, 5)):
        for criterion in (None, "x0"):
            fixed = draw(replace(PLAIN, late=late, criterion=criterion, threshold=-1.0))
            assert fixed.switch.tolist() == pytest.approx([times[step]] * 5)
            assert fixed.evaluations.tolist() == [2 * S - step] * 5


def test_distances_count_before_the_earliest_time_but_let_nobody_over():
    """Three in a row below the threshold, the last of them at the earliest time: the next step has the identity."""
    times = time_schedule(S, shift=1.0).tolist()
    settings = replace(PLAIN, criterion="x0", threshold=math.inf, late=0.0, early=times[5], patience=3)
    assert draw(settings).switch.tolist() == pytest.approx([times[6]] * 5)


@cache
def between(criterion, path="linear", clock="time", patience=1):
    """A threshold at which the rows go over at different steps, and that is far from every distance."""
    settings = replace(PLAIN, criterion=criterion, threshold=-1.0, late=0.0, clock=clock, share=0.0)
    distances, times = draw(settings, path=path, states=STATES).distances, time_schedule(S, shift=1.0)
    seen = distances[distances.isfinite()].sort().values
    gaps, found = seen[1:] / seen[:-1], []
    for low, gap in zip(seen[:-1].tolist(), gaps.tolist(), strict=True):
        threshold = low * gap**0.5
        rule = dict(threshold=threshold, early=0.98, late=0.25, patience=patience)
        found.append((len(first_identity_time(distances, times, **rule).unique()), gap, threshold))
    most, gap, threshold = max(found)
    assert most >= (3 if clock == "time" and criterion != "gap" else 2) and gap > 1.001
    return threshold


@pytest.mark.parametrize("criterion", ["attn_recv", "x0", "gap"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_5_a_row_does_not_depend_on_its_batch(criterion, share):
    settings = replace(
        PLAIN, criterion=criterion, threshold=between(criterion), late=0.25, share=share, blocks=(1,) if share else ()
    )
    x, e = starts()
    many = draw(settings, states=STATES)
    assert len(many.switch.unique()) >= (2 if criterion == "gap" else 3)
    for rows in ([0], [3], [4, 1], [2, 2, 0], [4, 3, 2, 1, 0]):
        few = draw(settings, x=x[rows], identity=e[rows], states=STATES[rows])
        close(few.latents, many.latents[rows])
        assert torch.equal(few.switch, many.switch[rows]) and torch.equal(few.evaluations, many.evaluations[rows])
        torch.testing.assert_close(few.distances, many.distances[:, rows], atol=1e-4, rtol=1e-3, equal_nan=True)


def test_5_who_has_gone_over_stays_and_only_those_are_evaluated_twice():
    seen = []

    def watched(x, t, y, e, known, sharing):
        seen.append((float(t[0]), e[known]))
        assert not known[: len(known) - int(known.sum())].any()
        return network(x, t, y, e, known, sharing)

    settings = replace(PLAIN, criterion="x0", threshold=between("x0"), late=0.25)
    drawn, (_, e) = draw(settings, net=watched, states=STATES), starts()
    assert len(drawn.switch.unique()) >= 3 and len(seen) == S
    for t, who in seen:
        torch.testing.assert_close(who, e[drawn.switch >= t - 1e-6])
    times = time_schedule(S, shift=1.0)[:-1]
    twice = (times[:, None] <= drawn.switch + 1e-6).sum(0)
    assert torch.equal(drawn.evaluations, S + twice)


def one_row(model, x, t, y, e, share, blocks):
    """Velocity and queries and keys of one picture, attention written out; `blocks` (i, logits) are mixed in."""
    kept = {}
    hooks = []
    for i, block in enumerate(model.blocks):

        def attention(module, inputs, i=i):
            (tokens, *_) = inputs
            q, k, v = module.qkv(tokens).view(1, 16, 3, 2, 16).permute(2, 0, 3, 1, 4)
            logits = q @ k.transpose(2, 3) / 4
            kept[i] = (q, k, logits)
            if i in blocks:
                logits = share * blocks[i][2] + (1 - share) * logits
            return module.proj((logits.softmax(3) @ v).transpose(1, 2).reshape(1, 16, 32)), None

        hooks.append((block.attn, attention))
    for module, attention in hooks:
        module.forward = lambda *inputs, module=module, attention=attention, **_: attention(module, inputs)
    try:
        v = model(x[None], torch.tensor([t], dtype=torch.float32), y[None], None if e is None else e[None]).sample[0]
    finally:
        for module, _ in hooks:
            del module.forward
    return v, kept


def reference(model, x, e, y, schedule, s, path, mapped):
    """One picture alone by the method's own steps: two passes, stored maps, a loop. Returns latents, switch and count."""
    on, hits, before, switch, evaluations = False, 0, None, 0.0, 0
    for t, t_next in itertools.pairwise(schedule.tolist()):
        forced = t <= s.late + 1e-6
        on = on or forced
        if on and not switch:
            switch = t
        v_e, kept = one_row(model, x, t, y, None, 0.0, {})
        v, evaluations = v_e, evaluations + 1
        inside = s.window[0] <= t <= s.window[1]
        if on or s.criterion == "gap":
            borrowed = {i: kept[i] for i in s.blocks} if inside and s.share else {}
            v_i, _ = one_row(model, x, t, y, e, s.share, borrowed)
            evaluations += 1
        if on:
            v = v_e + (s.guidance_scale if forced or s.guide_early else 1.0) * (v_i - v_e)
        elif s.criterion is not None:
            if s.criterion == "attn_recv":
                m = torch.stack([received_attention(*kept[i][:2])[0] for i in mapped]).mean(0)
                m = (m - m.min()) / (m.max() - m.min())
            elif s.criterion == "x0":
                angle = t * math.pi / 2
                x0 = x - t * v_e if path == "linear" else math.cos(angle) * x - math.sin(angle) * v_e
                m = x0.view(4, 8, 8) / x0.std()  # 8 x 8 cells: of the latents' own size
            else:
                m = ((v_i - v_e).norm() / v_e.norm()) ** 2
            kept_t = min(max(t, 0.01), 0.992)
            if s.clock == "time":
                clock = t
            elif path == "linear":
                clock = 2 * math.log((1 - kept_t) / kept_t)
            else:
                clock = -2 * math.log(math.tan(kept_t * math.pi / 2))
            if before is not None and clock != before[1]:
                distance = float((m - before[0]).abs().mean()) / abs(clock - before[1])
                hits = hits + 1 if distance < s.threshold else 0
                on = t <= s.early + 1e-6 and hits >= s.patience
            before = m, clock
        x = x + (t_next - t) * v * (1.0 if path == "linear" else math.pi / 2)
    return x, switch, evaluations


CASES = {
    "attn_recv": dict(criterion="attn_recv"),
    "attn_recv_injected": dict(criterion="attn_recv", share=1.0, blocks=(1,)),
    "x0_mixed": dict(criterion="x0", share=0.5, blocks=(0, 2)),
    "x0_patient": dict(criterion="x0", patience=2),
    "x0_log_snr": dict(criterion="x0", clock="log_snr"),
    "attn_recv_log_snr": dict(criterion="attn_recv", clock="log_snr"),
    "x0_guided_late": dict(criterion="x0", guide_early=False),
    "gap": dict(criterion="gap", share=0.7, blocks=ALL),
    "window": dict(criterion="x0", share=1.0, blocks=ALL, window=(0.2, 0.6)),
    "fixed": dict(criterion=None, late=0.6, share=0.5, blocks=(1, 2)),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", CASES)
def test_6_the_sampler_equals_two_passes_with_stored_maps_row_by_row(case, path):
    settings = replace(PLAIN, **{"late": 0.25, **CASES[case]})
    if settings.criterion is not None:
        settings = replace(settings, threshold=between(settings.criterion, path, settings.clock, settings.patience))
    drawn, (x, e) = draw(settings, path=path, states=STATES), starts()
    for row in (0, 2, 4):
        latents, switch, evaluations = reference(
            MODEL, x[row], e[row], STATES[row], time_schedule(S, shift=1.0), settings, path, (0, 2)
        )
        close(drawn.latents[row], latents)
        assert float(drawn.switch[row]) == pytest.approx(switch) and int(drawn.evaluations[row]) == evaluations


def test_10_the_level_after_a_step_is_the_level_the_network_is_told_at_the_next():
    """Data and noise are known, so x_t says its own t."""
    data, noise = torch.full((5, 4, 8, 8), 3.0), starts()[0]
    levels = []

    def exact(x, t, y, e, known, sharing):
        close(x[:5], interpolate(data, noise, t[:5], path="linear"))
        assert torch.equal(x[5:], x[:5][known.nonzero()[:, 0] - 5]) and (t == t[0]).all()
        levels.append(float(t[0]))
        return (noise - data)[torch.arange(len(x)) % 5], None

    for shift in (1.0, 3.4):
        schedule = time_schedule(S, shift=shift)
        levels.clear()
        close(draw(replace(PLAIN, late=0.5), net=exact, schedule=schedule, x=noise).latents, data)
        assert levels == pytest.approx(schedule[:-1].tolist(), abs=1e-6)


def gaussian(x, t, y, e, known, sharing):
    """Exact velocity of data that differ between pictures in how early they are settled: sd 0.2 to 2 by row."""
    t, sd = t.view(-1, 1, 1, 1), torch.linspace(0.2, 2.0, 64)[torch.arange(len(x)) % 64].view(-1, 1, 1, 1)
    share = (1 - t) * sd**2 / ((1 - t) ** 2 * sd**2 + t**2)
    data = 0.5 + share * (x - (1 - t) * 0.5)
    return (x - data) / t, None


def settled(distances, times, target):
    """Time around which the median picture's map comes to rest, from each number of steps, by the threshold of 50.

    A switch is told of at the end of the two steps that were compared and happens a step later: 1.5 steps after that.
    """
    rule = dict(early=0.98, late=0.3, patience=1)
    threshold = threshold_for(distances[50], times[50], target=target, **rule)
    found = {n: first_identity_time(distances[n], times[n], threshold=threshold, **rule) for n in distances}
    return {n: median_time(switch) + 1.5 / n for n, switch in found.items()}


@pytest.mark.parametrize("clock", ["log_snr", "time"])
def test_11_halving_the_step_size_moves_the_median_switch_by_less_than_a_step(clock):
    times = {steps: time_schedule(steps, shift=1.0) for steps in (25, 50, 100)}
    plain = replace(PLAIN, criterion="x0", threshold=-1.0, late=0.0, clock=clock)
    states, (x, _) = torch.full((64, 2), -1), (initial_noise(range(64), (4, 8, 8)), None)
    distances = {
        n: draw(plain, num=64, x=x, net=gaussian, schedule=at, states=states).distances for n, at in times.items()
    }
    published = {}  # the distance of two steps as they are
    for n, values in distances.items():
        at = times[n][:-1].tolist() if clock == "time" else [log_snr(t, path="linear") for t in times[n][:-1].tolist()]
        published[n] = torch.cat([values[:1], values[1:] * torch.tensor(at).diff().abs()[:, None]])
    for target in (0.5, 0.6, 0.7, 0.8):
        ours, theirs = settled(distances, times, target), settled(published, times, target)
        assert abs(ours[25] - ours[50]) < 1 / 25 and abs(ours[50] - ours[100]) < 1 / 50
        assert max(abs(theirs[25] - theirs[50]) * 25, abs(theirs[50] - theirs[100]) * 50) > 1.5


def test_a_map_that_cannot_be_scaled_or_is_not_told_of():
    def flat(x, t, y, e, known, sharing):
        return torch.zeros_like(x), torch.ones(2, len(x), 16)

    settings = replace(PLAIN, criterion="attn_recv", threshold=math.inf, late=0.25)
    drawn = draw(settings, net=flat)
    assert drawn.distances.isnan().all() and drawn.switch.tolist() == pytest.approx([0.25] * 5)
    with pytest.raises(ValueError, match="told nothing of its attention"):
        draw(settings, net=lambda x, *_: (torch.zeros_like(x), None))
    with pytest.raises(ValueError, match="needs blocks whose attention it looks at"):
        draw(settings, mapped=())


def test_attention_is_mapped_only_while_somebody_is_looked_at():
    asked = []

    def watched(x, t, y, e, known, sharing):
        asked.append((float(t[0]), sharing))
        return network(x, t, y, e, known, sharing)

    settings = replace(PLAIN, criterion="attn_recv", threshold=between("attn_recv"), late=0.25)
    drawn = draw(settings, net=watched, states=STATES)
    last = float(drawn.switch.min())
    assert len(asked) == S and last < float(drawn.switch.max())
    for t, sharing in asked:
        assert (sharing is not None and sharing.mapped == (0, 2)) == (t > last + 1e-6)


def test_the_window_bounds_what_is_borrowed():
    asked = {}

    def watched(x, t, y, e, known, sharing):
        asked[round(float(t[0]), 4)] = 0.0 if sharing is None else sharing.share
        return network(x, t, y, e, known, sharing)

    draw(replace(PLAIN, late=1.0, share=0.5, blocks=(1,), window=(0.25, 0.75)), net=watched)
    assert {t for t, share in asked.items() if share} == {t for t in asked if 0.25 <= t <= 0.75} and len(asked) == S


def test_every_step_is_told():
    told = []
    draw(PLAIN, on_step=lambda *at: told.append(at))
    assert told == [(n, S) for n in range(1, S + 1)]


def test_log_snr_is_that_of_the_path_and_finite_at_the_ends():
    assert log_snr(0.8, path="linear") == pytest.approx(2 * math.log(0.2 / 0.8))
    assert log_snr(0.8, path="cosine") == pytest.approx(-2 * math.log(math.tan(0.4 * math.pi)))
    for path in PATHS:
        assert log_snr(1.0, path=path) == log_snr(0.992, path=path) < log_snr(0.99, path=path)
        assert log_snr(0.0, path=path) == log_snr(0.01, path=path) > log_snr(0.02, path=path)


def test_a_crossing_latches():
    crossing = Crossing(3, device="cpu")
    rule = dict(threshold=1.0, early=0.9, patience=2)
    nan = math.nan
    for t, row in ((1.0, [0.5, 0.5, 0.5]), (0.95, [0.5, 2.0, nan]), (0.9, [0.5, 0.5, 0.5]), (0.8, [2.0, 0.5, 1.0])):
        assert not crossing.begin(t, late=0.5)
        crossing.look(t, torch.tensor(row), **rule)
    assert crossing.switch.tolist() == pytest.approx([0.8, 0, 0]) and crossing.on.tolist() == [True, True, False]
    assert not crossing.begin(0.7, late=0.5) and crossing.begin(0.5, late=0.5)
    assert crossing.switch.tolist() == pytest.approx([0.8, 0.7, 0.5]) and crossing.on.all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(criterion="mse"), "criterion is 'mse'; allowed: attn_recv, x0, gap"),
        (dict(late=1.5), "late is 1.5; it must be between 0 and 1"),
        (dict(early=-0.1), "early is -0.1"),
        (dict(share=2.0, blocks=(0,)), r"share is 2.0"),
        (dict(share=0.5), "share is 0.5 in no block"),
        (dict(tempering_share=-1.0), "tempering_share is -1.0"),
        (dict(tempering="warm"), "tempering is 'warm'; allowed: none, temperature, gates"),
        (dict(clock="snr"), "clock is 'snr'; allowed: log_snr, time"),
        (dict(patience=0), "patience is 0; it must be at least 1"),
        (dict(window=(0.8, 0.2)), r"window is \[0.8, 0.2\]"),
        (dict(criterion="x0", early=0.2, late=0.5), "early is 0.2 and late 0.5"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **changes)
