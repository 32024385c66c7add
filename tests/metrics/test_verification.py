"""Verification: closed forms, an exhaustive reference, pairs that neither repeat nor leak people between folds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from facegen.metrics.verification import (
    Pairs,
    accept_thresholds,
    best_threshold,
    cosines,
    different_person_pairs,
    make_pairs,
    roc,
    same_person_pairs,
    threshold_at_far,
    verification_accuracy,
    verification_report,
)


def people(count: int, pictures: int, *, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings around random directions, and whose they are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, 16))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors = np.repeat(centres, pictures, axis=0) + spread * rng.normal(size=(count * pictures, 16))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.repeat(np.arange(count), pictures)


def brute_force(scores: np.ndarray, same: np.ndarray, threshold: float) -> tuple[float, float]:
    return float((scores[~same] >= threshold).mean()), float((scores[same] >= threshold).mean())


def test_separable_embeddings_are_told_apart_without_error():
    embeddings, identity = people(30, 6, spread=0.01)
    report = verification_report(embeddings, identity, rng=np.random.default_rng(0))
    assert report["accuracy"]["value"] == 1 and report["accuracy_std"] == 0 and report["folds"] == 10
    assert report["auc"]["value"] == report["auc"]["low"] == 1
    assert report["equal_error_rate"]["value"] == 0
    assert report["tar_at_far_1e-3"]["value"] == report["tar_at_far_1e-2"]["value"] == 1
    assert (report["people"], report["pictures"]) == (30, 180)
    assert report["pairs"] == 180 * 179 // 2


def test_embeddings_that_say_nothing_are_at_chance():
    embeddings, identity = people(150, 4, spread=0.2, seed=1)
    identity = np.random.default_rng(2).permutation(identity)
    report = verification_report(embeddings, identity, rng=np.random.default_rng(0))
    assert report["auc"]["low"] < 0.5 < report["auc"]["high"]
    assert abs(report["auc"]["value"] - 0.5) < 0.02
    assert abs(report["accuracy"]["value"] - 0.5) < 0.03
    assert abs(report["tar_at_far_1e-2"]["value"] - 0.01) < 0.01


@pytest.mark.parametrize("distance", [0.0, 1.0, 2.5])
def test_gaussian_scores_have_the_figures_of_the_closed_form(distance):
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.normal(distance, 1, 100_000), rng.normal(0, 1, 200_000)])
    same = np.arange(300_000) < 100_000
    curve = roc(scores, same)
    assert curve.auc() == pytest.approx(stats.norm.cdf(distance / np.sqrt(2)), abs=0.004)
    assert curve.equal_error_rate() == pytest.approx(stats.norm.cdf(-distance / 2), abs=0.004)
    for far in (1e-2, 1e-3):
        assert curve.tar_at_far(far) == pytest.approx(stats.norm.sf(stats.norm.isf(far) - distance), abs=0.012)
        assert threshold_at_far(scores[~same], far) == pytest.approx(stats.norm.isf(far), abs=0.07)


def test_the_curve_agrees_with_counting_even_where_scores_tie():
    rng = np.random.default_rng(4)
    scores = np.round(rng.normal(0, 1, 400), 1)
    same = rng.random(400) < 0.4
    scores[same] += 0.5
    curve = roc(scores, same)
    for threshold in np.unique(scores):
        far, tar = brute_force(scores, same, threshold)
        assert np.isclose(np.abs(curve.far - far) + np.abs(curve.tar - tar), 0).any()
    won = (scores[same][:, None] > scores[~same]).mean() + 0.5 * (scores[same][:, None] == scores[~same]).mean()
    assert curve.auc() == pytest.approx(won)


def test_no_more_than_the_asked_share_is_accepted():
    rng = np.random.default_rng(5)
    for scores in (rng.normal(size=1050), np.round(rng.normal(size=1050), 1)):
        for far in (1e-3, 1e-2, 0.3):
            threshold = threshold_at_far(scores, far)
            accepted = (scores >= threshold).mean()
            higher = np.unique(scores)[np.unique(scores) < threshold][-1]  # the next one that would come in
            assert accepted <= far < (scores >= higher).mean()


def test_far_needs_enough_pairs():
    scores, same = np.linspace(0, 1, 1004), np.arange(1004) >= 1000 - 1
    assert roc(scores, same).num_different == 999
    with pytest.raises(ValueError, match="999 different-person pairs"):
        roc(scores, same).tar_at_far(1e-3)
    with pytest.raises(ValueError, match=r"FAR 0\.001"):
        threshold_at_far(scores[~same], 1e-3)
    assert roc(scores, np.arange(1004) >= 1000).tar_at_far(1e-3) == 1


def test_best_threshold_lies_between_scores_and_never_splits_a_tie():
    scores, same = np.array([0.9, 0.8, 0.4, 0.2]), np.array([True, True, False, False])
    assert best_threshold(scores, same) == pytest.approx(0.6)
    assert not 0.1 < best_threshold(scores, ~same) < 1  # above all or below all: either is right for half
    tied = np.array([0.5, 0.5, 0.1]), np.array([True, False, False])
    assert (tied[0] >= best_threshold(*tied)).tolist() in ([True, True, False], [False, False, False])


def test_a_threshold_is_never_chosen_on_the_fold_that_it_is_tested_on():
    """Each fold is perfect at a threshold of its own, which the others do not know."""
    scores = np.array([0.9, 0.7, 0.3, 0.1])
    same = np.array([True, False, True, False])
    none = np.zeros(4, dtype=int)
    accuracy, deviation = verification_accuracy(scores, Pairs(none, none, same, np.array([0, 0, 1, 1]), True))
    assert accuracy.value == 0.5 and deviation == 0 and accuracy.n == 4


def test_pairs_are_balanced_distinct_and_keep_people_in_one_fold():
    identity = np.repeat(np.arange(45), 5)
    identity[::11] = -1
    shuffled = np.random.default_rng(6).permutation(identity)
    pairs = make_pairs(shuffled, np.random.default_rng(7), 600)
    a, b = shuffled[pairs.first], shuffled[pairs.second]
    assert ((a == b) == pairs.same).all() and (np.minimum(a, b) >= 0).all()
    assert pairs.same.sum() * 2 == len(pairs)
    assert len({frozenset(p) for p in zip(pairs.first, pairs.second, strict=True)}) == len(pairs)
    assert (pairs.first != pairs.second).all()
    assert pairs.disjoint_people and len(np.unique(pairs.fold)) == 10
    seen: dict[int, int] = {}
    for person, fold in zip(np.concatenate([a, b]), np.tile(pairs.fold, 2), strict=True):
        assert seen.setdefault(int(person), int(fold)) == fold


def test_few_people_share_the_folds_and_it_is_said():
    pairs = make_pairs(np.repeat([3, 7], 9), np.random.default_rng(0), 60)
    assert not pairs.disjoint_people and len(np.unique(pairs.fold)) == 10
    with pytest.raises(ValueError, match="name 1 people"):
        make_pairs(np.array([1, 1, -1]), np.random.default_rng(0), 10)
    with pytest.raises(ValueError, match="no person has two pictures"):
        make_pairs(np.arange(9), np.random.default_rng(0), 10)


def test_all_pairs_are_those_of_two_loops():
    identity = np.array([2, -1, 0, 2, 0, 2, -1, 5])
    every = [(i, j) for i in range(8) for j in range(i + 1, 8) if min(identity[i], identity[j]) >= 0]
    same = {p for p in every if identity[p[0]] == identity[p[1]]}
    assert {tuple(p) for p in same_person_pairs(identity)} == same
    different = different_person_pairs(identity, np.random.default_rng(0), 99)
    assert {tuple(p) for p in different} == set(every) - same
    assert len(different) == len(every) - len(same)


def test_different_person_pairs_of_many_pictures_are_drawn():
    identity = np.random.default_rng(8).integers(-1, 40, 3000)
    pairs = different_person_pairs(identity, np.random.default_rng(9), 5000)
    assert pairs.shape == (5000, 2) and len(np.unique(pairs, axis=0)) == 5000
    assert (identity[pairs[:, 0]] != identity[pairs[:, 1]]).all() and (identity[pairs] >= 0).all()
    assert (pairs[:, 0] < pairs[:, 1]).all()


def test_bootstrap_over_people_is_wider_than_pairs_suggest():
    """30 people with 8 pictures each: the spread between fresh draws of people is that of the interval."""
    reports = [verification_report(*people(30, 8, spread=0.45, seed=s), rng=np.random.default_rng(0)) for s in range(6)]
    values = np.array([r["auc"]["value"] for r in reports])
    widths = np.array([r["auc"]["high"] - r["auc"]["low"] for r in reports])
    assert 0.3 < widths.mean() / (2 * 1.96 * values.std(ddof=1)) < 3
    by_pairs = 2 * 1.96 * np.sqrt(values.mean() * (1 - values.mean()) / reports[0]["pairs"])
    assert widths.mean() > 2 * by_pairs


def test_thresholds_come_from_the_first_set_that_is_large_enough():
    small, large = people(4, 6, spread=0.4), people(12, 8, spread=0.4, seed=1)
    sets = {"val": small, "test": large}
    thresholds, chosen = accept_thresholds(
        {k: v[0] for k, v in sets.items()}, {k: v[1] for k, v in sets.items()}, rng=np.random.default_rng(0)
    )
    assert chosen == {"1e-2": "val", "1e-3": "test"}  # 216 and 4224 different-person pairs
    for name, key, far in (("val", "1e-2", 1e-2), ("test", "1e-3", 1e-3)):
        e, identity = sets[name]
        all_scores = (e @ e.T)[np.triu_indices(len(e), 1)]
        different = identity[np.triu_indices(len(e), 1)[0]] != identity[np.triu_indices(len(e), 1)[1]]
        accepted = (all_scores[different] >= thresholds[key]).mean()
        assert 0.7 * far < accepted <= far


def test_too_few_pairs_for_a_far_are_no_figure():
    report = verification_report(*people(4, 6, spread=0.4), rng=np.random.default_rng(0))
    assert report["tar_at_far_1e-3"] is None and report["tar_at_far_1e-2"] is not None
    assert report["folds"] == 2 and not report["folds_share_people"]


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match="not unit vectors"):
        cosines(np.ones((3, 2)), np.array([0]), np.array([1]))
    with pytest.raises(ValueError, match="NaN"):
        roc(np.array([np.nan, 1.0]), np.array([True, False]))
    with pytest.raises(ValueError, match="one kind"):
        roc(np.array([0.0, 1.0]), np.array([True, True]))
