"""People told to the LatentDiT by a photograph: `personalize.dit` of eval/metrics.json, from eval/personalize-dit.

The judging recogniser and judge b have drawn and trained nothing. Each figure is a mean over people, with a bootstrap over
them:

    identity         cosine of the picture and the photograph that told the person
    identity_others  cosine with the mean of the person's other photographs, which no network was shown
    attributes       share of the attributes asked for that judge b sees
    outside, inside  mean change of the pixels (of 255, as a share) beside the picture without identity from the same
                     seed, outside and inside the ellipse of the head: what class guidance keeps

Of two people in one picture: the cosine with each, over the share of the width that the first has. The yardsticks are
real: other photographs of the people, and photographs of others. Shapes: P people, Q pairs, H side in px.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facegen.artifacts import read_json
from facegen.attributes import PRESENT, UNKNOWN
from facegen.data.face_embedder import FaceEmbedder
from facegen.data.samples import Samples, read_samples
from facegen.data.shards import Faces
from facegen.metrics.judge_features import JudgeFeatures
from facegen.metrics.people import people_interval
from facegen.personalize.dit_pictures import (
    ABOUT,
    MAPPED,
    NONE,
    PICTURES,
    PLAIN,
    RECOGNIZER,
    SHARES,
    People,
    middle_scale,
    scale_set,
    scales_of,
    share_set,
)
from facegen.personalize.dit_references import part_masks
from facegen.rng import numpy_generator
from facegen.score_inputs import Progress
from facegen.score_leakage import json_of

DIFFERENCES = ((MAPPED, NONE), (MAPPED, PLAIN), (MAPPED, RECOGNIZER))


@dataclass(frozen=True)
class Truth:
    """What the photographs of the people say."""

    reference: np.ndarray  # (P, E) of the photograph that told each person
    others: np.ndarray  # (P, E) unit mean of the other photographs of the person
    head: np.ndarray  # (H, H) share of each pixel that the mean head covers


def dit_identity_figures(
    folder: Path, faces: Faces, judge: JudgeFeatures, embedder: FaceEmbedder | None, *, seed: int, threads: int,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Return `personalize.dit` of eval/metrics.json; {"absent": reason} where there are no pictures or no recogniser.

    Args:
        folder: eval/personalize-dit.
        faces: the test split.
        judge, embedder: judge b and the judging recogniser; None: there is none.
        seed: of the resamples.
        threads: of decoding.
        progress: shows how far it is.
    """
    about = read_json(folder / ABOUT)
    if reason := about.get("absent") or (None if embedder else "there is no judging recogniser"):
        return {"absent": str(reason)}
    assert embedder is not None
    people, samples, scales = People.from_json(about), read_samples(folder / PICTURES), about["identity_scales"]
    truth = truth_of(people, faces, embedder, threads=threads)
    bar = progress(len(samples.set_names), "measuring people by the LatentDiT")
    base, values, shares = samples.of(NONE).images(), {}, {}
    for name in samples.set_names:
        part = samples.of(name)
        if name.startswith("pair/"):
            shares[name] = embedder.embed(part.images(), None)
        else:
            values[name] = person_values(part, base, truth, judge, embedder)
        bar.update(1)
    bar.close()

    def figures(found: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {k: json_of(people_interval(v, generator=resamples(seed))) for k, v in found.items()}

    middle = middle_scale(scales)
    at_middle = {NONE: values[NONE]} | {m: values[scale_set(m, middle)] for m in about["methods"]}
    return {
        NONE: figures(values[NONE]),
        **{m: [{"scale": s, **figures(values[scale_set(m, s)])} for s in scales_of(m, scales)] for m in about["methods"]},
        "difference": [
            {"method": a, "baseline": b, "scale": middle,
             **figures({k: at_middle[a][k] - at_middle[b][k] for k in at_middle[a]})}
            for a, b in DIFFERENCES if a in at_middle and b in at_middle
        ],
        "pairs": pair_figures(people.pairs, shares, about["methods"], truth.reference, seed=seed),
        "real": real_figures(truth, seed=seed),
        "about": {
            "people": len(people.identity), "pairs": len(people.pairs), "scale": middle, "pair_scale": max(scales),
            "judge": judge.name, "recognizer": embedder.name, "guidance_scale": about["guidance_scale"],
            "num_steps": about["num_steps"],
        },
    }  # fmt: skip


def resamples(seed: int) -> np.random.Generator:
    """Return the generator of a bootstrap: the same people are drawn for every figure."""
    return numpy_generator(seed, "score people by the adapter")


def truth_of(people: People, faces: Faces, embedder: FaceEmbedder, *, threads: int) -> Truth:
    """Look at the photographs of the people, aligned by their landmarks."""
    rows = np.flatnonzero(np.isin(faces.identity, people.identity))
    found = embedder.embed(faces.images(rows, threads=threads), faces.landmarks[rows])
    reference = found[np.searchsorted(rows, people.references)]
    others = np.empty_like(reference)
    for number, person in enumerate(people.identity):
        mean = found[(faces.identity[rows] == person) & (rows != people.references[number])].mean(axis=0)
        others[number] = mean / np.linalg.norm(mean)
    landmarks = torch.from_numpy(faces.landmarks.mean(axis=0))[None]
    head = part_masks(landmarks, size_px=faces.resolution, grid=faces.resolution, part="head")[0, 0].numpy()
    return Truth(reference, others, head)


def person_values(
    part: Samples, base: np.ndarray, truth: Truth, judge: JudgeFeatures, embedder: FaceEmbedder
) -> dict[str, np.ndarray]:
    """Return what each person's picture of a set is worth, (P,) by the name of the figure.

    Args:
        base: uint8 (P, H, H, 3), the pictures without identity.
    """
    images = part.images()
    embeddings = embedder.embed(images, None)
    present = judge.both(images)[1] >= np.asarray(judge.judge.config.thresholds)
    asked = part.attributes != UNKNOWN  # (P, A)
    right = (present == (part.attributes == PRESENT)) & asked
    change = np.abs(images.astype(np.float64) - base).mean(axis=3) / 255  # (P, H, H)
    return {
        "identity": (embeddings * truth.reference).sum(axis=1),
        "identity_others": (embeddings * truth.others).sum(axis=1),
        "attributes": right.sum(axis=1) / np.where(asked.any(axis=1), asked.sum(axis=1), np.nan),
        "outside": share_of(change, 1 - truth.head),
        "inside": share_of(change, truth.head),
    }


def share_of(change: np.ndarray, weight: np.ndarray) -> np.ndarray:  # (P, H, H), (H, H) -> (P,)
    """Return the weighted mean of each picture; NaN where nothing has weight."""
    total = weight.sum()
    return (change * weight).sum(axis=(1, 2)) / total if total > 0 else np.full(len(change), np.nan)


def pair_figures(
    pairs: np.ndarray, shares: Mapping[str, np.ndarray], methods: Sequence[str], reference: np.ndarray, *, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Return, by method and over the share, the cosines of the pictures with the first and with the second person.

    Args:
        pairs: (Q, 2).
        shares: by set, the embeddings (Q, E) of the pictures of two people.
        reference: (P, E).
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for method in (m for m in methods if share_set(m, SHARES[0]) in shares):
        points = []
        for share in SHARES:
            cosines = (shares[share_set(method, share)][:, None] * reference[pairs]).sum(axis=2)  # (Q, 2)
            first, second = (json_of(people_interval(c, generator=resamples(seed))) for c in cosines.T)
            points.append({"share": share, "first": first, "second": second})
        found[method] = points
    return found


def real_figures(truth: Truth, *, seed: int) -> dict[str, Any]:
    """Return the cosine of the reference photographs with the mean of the person's others, and with a stranger's photograph."""
    same = (truth.reference * truth.others).sum(axis=1)
    strangers = (truth.reference * np.roll(truth.reference, 1, axis=0)).sum(axis=1)
    return {
        name: json_of(people_interval(v, generator=resamples(seed)))
        for name, v in (("identity_others", same), ("strangers", strangers))
    }
