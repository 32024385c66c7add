"""How near synthetic people come to people of the training set: part of `identities` in eval/metrics.json.

The nearest training person of each, by the judging recogniser, beside that of real strangers (nobody can ask for less)
and of training people on other pictures than those compared with (what a copy would show). The threshold is a quantile
of strangers of the val split; where it names nobody, of the training people to each other. Shapes: P people.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from facegen.data.face_embedder import FaceEmbedder, embed_faces
from facegen.data.people_set import PeopleSet
from facegen.data.shards import Faces
from facegen.identities.screening import nearest
from facegen.metrics.intervals import Interval, wilson_interval
from facegen.metrics.people import centres, nearest_other, people_interval
from facegen.rng import numpy_generator

CENTRE_PICTURES = 2  # of a person, behind the centres that are compared
NUM_COPIES = 200  # training people who are looked for by other pictures
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BATCH = 256


def leakage_figures(
    dataset: PeopleSet, train: Faces, val: Faces, test: Faces, embedder: FaceEmbedder, *, quantile: float, seed: int,
    threads: int,
) -> tuple[dict[str, Any], dict[str, Any] | None]:  # fmt: skip
    """Return how near people come to their nearest training person, and to each other in a crowd of one size.

    All centres are of CENTRE_PICTURES pictures: the more there are, the nearer centres are to each other.
    """

    def real_centres(faces: Faces, rows: np.ndarray) -> np.ndarray:
        found = embed_faces(embedder, faces, rows, by_landmarks=False, threads=threads)
        return centres(found, faces.identity[rows])

    training = real_centres(train, first_rows(train.identity, CENTRE_PICTURES))
    rows = first_rows(dataset.identity, CENTRE_PICTURES)
    parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    embedded = np.concatenate([embedder.embed(dataset.images(part, threads=threads), None) for part in parts])
    sets = {"synthetic": centres(embedded, dataset.identity[rows])}
    if len(rows := first_rows(test.identity, CENTRE_PICTURES)):
        sets["real"] = real_centres(test, rows)
    people, counts = np.unique(train.identity[train.identity >= 0], return_counts=True)
    marked = numpy_generator(seed, "score copies").permutation(people[counts >= 2 * CENTRE_PICTURES])[:NUM_COPIES]
    if len(rows := first_rows(train.identity, CENTRE_PICTURES, people=marked, skip=CENTRE_PICTURES)):
        sets["copies"] = real_centres(train, rows)
    if len(rows := first_rows(val.identity, CENTRE_PICTURES)):
        known, source = nearest(real_centres(val, rows), training), "val"
    else:
        known, source = nearest_other(training), "train"
    threshold = float(np.quantile(known, quantile))
    generator = numpy_generator(seed, "score leakage")
    found = {name: nearness(nearest(rows, training), threshold, generator=generator) for name, rows in sets.items()}
    leakage: dict[str, Any] = {
        "quantile": quantile,
        "threshold": threshold,
        "threshold_from": source,
        **{name: found.get(name) for name in ("synthetic", "real", "copies")},
        "pictures_per_centre": CENTRE_PICTURES,
        "training_people": len(training),
        "threshold_people": len(known),
    }
    return leakage, crowding(sets["synthetic"], sets.get("real"))


def crowding(synthetic: np.ndarray, real: np.ndarray | None) -> dict[str, Any] | None:
    """Return how near the nearest other centre is among as many synthetic people as real ones, (P, E) each.

    None where there are no two of either.
    """
    size = min(len(synthetic), 0 if real is None else len(real))
    if real is None or size < 2:
        return None
    found = {"synthetic": synthetic[:size], "real": real[:size]}
    return {"people": size, **{name: quantiles(nearest_other(rows), QUANTILES) for name, rows in found.items()}}


def nearness(cosines: np.ndarray, threshold: float, *, generator: np.random.Generator) -> dict[str, Any]:
    """Return how near the training people are to some people, (P,) cosines, and the share of them above the threshold."""
    cosines = np.minimum(cosines, 1)  # but for rounding
    return {
        "people": len(cosines),
        "mean": json_of(people_interval(cosines, generator=generator)),
        "quantiles": quantiles(cosines, (*QUANTILES[:-1], 0.99, 1.0)),
        "above": wilson_interval(int((cosines > threshold).sum()), len(cosines)).to_json(),
    }


def first_rows(identity: np.ndarray, most: int, *, people: np.ndarray | None = None, skip: int = 0) -> np.ndarray:
    """Return up to `most` rows of each known person, or of these people in ascending order, after the first `skip`."""
    wanted = identity >= 0 if people is None else np.isin(identity, people)
    rows = np.flatnonzero(wanted)
    rows = rows[np.argsort(identity[rows], kind="stable")]
    _, starts, counts = np.unique(identity[rows], return_index=True, return_counts=True)
    rank = np.arange(len(rows)) - np.repeat(starts, counts)
    return rows[(rank >= skip) & (rank < skip + most)]


def quantiles(values: np.ndarray, shares: tuple[float, ...]) -> dict[str, float]:
    """Return quantiles of (N,) by their share, as eval/metrics.json names them: 0.5, 1."""
    found = np.quantile(values.astype(np.float64), shares)
    return {f"{share:g}": float(value) for share, value in zip(shares, found, strict=True)}


def json_of(interval: Interval | None) -> dict[str, Any] | None:
    """Return the form of eval/metrics.json; null where there is no figure."""
    return None if interval is None else interval.to_json()
