"""Pictures of given people in numbers: who is seen in each by the judging recogniser, and what judge b sees of them.

The faces of a picture are found by a detection network, aligned by their landmarks and matched to the people who were
asked for, one to one, so that the sum of the cosines is largest. Of a picture of K people:

    identity        mean over the people of max(cos, 0) to their reference pictures; 0 for one whose face is not there
    min_identity    the least of them: the same where K = 1
    prompt          share of the attributes the prompt asks for that judge b sees, at its thresholds, in the matched faces
    harmonic        2 a b / (a + b) of min_identity and prompt
    detection_rate  share of the people for whom there is a face

The harmonic mean is high only where both are. Source: FastComposer's evaluation (faces, minimum), matched optimally.
Shapes: N pictures, F faces, K people, E embedding, A attributes, H W px.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from facegen.data.captions import asked_attributes
from facegen.data.images import ImageError
from facegen.data.shards import Faces
from facegen.judging import Embedder
from facegen.metrics.judge_features import JudgeFeatures
from facegen.personalize.matching import NO_FACE, assign_faces, match_faces
from facegen.personalize.pictures import Drawn
from facegen.personalize.references import Detect
from facegen.photo_face import take_face
from facegen.photograph import photograph_of

BATCH = 64
FIGURES = ("identity", "min_identity", "prompt", "harmonic", "detection_rate")
CLIP_FIGURES = ("clip", "dclip")


class ClipScores(Protocol):
    """A model that says how pictures follow words: `facegen.metrics.clip_score`."""

    name: str

    def scores(
        self, images: np.ndarray, prompts: Sequence[str], references: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return CLIP and dCLIP of every picture, (N,) each."""
        ...


@dataclass(frozen=True)
class SeenFaces:
    """The F faces that were found in N pictures, picture after picture."""

    picture: np.ndarray  # (F,) from 0 to N - 1
    embeddings: np.ndarray  # (F, E) unit vectors
    present: np.ndarray  # (F, A) bool, what judge b sees
    unusable: int  # detections whose landmarks cannot be those of a face


@dataclass(frozen=True)
class Witnesses:
    """Who looks at the pictures."""

    detect: Detect
    judge: JudgeFeatures
    embedder: Embedder
    template: np.ndarray  # (5, 2) px, where landmarks lie in the pictures that the judge learned from

    def see(
        self, batches: Iterator[np.ndarray], *, on_images: Callable[[int], object] = lambda _: None
    ) -> SeenFaces:  # fmt: skip
        """Find and look at the faces of pictures, uint8 (B, H, W, 3) a batch, all of one size in a batch."""
        thresholds = np.asarray(self.judge.judge.config.thresholds)
        side, names = self.judge.resolution, len(self.judge.judge.config.attribute_names)
        pictures, embeddings, present, unusable, first = [], [], [np.empty((0, names), bool)], 0, 0
        for images in batches:
            where, points, crops = [], [], []
            for number, pixels in enumerate(images):
                for face in self.detect(pixels):
                    try:
                        taken = take_face(
                            photograph_of(pixels), face.landmarks, template=self.template, resolution=side
                        )
                    except ImageError:
                        unusable += 1
                        continue
                    where.append(number)
                    points.append(face.landmarks)
                    crops.append(taken.image)
            if crops:
                pictures.append(np.array(where) + first)
                embeddings.append(self.embedder.embed(images[where], np.stack(points)))
                present.append(self.judge.both(np.stack(crops))[1] >= thresholds)
            first += len(images)
            on_images(len(images))
        joined = np.concatenate(embeddings) if embeddings else np.empty((0, 1), np.float32)
        return SeenFaces(
            np.concatenate([np.empty(0, np.int64), *pictures]), joined, np.concatenate(present), unusable
        )  # fmt: skip

    @property
    def attribute_names(self) -> list[str]:
        """What judge b tells, in its order."""
        return list(self.judge.judge.config.attribute_names)


def harmonic_mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return 2 a b / (a + b) of values clipped to [0, 1], 0 where both are 0; NaN where one is."""
    a, b = np.clip(a, 0, 1), np.clip(b, 0, 1)
    total = a + b
    return np.where(total == 0, 0.0, 2 * a * b / np.where(total == 0, 1.0, total))


def references_of(
    test: Faces, rows: Sequence[tuple[int, ...]], embedder: Embedder, *, threads: int
) -> dict[tuple[int, ...], np.ndarray]:
    """Return the unit vector (E,) along the sum of those of each set of reference pictures, by their rows.

    Raises:
        ValueError: if the pictures of a set cancel.
    """
    distinct = sorted({row for own in rows for row in own})
    parts = [distinct[start : start + BATCH] for start in range(0, len(distinct), BATCH)]
    found = [embedder.embed(test.images(part, threads=threads), test.landmarks[part]) for part in parts]
    vectors = dict(zip(distinct, np.concatenate(found), strict=True))
    out = {}
    for own in set(rows):
        total = np.stack([vectors[row] for row in own]).astype(np.float64).sum(axis=0)
        length = float(np.linalg.norm(total))
        if not length > 1e-3:
            raise ValueError(f"the reference pictures {own} cancel: there is no one vector of them")
        out[own] = total / length
    return out


def measure_pictures(
    rows: Sequence[Drawn], seen: SeenFaces, references: dict[tuple[int, ...], np.ndarray], names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return one value a picture of each of FIGURES, float64 (N,); prompt and harmonic NaN where nothing is asked.

    Args:
        rows: what was asked for.
        seen: the faces in them.
        references: unit vectors by reference rows: `references_of`.
        names: the attributes that the judge tells, in its order.
    """
    out = {name: np.full(len(rows), np.nan) for name in FIGURES}
    ends = np.searchsorted(seen.picture, np.arange(len(rows) + 1))
    for number, row in enumerate(rows):
        faces = slice(ends[number], ends[number + 1])
        people = np.stack([references[own] for own in row.references])
        similarity = (
            seen.embeddings[faces] @ people.T if ends[number] < ends[number + 1] else np.empty((0, len(people)))
        )
        face = assign_faces(similarity)
        cosines = match_faces(similarity).clip(min=0)
        prompt = prompt_share(row.prompt, face, seen.present[faces], names)
        values = (cosines.mean(), cosines.min(), prompt, np.nan, (face != NO_FACE).mean())
        for name, value in zip(FIGURES, values, strict=True):
            out[name][number] = value
    out["harmonic"] = harmonic_mean(out["min_identity"], out["prompt"])
    return out


def prompt_share(prompt: str, face: np.ndarray, present: np.ndarray, names: Sequence[str]) -> float:
    """Return the share of what a prompt asks of its people that is seen in their faces; NaN where it asks nothing.

    Args:
        prompt: with a marker for each person.
        face: (K,) which face each person's is, NO_FACE for none: what is asked of that one is not seen.
        present: bool (F, A), what the judge sees in each face.
        names: A names; what is asked beside them does not count.
    """
    hits = [
        bool(f != NO_FACE and present[f, names.index(name)] == bool(state))
        for f, asked in zip(face, asked_attributes(prompt, len(face)), strict=True)
        for name, state in asked.items()
        if name in names
    ]
    return float(np.mean(hits)) if hits else float("nan")


def of_people(values: np.ndarray, subjects: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], float]:
    """Return the mean of values (N,) of each person or group of people, those that have one; in order of their first."""
    groups: dict[tuple[int, ...], list[float]] = {}
    for own, value in zip(subjects, values.tolist(), strict=True):
        if not np.isnan(value):
            groups.setdefault(own, []).append(value)
    return {own: float(np.mean(found)) for own, found in groups.items()}
