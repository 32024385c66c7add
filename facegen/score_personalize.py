"""What pictures of given people are worth: `personalize` of eval/metrics.json, from eval/personalize.

Every method drew the same prompts of the same people from the same seeds, so that what one has more than another is
taken person by person (pair by pair). A figure is a mean over people or pairs, which are disjoint, with a bootstrap over
them. Pictures of the class word (`class_word`, and `class_word_two` of two people) say what prompt and chance alone give.
`real` says what the same detector, alignment and recogniser find on photographs: `same`, other pictures of the people
beside the reference pictures; `strangers`, pictures of others; `scenes`, scenes of the test split with their own captions,
which nothing that is drawn can be expected to exceed. How a picture is measured: `facegen.measured_personalize`.
Shapes: N pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facegen.artifacts import read_json
from facegen.data.face_embedder import FaceEmbedder
from facegen.data.scenes import Scenes
from facegen.data.shards import Faces
from facegen.measured_personalize import (
    BATCH,
    CLIP_FIGURES,
    ClipScores,
    Witnesses,
    harmonic_mean,
    measure_pictures,
    of_people,
    references_of,
)
from facegen.metrics.judge_features import JudgeFeatures
from facegen.metrics.people import people_interval
from facegen.personalize.generation import CLASS_WORD, METHODS, MULTIPLE
from facegen.personalize.pictures import ABOUT, PICTURES, Drawn, PictureSet
from facegen.personalize.prompts import class_prompt, mark_nouns
from facegen.personalize.references import Detect
from facegen.rng import numpy_generator
from facegen.score_inputs import Progress
from facegen.score_leakage import json_of

TWO = "_two"  # after class_word: with two people
NUM_SCENES = 200  # that are the yardstick, at most
OTHERS = 3  # further pictures of a person that are the yardstick, at most
DIFFERENCES = (
    ("single", CLASS_WORD), ("single", "single_plain"), (MULTIPLE, CLASS_WORD + TWO), (MULTIPLE, "naive"),
    (MULTIPLE, "mf2d_unlocalized"),
)  # fmt: skip
_CLIP_HARMONIC = "harmonic_clip"


@dataclass(frozen=True)
class Rows:
    """Some of the pictures and their values."""

    drawn: list[Drawn]
    values: dict[str, np.ndarray]  # (N,) each

    def take(self, chosen: Sequence[int]) -> Rows:
        """Return these of them, in this order."""
        where = np.asarray(chosen, dtype=np.int64)
        return Rows([self.drawn[i] for i in chosen], {name: column[where] for name, column in self.values.items()})

    def requests(self) -> dict[tuple[str, tuple[int, ...], int], int]:
        """Return what was asked for, whatever the method, and which row that is."""
        return {(row.prompt, row.subjects, row.seed): i for i, row in enumerate(self.drawn)}


def personalize_figures(
    folder: Path, test: Faces, judge: JudgeFeatures, embedder: FaceEmbedder | None, detect: Detect | None, *,
    scenes: Scenes | None, clip: ClipScores | None, seed: int, threads: int, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Return `personalize` of eval/metrics.json; {"absent": reason} where there are no pictures or nobody to judge them.

    Args:
        folder: eval/personalize.
        test: the split whose people were drawn.
        judge, embedder: judge b and the judging recogniser; None: there is none.
        detect: finds the faces in a picture; None: nothing does.
        scenes: the test split of scenes, whose people are those of `test`; None: there are none.
        clip: says how pictures follow words; None: no weights were named.
        seed: of every choice and resample.
        threads: of decoding.
        progress: shows how far it is.
    """
    if reason := absent(folder, embedder, detect):
        return {"absent": reason}
    assert embedder is not None
    assert detect is not None
    pictures, template = PictureSet.open(folder / PICTURES), mean_template(test, judge.resolution)
    witnesses = Witnesses(detect, judge, embedder, template)
    people = {own: rows for row in pictures.rows for own, rows in zip(row.subjects, row.references, strict=True)}
    references = references_of(
        test, [own for row in pictures.rows for own in row.references], embedder, threads=threads
    )
    bar = progress(len(pictures), "measuring pictures of people")
    seen = witnesses.see(batches(pictures, threads=threads), on_images=bar.update)
    values = measure_pictures(pictures.rows, seen, references, witnesses.attribute_names)
    if clip is not None:
        values |= clip_values(pictures, test, clip, values, threads=threads)
    real = yardstick(
        test, {own: references[rows] for own, rows in people.items()}, people, witnesses, seed=seed, threads=threads
    )
    real["scenes"] = (
        None if scenes is None else of_scenes(scenes, test, witnesses, embedder, seed=seed, threads=threads)
    )
    bar.close()
    default = float(pictures.about["alpha"])
    parts = by_method(Rows(pictures.rows, values), default=default)
    return {
        **{name: figures(rows, seed=seed) for name, rows in parts.items()},
        "difference": differences(parts, seed=seed),
        "alpha": alpha_curve(Rows(pictures.rows, values), parts, seed=seed),
        "prompts": by_prompt(parts),
        "real": real,
        "about": {
            **pictures.about, "judge": judge.name, "recognizer": embedder.name, "clip": clip.name if clip else None,
            "people": len({row.subjects for row in pictures.rows if len(row.subjects) == 1}),
            "pairs": len({row.subjects for row in pictures.rows if len(row.subjects) > 1}),
            "pictures": len(pictures), "faces": len(seen.picture), "unusable_faces": seen.unusable,
        },
    }  # fmt: skip


def absent(folder: Path, embedder: FaceEmbedder | None, detect: Detect | None) -> str | None:
    """Return why there is nothing to measure, or None."""
    if reason := read_json(folder / ABOUT).get("absent"):
        return str(reason)
    if embedder is None:
        return "there is no judging recogniser"
    return "there is no face detection network" if detect is None else None


def mean_template(test: Faces, resolution: int) -> np.ndarray:  # (5, 2)
    """Return where the landmarks of the split's pictures lie on average, px of a side of `resolution`."""
    mean = test.landmarks.astype(np.float64).mean(axis=0)
    return (mean + 0.5) * (resolution / test.resolution) - 0.5


def batches(pictures: PictureSet, *, threads: int) -> Iterator[np.ndarray]:
    """Yield all pictures in their order, uint8 (B, H, W, 3)."""
    for start in range(0, len(pictures), BATCH):
        yield pictures.images(range(start, min(start + BATCH, len(pictures))), threads=threads)


def clip_values(
    pictures: PictureSet, test: Faces, clip: ClipScores, values: Mapping[str, np.ndarray], *, threads: int
) -> dict[str, np.ndarray]:
    """Return CLIP_FIGURES, and the harmonic mean of min_identity and CLIP, of every picture."""
    rows, word = pictures.rows, str(pictures.about["class_word"])
    prompts = [class_prompt(row.prompt, word) for row in rows]
    pixels = {own: test.images(own, threads=threads) for row in rows for own in row.references}
    references = [np.concatenate([pixels[own] for own in row.references]) for row in rows]
    found = clip.scores(pictures.images(threads=threads), prompts, references)
    out = dict(zip(CLIP_FIGURES, found, strict=True))
    return out | {_CLIP_HARMONIC: harmonic_mean(values["min_identity"], out["clip"])}


def by_method(rows: Rows, *, default: float) -> dict[str, Rows]:
    """Return the rows of each method at its own alpha, those of the class word apart by the number of people."""
    out = {}
    for name, method in METHODS.items():
        for num in method.subjects:
            wanted = [
                i
                for i, row in enumerate(rows.drawn)
                if row.method == name and len(row.subjects) == num and abs(row.alpha - method.alpha(default)) < 1e-6
            ]
            if wanted:
                out[name + (TWO if name == CLASS_WORD and num > 1 else "")] = rows.take(wanted)
    return out


def figures(rows: Rows, *, seed: int) -> dict[str, Any]:
    """Return every figure of some pictures as an interval over people or pairs; null where nobody has a value."""
    groups = [row.subjects for row in rows.drawn]
    out: dict[str, Any] = {"pictures": len(rows.drawn)}
    for name, column in rows.values.items():
        values = np.array(list(of_people(column, groups).values()))
        out[name] = json_of(people_interval(values, generator=numpy_generator(seed, "score personalize")))
    return out


def differences(parts: Mapping[str, Rows], *, seed: int) -> dict[str, dict[str, Any]]:
    """Return what methods have more than others, on what both were asked for: {method: {other: figures}}."""
    out: dict[str, dict[str, Any]] = {}
    for name, other in DIFFERENCES:
        if name in parts and other in parts:
            out.setdefault(name, {})[other] = difference(parts[name], parts[other], seed=seed)
    return out


def difference(ours: Rows, other: Rows, *, seed: int) -> dict[str, Any]:
    """Return figures of one method less those of another, person by person, over requests of both."""
    first, second = ours.requests(), other.requests()
    common = [request for request in first if request in second]
    ours, other = ours.take([first[r] for r in common]), other.take([second[r] for r in common])
    changes = {name: ours.values[name] - other.values[name] for name in ours.values}
    return figures(Rows(ours.drawn, changes), seed=seed)


def alpha_curve(rows: Rows, parts: Mapping[str, Rows], *, seed: int) -> list[dict[str, Any]]:
    """Return the figures of MULTIPLE at every alpha, on what was asked for at all of them; alpha 0 is the class word."""
    at: dict[float, Rows] = {}
    for alpha in sorted({row.alpha for row in rows.drawn if row.method == MULTIPLE}):
        at[alpha] = rows.take([i for i, row in enumerate(rows.drawn) if row.method == MULTIPLE and row.alpha == alpha])
    if not at:
        return []
    if CLASS_WORD + TWO in parts:
        at = {0.0: parts[CLASS_WORD + TWO], **at}
    places = [part.requests() for part in at.values()]
    common = [request for request in places[0] if all(request in place for place in places)]
    return [
        {"alpha": alpha, **figures(part.take([place[request] for request in common]), seed=seed)}
        for (alpha, part), place in zip(at.items(), places, strict=True)
    ]


def by_prompt(parts: Mapping[str, Rows]) -> list[dict[str, Any]]:
    """Return, prompt by prompt, the mean over pictures of min_identity and prompt of every method."""
    prompts = dict.fromkeys(row.prompt for part in parts.values() for row in part.drawn)
    out = []
    for prompt in prompts:
        told: dict[str, Any] = {}
        for name, part in parts.items():
            chosen = np.array([row.prompt == prompt for row in part.drawn])
            if chosen.any():
                told[name] = {figure: _mean(part.values[figure][chosen]) for figure in ("min_identity", "prompt")}
        out.append({"prompt": prompt, "methods": told})
    return out


def yardstick(
    test: Faces, vectors: Mapping[int, np.ndarray], references: Mapping[int, tuple[int, ...]], witnesses: Witnesses, *,
    seed: int, threads: int,
) -> dict[str, Any]:  # fmt: skip
    """Return what identity is on photographs: of the people beside their references, and of each other's.

    Args:
        vectors: of each person's reference pictures.
        references: rows of those pictures.
    """
    people = list(vectors)
    rows = {own: others(test.identity, own, references[own]) for own in people}
    order = [row for own in people for row in rows[own]]
    parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    seen = witnesses.see(test.images(part, threads=threads) for part in parts)
    owner = [own for own in people for _ in rows[own]]
    stranger = dict(zip(people, people[1:] + people[:1], strict=True))
    same, other, found = (np.zeros(len(order)) for _ in range(3))
    for number, own in enumerate(owner):
        faces = seen.embeddings[seen.picture == number]
        if len(faces):
            found[number] = 1
            same[number], other[number] = (max(float((faces @ vectors[p]).max()), 0.0) for p in (own, stranger[own]))
    groups = [(own,) for own in owner]

    def told(values: np.ndarray) -> dict[str, Any] | None:
        means = np.array(list(of_people(values, groups).values()))
        return json_of(people_interval(means, generator=numpy_generator(seed, "score personalize")))

    return {"same": told(same), "strangers": told(other), "detection_rate": told(found), "pictures": len(order)}


def of_scenes(
    scenes: Scenes, test: Faces, witnesses: Witnesses, embedder: FaceEmbedder, *, seed: int, threads: int
) -> dict[str, Any] | None:
    """Return the figures of the first NUM_SCENES scenes of which every person has a picture in `test`."""
    first = {int(person): (int(row),) for row, person in reversed(list(enumerate(test.identity))) if person >= 0}
    chosen = [n for n, people in enumerate(scenes.segments) if people and all(s.identity in first for s in people)]
    chosen, rows = chosen[:NUM_SCENES], []
    for n in chosen:
        people = scenes.segments[n]
        prompt = mark_nouns(scenes.captions[n], [s.end for s in people], range(len(people)))
        own = tuple(s.identity for s in people)
        rows.append(Drawn("scene", 1.0, prompt, own, tuple(first[person] for person in own), n))
    if not rows:
        return None
    references = references_of(test, [own for row in rows for own in row.references], embedder, threads=threads)
    parts = [chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH)]
    seen = witnesses.see(scenes.images(part, threads=threads) for part in parts)
    return figures(Rows(rows, measure_pictures(rows, seen, references, witnesses.attribute_names)), seed=seed)


def others(identity: np.ndarray, person: int, references: tuple[int, ...]) -> list[int]:
    """Return the first rows of a person that are no references, OTHERS at most."""
    return [row for row in np.flatnonzero(identity == person).tolist() if row not in references][:OTHERS]


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
