"""The kernel distance against its exact value for Gaussians, a plain double loop, other estimators, and its coverage."""

from __future__ import annotations

import numpy as np
import pytest

from facegen.metrics import kernel
from facegen.metrics.kernel import kernel_distance, kernel_distance_by_blocks


def _expected_kernel(a: np.ndarray, b: np.ndarray) -> float:
    """E (x.y / d + 1)^3 of x ~ N(a, I), y ~ N(b, I), from the first three moments of x.y."""
    d, s = len(a), float(a @ b)
    squares = float(a @ a + b @ b)
    second = d + squares + s**2
    third = s**3 + 3 * s * squares + 3 * s * (d + 2)
    return third / d**3 + 3 * second / d**2 + 3 * s / d + 1


def _truth(a: np.ndarray, b: np.ndarray) -> float:
    return _expected_kernel(a, a) + _expected_kernel(b, b) - 2 * _expected_kernel(a, b)


def _plain(x: np.ndarray, y: np.ndarray) -> float:
    def k(p: np.ndarray, q: np.ndarray) -> float:
        return (float(p @ q) / len(p) + 1) ** 3

    own = [np.mean([k(p, q) for i, p in enumerate(s) for j, q in enumerate(s) if i != j]) for s in (x, y)]
    return float(sum(own) - 2 * np.mean([k(p, q) for p in x for q in y]))


def _v_statistic(x: np.ndarray, y: np.ndarray) -> float:
    def k(p: np.ndarray, q: np.ndarray) -> float:
        return float(np.mean((p @ q.T / p.shape[1] + 1) ** 3))

    return k(x, x) + k(y, y) - 2 * k(x, y)


def test_the_double_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((23, 5)), rng.standard_normal((17, 5)) + 0.5
    want = _plain(x, y)
    assert kernel_distance(x, y).value == pytest.approx(want, rel=1e-12)
    assert kernel_distance(y, x).value == pytest.approx(want, rel=1e-12)
    monkeypatch.setattr(kernel, "TILE", 4)
    tiled = kernel_distance(x, y)
    assert tiled.value == pytest.approx(want, rel=1e-12) and tiled.n == 17
    monkeypatch.undo()
    whole = kernel_distance(x, y)
    assert (tiled.low, tiled.high) == pytest.approx((whole.low, whole.high), rel=1e-10)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_unbiased_at_the_exact_value_with_an_interval_that_covers_it(shift: float) -> None:
    d, n, repetitions = 10, 200, 250
    a, b = np.full(d, 0.2), np.full(d, 0.2 + shift)
    rng = np.random.default_rng(1)
    draws = [
        kernel_distance(a + rng.standard_normal((n, d)), b + rng.standard_normal((n, d))) for _ in range(repetitions)
    ]
    values = np.array([draw.value for draw in draws])
    error, truth = values.std(ddof=1) / np.sqrt(repetitions), _truth(a, b)
    assert abs(values.mean() - truth) < 4 * error
    assert error < 0.01
    coverage = np.mean([draw.low <= truth <= draw.high for draw in draws])
    assert 0.91 <= coverage <= (0.985 if shift else 1)  # nominal 0.95, standard error 0.014; too wide under equality
    width = np.mean([draw.high - draw.low for draw in draws])
    assert width <= (1.15 if shift else 2) * 2 * 1.96 * values.std(ddof=1)
    if not shift:
        assert 0.3 < np.mean(values < 0) < 0.8  # never clipped


def test_the_biased_statistic_would_be_seen() -> None:
    """Its excess under equality is many times what the U-statistic deviates by."""
    rng = np.random.default_rng(2)
    pairs = [rng.standard_normal((2, 500, 32)) for _ in range(10)]
    biased = np.mean([_v_statistic(x, y) for x, y in pairs])
    assert biased == pytest.approx(2 * 7 / 500, rel=0.3)  # about 2 (k(x, x) - E k(x, x')) / N
    assert abs(np.mean([kernel_distance(x, y).value for x, y in pairs])) < 0.2 * biased


def test_blocks_agree_and_are_wider() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((800, 8)), rng.standard_normal((800, 8)) + 0.2
    whole, blocks = kernel_distance(x, y), kernel_distance_by_blocks(x, y, generator=rng)
    assert blocks.low <= whole.value <= blocks.high and blocks.n == 800
    assert blocks.high - blocks.low > 0.6 * (whole.high - whole.low)
    truth = _truth(np.zeros(8), np.full(8, 0.2))
    assert whole.low <= truth <= whole.high


def test_parity_with_torch_fidelity_of_one_whole_subset() -> None:
    metric = pytest.importorskip("torch_fidelity.metric_kid")
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((60, 12)), rng.standard_normal((60, 12)) * 1.2
    options = dict(kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1)
    assert kernel_distance(x, y).value == pytest.approx(metric.kernel_mmd(x, y, **options), rel=1e-9)


def test_groups_are_independent_of_each_other_only() -> None:
    """Ten equal pictures a person: value and interval must be those of people, not of pictures."""
    rng = np.random.default_rng(5)
    people = np.repeat(np.arange(40), 10)
    other = rng.standard_normal((400, 4)) + 0.5

    def draw() -> tuple[float, float, float]:
        rows = rng.standard_normal((40, 4))
        grouped = kernel_distance(rows[people], other, first_groups=people)
        assert grouped.value == pytest.approx(kernel_distance(rows, other).value, rel=1e-9)
        naive = kernel_distance(rows[people], other)
        return grouped.value, grouped.high - grouped.low, naive.high - naive.low

    values, grouped, naive = np.array([draw() for _ in range(60)]).T
    assert grouped.mean() == pytest.approx(2 * 1.96 * values.std(ddof=1), rel=0.3)
    assert naive.mean() < 0.6 * grouped.mean()


def test_float16_and_large_offsets_are_computed_in_float64() -> None:
    rng = np.random.default_rng(6)
    x, y = (rng.standard_normal((50, 6)).astype(np.float16) for _ in range(2))
    assert kernel_distance(x, y).value == kernel_distance(x.astype(np.float64), y.astype(np.float64)).value


@pytest.mark.parametrize(
    ("first", "second", "groups", "message"),
    [
        (np.zeros((1, 3)), np.zeros((4, 3)), None, "at least 2 rows, got 1"),
        (np.zeros(3), np.zeros((4, 3)), None, "must be"),
        (np.zeros((4, 3)), np.zeros((4, 2)), None, "3 and 2 dimensions"),
        (np.array([[0.0], [np.nan], [1.0]]), np.zeros((4, 1)), None, "1 of 3 feature rows"),
        (np.zeros((4, 3)), np.zeros((4, 3)), np.zeros(4), "of one group"),
        (np.zeros((4, 3)), np.zeros((4, 3)), np.arange(3), "3 group labels for 4"),
    ],
)
def test_bad_features_are_refused_with_numbers(first, second, groups, message) -> None:
    with pytest.raises(ValueError, match=message):
        kernel_distance(first, second, first_groups=groups)


def test_too_few_rows_for_blocks_and_a_wrong_confidence() -> None:
    rows = np.zeros((10, 2))
    with pytest.raises(ValueError, match="10 blocks of 10 rows"):
        kernel_distance_by_blocks(rows, rows, generator=np.random.default_rng(0))
    with pytest.raises(ValueError, match="between 0 and 1"):
        kernel_distance(rows, rows, confidence=95)
