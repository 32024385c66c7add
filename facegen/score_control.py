"""Control and identity of one generator: what the judges say of its answers to facegen/sample_sets.py's requests.

Judge b decides what is on a picture, the judging recogniser whether two pictures show one person; neither had any part in
making the pictures. Shapes: N pictures, A attributes, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from facegen.data.samples import FLIP, PRIOR, UNSEEN
from facegen.metrics.classification import corrected_share
from facegen.metrics.control import (
    answered,
    effect_interval,
    intervention_effects,
    leakage_figures,
    leakage_noise,
    significant_leaks,
)
from facegen.metrics.identity import preserved
from facegen.metrics.intervals import mean_interval, wilson_interval

LEVEL = 0.05  # family-wise, of the leaks that are called significant


@dataclass(frozen=True)
class JudgeRates:
    """What the judge is worth on real pictures it did not learn from: entries are None where it could not be measured."""

    thresholds: np.ndarray  # (A,) probability from which an attribute counts as present
    sensitivity: list[float | None]
    specificity: list[float | None]


@dataclass(frozen=True)
class Judged:
    """The answers of one set of requests as the judges see them."""

    states: np.ndarray  # (N, A) what was asked
    probabilities: np.ndarray  # (N, A) of judge b
    embeddings: np.ndarray | None  # (N, E) unit vectors of the judging recogniser; None: there is none

    def pairs(self) -> np.ndarray:
        """Return the probabilities of a flip set as (N, 2, A)."""
        return self.probabilities.reshape(-1, 2, self.probabilities.shape[1])


def intervention_matrix(flips: Sequence[Judged]) -> np.ndarray:
    """Return M (A, A) from the flip sets, attribute by attribute."""
    return np.stack([intervention_effects(flip.pairs()) for flip in flips])


def control_figures(
    answers: Mapping[str, Judged],
    names: Sequence[str],
    *,
    rates: JudgeRates,
    natural: np.ndarray,
    null_identical: float,
    same_person: float | None,
) -> dict[str, Any]:
    """Return the figures of one generator for eval/metrics.json.

    Args:
        answers: its judged sets by name: prior, flip/<Attribute> and, if there are any, unseen.
        names: the attributes.
        rates: of judge b.
        natural: N (A, A) of the training data.
        null_identical: share of the repeated requests that gave the very same picture.
        same_person: cosine from which two embeddings count as one person; None without a recogniser.
    """
    flips = [answers[f"{FLIP}{name}"] for name in names]
    pairs = [flip.pairs() for flip in flips]
    effects = intervention_matrix(flips)
    hits = [answered(flip.probabilities >= rates.thresholds, flip.states)[:, k] for k, flip in enumerate(flips)]
    by_seed = np.mean([hit.reshape(-1, 2).mean(axis=1) for hit in hits], axis=0)
    corrected = [_corrected(flip, k, rates) for k, flip in enumerate(flips)]
    known = [value for value in corrected if value is not None]
    others = ~np.eye(len(names), dtype=bool)
    table: dict[str, Any] = {
        "accuracy": mean_interval(by_seed).to_json(),
        "corrected_accuracy": float(np.mean(known)) if known else None,
        "prior_accuracy": _asked(answers[PRIOR], rates),
        "unseen_accuracy": _asked(answers[UNSEEN], rates) if UNSEEN in answers else None,
        "null_identical": null_identical,
    }
    if len(names) > 1:
        table |= asdict(leakage_figures(effects, natural)) | {
            "leakage_of_chance": leakage_noise(pairs),
            "significant_leaks": len(significant_leaks(pairs, level=LEVEL)),
        }
    kept = None if same_person is None else [_identity(flip, same_person) for flip in flips]
    if kept is not None:
        table |= {key: float(np.mean([one[key] for one in kept])) for key in ("same_person", "other_people_cosine")}
        table["identity_cosine"] = mean_interval(np.mean([one["cosines"] for one in kept], axis=0)).to_json()
    table["attributes"] = {
        name: {
            "accuracy": wilson_interval(int(hits[k].sum()), len(hits[k])).to_json(),
            "corrected_accuracy": corrected[k],
            "effect": effect_interval(pairs[k], k).to_json(),
            "leakage": float(np.abs(effects[k])[others[k]].mean()) if len(names) > 1 else None,
            "identity_cosine": None if kept is None else kept[k]["cosine"].to_json(),
            "same_person": None if kept is None else kept[k]["same_person"],
        }
        for k, name in enumerate(names)
    }
    return table


def guidance_point(
    answers: Mapping[str, Judged],
    names: Sequence[str],
    *,
    rates: JudgeRates,
    natural: np.ndarray,
    same_person: float | None,
    num_pairs: int,
) -> dict[str, float | None]:
    """Return accuracy, effect, leakage and identity at one guidance scale, over the first num_pairs of each flip set."""
    flips = [_first(answers[f"{FLIP}{name}"], 2 * num_pairs) for name in names]
    hits = [answered(flip.probabilities >= rates.thresholds, flip.states)[:, k].mean() for k, flip in enumerate(flips)]
    found = leakage_figures(intervention_matrix(flips), natural) if len(names) > 1 else None
    kept = None if same_person is None else [_identity(flip, same_person) for flip in flips]
    return {
        "accuracy": float(np.mean(hits)),
        "effect": found.effect if found else None,
        "leakage": found.leakage if found else None,
        "identity_cosine": None if kept is None else float(np.mean([one["cosine"].value for one in kept])),
        "same_person": None if kept is None else float(np.mean([one["same_person"] for one in kept])),
    }


def judge_rates(accuracy: Mapping[str, Any], names: Sequence[str]) -> JudgeRates:
    """Return the rates that a judge's accuracy.json states."""
    rows = [accuracy["attributes"][name] for name in names]

    def rate(row: Mapping[str, Any], key: str) -> float | None:
        value = row[key]
        return value["value"] if isinstance(value, Mapping) else value

    return JudgeRates(
        np.array([row["threshold"] for row in rows]),
        [rate(row, "sensitivity") for row in rows],
        [rate(row, "specificity") for row in rows],
    )


def share_identical(images: np.ndarray) -> float:
    """Return the share of the null set's pictures, uint8 (2 N, H, W, 3), whose repetition has the very same pixels."""
    first, again = np.split(images, 2)
    return float((first == again).all(axis=(1, 2, 3)).mean())


def _asked(judged: Judged, rates: JudgeRates) -> dict[str, Any] | None:
    """Return the share of all requested states that are found, picture by picture; None where nothing is asked."""
    found = answered(judged.probabilities >= rates.thresholds, judged.states)
    found = found[~np.isnan(found).all(axis=1)]
    return mean_interval(np.nanmean(found, axis=1)).to_json() if len(found) > 1 else None


def _corrected(flip: Judged, k: int, rates: JudgeRates) -> float | None:
    """Return the accuracy that a judge without error would have found: the mean over present and absent requests."""
    sensitivity, specificity = rates.sensitivity[k], rates.specificity[k]
    if sensitivity is None or specificity is None:
        return None
    said = (
        (flip.probabilities[:, k] >= rates.thresholds[k]).reshape(-1, 2).mean(axis=0)
    )  # of absent, of present requests
    absent, present = (corrected_share(float(s), sensitivity, specificity) for s in said)
    return None if absent is None or present is None else (1 - absent + present) / 2


def _identity(flip: Judged, same_person: float) -> dict[str, Any]:
    assert flip.embeddings is not None
    before, after = flip.embeddings[0::2], flip.embeddings[1::2]
    found = preserved(before, after, threshold=same_person)
    return {
        "cosine": found.cosine,
        "cosines": (before.astype(np.float64) * after).sum(axis=1),
        "same_person": found.share_same,
        "other_people_cosine": found.different,
    }


def _first(judged: Judged, num: int) -> Judged:
    embeddings = None if judged.embeddings is None else judged.embeddings[:num]
    return Judged(judged.states[:num], judged.probabilities[:num], embeddings)
