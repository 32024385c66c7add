"""What sets of synthetic people are worth: `identities` of eval/metrics.json, with real people as the yardstick.

Every method of the ablation, as many real people of the test split, and as many people of the data set are measured in one
way: at equal numbers of people and of pictures each, which separation, errors, recall and entropy depend on. The judging
recogniser and judge b have drawn and selected nothing. Then the leakage: how near people come to their nearest training
person, beside real strangers (nobody can ask for less) and training people on other pictures (what a copy would show).
Shapes: N pictures, P people, E embedding, D features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facegen.artifacts import load_tensors, read_json
from facegen.data.face_embedder import FaceEmbedder
from facegen.data.people_set import ABLATION, PEOPLE, PeopleSet
from facegen.data.shards import Faces
from facegen.flow.calibration import first_identity_time
from facegen.flow.sampler import time_schedule
from facegen.identities.dataset import CALIBRATION, CONTEXTS, MANIFEST
from facegen.identities.sampler import METHODS
from facegen.identities.screening import KEPT
from facegen.metrics import people as of_people
from facegen.metrics.intervals import Interval
from facegen.metrics.judge_features import JudgeFeatures
from facegen.metrics.manifold import manifold_scores
from facegen.metrics.pose import LandmarkRegression, fit_landmarks, luminance, r_squared, yaw_pitch
from facegen.metrics.verification import verification_figures
from facegen.rng import numpy_generator
from facegen.score_equal_diversity import at_equal_diversity
from facegen.score_inputs import Progress
from facegen.score_leakage import QUANTILES, first_rows, json_of, leakage_figures, quantiles

BASELINE = "one_stage"  # what the default method is compared with
NUM_NEIGHBORS = 3  # of recall. Source: Kynkaanniemi et al. 2019
RECALL_PICTURES = 720  # real ones that are to be reached, at most
POSE_PICTURES = 1500  # real ones that the landmarks are learned from, at most
PAIRS_PER_PERSON = 15  # compared for diversity, at most: all of six pictures
CONDITION_PICTURES = 3  # of a person that are compared with the context
BRIGHTNESS_BINS = 16
SWITCH_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BATCH = 256
FMR = "tar_at_far_1e-3"  # the name that verification gives its complement
PAIRED = ("consistency", "consistency_left_out", "diversity")  # person by person, of two methods
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Witnesses:
    """Who looks at every set of people, and the real pictures that recall asks for."""

    judge: JudgeFeatures
    embedder: FaceEmbedder  # the judging recogniser
    condition: FaceEmbedder | None  # the conditioning one
    landmarks: LandmarkRegression | None  # None: no landmarks are known
    reference: np.ndarray  # (R, D) pooled maps of real pictures
    reference_people: np.ndarray  # (R,)


@dataclass(frozen=True)
class Pictures:
    """N pictures of P people, a person's one after the other."""

    images: np.ndarray  # uint8 (N, H, W, 3)
    identity: np.ndarray  # (N,)
    context: np.ndarray | None  # (N, E) unit vectors that they were drawn from; None: real pictures


def identity_figures(
    folder: Path, train: Faces, val: Faces, test: Faces, judge: JudgeFeatures, embedder: FaceEmbedder | None, *,
    condition: FaceEmbedder | None, method: str, quantile: float, seed: int, threads: int, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Return `identities` of eval/metrics.json; {"absent": reason} where there are no people or nobody to judge them.

    Args:
        folder: eval/identities.
        train, val, test: the splits: whom nobody may resemble; the strangers who say how near is near; the yardstick.
        judge, embedder: judge b and the judging recogniser; None: there is none.
        condition: the conditioning recogniser; None: pictures are not compared with what they were drawn from.
        method: the default one.
        quantile: of the strangers' nearest training people, that counts as too near.
        seed: of every choice and resample.
        threads: of decoding.
        progress: shows how far it is.
    """
    if reason := absent(folder, embedder):
        return {"absent": reason}
    assert embedder is not None
    ablation, dataset = PeopleSet.open(folder / ABLATION), PeopleSet.open(folder / PEOPLE)
    contexts, manifest = load_tensors(folder / CONTEXTS)[0]["contexts"].numpy(), read_json(folder / MANIFEST)
    num_people, num_images = len(np.unique(ablation.identity)), int(ablation.number.max()) + 1
    rows, reference = split_test(test.identity, num_people, num_images, seed=seed)
    bar = progress(len(ablation.methods) + 4, "measuring people")
    witnesses, regression = call_witnesses(
        train, test, reference, judge, embedder, condition, seed=seed, threads=threads
    )  # fmt: skip
    bar.update(1)
    measured, told = {}, {}

    def measure(name: str, pictures: Pictures) -> None:
        measured[name] = person_values(pictures, witnesses, seed=seed)
        told[name] = set_figures(
            pictures, measured[name], witnesses, generator=numpy_generator(seed, "score set of people")
        )
        bar.update(1)

    for name in ablation.methods:
        part = ablation.of(name)
        measure(name, synthetic(part, contexts, threads=threads))
        told[name] |= drawing_figures(part.evaluations, part.switch)
    if len(rows):
        measure("real", Pictures(test.images(rows, threads=threads), test.identity[rows], None))
    sample = dataset.take(chosen_people(dataset.identity, num_people, num_images, seed=seed))
    measure("dataset", synthetic(sample, contexts, threads=threads))
    told["dataset"] |= drawing_figures(dataset.evaluations, dataset.switch)
    told["dataset"] |= {"total_people": len(np.unique(dataset.identity)), "total_pictures": len(dataset)}
    leakage, crowd = leakage_figures(
        dataset, train, val, test, embedder, quantile=quantile, seed=seed, threads=threads
    )  # fmt: skip
    bar.update(1)
    bar.close()
    calibration = read_json(folder / CALIBRATION)
    equal = at_equal_diversity(
        {name: found.values for name, found in measured.items()}, told, method=method, baseline=BASELINE,
        generator=numpy_generator(seed, "score difference"),
    )  # fmt: skip
    return {
        **{name: told.pop(name) for name in METHODS if name in told},
        "sweep": [{"method": name, **told[name]} for name in ablation.methods if name not in METHODS],
        "real": told.get("real"),
        "dataset": told["dataset"],
        "difference": difference(measured, method=method, generator=numpy_generator(seed, "score difference")),
        "equal_diversity": equal,
        "leakage": leakage,
        "crowd": crowd,
        "screening": screening_figures(manifest),
        "switch_histogram": switch_histogram(dataset.switch, calibration),
        "calibration": calibration,
        "pose_regression": regression,
        "about": {
            "method": method, "people": num_people, "images_per_person": num_images, "judge": judge.name,
            "recognizer": embedder.name, "condition": condition.name if condition is not None else None,
            "recall_k": NUM_NEIGHBORS, "recall_real": len(witnesses.reference),
        },
    }  # fmt: skip


def absent(folder: Path, embedder: FaceEmbedder | None) -> str | None:
    """Return why there is nothing to measure, or None."""
    if reason := read_json(folder / MANIFEST).get("absent"):
        return str(reason)
    return "there is no judging recogniser" if embedder is None else None


def chosen_people(identity: np.ndarray, num_people: int, num_images: int, *, seed: int) -> np.ndarray:
    """Return rows: the first `num_images` of each of `num_people` people at random, a person's one after the other.

    People with fewer pictures are chosen only where the others do not suffice.
    """
    people, counts = np.unique(identity[identity >= 0], return_counts=True)
    order = numpy_generator(seed, "score people").permutation(len(people))
    order = order[np.argsort(counts[order] < num_images, kind="stable")][:num_people]
    return first_rows(identity, num_images, people=people[order])


def split_test(identity: np.ndarray, num_people: int, num_images: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of the people who are the yardstick, half of all at most, and of others whom recall asks for.

    Neither has any where there are not two people for the yardstick.
    """
    num = min(num_people, len(np.unique(identity[identity >= 0])) // 2)
    if num < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    yardstick = chosen_people(identity, num, num_images, seed=seed)
    others = np.where(np.isin(identity, identity[yardstick]), -1, identity)
    return yardstick, chosen_people(others, math.ceil(RECALL_PICTURES / num_images), num_images, seed=seed)


def synthetic(part: PeopleSet, contexts: np.ndarray, *, threads: int) -> Pictures:
    """Return the pictures of synthetic people, a person's one after the other."""
    order = np.argsort(part.identity, kind="stable")
    return Pictures(part.images(order, threads=threads), part.identity[order], contexts[part.candidate[order]])


def call_witnesses(
    train: Faces, test: Faces, reference: np.ndarray, judge: JudgeFeatures, embedder: FaceEmbedder,
    condition: FaceEmbedder | None, *, seed: int, threads: int,
) -> tuple[Witnesses, dict[str, Any] | None]:  # fmt: skip
    """Return the witnesses, and how well landmarks are told from a judge's maps: fitted on `train`, asked on `reference`."""
    pooled, cells = real_views(judge, test, reference, threads=threads)
    witnesses = Witnesses(judge, embedder, condition, None, pooled, test.identity[reference])
    if not len(reference) or train.landmarks.std(axis=0).max() < _ROUNDING:  # nobody marked them: all in one place
        return witnesses, None
    rows = numpy_generator(seed, "score landmarks").permutation(len(train))[:POSE_PICTURES]
    landmarks = fit_landmarks(real_views(judge, train, rows, threads=threads)[1], train.landmarks[rows])
    truth, found = test.landmarks[reference], landmarks(cells)
    told = dict(zip(("r2_yaw", "r2_pitch"), zip(yaw_pitch(truth).T, yaw_pitch(found).T, strict=True), strict=True))
    return replace(witnesses, landmarks=landmarks), {
        **{name: r_squared(*pair) for name, pair in {"r2_landmarks": (truth, found), **told}.items()},
        "ridge": landmarks.ridge,
        "train_pictures": len(rows),
        "test_pictures": len(reference),
    }


def real_views(judge: JudgeFeatures, faces: Faces, rows: np.ndarray, *, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pooled maps and the cells of rows of a split, decoded batch by batch."""
    none = np.empty((0, 2), dtype=np.int64)
    parts = [(np.empty((0, 0), np.float32),) * 2] if not len(rows) else []
    for start in range(0, len(rows), BATCH):
        seen = of_people.views(judge, faces.images(rows[start : start + BATCH], threads=threads), none)
        parts.append((seen.pooled, seen.cells))
    pooled, cells = zip(*parts, strict=True)
    return np.concatenate(pooled), np.concatenate(cells)


@dataclass(frozen=True)
class PersonValues:
    """What each of P people has, by the name of the figure, and what figures of pairs and of the set need."""

    values: dict[str, np.ndarray]  # (P,); NaN where a person has no such value
    embeddings: np.ndarray  # (N, E) by the judging recogniser
    pooled: np.ndarray  # (N, D)


def person_values(pictures: Pictures, witnesses: Witnesses, *, seed: int) -> PersonValues:
    """Look at a set of people with all witnesses; the pairs of pictures are the same for sets of equal layout."""
    images, identity = pictures.images, pictures.identity
    embeddings = witnesses.embedder.embed(images, None)
    pairs = of_people.sampled_pairs(identity, numpy_generator(seed, "score pairs"), most=PAIRS_PER_PERSON)
    seen = of_people.views(witnesses.judge, images, pairs)
    distances = np.concatenate([seen.distances, np.full(len(identity), np.nan)])  # so that everybody has a value
    light = luminance(images)
    values = {
        "consistency": of_people.by_person(of_people.own_centre(embeddings, identity), identity),
        "consistency_left_out": of_people.by_person(of_people.left_out(embeddings, identity), identity),
        "separation": of_people.nearest_other(of_people.centres(embeddings, identity)),
        "diversity": of_people.by_person(distances, np.concatenate([identity[pairs[:, 0]], identity])),
        "condition_cosine": condition_values(pictures, witnesses.condition),
        "brightness_spread": of_people.spread(light, identity),
        "brightness_entropy": of_people.entropy(light, identity, bins=BRIGHTNESS_BINS),
    }
    if witnesses.landmarks is not None:
        yaw, pitch = (of_people.spread(v, identity) for v in yaw_pitch(witnesses.landmarks(seen.cells)).T)
        values |= {"pose_spread": np.hypot(yaw, pitch), "yaw_spread": yaw, "pitch_spread": pitch}
    return PersonValues(values, embeddings, seen.pooled)


def condition_values(pictures: Pictures, condition: FaceEmbedder | None) -> np.ndarray:  # (P,)
    """Return the mean cosine of each person's pictures with the context that they were drawn from.

    Real people were drawn from none: a picture is compared with the centre of the person's others.
    """
    identity = pictures.identity
    if condition is None:
        return np.full(len(np.unique(identity)), np.nan)
    if pictures.context is None:
        return of_people.by_person(of_people.left_out(condition.embed(pictures.images, None), identity), identity)
    rows = first_rows(identity, CONDITION_PICTURES)
    found = condition.embed(pictures.images[rows], None)
    cosines = of_people.condition_cosines(found, pictures.context, rows)
    return of_people.by_person(cosines, identity[rows])


def set_figures(
    pictures: Pictures, found: PersonValues, witnesses: Witnesses, *, generator: np.random.Generator
) -> dict[str, Any]:
    """Return all figures of one set of people."""
    named = {name: json_of(of_people.people_interval(v, generator=generator)) for name, v in found.values.items()}
    return {
        "people": len(np.unique(pictures.identity)),
        "pictures": len(pictures.identity),
        **named,
        "separation_quantiles": quantiles(found.values["separation"], QUANTILES),
        **error_rates(found.embeddings, pictures.identity, generator=generator),
        **reach(found.pooled, pictures.identity, witnesses, generator=generator),
    }


def error_rates(embeddings: np.ndarray, identity: np.ndarray, *, generator: np.random.Generator) -> dict[str, Any]:
    """Return eer, auc and fnmr_at_fmr_1e-3 of telling the people apart; None where no person has two pictures.

    fnmr_at_fmr_1e-3 is None too where there are fewer than a thousand pairs of different people.
    """
    if np.unique(identity, return_counts=True)[1].max() < 2:
        return {"eer": None, "auc": None, "fnmr_at_fmr_1e-3": None}
    found, _ = verification_figures(embeddings, identity, rng=generator)
    matched = found[FMR]
    missed = None if matched is None else Interval(1 - matched.value, 1 - matched.high, 1 - matched.low, matched.n)
    return {
        "eer": json_of(found["equal_error_rate"]),
        "auc": json_of(found["auc"]),
        "fnmr_at_fmr_1e-3": json_of(missed),
    }


def reach(
    pooled: np.ndarray, identity: np.ndarray, witnesses: Witnesses, *, generator: np.random.Generator
) -> dict[str, Any]:
    """Return recall and precision against real pictures of other people; None where the sets are too small to halve."""
    for groups in (identity, witnesses.reference_people):
        counts = np.sort(np.unique(groups, return_counts=True)[1])
        if counts[: len(counts) // 2].sum() <= NUM_NEIGHBORS:
            return {"recall": None, "precision": None}
    scores = manifold_scores(
        real=witnesses.reference, fake=pooled, k=NUM_NEIGHBORS, generator=generator,
        real_groups=witnesses.reference_people, fake_groups=identity,
    )  # fmt: skip
    return {"recall": json_of(scores.recall), "precision": json_of(scores.precision)}


def drawing_figures(evaluations: np.ndarray, switch: np.ndarray) -> dict[str, Any]:
    """Return the mean number of evaluations of the network a picture, and when pictures went over."""
    return {
        "evaluations": float(evaluations.mean()),
        "switch": {"mean": float(switch.mean()), **quantiles(switch, SWITCH_QUANTILES)},
    }


def difference(
    measured: Mapping[str, PersonValues], *, method: str, generator: np.random.Generator
) -> dict[str, Any] | None:
    """Return what a method has more than BASELINE, person by person; None where one of them is missing."""
    if method not in measured or BASELINE not in measured:
        return None
    ours, other = measured[method].values, measured[BASELINE].values
    found = {name: of_people.people_interval(ours[name] - other[name], generator=generator) for name in PAIRED}
    return {"method": method, "baseline": BASELINE, **{name: json_of(value) for name, value in found.items()}}


def screening_figures(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the screening by the conditioning recogniser kept, from people.json: no `above` means that it held."""
    nearest, limit = manifest["candidates"]["nearest_training"], manifest["thresholds"]["training"]
    chosen = [i for i, reason in enumerate(manifest["candidates"]["reason"]) if reason == KEPT]
    kept = None if nearest is None else np.array([nearest[i] for i in chosen])
    return {
        "counts": manifest["counts"],
        "thresholds": manifest["thresholds"],
        "nearest_training": None if kept is None else quantiles(kept, QUANTILES),
        "above": None if kept is None else int((kept > limit + _ROUNDING).sum()),
    }


def switch_histogram(switch: np.ndarray, calibration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the share of pictures at each time of going over, and at the earliest and the latest possible one."""
    times, counts = np.unique(np.round(switch.astype(np.float64), 6), return_counts=True)
    first, last = possible_times(calibration)
    return {
        "times": times[::-1].tolist(),
        "shares": (counts[::-1] / len(switch)).tolist(),
        "at_early": float((switch >= first - _ROUNDING).mean()),
        "at_late": float((switch <= last + _ROUNDING).mean()),
        "median": float(np.median(switch)),
        "n": len(switch),
    }


def possible_times(calibration: Mapping[str, Any]) -> tuple[float, float]:
    """Return the earliest and the latest time that a calibrated sampler lets a picture over."""
    schedule = time_schedule(calibration["num_steps"], shift=calibration["shift"])
    distances = torch.zeros(len(schedule) - 1, 1)
    distances[0] = math.nan  # the first step has nothing to compare with
    rule = {name: calibration[name] for name in ("early", "late", "patience")}
    first, last = (
        first_identity_time(distances, schedule, threshold=threshold, **rule) for threshold in (math.inf, -math.inf)
    )
    return float(first), float(last)
