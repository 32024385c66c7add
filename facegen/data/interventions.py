"""Which requests differ in one attribute, and which combinations no training picture has.

An intervention compares two requests that differ in attribute k alone. It says something about the generator only if both
requests name people who exist in the data: "bald with black hair" has no right answer. So the other states are drawn from
those combinations that the training set has both with k and without it.

Shapes: S training pictures, A attributes, N requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facegen.attributes import ABSENT, PRESENT, UNKNOWN

MIN_SUPPORT = 10  # pictures on the rarer side of a matched comparison, below which attributes that exclude k are opened
MIN_PAIR_SUPPORT = 5  # pictures with a pair of states, below which a combination that holds it may be impossible


@dataclass(frozen=True)
class Flips:
    """Pairs of requests that differ in one attribute, and how many training pictures each side's combinations have."""

    states: np.ndarray  # (N, 2, A) int8: absent, then present
    support: tuple[int, int]


def flip_states(train_attributes: np.ndarray, k: int, num: int, *, generator: np.random.Generator) -> Flips:
    """Return requests with attribute k absent and present, all other states equal within a pair and as in the data.

    The other states are drawn with the overlap weights n0 n1 / (n0 + n1) of the n0 and n1 training pictures that have
    them without and with k. Where the data have (nearly) no such combination, first the attributes that exclude k, or
    that it excludes, are left open in both requests, then all of them.

    Args:
        train_attributes: (S, A) states.
        k: the attribute's column.
        num: N.
        generator: draws the pairs.

    Source of the weights: Li, Morgan and Zaslavsky 2018, Balancing Covariates via Propensity Score Weighting.
    """
    names = train_attributes.shape[1]
    nothing, excluding = np.zeros(names, bool), _excluding(train_attributes, k)
    for open_ in (nothing, excluding, np.ones(names, bool)):
        rows = np.where(open_, np.int8(UNKNOWN), train_attributes)
        rows[:, k] = UNKNOWN
        contexts, place = np.unique(rows, axis=0, return_inverse=True)
        sides = [np.bincount(place[train_attributes[:, k] == s], minlength=len(contexts)) for s in (ABSENT, PRESENT)]
        both = np.minimum(*sides) > 0
        support = (int(sides[0][both].sum()), int(sides[1][both].sum()))
        if min(support) >= MIN_SUPPORT:
            break
    weights = np.where(both, sides[0] * sides[1] / np.maximum(sides[0] + sides[1], 1), 0.0)
    if not weights.sum():  # an attribute of one state in all pictures
        weights = np.ones(len(contexts))
    chosen = contexts[generator.choice(len(contexts), num, p=weights / weights.sum())]
    states = np.repeat(chosen[:, None], 2, axis=1).astype(np.int8)
    states[:, 0, k], states[:, 1, k] = ABSENT, PRESENT
    return Flips(states, support)


def unseen_states(train_attributes: np.ndarray, num: int, *, generator: np.random.Generator) -> np.ndarray:
    """Return up to num requests (N, A) that no training picture answers, though each pair of their states is in the data.

    Each is a training picture's states with one or two changed. Fewer are returned where there are not so many.
    """
    size, names = train_attributes.shape
    known = {row.tobytes() for row in train_attributes.astype(np.int8)}
    present = (train_attributes == PRESENT).astype(np.int64)
    absent = (train_attributes == ABSENT).astype(np.int64)
    counts = {
        (1, 1): present.T @ present,
        (1, 0): present.T @ absent,
        (0, 1): absent.T @ present,
        (0, 0): absent.T @ absent,
    }
    found: dict[bytes, np.ndarray] = {}
    for _ in range(50 * num):
        if len(found) == num:
            break
        row = train_attributes[generator.integers(size)].astype(np.int8)
        for k in generator.choice(names, min(names, int(generator.integers(1, 3))), replace=False):
            row[k] = ABSENT if row[k] == PRESENT else PRESENT
        key = row.tobytes()
        if key in known or key in found or (row == UNKNOWN).any():
            continue
        cells = [counts[int(row[i]), int(row[j])][i, j] for i in range(names) for j in range(i)]
        if min(cells, default=MIN_PAIR_SUPPORT) >= MIN_PAIR_SUPPORT:
            found[key] = row
    return np.array(list(found.values()), np.int8).reshape(-1, names)


def _excluding(train_attributes: np.ndarray, k: int) -> np.ndarray:  # (A,) bool
    """Return which attributes have a state that (nearly) never stands beside one of k's two."""
    cells = [
        ((train_attributes == state) & (train_attributes[:, k : k + 1] == own)).sum(axis=0)
        for state in (ABSENT, PRESENT)
        for own in (ABSENT, PRESENT)
    ]
    excluding = np.min(cells, axis=0) < MIN_PAIR_SUPPORT
    excluding[k] = False
    return excluding
