"""The Fréchet distance against closed forms, its invariances, its bias, its interval, and another implementation."""

from __future__ import annotations

import numpy as np
import pytest

from facegen.metrics.frechet import (
    FeatureStatistics,
    effective_dimension,
    feature_statistics,
    frechet_distance,
    frechet_infinity,
    frechet_interval,
)


def _rows(n: int, d: int, *, seed: int, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return scale * rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)


def _statistics(rows: np.ndarray) -> FeatureStatistics:
    return feature_statistics([rows], extractor="x")


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return frechet_distance(_statistics(a), _statistics(b)).value


def _exact(mean: np.ndarray, covariance: np.ndarray) -> FeatureStatistics:
    return FeatureStatistics(np.asarray(mean, float), np.asarray(covariance, float), 10, "x")


def test_statistics_are_numpys_in_float64_however_the_rows_are_cut() -> None:
    rows = (_rows(1000, 6, seed=0) + 1e4).astype(np.float32)
    whole = _statistics(rows)
    cut = feature_statistics(np.split(rows, [1, 17, 500, 500, 993]), extractor="x")
    assert whole.n == cut.n == 1000 and whole.covariance.dtype == np.float64
    for found in (whole, cut):
        np.testing.assert_allclose(found.mean, rows.astype(np.float64).mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance, np.cov(rows.astype(np.float64).T), rtol=1e-9, atol=1e-9)


def test_flat_images_give_the_known_mean_and_covariance() -> None:
    statistics = _statistics(np.array([[0.0], [0.5], [1.0]]))
    assert statistics.mean == pytest.approx([0.5]) and statistics.covariance == pytest.approx(np.array([[0.25]]))


def test_commuting_covariances() -> None:
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    l1, l2 = rng.uniform(0, 5, 12), rng.uniform(0, 5, 12)
    m1, m2 = rng.standard_normal((2, 12))
    found = frechet_distance(_exact(m1, basis * l1 @ basis.T), _exact(m2, basis * l2 @ basis.T))
    want_mean, want_covariance = np.square(m1 - m2).sum(), np.square(np.sqrt(l1) - np.sqrt(l2)).sum()
    assert found.value == pytest.approx(want_mean + want_covariance, rel=1e-12)
    assert found.mean_term == pytest.approx(want_mean, rel=1e-12)
    assert found.covariance_term == pytest.approx(want_covariance, rel=1e-10)


def test_one_dimension_and_equal_covariances() -> None:
    assert frechet_distance(_exact([1], [[4]]), _exact([3], [[9]])).value == pytest.approx(4 + 1, rel=1e-14)
    covariance = np.cov(_rows(300, 8, seed=2).T)
    zero, one = _exact(np.zeros(8), covariance), _exact(np.ones(8), covariance)
    assert frechet_distance(zero, one).value == pytest.approx(8, rel=1e-9)


@pytest.mark.parametrize("n", [400, 9])  # more rows than dimensions, and fewer
def test_invariances(n: int) -> None:
    a, b = _rows(n, 16, seed=3), _rows(n, 16, seed=4)
    value = _distance(a, b)
    scale = np.abs(_statistics(a).covariance.trace())
    turn, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((16, 16)))
    assert value > 1
    assert _distance(a, a) == pytest.approx(0, abs=2e-7 * scale)
    assert _distance(b, a) == pytest.approx(value, rel=1e-7)
    assert _distance(a + 3, b + 3) == pytest.approx(value, rel=1e-7)
    assert _distance(a @ turn, b @ turn) == pytest.approx(value, rel=1e-7)
    assert _distance(2.5 * a, 2.5 * b) == pytest.approx(2.5**2 * value, rel=1e-7)
    assert _distance(a[::-1], b) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(600, 16), (500, 64), (40, 64)])  # the last is rank-deficient
def test_parity_with_torch_fidelity_on_equal_features(n: int, d: int) -> None:
    fidelity = pytest.importorskip("torch_fidelity.metric_fid")
    import torch

    a, b = _rows(n, d, seed=6), _rows(n, d, seed=7, scale=1.3)
    theirs = fidelity.fid_statistics_to_metric(
        fidelity.fid_features_to_statistics(torch.from_numpy(a)),
        fidelity.fid_features_to_statistics(torch.from_numpy(b)),
        False,
    )
    assert _distance(a, b) == pytest.approx(next(iter(theirs.values())), rel=1e-6)


def test_the_bias_at_finite_n_is_the_known_one() -> None:
    d, n = 8, 2000
    rng = np.random.default_rng(8)
    values = [_distance(rng.standard_normal((n, d)), rng.standard_normal((n, d))) for _ in range(120)]
    want = 2 / n * (d + d * (d + 1) / 4)  # 0.026
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert error < 0.0006
    assert np.mean(values) == pytest.approx(want, abs=4 * error + 0.01 * want)


def test_the_interval_covers_the_expectation_at_this_n() -> None:
    n, d, repetitions = 300, 4, 200
    rng = np.random.default_rng(9)
    spread = np.array([1.0, 1.5, 0.5, 2.0])
    draws = [
        frechet_interval(rng.standard_normal((n, d)), rng.standard_normal((n, d)) * spread + 0.3, extractor="x")[0]
        for _ in range(repetitions)
    ]
    expectation = np.mean([draw.value for draw in draws])
    coverage = np.mean([draw.low <= expectation <= draw.high for draw in draws])
    assert 0.90 <= coverage <= 0.99  # nominal 0.95, standard error 0.015
    width = np.mean([draw.high - draw.low for draw in draws])
    assert width == pytest.approx(2 * 1.96 * np.std([draw.value for draw in draws], ddof=1), rel=0.15)


def test_groups_widen_the_interval_by_what_they_share() -> None:
    rng = np.random.default_rng(13)
    people = np.repeat(np.arange(60), 10)
    other = rng.standard_normal((600, 3)) + 1

    def draw() -> tuple[float, float, float]:
        rows = rng.standard_normal((60, 3))[people]
        naive, _ = frechet_interval(rows, other, extractor="x")
        grouped, _ = frechet_interval(rows, other, extractor="x", first_groups=people)
        return naive.value, naive.high - naive.low, grouped.high - grouped.low

    values, naive, grouped = np.array([draw() for _ in range(150)]).T
    assert grouped.mean() == pytest.approx(2 * 1.96 * values.std(ddof=1), rel=0.2)
    assert naive.mean() < 0.5 * grouped.mean()


def test_the_interval_is_not_too_narrow_where_the_sets_are_equal() -> None:
    rng = np.random.default_rng(10)
    draws = [
        frechet_interval(rng.standard_normal((200, 6)), rng.standard_normal((200, 6)), extractor="x")[0]
        for _ in range(100)
    ]
    expectation = np.mean([draw.value for draw in draws])
    assert np.mean([draw.low <= expectation <= draw.high for draw in draws]) >= 0.94


def test_fewer_rows_than_dimensions_and_constant_features_are_finite() -> None:
    interval, distance = frechet_interval(_rows(10, 32, seed=11), _rows(12, 32, seed=12), extractor="x")
    assert interval.n == 10 and np.isfinite([interval.value, interval.low, interval.high]).all()
    assert 0 <= distance.clipped < 1e-6
    flat, _ = frechet_interval(np.ones((5, 3), np.float16), np.zeros((5, 3), np.float16), extractor="x")
    assert flat.value == pytest.approx(3) and flat.low == pytest.approx(3)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "at least 2 rows of features, got 0"),
        ([np.zeros((1, 4))], "at least 2 rows of features, got 1"),
        ([np.zeros(4)], "must be"),
        ([np.zeros((3, 4)), np.zeros((3, 5))], "5 dimensions after 4"),
        ([np.array([[1.0], [np.nan], [np.inf]])], "2 of 3 feature rows"),
    ],
)
def test_bad_features_are_refused_with_numbers(batches: list[np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature_statistics(batches, extractor="x")


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="4 and 5 dimensions"):
        frechet_distance(_statistics(np.eye(4)), _statistics(np.eye(5)))
    with pytest.raises(ValueError, match="two extractors"):
        frechet_distance(_statistics(np.eye(4)), feature_statistics([np.eye(4)], extractor="y"))


def _gaussians(n: int, d: int, seed: int, *, scale: float = 1.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.standard_normal((n, d)) * scale + shift


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.2, 0.1)])
def test_infinity_is_without_the_bias_of_finite_n(scale: float, shift: float) -> None:
    d, n, repetitions = 12, 400, 40
    truth = d * ((scale - 1) ** 2 + shift**2)
    draws, finite = [], []
    for seed in range(repetitions):
        a, b = _gaussians(n, d, seed, scale=scale, shift=shift)
        draws.append(frechet_infinity(a, b, extractor="x", generator=np.random.default_rng(seed)))
        finite.append(_distance(a, b))
    values = np.array([draw.value for draw in draws])
    error = values.std(ddof=1) / np.sqrt(repetitions)
    bias = np.mean(finite) - truth
    assert bias > 0.2  # 2 / n (d + d (d + 1) / 4) = 0.255 where the sets are equal
    assert abs(values.mean() - truth) < 4 * error + 0.02 * bias and error < 0.15 * bias
    assert np.mean([draw.low <= truth <= draw.high for draw in draws]) >= 0.88
    assert draws[0].n == n


def test_infinity_needs_rows_for_the_spread_of_the_features() -> None:
    rng = np.random.default_rng(0)
    a, b = _gaussians(512, 128, 14)  # without the rule half as many rows give 9 in place of 0
    with pytest.raises(ValueError, match=r"effective dimension 1\d\d need at least \d+ rows of each set .* got 512"):
        frechet_infinity(a, b, extractor="x", generator=rng)
    spectrum = np.arange(1, 129) ** -1.5  # the same number of features, but few that matter
    found = frechet_infinity(a * spectrum, b * spectrum, extractor="x", generator=rng)
    assert found.low < 0 < found.high and abs(found.value) < 0.5 * _distance(a * spectrum, b * spectrum)
    large = _gaussians(1300, 128, 15)
    assert abs(frechet_infinity(*large, extractor="x", generator=rng).value) < 0.1 * _distance(*large)


def test_infinity_uses_the_smaller_number_of_both_and_is_a_function_of_its_generator() -> None:
    a, b = _gaussians(600, 4, 16)
    found = [frechet_infinity(a[:500], b, extractor="x", generator=np.random.default_rng(s)) for s in (1, 1, 2)]
    assert found[0] == found[1] != found[2] and found[0].n == 500


def test_effective_dimension_counts_directions() -> None:
    assert effective_dimension(_exact(np.zeros(7), 3 * np.eye(7))) == pytest.approx(7)
    assert effective_dimension(_exact(np.zeros(3), np.diag([5.0, 0, 0]))) == pytest.approx(1)
    assert effective_dimension(_exact(np.zeros(2), np.zeros((2, 2)))) == 0
