"""How much of one set of features lies within reach of another: precision, recall, density, coverage.

Each row owns a ball that reaches to its k-th nearest other row of its own set. Precision and density ask whether
generated rows lie in real balls, recall and coverage whether real rows are reached by generated ones. The values depend
on k and on both numbers of rows: fix them. Copies of training images raise all four, so they are read beside
`memorisation` and `duplicate_rate`.

Shapes: N real and M generated rows, D features. Distances are exact to float64's rounding, about a common centre, and
computed in blocks. A row on the edge of a ball is inside (`<=`, within 1e-9 of the radius squared).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from facegen.metrics.intervals import CONFIDENCE, Interval
from facegen.metrics.kernel import checked_features

NUM_SPLITS = 10  # into two halves each, behind every interval
BLOCK_BYTES = 32 << 20  # of one block of distances
COLUMNS = 2048  # rows of the other set taken at a time
NEAR_PER_NEIGHBOUR = 12  # nearest rows looked at for each of k neighbours within a half, before all others are
SAME = 1e-12  # of the sum of squared norms: a squared distance below it is rounding, and counts as 0
TIE = 1 + 1e-9  # what a squared radius is stretched by, so that equal distances compare as equal
CLOSE = 0.01  # quantile of the test images' distances to the training set below which an image counts as close to it
NEAR_DUPLICATE = 0.001  # quantile of the real images' distances to their nearest other
NUM_PAIRS = 16
NUM_RESAMPLES = 1000
NAMES = ("precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class ManifoldScores:
    """The four scores, and the distance of each row to the nearest other row of its set (for `duplicate_rate`)."""

    precision: Interval
    recall: Interval
    density: Interval
    coverage: Interval
    nearest_real: np.ndarray  # (N,)
    nearest_fake: np.ndarray  # (M,)

    def to_json(self) -> dict[str, Any]:
        """Return the four scores, {value, low, high, n} each."""
        return {name: getattr(self, name).to_json() for name in NAMES}


@dataclass(frozen=True)
class Memorisation:
    """How much closer generated images lie to the training set than test images do.

    Attributes:
        close: share of generated images within the CLOSE quantile of the test images' distances; `yardstick` if
            nothing is memorised.
        yardstick: CLOSE.
        median_ratio: median distance of generated over that of test images; 1 if nothing is memorised, 0 for copies.
        closer: probability that a generated image lies closer than a test image (ties count half); 0.5 likewise.
        pairs: (P, 2) rows of the closest generated images and of their nearest training images, closest first.
        distances: (P,) between them.
    """

    close: Interval
    yardstick: float
    median_ratio: Interval
    closer: Interval
    pairs: np.ndarray
    distances: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Return all of it; pairs as [generated, train, distance]."""
        pairs = [[int(g), int(t), float(d)] for (g, t), d in zip(self.pairs, self.distances, strict=True)]
        figures = {name: getattr(self, name).to_json() for name in ("close", "median_ratio", "closer")}
        return {**figures, "yardstick": self.yardstick, "closest_pairs": pairs}


@dataclass(frozen=True)
class Duplicates:
    """Repeated images within a set.

    Attributes:
        exact: share of images that have an equal in the set.
        near: share of images whose nearest other lies within `threshold`, exact ones included.
        threshold: the distance within which `yardstick` of the real images have a nearest other.
        yardstick: NEAR_DUPLICATE, or 1 / (N + 1) where N real images are too few for that quantile.
        n: images in the set.
    """

    exact: float
    near: float
    threshold: float
    yardstick: float
    n: int


def manifold_scores(
    *,
    real: np.ndarray,
    fake: np.ndarray,
    k: int,
    generator: np.random.Generator,
    real_groups: np.ndarray | None = None,
    fake_groups: np.ndarray | None = None,
    confidence: float = CONFIDENCE,
) -> ManifoldScores:
    """Return precision, recall, density and coverage with intervals.

    - precision: share of generated rows inside any real ball; recall: share of real rows inside any generated ball;
    - density: real balls around a generated row, over k, on average (may exceed 1; 1 where the sets are equal);
    - coverage: share of real rows whose own ball holds a generated row.

    The interval: both sets are split at random into halves, NUM_SPLITS times; the difference of a score between the two
    halves varies four times as much as the score itself does between samples, hence +- t s / 2 with s the
    root mean square of the differences. Repeated rows of a bootstrap would shrink the balls.

    Args:
        real, fake: finite (N, D) and (M, D).
        k: which neighbour sets the radius; below half of N and of M (halves need one too).
        generator: draws the splits.
        real_groups, fake_groups: (N,) and (M,) labels of rows that belong together, which are never split; None
            where all rows are independent.
        confidence: coverage of the intervals, between 0 and 1.

    Raises:
        ValueError: if k does not fit, for unequal D, or a value that is not finite.

    Source: Kynkaanniemi et al. 2019, equations 1-3; Naeem et al. 2020, equations 3-4; half-samples: McCarthy 1969.
    """
    real, fake = checked_features(real), checked_features(fake)
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"features of {real.shape[1]} and {fake.shape[1]} dimensions cannot be compared")
    smaller = min(len(real), len(fake))
    if k < 1 or 2 * (k + 1) > smaller:
        raise ValueError(
            f"k is {k} for {len(real)} real and {len(fake)} generated rows; allowed: 1 to {smaller // 2 - 1}"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; allowed: between 0 and 1")
    real_parts = _parts(len(real), real_groups, k, generator)
    fake_parts = _parts(len(fake), fake_groups, k, generator)
    centre = _centre(real, fake)
    real_radii, nearest_real = _radii(real, real_parts, k, centre)
    fake_radii, nearest_fake = _radii(fake, fake_parts, k, centre)
    scores = _scores(real, fake, real_parts, fake_parts, real_radii, fake_radii, k, centre)
    differences = scores[1::2] - scores[2::2]  # (NUM_SPLITS, 4)
    half = stats.t.ppf((1 + confidence) / 2, NUM_SPLITS) * np.sqrt(np.square(differences).mean(0)) / 2
    highest = np.array([1, 1, np.inf, 1])
    low, high = np.maximum(scores[0] - half, 0), np.minimum(scores[0] + half, highest)
    figures = {
        name: Interval(float(scores[0, i]), float(low[i]), float(high[i]), smaller) for i, name in enumerate(NAMES)
    }
    return ManifoldScores(**figures, nearest_real=nearest_real, nearest_fake=nearest_fake)


def memorisation(
    *,
    train: np.ndarray,
    generated: np.ndarray,
    test: np.ndarray,
    generator: np.random.Generator,
    confidence: float = CONFIDENCE,
) -> Memorisation:
    """Compare the distances of generated and of held-out test images to their nearest training images.

    Test images of people who are not in the training set are what a generator that memorises nothing can be compared
    with; it may still lie somewhat closer, for it draws the training set's people. The training set counts as fixed:
    shares and medians have a percentile bootstrap over both other sets, `closer` DeLong's interval.

    Args:
        train, generated, test: finite (T, D), (M, D) and (N, D).
        generator: draws the resamples.

    Raises:
        ValueError: for unequal D, a value that is not finite, or fewer test images than the quantile needs.

    Source: Meehan, Chaudhuri and Dasgupta 2020 (the comparison); DeLong et al. 1988 (the variance of `closer`).
    """
    train, generated, test = (checked_features(rows) for rows in (train, generated, test))
    if len({rows.shape[1] for rows in (train, generated, test)}) != 1:
        raise ValueError(f"features of {train.shape[1]}, {generated.shape[1]} and {test.shape[1]} dimensions differ")
    if (len(test) + 1) * CLOSE < 1:
        raise ValueError(
            f"{len(test)} test images have no {CLOSE:g} quantile; at least {round(1 / CLOSE) - 1} are needed"
        )
    centre = _centre(train, test)
    _, held_out = _nearest(test, train, centre)
    place, own = _nearest(generated, train, centre)
    order = np.argsort(own, kind="stable")[:NUM_PAIRS]
    draws = np.array(
        [_compared(_resampled(own, generator), _resampled(held_out, generator)) for _ in range(NUM_RESAMPLES)]
    )
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    n = min(len(own), len(held_out))
    close, ratio = (
        Interval(value, float(low[i]), float(high[i]), n) for i, value in enumerate(_compared(own, held_out))
    )
    pairs = np.stack([order, place[order]], axis=1)
    return Memorisation(close, CLOSE, ratio, _probability_closer(own, held_out, confidence), pairs, own[order])


def duplicate_rate(
    nearest: np.ndarray, *, reference_nearest: np.ndarray, keys: Sequence[bytes] | np.ndarray
) -> Duplicates:
    """Count repeated images within a set, by what real images of the same number show.

    Args:
        nearest: (N,) distances of the set's rows to their nearest other, as in `ManifoldScores`.
        reference_nearest: the same of as many real images: with more images the nearest is nearer.
        keys: one per image, equal where the images are (digests of the pixels).

    Raises:
        ValueError: if the lengths differ.
    """
    if not len(nearest) == len(reference_nearest) == len(keys):
        raise ValueError(f"{len(nearest)} distances, {len(reference_nearest)} real ones and {len(keys)} keys differ")
    yardstick = max(NEAR_DUPLICATE, 1 / (len(reference_nearest) + 1))
    threshold = float(np.quantile(reference_nearest, yardstick, method="weibull"))
    _, place, count = np.unique(np.asarray(keys), return_inverse=True, return_counts=True)
    exact = count[place] > 1
    near = exact | (nearest <= threshold)
    return Duplicates(float(exact.mean()), float(near.mean()), threshold, yardstick, len(nearest))


def expected_coverage(*, num_real: int, num_fake: int, k: int) -> float:
    """Return the coverage of two samples of one distribution: 1 - prod_{i=1..k} (N - i) / (M + N - i).

    Source: Naeem et al. 2020, lemma 2.
    """
    i = np.arange(1, k + 1)
    return float(1 - np.prod((num_real - i) / (num_fake + num_real - i)))


def distance_blocks(rows: np.ndarray, columns: np.ndarray, centre: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield squared distances (B, M) of a few rows to all columns at a time, and which rows they are.

    Args:
        rows, columns: (N, D) and (M, D), of any float dtype.
        centre: (D,) near both: |x|^2 + |y|^2 - 2 x . y loses digits where the offset is large.
    """
    size = max(1, BLOCK_BYTES // (8 * len(columns)))
    for start in range(0, len(rows), size):
        chosen = slice(start, min(start + size, len(rows)))
        x = rows[chosen].astype(np.float64) - centre
        block, x_norms = np.empty((len(x), len(columns))), np.square(x).sum(1)[:, None]
        for first in range(0, len(columns), COLUMNS):
            y = columns[first : first + COLUMNS].astype(np.float64) - centre
            norms = x_norms + np.square(y).sum(1)
            part = block[:, first : first + COLUMNS]
            np.matmul(x, y.T, out=part)
            part *= -2
            part += norms
            norms *= SAME
            part[part <= norms] = 0
        yield chosen, block


def _centre(*sets: np.ndarray) -> np.ndarray:
    return np.mean([rows.mean(0, dtype=np.float64) for rows in sets], axis=0)


def _parts(n: int, groups: np.ndarray | None, k: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Return the rows of the whole set, then of both halves of each split."""
    if groups is not None and len(groups) != n:
        raise ValueError(f"{len(groups)} group labels for {n} rows")
    _, label = np.unique(np.arange(n) if groups is None else groups, return_inverse=True)
    num_groups = int(label.max()) + 1
    parts = [np.arange(n)]
    for _ in range(NUM_SPLITS):
        first = np.zeros(num_groups, bool)
        first[generator.permutation(num_groups)[: num_groups // 2]] = True
        parts += [np.flatnonzero(first[label]), np.flatnonzero(~first[label])]
    smallest = min(map(len, parts))
    if smallest <= k:
        raise ValueError(f"k is {k}, but half of the {num_groups} groups may have only {smallest} of {n} rows")
    return parts


def _radii(
    rows: np.ndarray, parts: list[np.ndarray], k: int, centre: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return, for each part, the squared distance of its rows to their k-th nearest other; and the nearest in all."""
    radii = [np.empty(len(part)) for part in parts]
    nearest = np.empty(len(rows))
    num_near = min(len(rows) - 1, NEAR_PER_NEIGHBOUR * k)
    inside = [np.isin(np.arange(len(rows)), part) for part in parts]
    for chosen, block in distance_blocks(rows, rows, centre):
        block[np.arange(len(block)), np.arange(chosen.start, chosen.stop)] = np.inf  # a row is not its own neighbour
        near = np.argpartition(block, num_near - 1, axis=1)[:, :num_near]
        near = np.take_along_axis(near, np.take_along_axis(block, near, 1).argsort(1), 1)  # closest first
        ordered = np.take_along_axis(block, near, 1)
        nearest[chosen] = np.sqrt(ordered[:, 0])
        for part, member, radius in zip(parts, inside, radii, strict=True):
            start, stop = np.searchsorted(part, [chosen.start, chosen.stop])
            own = part[start:stop] - chosen.start
            counted = member[near[own]].cumsum(1) >= k  # the k-th neighbour within the part, and those behind it
            radius[start:stop] = ordered[own, counted.argmax(1)]
            for i in np.flatnonzero(~counted[:, -1]):  # it lies farther than those looked at
                radius[start + i] = np.partition(block[own[i], part], k - 1)[k - 1]
    return [radius * TIE for radius in radii], nearest


def _scores(
    real: np.ndarray,
    fake: np.ndarray,
    real_parts: list[np.ndarray],
    fake_parts: list[np.ndarray],
    real_radii: list[np.ndarray],
    fake_radii: list[np.ndarray],
    k: int,
    centre: np.ndarray,
) -> np.ndarray:  # (parts, 4) in the order of NAMES
    """Return the four scores of each part of the real set against the same part of the generated one."""
    precise = [np.zeros(len(part), bool) for part in fake_parts]
    sums = np.zeros((len(real_parts), 3))  # recalled reals, incidences, covered reals
    for chosen, block in distance_blocks(real, fake, centre):
        for p, (reals, fakes) in enumerate(zip(real_parts, fake_parts, strict=True)):
            start, stop = np.searchsorted(reals, [chosen.start, chosen.stop])
            whole = len(reals) == len(real)
            own = block if whole else block[np.ix_(reals[start:stop] - chosen.start, fakes)]
            in_real = own <= real_radii[p][start:stop, None]
            precise[p] |= in_real.any(0)
            recalled = (own <= fake_radii[p]).any(1)
            sums[p] += recalled.sum(), np.count_nonzero(in_real), in_real.any(1).sum()
    n, m = np.array([len(part) for part in real_parts]), np.array([len(part) for part in fake_parts])
    precision = np.array([found.mean() for found in precise])
    return np.stack([precision, sums[:, 0] / n, sums[:, 1] / (k * m), sums[:, 2] / n], axis=1)


def _nearest(rows: np.ndarray, others: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which other is nearest to each row, (N,), and its distance, (N,)."""
    place, distance = np.empty(len(rows), np.int64), np.empty(len(rows))
    for chosen, block in distance_blocks(rows, others, centre):
        place[chosen] = block.argmin(1)
        distance[chosen] = np.sqrt(block.min(1))
    return place, distance


def _compared(own: np.ndarray, held_out: np.ndarray) -> tuple[float, float]:
    """Return the share of own distances within the CLOSE quantile of the held-out ones, and the ratio of medians."""
    quantile = np.quantile(held_out, CLOSE, method="weibull")  # its share is CLOSE on average, whatever N
    median = float(np.median(held_out))
    return float((own <= quantile * TIE).mean()), float(np.median(own)) / median if median else 1.0


def _resampled(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return values[generator.integers(0, len(values), len(values))]


def _probability_closer(own: np.ndarray, held_out: np.ndarray, confidence: float) -> Interval:
    """Return P(own < held out) + P(equal) / 2 with DeLong's interval, kept within 0 and 1."""

    def share_below(values: np.ndarray, points: np.ndarray) -> np.ndarray:
        ordered = np.sort(values)
        return (np.searchsorted(ordered, points, "left") + np.searchsorted(ordered, points, "right")) / (
            2 * len(values)
        )

    own_placed, held_placed = 1 - share_below(held_out, own), share_below(own, held_out)
    value = float(own_placed.mean())
    variance = own_placed.var(ddof=1) / len(own) + held_placed.var(ddof=1) / len(held_out)
    half = float(stats.norm.ppf((1 + confidence) / 2) * np.sqrt(variance))
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0), min(len(own), len(held_out)))
