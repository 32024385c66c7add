"""Is a set of people any good? Pictures of one must agree, those of two must not, and one person must come in many ways.

    consistency   mean_c mean_i cos(f_ci, m_c), m_c the unit vector along sum_i f_ci
    separation    for each c, the highest cos(m_c, m_c') of another person: what twins it has
    diversity     mean_c of the mean perceptual distance of two pictures of person c

A figure is a mean over people of what each of them has, so that its interval is a bootstrap over people. Within a
person, the more pictures there are, the nearer to each is their centre: `left_out` leaves the picture out of it.
Shapes: N pictures, P people (in the order of their numbers), E embedding, Q pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from facegen.metrics.intervals import CONFIDENCE, Interval
from facegen.metrics.judge_features import JudgeFeatures
from facegen.metrics.perceptual import MULTIPLE, judge_maps
from facegen.metrics.verification import same_person_pairs

BATCH = 64  # pictures that a judge looks at together, about: the people of a batch are whole
CELLS = 4  # a side, that the coarsest map is averaged to
NUM_RESAMPLES = 1000
_TOLERANCE = 1e-3  # of the length of a unit vector in float32
_EPSILON = 1e-6  # under the root, as in facegen.models.judge


@dataclass(frozen=True)
class Views:
    """What a judge's maps show of N pictures, and of Q pairs of them."""

    pooled: np.ndarray  # (N, C) float32, mean of the coarsest map over its positions
    cells: np.ndarray  # (N, C * CELLS^2) float32, the coarsest map in CELLS x CELLS cells
    distances: np.ndarray  # (Q,) float64, of the pairs: `facegen.metrics.perceptual`


def centres(embeddings: np.ndarray, identity: np.ndarray) -> np.ndarray:  # (P, E)
    """Return the unit vector along the sum of each person's unit vectors (N, E), float64.

    Raises:
        ValueError: if the labels do not fit, a row is no unit vector, or a person's vectors cancel.
    """
    sums = _sums(*_checked(embeddings, identity))
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    if not (lengths > _TOLERANCE).all():
        raise ValueError("the embeddings of a person cancel: there is no centre")
    return sums / lengths


def own_centre(embeddings: np.ndarray, identity: np.ndarray) -> np.ndarray:  # (N,)
    """Return the cosine of each picture with the centre of its person; errors as `centres`."""
    vectors, place = _checked(embeddings, identity)
    return np.clip((vectors * centres(vectors, place)[place]).sum(1), -1, 1)


def left_out(embeddings: np.ndarray, identity: np.ndarray) -> np.ndarray:  # (N,)
    """Return the cosine of each picture with the centre of its person's other pictures; NaN where there are none.

    Raises:
        ValueError: as `centres`.
    """
    vectors, place = _checked(embeddings, identity)
    others = _sums(vectors, place)[place] - vectors
    lengths = np.linalg.norm(others, axis=1)
    alone = np.bincount(place)[place] < 2
    if not (lengths[~alone] > _TOLERANCE).all():
        raise ValueError("the embeddings of a person cancel: there is no centre")
    cosines = (vectors * others).sum(1) / np.where(alone, 1, lengths)
    return np.where(alone, np.nan, np.clip(cosines, -1, 1))


def nearest_other(rows: np.ndarray) -> np.ndarray:  # (P,)
    """Return the highest cosine of each unit vector with another row of the same set.

    Raises:
        ValueError: for fewer than two rows, or one that is no unit vector.
    """
    rows = _unit_vectors(rows)
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} people; there is no other one")
    found = np.empty(len(rows))
    for start in range(0, len(rows), 1024):
        block = rows[start : start + 1024] @ rows.T
        block[np.arange(len(block)), np.arange(start, start + len(block))] = -np.inf
        found[start : start + 1024] = block.max(1)
    return np.clip(found, -1, 1)


def by_person(values: np.ndarray, identity: np.ndarray) -> np.ndarray:  # (P,)
    """Return the mean of the values (N,) of each person, without NaNs; NaN where nothing is left.

    Raises:
        ValueError: if the labels do not fit.
    """
    values, place = _values(values, identity)
    known = ~np.isnan(values)
    count = np.bincount(place, weights=known)
    total = np.bincount(place, weights=np.where(known, values, 0))
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def spread(values: np.ndarray, identity: np.ndarray) -> np.ndarray:  # (P,)
    """Return the standard deviation (n - 1) of the values (N,) within each person; NaN for a single picture.

    Raises:
        ValueError: if the labels do not fit.
    """
    values, place = _values(values, identity)
    count = np.bincount(place)
    squares = np.bincount(place, weights=np.square(values - by_person(values, place)[place]))
    return np.sqrt(np.divide(squares, count - 1, out=np.full(len(count), np.nan), where=count > 1))


def entropy(values: np.ndarray, identity: np.ndarray, *, bins: int) -> np.ndarray:  # (P,)
    """Return the entropy, bits, of each person's histogram of values (N,) in [0, 1], in equal bins.

    With n pictures it is at most log2(n): it compares sets of one n only.

    Raises:
        ValueError: if the labels do not fit, a value lies outside, or there is no bin.
    """
    values, place = _values(values, identity)
    if bins < 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"values in [0, 1] and at least one bin are needed; got {bins} bins")
    chosen = np.minimum((values * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place * bins + chosen, minlength=bins * (int(place.max()) + 1)).reshape(-1, bins)
    shares = counts / counts.sum(1, keepdims=True)
    return -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(1) + 0.0  # no -0


def sampled_pairs(identity: np.ndarray, generator: np.random.Generator, *, most: int) -> np.ndarray:  # (Q, 2)
    """Return pairs of rows of one person: all of them, or `most` of each person at random.

    Sets with the same people and numbers of pictures get the same pairs from equal generators, whatever the labels.
    """
    pairs = same_person_pairs(identity)
    if not len(pairs):
        return pairs
    order = generator.permutation(len(pairs))
    people = identity[pairs[order, 0]]
    by_label = np.argsort(people, kind="stable")
    starts = np.flatnonzero(np.diff(people[by_label], prepend=-1))
    rank = np.arange(len(pairs)) - np.repeat(starts, np.diff(starts, append=len(pairs)))
    return pairs[np.sort(order[by_label[rank < most]])]


def people_interval(values: np.ndarray, *, generator: np.random.Generator) -> Interval | None:
    """Return the mean over people of (P,) with its percentile bootstrap interval over them; NaNs are left out.

    None where fewer than two people have a value.

    Raises:
        ValueError: for an infinite value.
    """
    known = values[~np.isnan(values)]
    if np.isinf(known).any():
        raise ValueError("a person's value is infinite")
    if len(known) < 2:
        return None
    means = known[generator.integers(0, len(known), (NUM_RESAMPLES, len(known)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(known.mean()), float(low), float(high), len(known))


def condition_cosines(embeddings: np.ndarray, contexts: np.ndarray, context: np.ndarray) -> np.ndarray:  # (N,)
    """Return the cosine of each picture with the vector that it was drawn from.

    Args:
        embeddings: (N, E) unit vectors by the recogniser that the contexts are of.
        contexts: (K, E) unit vectors.
        context: (N,) which of them each picture was drawn from.

    Raises:
        ValueError: for a number that is not among them, other shapes, or a row that is no unit vector.
    """
    vectors, contexts = _unit_vectors(embeddings), _unit_vectors(contexts)
    if context.shape != (len(vectors),) or vectors.shape[1] != contexts.shape[1]:
        raise ValueError(f"{context.shape} numbers of contexts {contexts.shape} for embeddings {vectors.shape}")
    if len(context) and not 0 <= context.min() <= context.max() < len(contexts):
        raise ValueError(f"contexts {context.min()} to {context.max()} are asked for; there are {len(contexts)}")
    return np.clip((vectors * contexts[context]).sum(1), -1, 1)


@torch.inference_mode()
def views(judge: JudgeFeatures, images: np.ndarray, pairs: np.ndarray) -> Views:
    """Look at each picture once, and compare pairs of them.

    The distances are those of `perceptual_distances`, which looks at both pictures of every pair.

    Args:
        judge: whose maps are compared.
        images: uint8 (N, H, W, 3), H and W multiples of 16.
        pairs: (Q, 2) rows. Pictures are held together as long as pairs connect their neighbours in the set: put the
            pictures of a person one after the other.

    Raises:
        ValueError: for other shapes or types, no picture, or pairs of rows that are not there.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 (N, H, W, 3)")
    if images.shape[1] % MULTIPLE or images.shape[2] % MULTIPLE:
        raise ValueError(f"pictures are {images.shape[2]}x{images.shape[1]} px; sides must be multiples of {MULTIPLE}")
    if pairs.ndim != 2 or pairs.shape[1] != 2 or (pairs.size and not 0 <= pairs.min() <= pairs.max() < len(images)):
        raise ValueError(f"pairs {pairs.shape} of rows that {len(images)} pictures do not have")
    pooled, cells, distances = [], [], np.empty(len(pairs))
    for start, stop in _runs(len(images), pairs):
        maps = _maps(judge, images[start:stop])
        pooled.append(maps[-1].mean(dim=(2, 3)).cpu().numpy())
        cells.append(F.adaptive_avg_pool2d(maps[-1], CELLS).flatten(1).cpu().numpy())
        here = np.flatnonzero((pairs[:, 0] >= start) & (pairs[:, 0] < stop))
        distances[here] = _distances(maps, pairs[here] - start)
    return Views(np.concatenate(pooled), np.concatenate(cells), distances)


def _runs(num: int, pairs: np.ndarray) -> list[tuple[int, int]]:
    """Return runs of rows that no pair leaves, of BATCH rows or what more it takes."""
    reach = np.arange(num)  # the last row that a pair from here leads to
    if len(pairs):
        np.maximum.at(reach, pairs.min(axis=1), pairs.max(axis=1))
    ends = np.flatnonzero(np.maximum.accumulate(reach) == np.arange(num)) + 1
    runs, start = [], 0
    for end in ends.tolist():
        if end - start >= BATCH or end == num:
            runs.append((start, end))
            start = end
    return runs


def _maps(judge: JudgeFeatures, images: np.ndarray) -> list[Tensor]:
    parts = [judge_maps(judge, images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return [torch.cat(level) for level in zip(*parts, strict=True)]


def _distances(maps: list[Tensor], pairs: np.ndarray) -> np.ndarray:  # (Q,)
    """Return the distance of each pair: facegen.models.judge's `perceptual_distance` for all of them at once."""
    first, second = torch.from_numpy(pairs.T.copy()).to(maps[0].device)
    total = torch.zeros(len(pairs), device=maps[0].device)
    for level in maps:
        unit = level * torch.rsqrt(level.square().sum(dim=1, keepdim=True) + _EPSILON)
        for start in range(0, len(pairs), BATCH):
            part = slice(start, start + BATCH)
            squares = (unit[first[part]] - unit[second[part]]).square()
            total[part] += squares.sum(dim=1).mean(dim=(1, 2))
    return (total / len(maps)).double().cpu().numpy()


def _sums(vectors: np.ndarray, place: np.ndarray) -> np.ndarray:  # (P, E)
    sums = np.zeros((int(place.max(initial=-1)) + 1, vectors.shape[1]))
    np.add.at(sums, place, vectors)
    return sums


def _checked(embeddings: np.ndarray, identity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit vectors in float64, and the place of each row's person among the people."""
    vectors = _unit_vectors(embeddings)
    if identity.shape != (len(vectors),) or not len(vectors):
        raise ValueError(f"{identity.shape} labels for embeddings {vectors.shape}; expected one for each, at least one")
    return vectors, np.unique(identity, return_inverse=True)[1]


def _values(values: np.ndarray, identity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or identity.shape != values.shape or not len(values):
        raise ValueError(f"{identity.shape} labels for values {values.shape}; expected (N,) of both, at least one")
    return values, np.unique(identity, return_inverse=True)[1]


def _unit_vectors(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or not (np.abs(np.linalg.norm(rows, axis=1) - 1) < _TOLERANCE).all():
        raise ValueError(f"vectors {rows.shape} are not unit vectors (N, E)")
    return rows
