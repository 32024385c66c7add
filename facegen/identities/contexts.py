"""Who synthetic people are: vectors in the space of the recogniser's embeddings, no two of them too much alike.

Sources of candidates, all scaled to unit length:

    gaussian   directions drawn evenly: nearly orthogonal in many dimensions, but unlike any embedding of a face
    whitened   a Gaussian with the mean and the covariance of the training people: directions that faces have
    file       rows of a user's matrix (.npy, or .safetensors with one tensor), in order

Candidate i is a function of (seed, i). They are taken greedily: one that is too near to a vector taken before is passed
over. So the first K of a larger draw are the draw of K.
Shapes: K people drawn, P training people, N pictures, E embedding.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facegen.rng import numpy_generator

GAUSSIAN, WHITENED, FILE = "gaussian", "whitened", "file"
SOURCES = (GAUSSIAN, WHITENED, FILE)
REFUSED_IN_A_ROW = 1000  # then the space counts as full
_ROUNDING = 1e-9  # of a squared length


@dataclass(frozen=True)
class Contexts:
    """Identity conditions of K people."""

    vectors: np.ndarray  # (K, E) float32, unit length
    drawn: int  # candidates looked at to find them


def draw_contexts(
    source: str,
    *,
    num: int,
    dim: int,
    people_means: np.ndarray | None = None,
    path: str | Path | None = None,
    max_cosine: float,
    seed: int,
) -> Contexts:
    """Draw the identity conditions of `num` people.

    Args:
        source: gaussian, whitened or file.
        num: K.
        dim: E.
        people_means: (P, E) unit vectors of the training people; only whitened asks for them.
        path: the file; only file asks for it.
        max_cosine: the most that two of them may be alike; 1 lets everything pass.
        seed: of the draw.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if an argument is wrong, or there is no room, or no row, for so many.
    """
    if num < 1 or not -1 < max_cosine <= 1:
        raise ValueError(f"{num} people at a cosine of at most {max_cosine}; expected at least 1, and -1 < cosine <= 1")
    taken = np.empty((num, dim), dtype=np.float64)
    found = drawn = refused = 0
    for candidate in _candidates(source, dim=dim, people_means=people_means, path=path, seed=seed):
        drawn += 1
        if max_cosine < 1 and found and float((taken[:found] @ candidate).max()) > max_cosine:
            refused += 1
            if refused == REFUSED_IN_A_ROW:
                break
            continue
        taken[found], refused = candidate, 0
        found += 1
        if found == num:
            return Contexts(taken.astype(np.float32), drawn)
    more = "or give a file with more rows" if source == FILE else "or ask for fewer people"
    raise ValueError(
        f"{found} of {num} people found among {drawn} candidates ({source}): all others come nearer than a cosine of "
        f"{max_cosine:g} to one of them; raise max_context_cosine (--max-cosine) {more}"
    )


def people_means(embedding: np.ndarray, identity: np.ndarray) -> np.ndarray:
    """Return the centre of each person's pictures, float32 (P, E) of unit length, people in order of their number.

    Args:
        embedding: (N, E).
        identity: (N,) integers; -1, unknown, is left out.

    Raises:
        ValueError: if shapes disagree, nobody is known, or the pictures of a person cancel out.
    """
    if embedding.ndim != 2 or identity.shape != (len(embedding),):
        raise ValueError(f"embeddings {embedding.shape} and identity {identity.shape}; expected (N, E) and (N,)")
    known = np.flatnonzero(identity >= 0)
    if not len(known):
        raise ValueError("no picture has a known person: nothing is known of how people's embeddings lie")
    order = known[np.argsort(identity[known], kind="stable")]
    starts = np.flatnonzero(np.diff(identity[order], prepend=-1))
    sums = np.add.reduceat(embedding[order].astype(np.float64), starts, axis=0)
    return _unit(sums, what="the centre of person {}").astype(np.float32)


def read_contexts(path: str | Path, *, dim: int) -> np.ndarray:
    """Read a matrix (K, E) of identity conditions; rows become float64 of unit length.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: for another ending, shape or type, for several tensors, or naming a row that is zero or not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a matrix of identity conditions (.npy, .safetensors)")
    if path.suffix == ".npy":
        try:
            rows = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path} is not a .npy file of numbers: {error}") from error
    elif path.suffix == ".safetensors":
        rows = _only_tensor(path)
    else:
        raise ValueError(f"{path}: identity conditions come as .npy or .safetensors")
    if rows.ndim != 2 or rows.shape[1] != dim or not np.issubdtype(rows.dtype, np.floating):
        raise ValueError(f"{path} holds {rows.dtype} {rows.shape}; expected floats (K, {dim}), a row a person")
    return _unit(rows.astype(np.float64), what=f"{path}: row {{}}")


def _candidates(
    source: str, *, dim: int, people_means: np.ndarray | None, path: str | Path | None, seed: int
) -> Iterator[np.ndarray]:
    """Yield unit vectors (E,) float64; each is computed by itself, so that no bit of it depends on the others."""
    if source == FILE:
        if path is None:
            raise ValueError("source file needs a path (identities.contexts)")
        yield from read_contexts(path, dim=dim)
        return
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}; allowed: {', '.join(SOURCES)}")
    mean, root = np.zeros(dim), None
    if source == WHITENED:
        if people_means is None:
            raise ValueError(
                "source whitened needs the training people's embeddings, and there are none; take gaussian"
            )
        mean, root = _moments(people_means, dim=dim)
    for i in itertools.count():
        draw = numpy_generator(seed, "identity context", i).standard_normal(dim)
        vector = mean + (draw if root is None else root @ draw)
        yield vector / np.sqrt((vector * vector).sum())


def _moments(rows: np.ndarray, *, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (E,) and the symmetric square root of the covariance (E, E) of rows (P, E), float64."""
    if rows.ndim != 2 or rows.shape[1] != dim or len(rows) < 2:
        raise ValueError(f"training people's embeddings have shape {rows.shape}; expected (P, {dim}), 2 people or more")
    rows = rows.astype(np.float64)
    mean = rows.mean(axis=0)
    variances, axes = np.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    return mean, (axes * np.sqrt(variances.clip(min=0))) @ axes.T


def _only_tensor(path: Path) -> np.ndarray:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a safetensors file of numbers: {error}") from error
    if len(tensors) != 1:
        raise ValueError(f"{path} holds {len(tensors)} tensors ({', '.join(sorted(tensors))}); expected one, (K, E)")
    return np.asarray(next(iter(tensors.values())))


def _unit(rows: np.ndarray, *, what: str) -> np.ndarray:
    """Return rows scaled to unit length; `what` names the row that has none."""
    squares = (rows * rows).sum(axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(squares[:, 0]) & (squares[:, 0] > _ROUNDING)))
    if len(bad):
        raise ValueError(f"{what.format(bad[0])} is zero or not finite; expected a direction")
    return np.asarray(rows / np.sqrt(squares))
