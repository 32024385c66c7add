"""Figures of edits and of upscaling as eval/metrics.json has them, from values that are made up."""

from __future__ import annotations

from typing import Any

import numpy as np

from facegen.measured_edits import FIGURES, MeasuredEdits
from facegen.score_edits import edit_figures

METHODS = {"blend": 0.4, "zoom": 0.9, "invert": 0.6}  # and their success
ATTRIBUTES = ("Male", "No_Beard", "Smiling")


def made_measured(*, swept: bool = False, identity: bool = True) -> MeasuredEdits:
    """Every method on the same photographs; swept: two of them with masks of three sizes."""
    rng, rows = np.random.default_rng(3), []
    for method, rate in METHODS.items():
        if swept and method == "invert":
            continue
        for photo in range(30):
            for share in (0.015, 0.075, 0.4) if swept else (0.04 + 0.01 * (photo % 3),):
                rows.append((photo, method, ATTRIBUTES[photo % 3], photo // 3 % 2, share, rate))
    photo, method, attribute, state, area, rate = (np.array(column) for column in zip(*rows, strict=True))
    num = len(rows)
    values = {name: np.full(num, 0.5) for name in FIGURES} | {
        "success": (rng.random(num) < rate).astype(float), "judge_accuracy": (photo % 10 > 0).astype(float),
        "other_change": 0.05 * rate + rng.uniform(0, 0.02, num), "outside_identical": np.ones(num),
        "outside_psnr_db": np.full(num, 89.03), "evaluations": np.full(num, 50.0),
        "identity_cosine": rng.uniform(0.7, 0.9, num) if identity else np.full(num, np.nan),
        "same_person": np.ones(num) if identity else np.full(num, np.nan),
    }  # fmt: skip
    for name in ("outside_psnr_db", "outside_psnr_db_raw", "outside_identical", "seam"):
        values[name] = np.where(method == "invert", np.nan, values[name])
    region = np.where(method == "invert", "", "mouth").astype(object)
    if swept:
        region = np.array([f"mouth at {share:.1%}" for share in area], dtype=object)
    return MeasuredEdits(photo, photo // 2, method, attribute, region, state, area, values)


def made_edit_figures(*, identity: bool = True) -> dict[str, Any]:
    """`edit` of eval/metrics.json; zoom is the default method."""
    found, swept = made_measured(identity=identity), made_measured(swept=True, identity=identity)
    figures = edit_figures(found, swept, default="zoom", generator=np.random.default_rng(0))
    references = {
        "round_trip_cosine": {"value": 0.951, "low": 0.94, "high": 0.96, "n": 30},
        "same_person_cosine": {"value": 0.722, "low": 0.7, "high": 0.74, "n": 3000},
        "other_people_cosine": {"value": 0.012, "low": 0.0, "high": 0.02, "n": 3000},
    }
    return figures | {"identity": references if identity else None}


def made_upscale_figures(*, assumption: str | None = None) -> dict[str, Any]:
    """`upscale` of eval/metrics.json."""

    def figure(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 24}

    ours = {"psnr_db": 27.31, "ssim": 0.81, "perceptual": 0.21, "identity_cosine": 0.93, "consistency_db": 41.7}
    table = {
        **{name: figure(value) for name, value in ours.items()},
        **{f"lanczos_{name}": figure(value / 1.1) for name, value in ours.items()},
        "difference": {name: figure(value / 11) for name, value in ours.items()},
    }
    about = {"truth_resolution": 256, "scale": 4, "images": 24, "assumption": assumption}
    return table | {"clean": table} | about
