"""Figures of a set of people, against loops over people and pairs, and where they are known in closed form."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from facegen.data.images import to_unit
from facegen.metrics import people as of_people
from facegen.metrics.judge_features import JudgeFeatures
from facegen.metrics.people import (
    by_person,
    centres,
    condition_cosines,
    entropy,
    left_out,
    nearest_other,
    own_centre,
    people_interval,
    sampled_pairs,
    spread,
    views,
)
from facegen.metrics.perceptual import perceptual_distances
from facegen.models.initialize import draw_weights
from facegen.models.judges import build_judge
from facegen.rng import torch_generator

IDENTITY = np.array([7, 3, 7, 3, 3, 9, 7, 7, 3])  # 3: 4 pictures, 7: 4, 9: one alone
RNG = np.random.default_rng(5)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def vectors(num: int = len(IDENTITY), dim: int = 6, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((num, dim)) + 0.5).astype(np.float32)


def judge(architecture: str = "convnext") -> JudgeFeatures:
    model = build_judge(architecture, attribute_names=["Male"], width=8)
    draw_weights(model, torch_generator(0, "judge"))
    model.register_to_config(thresholds=[0.5], temperatures=[1.0], resolution=32)
    return JudgeFeatures(model.eval(), name="b", digest="0", resolution=32, device=torch.device("cpu"))


def pictures(num: int, *, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, side, side, 3), dtype=np.uint8)


def test_centres_and_cosines_are_those_of_a_loop_over_people() -> None:
    rows = vectors()
    found, own, other = centres(rows, IDENTITY), own_centre(rows, IDENTITY), left_out(rows, IDENTITY)
    for place, person in enumerate((3, 7, 9)):
        members = np.flatnonzero(person == IDENTITY)
        total = rows[members].astype(np.float64).sum(0)
        np.testing.assert_allclose(found[place], total / np.linalg.norm(total), atol=1e-12)
        for i in members:
            assert own[i] == pytest.approx(float(rows[i] @ found[place]), abs=1e-6)
            rest = rows[[j for j in members if j != i]].astype(np.float64).sum(0)
            if person == 9:
                assert np.isnan(other[i]) and own[i] == pytest.approx(1)
            else:
                assert other[i] == pytest.approx(float(rows[i] @ rest / np.linalg.norm(rest)), abs=1e-6)
                assert other[i] < own[i]


def test_two_pictures_at_an_angle() -> None:
    angle = 0.7
    rows = np.array([[1, 0, 0], [np.cos(angle), np.sin(angle), 0]])
    np.testing.assert_allclose(own_centre(rows, np.zeros(2, int)), np.cos(angle / 2))
    np.testing.assert_allclose(left_out(rows, np.zeros(2, int)), np.cos(angle))


def test_figures_depend_neither_on_the_order_of_rows_nor_on_the_labels() -> None:
    rows, order = vectors(), RNG.permutation(len(IDENTITY))
    renamed = np.array([{3: 40, 7: 50, 9: 60}[p] for p in IDENTITY])
    for function in (own_centre, left_out):
        expected = by_person(function(rows, IDENTITY), IDENTITY)
        moved = by_person(function(rows[order], renamed[order]), renamed[order])
        np.testing.assert_allclose(moved, expected, atol=1e-12)


def test_a_person_counts_once_however_many_pictures() -> None:
    values = np.array([1.0, 1.0, 1.0, 0.0, np.nan, np.nan])
    found = by_person(values, np.array([4, 4, 4, 8, 8, 9]))
    np.testing.assert_array_equal(found, [1.0, 0.0, np.nan])
    assert people_interval(found, generator=np.random.default_rng(0)).value == 0.5  # not 0.75


def test_the_nearest_other_is_that_of_all_pairs() -> None:
    rows = vectors(1500, 5)
    table = rows.astype(np.float64) @ rows.T.astype(np.float64)
    np.fill_diagonal(table, -2)
    np.testing.assert_allclose(nearest_other(rows), table.max(1), atol=1e-12)
    twins = np.concatenate([np.eye(4), np.eye(4)[:1]])
    np.testing.assert_array_equal(nearest_other(twins), [1, 0, 0, 0, 1])


def test_spread_and_entropy_of_known_values() -> None:
    values = RNG.random(len(IDENTITY))
    found = spread(values, IDENTITY)
    for place, person in enumerate((3, 7)):
        assert found[place] == pytest.approx(np.std(values[person == IDENTITY], ddof=1))
    assert np.isnan(found[2])
    light = np.array([0.0, 0.3, 0.6, 1.0, 0.1, 0.1, 0.2, 0.9])
    bits = entropy(light, np.repeat([1, 2], 4), bins=4)
    np.testing.assert_allclose(bits, [2.0, -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))])
    same = entropy(np.full(3, 0.5), np.zeros(3, int), bins=16)
    assert same[0] == 0 and not np.signbit(same[0])


def test_pairs_are_of_one_person_each_once_and_at_most_so_many() -> None:
    every = sampled_pairs(IDENTITY, np.random.default_rng(0), most=6)
    assert {tuple(sorted(pair)) for pair in every.tolist()} == {
        pair for pair in combinations(range(len(IDENTITY)), 2) if IDENTITY[pair[0]] == IDENTITY[pair[1]]
    }
    identity = np.repeat([5, 6, 8], 5)
    some = sampled_pairs(identity, np.random.default_rng(1), most=4)
    assert (identity[some[:, 0]] == identity[some[:, 1]]).all()
    assert np.unique(identity[some[:, 0]], return_counts=True)[1].tolist() == [4, 4, 4]
    assert len(np.unique(some, axis=0)) == 12
    np.testing.assert_array_equal(some, sampled_pairs(identity * 3 + 2, np.random.default_rng(1), most=4))
    drawn = [tuple(map(tuple, sampled_pairs(identity, np.random.default_rng(s), most=4))) for s in range(8)]
    assert len(set(drawn)) == 8
    assert sampled_pairs(np.arange(4), np.random.default_rng(0), most=4).shape == (0, 2)


def test_every_pair_is_drawn_equally_often() -> None:
    identity = np.repeat([0, 1], 4)  # 6 pairs each
    counts = np.zeros((8, 8))
    for s in range(600):
        for i, j in sampled_pairs(identity, np.random.default_rng(s), most=2):
            counts[i, j] += 1
    drawn = counts[counts > 0]
    assert len(drawn) == 12 and np.abs(drawn - 200).max() < 50  # 4 standard deviations


def test_the_interval_is_that_of_the_mean_over_people() -> None:
    values = RNG.standard_normal(400)
    found = people_interval(np.append(values, np.nan), generator=np.random.default_rng(0))
    assert found is not None and found.n == 400 and found.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)
    assert people_interval(np.array([1.0, np.nan]), generator=np.random.default_rng(0)) is None
    with pytest.raises(ValueError, match="infinite"):
        people_interval(np.array([1.0, np.inf, 2.0]), generator=np.random.default_rng(0))


def test_cosines_with_the_contexts() -> None:
    contexts, rows = vectors(3, 6, seed=1), vectors(4, 6, seed=2)
    context = np.array([2, 0, 0, 1])
    expected = [float(rows[i].astype(np.float64) @ contexts[c]) for i, c in enumerate(context)]
    np.testing.assert_allclose(condition_cosines(rows, contexts, context), expected, atol=1e-6)
    np.testing.assert_allclose(condition_cosines(contexts, contexts, np.arange(3)), 1, atol=1e-6)
    with pytest.raises(ValueError, match=r"contexts 0 to 3 .* there are 3"):
        condition_cosines(rows, contexts, np.array([0, 1, 2, 3]))


@pytest.mark.parametrize("architecture", ["convnext", "residual"])
def test_views_are_those_of_the_network_and_distances_those_of_each_pair(architecture: str) -> None:
    witness, images = judge(architecture), pictures(7)
    pairs = np.array([[0, 1], [2, 5], [4, 3], [6, 5]])
    found = views(witness, images, pairs)
    expected = perceptual_distances(witness, images[pairs[:, 0]], images[pairs[:, 1]])
    np.testing.assert_allclose(found.distances, expected, rtol=1e-5)
    assert found.distances.min() > 0.01
    with torch.no_grad():
        coarse = witness.judge.features(to_unit(images))[-1]
    np.testing.assert_allclose(found.pooled, coarse.mean((2, 3)), atol=1e-5)
    cells = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)  # 2 x 2 positions in 4 x 4 cells
    np.testing.assert_allclose(found.cells, cells.flatten(1), atol=1e-5)
    if architecture == "residual":
        np.testing.assert_allclose(found.pooled, witness(images), atol=1e-5)


def test_equal_pictures_differ_by_nothing() -> None:
    images = np.repeat(pictures(3), 4, axis=0)
    identity = np.repeat([0, 1, 2], 4)
    pairs = sampled_pairs(identity, np.random.default_rng(0), most=6)
    assert (views(judge(), images, pairs).distances == 0).all()


def test_what_is_seen_does_not_depend_on_how_pictures_are_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = np.repeat(np.arange(6), [2, 1, 3, 4, 1, 2])
    images, pairs = pictures(len(identity)), sampled_pairs(identity, np.random.default_rng(0), most=9)
    together = views(judge(), images, pairs)
    order = np.random.default_rng(3).permutation(len(pairs))
    monkeypatch.setattr(of_people, "BATCH", 2)
    apart = views(judge(), images, pairs[order][:, ::-1])
    np.testing.assert_allclose(apart.distances, together.distances[order], rtol=1e-5)
    np.testing.assert_allclose(apart.pooled, together.pooled, atol=1e-5)
    np.testing.assert_allclose(views(judge(), images, pairs).distances, together.distances, rtol=1e-5)
    far = np.array([[0, 3], [9, 4]])
    expected = perceptual_distances(judge(), images[far[:, 0]], images[far[:, 1]])
    np.testing.assert_allclose(views(judge(), images, far).distances, expected, rtol=1e-5)


def test_what_cannot_be_measured_is_refused() -> None:
    rows, alone = vectors(), np.zeros(1, int)
    with pytest.raises(ValueError, match="not unit vectors"):
        centres(rows * 2, IDENTITY)
    with pytest.raises(ValueError, match="labels"):
        own_centre(rows, IDENTITY[:-1])
    with pytest.raises(ValueError, match="cancel"):
        centres(np.array([[1.0, 0], [-1, 0]]), np.zeros(2, int))
    with pytest.raises(ValueError, match="cancel"):
        left_out(np.array([[1.0, 0], [-1, 0], [0, 1]]), np.zeros(3, int))
    with pytest.raises(ValueError, match="no other one"):
        nearest_other(rows[:1])
    with pytest.raises(ValueError, match="labels"):
        spread(np.zeros(2), alone)
    with pytest.raises(ValueError, match="values in"):
        entropy(np.array([1.5]), alone, bins=4)
    with pytest.raises(ValueError, match="multiples of 16"):
        views(judge(), pictures(2, side=40), np.array([[0, 1]]))
    with pytest.raises(ValueError, match="do not have"):
        views(judge(), pictures(2), np.array([[0, 2]]))
    with pytest.raises(ValueError, match="expected uint8"):
        views(judge(), pictures(2).astype(np.float32), np.array([[0, 1]]))
