"""Accuracy over contiguous folds against loops, and the ratio of two recognisers against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from facegen.metrics.pair_folds import above_chance_ratio, fold_accuracy, judged_right
from facegen.metrics.verification import make_pairs, verification_accuracy


def by_loops(distances: np.ndarray, same: np.ndarray) -> tuple[list[float], list[float]]:
    """The protocol written out: every fold, every threshold, every pair."""
    n, accuracies, chosen = len(same), [], []
    sizes = [n // 10 + (fold < n % 10) for fold in range(10)]
    for fold in range(10):
        start = sum(sizes[:fold])
        held_out = set(range(start, start + sizes[fold]))
        rest = np.array([i for i in range(n) if i not in held_out])
        best, best_threshold = -1, None
        for step in range(400):
            right = int(((distances[rest] < step / 100) == same[rest]).sum())
            if right > best:
                best, best_threshold = right, step / 100
        inside = np.array(sorted(held_out))
        accuracies.append(float(((distances[inside] < best_threshold) == same[inside]).mean()))
        chosen.append(best_threshold)
    return accuracies, chosen


def noisy(n: int, seed: int, gap: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    same = rng.random(n) < 0.5
    return np.clip(rng.normal(np.where(same, 1.2 - gap / 2, 1.2 + gap / 2), 0.5), 0, 4), same


@pytest.mark.parametrize("n", [7000, 6000, 137, 10])
def test_equal_to_loops_over_folds_thresholds_and_pairs(n):
    distances, same = noisy(n, seed=n)
    found = fold_accuracy(distances, same)
    accuracies, chosen = by_loops(distances, same)
    assert found.accuracy.value == pytest.approx(np.mean(accuracies), abs=1e-12) and found.accuracy.n == n
    assert found.deviation == pytest.approx(np.std(accuracies, ddof=1), abs=1e-12)
    assert found.thresholds.tolist() == chosen
    assert found.accuracy.low < found.accuracy.value < found.accuracy.high


def test_folds_are_contiguous_and_never_choose_for_themselves():
    """The second half of the file wants another threshold than the first: its order must show."""
    distances, same = noisy(2000, seed=1, gap=2.0)
    shifted = distances + np.where(np.arange(2000) < 200, 1.5, 0)  # the first fold alone
    assert fold_accuracy(shifted, same).thresholds[0] < 1.4 and by_loops(shifted, same)[0][0] < 0.6
    order = np.random.default_rng(0).permutation(2000)
    assert fold_accuracy(shifted, same).deviation > 3 * fold_accuracy(shifted[order], same[order]).deviation


def test_separable_is_exact_and_takes_the_first_of_the_best_thresholds():
    same = np.arange(7000) % 2 == 0
    found = fold_accuracy(np.where(same, 0.105, 1.005), same)
    assert found.accuracy.value == 1 and found.deviation == 0 and (found.thresholds == 0.11).all()


def test_a_pair_at_the_threshold_is_not_accepted():
    same = np.arange(40) % 2 == 0
    found = fold_accuracy(np.where(same, 0.5, 0.51), same)  # accepted from 0.51 on, which must not accept 0.51
    assert found.accuracy.value == 1 and (found.thresholds == 0.51).all()


def test_an_embedding_that_says_nothing_is_at_chance():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(14000, 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    distances = np.square(vectors[::2] - vectors[1::2]).sum(axis=1)
    found = fold_accuracy(distances, np.arange(7000) % 7 % 2 == 0)
    chance = (np.arange(7000) % 7 % 2 == 0).mean()
    assert abs(found.accuracy.value - max(chance, 1 - chance)) < 0.02
    balanced = rng.permutation(np.arange(7000) < 3500)
    assert abs(fold_accuracy(distances, balanced).accuracy.value - 0.5) < 0.02


@pytest.mark.parametrize(
    ("distances", "same", "reason"),
    [
        (np.zeros(9), np.ones(9, bool), "9 pairs in 10 folds"),
        (np.full(20, np.nan), np.ones(20, bool), "finite"),
        (np.full(20, -0.1), np.ones(20, bool), "at least 0"),
        (np.zeros(20), np.ones(20, int), "expected"),
        (np.zeros(20), np.ones(19, bool), "expected"),
    ],
)
def test_wrong_input_is_refused(distances, same, reason):
    with pytest.raises(ValueError, match=reason):
        fold_accuracy(distances, same)


def two_recognisers(people: int = 60, each: int = 4):
    rng = np.random.default_rng(3)
    identity = np.repeat(np.arange(people), each)
    pairs = make_pairs(identity, rng, 600)
    scores = [rng.normal(pairs.same * gap, 1.0) for gap in (1.0, 2.0)]
    return identity, pairs, scores


def test_what_is_judged_rightly_is_what_the_accuracy_counts():
    _, pairs, scores = two_recognisers()
    right = judged_right(scores[0], pairs)
    accuracy, _ = verification_accuracy(scores[0], pairs)
    folds = [right[pairs.fold == fold].mean() for fold in range(10)]
    assert np.mean(folds) == pytest.approx(accuracy.value) and 0.5 < right.mean() < 1


def test_the_ratio_is_its_definition_and_its_interval_that_of_people():
    identity, pairs, scores = two_recognisers()
    people = identity[pairs.first], identity[pairs.second]
    weak, strong = (judged_right(s, pairs) for s in scores)
    found = above_chance_ratio(weak, strong, pairs, people, rng=np.random.default_rng(0))
    assert found.value == pytest.approx((weak.mean() - 0.5) / (strong.mean() - 0.5)) and found.n == 60
    draws = []
    for seed in range(200):  # people drawn one by one, pairs repeated as often as they were
        drawn = np.random.default_rng(seed).integers(0, 60, 60).tolist()
        times = [drawn.count(a) * (1 if a == b else drawn.count(b)) for a, b in zip(*people, strict=True)]
        rows = np.repeat(np.arange(len(pairs)), times)
        of = [
            np.mean([r[rows][pairs.same[rows] == kind].mean() for kind in (True, False)]) - 0.5 for r in (weak, strong)
        ]
        draws.append(of[0] / of[1])
    assert np.allclose([found.low, found.high], np.quantile(draws, [0.025, 0.975]), atol=0.05)
    same = above_chance_ratio(strong, strong, pairs, people, rng=np.random.default_rng(0))
    assert same.low == same.value == same.high == 1  # both see the same draws


def test_there_is_no_ratio_to_what_is_at_chance():
    identity, pairs, scores = two_recognisers()
    people = identity[pairs.first], identity[pairs.second]
    coin = np.arange(len(pairs)) % 2 == 0
    assert above_chance_ratio(judged_right(scores[0], pairs), coin, pairs, people, rng=np.random.default_rng(0)) is None
