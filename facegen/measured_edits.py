"""Every edit of a photograph in numbers: what judge b and the judging recogniser see, and what became of the pixels.

An edit asks for one attribute of a test photograph, present or absent, within a mask. It counts as a success where
judge b's probability of that attribute lies beyond 0.5 on the asked side, over edits that asked for a change: where the
label before is the opposite. Its own accuracy on the same photographs stands beside it: what its word is worth.
Shapes: N edits, A attributes, E embedding, S side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from facegen.attributes import UNKNOWN
from facegen.data.edits import Edits
from facegen.data.shards import Faces
from facegen.judging import Embedder
from facegen.metrics.editing import changed_share, outside_identical, outside_psnr_db, seam_ratio
from facegen.metrics.identity import identity_cosines
from facegen.metrics.judge_features import JudgeFeatures
from facegen.metrics.perceptual import perceptual_distances
from facegen.metrics.verification import cosines, make_pairs
from facegen.scoring import mean_figure

BATCH = 64
NUM_PAIRS = 6000  # of test pictures, half of one person each: what the cosines are read against
PIXELS = ("perceptual", "outside_psnr_db", "outside_psnr_db_raw", "outside_identical", "seam", "changed_share")
FIGURES = ("success", "judge_accuracy", "other_change", "identity_cosine", "same_person", *PIXELS, "evaluations")


@dataclass(frozen=True)
class MeasuredEdits:
    """One value an edit of every figure, and what was asked."""

    photo: np.ndarray  # (N,) rows of the test split
    people: np.ndarray  # (N,) labels: photographs of one person have the same
    method: np.ndarray  # (N,) texts
    attribute: np.ndarray  # (N,)
    region: np.ndarray  # (N,) "" without a mask
    state: np.ndarray  # (N,) asked for: 0 or 1
    area: np.ndarray  # (N,) share of the picture
    values: dict[str, np.ndarray]  # (N,) each of FIGURES, NaN where it has no meaning

    def __len__(self) -> int:
        return len(self.photo)


def measure_edits(
    edits: Edits,
    faces: Faces,
    judge: JudgeFeatures,
    embedder: Embedder | None,
    *,
    embedded: np.ndarray | None,
    people: np.ndarray,
    same_person: float | None,
    threads: int,
    on_images: Callable[[int], object],
) -> MeasuredEdits:
    """Judge, embed and compare every edit with its photograph.

    Args:
        edits: what was made.
        faces: the test split.
        judge: judge b.
        embedder: the judging recogniser; None: there is none. Pictures are aligned by the mean landmarks, as its
            thresholds are.
        embedded: (T, E) of the whole split by it.
        people: labels of the people of the test split.
        same_person: cosine from which two pictures show one person; None: not known.
        threads: of decoding.
        on_images: called with the number of edits that were just measured.

    Raises:
        ValueError: if an edit is of a photograph that the split does not hold, or the attributes differ.
    """
    if edits.attribute_names != faces.attribute_names:
        raise ValueError(f"edits of {edits.attribute_names}, faces of {faces.attribute_names}; run the edit stage")
    row_of = {name: row for row, name in enumerate(faces.ids)}
    if missing := [name for name in edits.photo if name not in row_of]:
        raise ValueError(f"{missing[0]} and {len(missing) - 1} more edited photographs are no test pictures")
    photo = np.array([row_of[name] for name in edits.photo], dtype=np.int64)
    distinct, place = np.unique(photo, return_inverse=True)
    seen = [judge.both(faces.images(distinct[part], threads=threads))[1] for part in _batches(len(distinct))]
    before = np.concatenate([edits.known[:0].astype(np.float32), *seen])[place]  # (N, A)
    parts: list[dict[str, np.ndarray]] = []
    for rows in _batches(len(edits)):
        photographs = faces.images(photo[rows], threads=threads)
        images, masks = edits.images(rows), edits.masks(rows)
        found = judged_values(
            before[rows], judge.both(images)[1], states=edits.states[rows], known=edits.known[rows],
            asked=np.array([faces.attribute_names.index(edits.attribute[i]) for i in rows]),
        )  # fmt: skip
        found |= pixel_values(photographs, images, edits.raws(rows), masks)
        found["perceptual"] = perceptual_distances(judge, photographs, images)
        found["identity_cosine"] = found["same_person"] = np.full(len(rows), np.nan)
        if embedder is not None and embedded is not None:
            cosine = identity_cosines(embedded[photo[rows]], embedder.embed(images, None))
            found["identity_cosine"] = cosine
            if same_person is not None:
                found["same_person"] = (cosine >= same_person).astype(np.float64)
        parts.append(found)
        on_images(len(rows))
    values = {name: np.concatenate([np.empty(0), *(part[name] for part in parts)]) for name in FIGURES[:-1]}
    values["evaluations"] = edits.evaluations.astype(np.float64)
    return MeasuredEdits(
        photo, people[photo], np.array(edits.method), np.array(edits.attribute), np.array(edits.region),
        edits.state, edits.area, values,
    )  # fmt: skip


def judged_values(
    before: np.ndarray, after: np.ndarray, *, states: np.ndarray, known: np.ndarray, asked: np.ndarray
) -> dict[str, np.ndarray]:
    """Return success, judge_accuracy and other_change of each edit, (N,).

    Args:
        before, after: (N, A) probabilities of the photograph and of the edit.
        states: (N, A) the request; known: (N, A) the labels before.
        asked: (N,) number of the attribute that the edit is about.

    Returns:
        success and judge_accuracy are 0 or 1, NaN where no change was asked for; other_change is the mean of
        |after - before| over the attributes that were not asked to change, NaN where there is none.
    """
    rows = np.arange(len(asked))
    state, label = states[rows, asked], known[rows, asked]
    change = label == 1 - state
    hit = np.where(state == 1, after[rows, asked] > 0.5, after[rows, asked] < 0.5)
    right = np.where(label == 1, before[rows, asked] > 0.5, before[rows, asked] < 0.5)
    others = (states == known) | (states == UNKNOWN)
    others[rows, asked] = False
    count = others.sum(axis=1)
    moved = np.where(others, np.abs(after.astype(np.float64) - before), 0).sum(axis=1)
    return {
        "success": np.where(change, hit.astype(np.float64), np.nan),
        "judge_accuracy": np.where(change, right.astype(np.float64), np.nan),
        "other_change": np.divide(moved, count, out=np.full(len(rows), np.nan), where=count > 0),
    }


def pixel_values(
    photographs: np.ndarray, images: np.ndarray, raws: np.ndarray, masks: np.ndarray
) -> dict[str, np.ndarray]:
    """Return what the edits did to the pixels, (N,) each; raws: the edits before they were put into the photographs."""
    return {
        "outside_psnr_db": outside_psnr_db(photographs, images, masks),
        "outside_psnr_db_raw": outside_psnr_db(photographs, raws, masks),
        "outside_identical": outside_identical(photographs, images, masks),
        "seam": seam_ratio(photographs, images, masks),
        "changed_share": changed_share(photographs, images),
    }


def identity_references(
    embedder: Embedder,
    embedded: np.ndarray,
    faces: Faces,
    rows: np.ndarray,
    reconstruct: Callable[[np.ndarray], np.ndarray],
    *,
    people: np.ndarray,
    threads: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Return what the cosines of edits are to be read against.

    Args:
        embedder: the judging recogniser; embedded: (T, E) of the whole test split by it.
        faces: the test split; people: labels of who is on its pictures.
        rows: the photographs that were edited.
        reconstruct: the autoencoder's round trip of uint8 (B, S, S, 3).
        threads: of decoding.
        generator: draws the pairs.

    Returns:
        The floor: other_people_cosine, and same_person_cosine, two different pictures of one person. The ceiling:
        round_trip_cosine, the photograph against its own round trip, which every repainted part goes through. The
        first two are None where nobody is named or nobody has two pictures.
    """
    rows = np.unique(rows)
    again = np.concatenate(
        [embedder.embed(reconstruct(faces.images(rows[part], threads=threads)), None) for part in _batches(len(rows))]
    )
    kept = identity_cosines(embedded[rows], again)
    ceiling = mean_figure(kept, people[rows])
    try:
        pairs = make_pairs(faces.identity, generator, NUM_PAIRS)
    except ValueError:  # its rule of whom pairs can be made of
        return {"other_people_cosine": None, "same_person_cosine": None, "round_trip_cosine": ceiling}
    scores = cosines(embedded, pairs.first, pairs.second)
    return {
        "other_people_cosine": mean_figure(scores[~pairs.same], people[pairs.first[~pairs.same]]),
        "same_person_cosine": mean_figure(scores[pairs.same], people[pairs.first[pairs.same]]),
        "round_trip_cosine": ceiling,
    }


def _batches(num: int) -> Iterator[list[int]]:
    for start in range(0, num, BATCH):
        yield list(range(start, min(start + BATCH, num)))
