"""Precision, recall, density, coverage, memorisation and duplicates against what they must be, and another code."""

from __future__ import annotations

import numpy as np
import pytest

from facegen.metrics import manifold
from facegen.metrics.manifold import (
    NAMES,
    ManifoldScores,
    distance_blocks,
    duplicate_rate,
    expected_coverage,
    manifold_scores,
    memorisation,
)


def _scores(real: np.ndarray, fake: np.ndarray, k: int = 5, **options) -> ManifoldScores:
    return manifold_scores(real=real, fake=fake, k=k, generator=np.random.default_rng(0), **options)


def _values(scores: ManifoldScores) -> list[float]:
    return [getattr(scores, name).value for name in NAMES]


def _plain(real: np.ndarray, fake: np.ndarray, k: int) -> list[float]:
    """The four definitions, pair by pair."""

    def radii(rows: np.ndarray) -> np.ndarray:
        return np.array(
            [np.sort(np.linalg.norm(np.delete(rows, i, 0) - row, axis=1))[k - 1] for i, row in enumerate(rows)]
        )

    distances = np.linalg.norm(real[:, None] - fake[None], axis=2)
    in_real, in_fake = distances <= radii(real)[:, None], distances <= radii(fake)
    return [
        in_real.any(0).mean(),
        in_fake.any(1).mean(),
        in_real.sum() / (k * len(fake)),
        in_real.any(1).mean(),
    ]


@pytest.mark.parametrize(("n", "m", "k"), [(60, 60, 3), (70, 40, 1), (30, 90, 5)])
def test_the_definitions_pair_by_pair(n: int, m: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(n)
    real, fake = rng.standard_normal((n, 4)) + 100, 0.8 * rng.standard_normal((m, 4)) + 100.4
    want = _plain(real, fake, k)
    assert _values(_scores(real, fake, k)) == pytest.approx(want, rel=1e-12)
    assert want != pytest.approx(_plain(real, fake, k + 1))  # one neighbour off would be seen
    monkeypatch.setattr(manifold, "BLOCK_BYTES", 8 * m * 7)
    monkeypatch.setattr(manifold, "COLUMNS", 11)
    in_pieces = _scores(real, fake, k)
    assert _values(in_pieces) == pytest.approx(want, rel=1e-12)
    nearest = np.sort(np.linalg.norm(real[:, None] - real, axis=2), axis=1)[:, 1]
    np.testing.assert_allclose(in_pieces.nearest_real, nearest, rtol=1e-9)


def test_neighbours_beyond_those_looked_at_first_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    rows = rng.standard_normal((50, 3))
    parts = manifold._parts(50, None, 4, rng)
    want = [np.sort(np.square(rows[part][:, None] - rows[part]).sum(2), axis=1)[:, 4] for part in parts]
    for factor in (1, 12):
        monkeypatch.setattr(manifold, "NEAR_PER_NEIGHBOUR", factor)
        found, _ = manifold._radii(rows, parts, 4, rows.mean(0))
        for a, b in zip(found, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8)


@pytest.mark.parametrize(("n", "m"), [(400, 400), (400, 150)])
def test_expected_values_under_equality(n: int, m: int) -> None:
    rng = np.random.default_rng(1)
    draws = np.array([_values(_scores(rng.standard_normal((n, 6)), rng.standard_normal((m, 6)))) for _ in range(25)])
    error = draws.std(0, ddof=1) / 5
    assert abs(draws[:, 2].mean() - 1) < 4 * error[2] and error[2] < 0.03
    want = expected_coverage(num_real=n, num_fake=m, k=5)
    assert abs(draws[:, 3].mean() - want) < 4 * error[3] and error[3] < 0.01
    assert want != pytest.approx(expected_coverage(num_real=n, num_fake=m, k=4), abs=4 * error[3])


def test_the_known_coverages() -> None:
    assert expected_coverage(num_real=1000, num_fake=1000, k=5) == pytest.approx(0.9690, abs=1e-4)
    assert expected_coverage(num_real=1000, num_fake=300, k=5) == pytest.approx(0.732, abs=1e-3)
    assert expected_coverage(num_real=10**7, num_fake=10**7, k=3) == pytest.approx(1 - 2**-3, abs=1e-6)


def test_a_tight_cluster_has_precision_but_no_recall() -> None:
    rng = np.random.default_rng(2)
    real, fake = rng.standard_normal((300, 5)), 0.1 * rng.standard_normal((300, 5))
    scores = _scores(real, fake)
    assert scores.precision.value > 0.9 and scores.recall.value < 0.1
    assert scores.density.value > 1.5 and scores.coverage.value < 0.6
    turned = _scores(fake, real)
    assert turned.precision.value < 0.1 and turned.recall.value > 0.9


def test_parity_with_torch_fidelity_on_equal_features() -> None:
    metric = pytest.importorskip("torch_fidelity.metric_prc")
    import torch

    rng = np.random.default_rng(3)
    real, fake = rng.standard_normal((200, 8)), 0.7 * rng.standard_normal((150, 8)) + 0.3
    for k in (3, 5):
        theirs = metric.calculate_precision_recall_full(torch.from_numpy(fake), torch.from_numpy(real), k)
        assert _values(_scores(real, fake, k))[:2] == pytest.approx(theirs, abs=1e-6)


def test_edges_are_inside_and_equal_rows_are_at_no_distance() -> None:
    rng = np.random.default_rng(4)
    real = (rng.standard_normal((80, 6)) + 1000).astype(np.float32)
    copies = _scores(real, real.copy())
    assert _values(copies) == [1, 1, pytest.approx(6 / 5), 1]  # the copy itself and its k neighbours, over k
    four_times = np.repeat(real[:20], 4, axis=0)
    same = _scores(four_times, four_times, k=3)
    assert _values(same)[:2] == [1, 1] and same.coverage.value == 1  # with `<` all would be 0
    assert (same.nearest_real == 0).all() and copies.nearest_real.min() > 0


def test_offset_features_keep_their_digits() -> None:
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((40, 7))
    far = rows + 1e6
    ((_, block),) = distance_blocks(far, far, far.mean(0))
    want = np.square(far[:, None] - far[None]).sum(2)
    np.testing.assert_allclose(block, want, rtol=1e-9, atol=1e-9)
    assert (np.diag(block) == 0).all()


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 0.8)])
def test_the_intervals_cover_the_expectation(shift: float, scale: float) -> None:
    n, d, repetitions = 150, 6, 120
    rng = np.random.default_rng(6)
    draws = []
    for _ in range(repetitions):
        real, fake = rng.standard_normal((n, d)), rng.standard_normal((n, d)) * scale + shift
        scores = manifold_scores(real=real, fake=fake, k=3, generator=rng)
        draws.append(
            [(getattr(scores, name).value, getattr(scores, name).low, getattr(scores, name).high) for name in NAMES]
        )
    values, low, high = np.moveaxis(np.array(draws), 2, 0)
    expectation = values.mean(0)
    coverage = ((low <= expectation) & (expectation <= high)).mean(0)
    assert (coverage >= 0.87).all()  # nominal 0.95, standard error 0.02
    ratio = (high - low).mean(0) / (2 * 1.96 * values.std(0, ddof=1))
    assert ((ratio > 0.8) & (ratio < 1.6)).all()


def test_groups_are_not_split() -> None:
    """Ten near copies a person: halves that share people look alike, and their interval is too narrow."""
    rng = np.random.default_rng(7)
    people = np.repeat(np.arange(24), 10)
    values, widths = [], []
    for _ in range(25):
        real = rng.standard_normal((24, 3))[people] + 0.3 * rng.standard_normal((240, 3))
        fake = 0.7 * rng.standard_normal((240, 3)) + 0.5
        naive, grouped = _scores(real, fake), _scores(real, fake, real_groups=people)
        assert _values(naive) == _values(grouped)
        values.append(_values(grouped))
        found = [[getattr(s, name) for name in NAMES] for s in (naive, grouped)]
        widths.append([[interval.high - interval.low for interval in row] for row in found])
    naive_width, grouped_width = np.mean(widths, axis=0)
    want = 2 * 1.96 * np.std(values, axis=0, ddof=1)
    assert ((grouped_width / want > 0.75) & (grouped_width / want < 1.7)).all()
    assert (naive_width < 0.8 * want).all()


@pytest.mark.parametrize("k", [0, 10, 20, 40])
def test_k_that_does_not_fit_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k is {k} for 40 real and 20 generated rows; allowed: 1 to 9"):
        _scores(np.eye(40), np.eye(40)[:20], k)


def test_bad_features_are_refused() -> None:
    rows = np.random.default_rng(8).standard_normal((40, 3))
    with pytest.raises(ValueError, match="3 and 2 dimensions"):
        _scores(rows, rows[:, :2])
    with pytest.raises(ValueError, match="1 of 40 feature rows"):
        _scores(rows, np.where(np.arange(40)[:, None] == 3, np.nan, rows))
    with pytest.raises(ValueError, match="only 4 of 40 rows"):
        _scores(rows, rows, real_groups=np.repeat([0, 1], [36, 4]))
    constant = _scores(np.ones((40, 3), np.float16), np.ones((40, 3), np.float16))
    assert _values(constant) == [1, 1, 8, 1]  # every row in every one of the 40 balls, over k = 5


class TestMemorisation:
    def draws(self, seed: int, n: int = 400):
        rng = np.random.default_rng(seed)
        return rng.standard_normal((800, 5)), rng.standard_normal((n, 5)), rng.standard_normal((n, 5)), rng

    def test_nothing_memorised_gives_the_yardsticks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(manifold, "NUM_RESAMPLES", 150)
        found = []
        for seed in range(30):
            train, generated, test, rng = self.draws(seed, n=120)
            found.append(memorisation(train=train, generated=generated, test=test, generator=rng))
        close = np.array([f.close.value for f in found])
        assert abs(close.mean() - 0.01) < 4 * close.std(ddof=1) / np.sqrt(30) and close.std() < 0.02
        assert np.mean([f.closer.value for f in found]) == pytest.approx(0.5, abs=0.02)
        assert np.mean([f.median_ratio.value for f in found]) == pytest.approx(1, abs=0.03)
        for name, truth in (("closer", 0.5), ("median_ratio", 1)):
            covered = np.mean([getattr(f, name).low <= truth <= getattr(f, name).high for f in found])
            assert covered >= 0.85

    def test_copies_are_caught_while_every_other_score_rises(self) -> None:
        train, generated, test, rng = self.draws(0)
        generated = 0.5 * generated
        half_copied = np.concatenate([generated[:200], train[100:300]])
        before, after = _scores(test, generated), _scores(test, half_copied)
        assert after.recall.value > before.recall.value + 0.1
        honest = memorisation(train=train, generated=test[::-1], test=test, generator=rng)
        copied = memorisation(train=train, generated=half_copied, test=test, generator=rng)
        assert honest.close.value == pytest.approx(0.01, abs=0.003) and honest.closer.value == pytest.approx(0.5)
        assert copied.close.value >= 0.5 and copied.close.low > 0.4
        assert copied.closer.low > 0.7 and copied.median_ratio.high < 0.7
        assert (copied.distances == 0).all() and (copied.pairs[:, 0] >= 200).all()
        np.testing.assert_array_equal(half_copied[copied.pairs[:, 0]], train[copied.pairs[:, 1]])
        everything = memorisation(train=train, generated=train[:400], test=test, generator=rng)
        assert everything.median_ratio.value == 0 and everything.closer.value == 1

    def test_the_closest_pairs_are_the_closest(self) -> None:
        train, generated, test, rng = self.draws(1)
        found = memorisation(train=train, generated=generated, test=test, generator=rng)
        all_distances = np.linalg.norm(generated[:, None] - train, axis=2)
        np.testing.assert_allclose(found.distances, np.sort(all_distances.min(1))[:16], rtol=1e-9)
        assert (all_distances.argmin(1)[found.pairs[:, 0]] == found.pairs[:, 1]).all()
        written = found.to_json()
        assert written["yardstick"] == 0.01 and len(written["closest_pairs"]) == 16
        assert set(written) == {"close", "median_ratio", "closer", "yardstick", "closest_pairs"}

    def test_the_probability_is_the_share_of_pairs(self) -> None:
        own, held = np.array([0.0, 1, 2, 2]), np.array([1.0, 2, 3])
        want = np.mean([1.0 * (a < b) + 0.5 * (a == b) for a in own for b in held])
        assert manifold._probability_closer(own, held, 0.95).value == pytest.approx(want)

    def test_too_few_test_images_and_unequal_dimensions(self) -> None:
        train, generated, test, rng = self.draws(2)
        with pytest.raises(ValueError, match=r"98 test images have no 0\.01 quantile; at least 99"):
            memorisation(train=train, generated=generated, test=test[:98], generator=rng)
        with pytest.raises(ValueError, match="5, 4 and 5 dimensions"):
            memorisation(train=train, generated=generated[:, :4], test=test, generator=rng)


def test_duplicates_exact_and_near() -> None:
    rng = np.random.default_rng(9)
    real, fake = rng.standard_normal((1500, 6)), rng.standard_normal((1500, 6))
    fake[1] = fake[0]
    fake[11] = fake[10] + 1e-6
    scores = _scores(real, fake)
    keys = [row.tobytes() for row in fake]
    found = duplicate_rate(scores.nearest_fake, reference_nearest=scores.nearest_real, keys=keys)
    assert found.exact == 2 / 1500 and 4 / 1500 <= found.near < 20 / 1500
    assert found.yardstick == 0.001 and found.n == 1500
    own = duplicate_rate(scores.nearest_real, reference_nearest=scores.nearest_real, keys=range(1500))
    assert own.exact == 0 and own.near in (1 / 1500, 2 / 1500)
    few = duplicate_rate(scores.nearest_real[:99], reference_nearest=scores.nearest_real[:99], keys=range(99))
    assert few.yardstick == 0.01 and few.threshold == scores.nearest_real[:99].min()
    with pytest.raises(ValueError, match="99 distances, 98 real ones and 97 keys"):
        duplicate_rate(scores.nearest_real[:99], reference_nearest=scores.nearest_real[:98], keys=range(97))
