"""Scenes as the training of f_map sees them: who of a picture's people is told by a face, by which face, and where they are.

A person is told by features of a reference face: another picture of the person, or the scene's own face, of which a
network learns more than who it is (light, expression, what is hidden). Whether a scene's face may be its own reference
is drawn once per face, so that no features are computed that no batch asks for. Who is not told by a face is told by
the class word.

Shapes: N scenes, B batch, K people of a scene at most, S people told in a batch, R references, I identity features,
H W scene px, C h w latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from facegen.data.align import face_crops
from facegen.data.scenes import Scenes, Segment, face_masks
from facegen.data.shards import Faces
from facegen.models.msid import MSID, embed_subjects
from facegen.personalize.mapping import ExpressionEncoder
from facegen.personalize.prompts import mark_nouns
from facegen.rng import numpy_generator
from facegen.train.faces import FaceOrder

MaskKind = Literal["face", "head", "segment"]

CHUNK = 256  # pictures decoded, or faces embedded, at once


@dataclass(frozen=True)
class TellingRule:
    """How people are told in training; the meanings are in params.yaml."""

    class_word: str
    other_picture_share: float
    drop_caption: float
    object_share: float


@dataclass(frozen=True)
class Told:
    """Which scenes a batch shows, and who of them is told by which reference."""

    rows: np.ndarray  # (B,) scenes
    prompts: tuple[str, ...]  # B captions with markers: <id:k> is the k-th told person of the scene
    segments: np.ndarray  # (B, K) numbers of the told persons' segments in the scene, in the markers' order; -1: none
    references: np.ndarray  # (S,) rows of the features, of scene after scene in the markers' order
    owners: np.ndarray  # (S,) which of the B scenes


@dataclass(frozen=True)
class References:
    """Where each row of the features comes from: first faces of scenes, then pictures of faces."""

    scene: np.ndarray  # (R1,) scenes of the first rows
    segment: np.ndarray  # (R1,) and segments in them
    picture: np.ndarray  # (R2,) rows of the faces, of the rows that follow
    own: dict[tuple[int, int], int]  # (scene, segment) -> the row, for faces that are their own reference
    others: dict[int, np.ndarray]  # person -> the rows of pictures of that person

    def __len__(self) -> int:
        return len(self.scene) + len(self.picture)


def tellable(segment: Segment) -> bool:
    """Return whether a person's face is known, so that it can be told by one."""
    return segment.landmarks is not None


def choose_references(
    segments: Sequence[Sequence[Segment]], identity: np.ndarray, *, share: float, most: int, seed: int
) -> References:
    """Draw what each person of the scenes may be told by.

    Args:
        segments: of N scenes.
        identity: of the pictures of faces, (P,), negative where unknown; none where there are no such pictures.
        share: of the people of the scenes that are told by other pictures, where there are any.
        most: pictures of one person, at most.
        seed: of the draws.
    """
    rng = numpy_generator(seed, "mapper references")
    wanted = {s.identity for scene in segments for s in scene if tellable(s) and s.identity >= 0}
    order = rng.permutation(len(identity))
    others: dict[int, list[int]] = {}
    for picture in order.tolist():
        person = int(identity[picture])
        if person in wanted and len(others.setdefault(person, [])) < most:
            others[person].append(picture)
    own = [
        (n, k)
        for n, scene in enumerate(segments)
        for k, s in enumerate(scene)
        if tellable(s) and (rng.random() >= share or s.identity not in others)
    ]
    pictures = np.array([p for rows in others.values() for p in rows], dtype=np.int64)
    ends = len(own) + np.cumsum([len(rows) for rows in others.values()], dtype=np.int64)
    rows = {person: np.arange(end - len(others[person]), end) for person, end in zip(others, ends, strict=True)}
    places = np.array(own, dtype=np.int64).reshape(-1, 2)
    return References(places[:, 0], places[:, 1], pictures, {place: row for row, place in enumerate(own)}, rows)


def reference_features(
    references: References,
    scenes: Scenes,
    faces: Faces | None,
    msid: MSID,
    expression: ExpressionEncoder | None,
    *,
    threads: int,
) -> tuple[Tensor, Tensor | None]:
    """Return the identity features (R, I) of all references, each face aligned by its landmarks, and their expressions.

    Args:
        msid: in evaluation mode, on the device where to compute.
        expression: gives the second; None where it, or it of any face, is not known.
        threads: how many PNGs are decoded at once.
    """
    identity, expressions = [], []
    for start in range(0, len(references), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(references)))
        crops = reference_crops(references, rows, scenes, faces, size=msid.image_size, threads=threads)
        identity.append(embed_subjects(msid, crops).cpu())
        expressions.append(None if expression is None else expression(crops))
    known = [e.float().cpu() for e in expressions if e is not None]
    return torch.cat(identity), torch.cat(known) if len(known) == len(identity) else None


def reference_crops(
    references: References, rows: np.ndarray, scenes: Scenes, faces: Faces | None, *, size: int, threads: int
) -> Tensor:  # (B, 3, size, size)
    """Return the aligned faces of these rows, in rising order, as the identity encoder takes them."""
    num = len(references.scene)
    own, others = rows[rows < num], references.picture[rows[rows >= num] - num]
    parts = []
    if len(own):
        where = references.scene[own]
        segments = [scenes.segments[n][k] for n, k in zip(where, references.segment[own], strict=True)]
        points = np.stack([s.landmarks for s in segments if s.landmarks is not None])
        parts.append(face_crops(scenes.images(where, threads=threads), points, size=size))
    if len(others):
        assert faces is not None, "rows of pictures come from faces"
        parts.append(face_crops(faces.images(others, threads=threads), faces.landmarks[others], size=size))
    return torch.cat(parts)


def person_masks(
    scenes: Scenes, *, kind: MaskKind, most: int, latent_size: tuple[int, int], threads: int
) -> Tensor:  # (N, most, h, w)
    """Return what share of each latent pixel belongs to each person, float32; 0 for people that are not there.

    Args:
        kind: the face or head (an ellipse by the landmarks), or the segment: the whole person.
        most: people of a scene.
        latent_size: (h, w).
        threads: how many PNGs are decoded at once.
    """
    out = torch.zeros(len(scenes.segments), most, *latent_size)
    for start in range(0, len(out), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(out)))
        maps = scenes.segmaps(rows, threads=threads) if kind == "segment" else np.empty(0)
        for slot, row in enumerate(rows.tolist()):
            people = scenes.segments[row]
            if not people:
                continue
            if kind == "segment":
                masks = np.stack([maps[slot] == s.id for s in people]).astype(np.float32)
            else:
                masks = face_masks(people, scenes.size, kind=kind)
            out[row, : len(people)] = F.adaptive_avg_pool2d(torch.from_numpy(masks), latent_size)
    return out


class SubjectScenes:
    """A split of scenes with the features of its people, and what each batch tells of them."""

    def __init__(
        self, scenes: Scenes, faces: Faces | None, msid: MSID, rule: TellingRule, *,
        expression: ExpressionEncoder | None, most_pictures: int, seed: int, threads: int,
    ) -> None:  # fmt: skip
        """
        Args:
            scenes: the split.
            faces: other pictures of the same people (equal `identity`), or None.
            msid: gives the features; in evaluation mode.
            rule: how people are told.
            expression: gives the expressions, or None.
            most_pictures: of one person among `faces`, that features are computed of.
            seed: of all draws.
            threads: how many PNGs are decoded at once.

        Raises:
            ValueError: if no scene has a person whose face is known.
        """
        identity = np.empty(0, np.int64) if faces is None else np.asarray(faces.identity, dtype=np.int64)
        self.scenes, self.rule, self.seed = scenes, rule, seed
        self.rows = np.array([n for n, s in enumerate(scenes.segments) if any(map(tellable, s))], dtype=np.int64)
        if not len(self.rows):
            raise ValueError("no scene has a person with a known face: nothing to learn a face's words from")
        self.people = np.array([len(s) for s in scenes.segments])  # (N,)
        self.most = int(self.people.max())
        self.references = choose_references(
            scenes.segments, identity, share=rule.other_picture_share, most=most_pictures, seed=seed
        )
        self.features, self.expressions = reference_features(
            self.references, scenes, faces, msid, expression, threads=threads
        )

    def rows_of(self, max_subjects: int) -> np.ndarray:
        """Return the scenes that show no more people than are told; all, where there is no such scene.

        One person is learned from pictures of one person, as Face2Diffusion is.
        """
        few = self.rows[self.people[self.rows] <= max_subjects]
        return few if len(few) else self.rows

    def order(self, purpose: str, *, max_subjects: int) -> FaceOrder:
        """Return the order in which a training run of this name sees the scenes of `rows_of`."""
        return FaceOrder(size=len(self.rows_of(max_subjects)), seed=self.seed, purpose=purpose)

    def draw(self, order: FaceOrder, images_seen: int, batch_size: int, *, max_subjects: int) -> Told:
        """Return the batch at this position; the same for the same arguments, always.

        Of a scene's people whose faces are known up to `max_subjects` are told, each with the chance of `object_share`
        but at least one, in random order. With the chance of `drop_caption` the caption holds the markers alone.
        """
        rows = self.rows_of(max_subjects)[order.draw(images_seen, batch_size)[0].numpy()]
        rng = numpy_generator(self.seed, f"{order.purpose} subjects", images_seen)
        prompts, references, owners = [], [], []
        told = np.full((batch_size, max_subjects), -1, dtype=np.int64)
        for slot, row in enumerate(rows.tolist()):
            segments = self.scenes.segments[row]
            people = rng.permutation([k for k, s in enumerate(segments) if tellable(s)])[:max_subjects]
            kept = rng.random(len(people)) < self.rule.object_share
            kept[0] |= not kept.any()
            chosen = people[kept].tolist()
            told[slot, : len(chosen)] = chosen
            references += [self._reference(row, k, rng) for k in chosen]
            owners += [slot] * len(chosen)
            bare = rng.random() < self.rule.drop_caption
            prompts.append(bare_prompt(len(chosen)) if bare else self.prompt(row, chosen))
        return Told(rows, tuple(prompts), told, np.array(references), np.array(owners))

    def prompt(self, row: int, chosen: Sequence[int]) -> str:
        """Return a scene's caption with a marker for each chosen person and the class word for everyone else."""
        segments = self.scenes.segments[row]
        number = {k: n for n, k in enumerate([*chosen, *(k for k in range(len(segments)) if k not in chosen)])}
        marked = mark_nouns(
            self.scenes.captions[row], [s.end for s in segments], [number[k] for k in range(len(segments))]
        )
        for n in range(len(chosen), len(segments)):
            marked = marked.replace(f"<id:{n}>", self.rule.class_word)
        return marked

    def _reference(self, row: int, segment: int, rng: np.random.Generator) -> int:
        own = self.references.own.get((row, segment))
        if own is not None:
            return own
        return int(rng.choice(self.references.others[self.scenes.segments[row][segment].identity]))


def bare_prompt(num_subjects: int) -> str:
    """Return a prompt that says nothing but who is there."""
    return " and ".join(f"<id:{k}>" for k in range(num_subjects))
