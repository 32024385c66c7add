"""The tables of the report: generators side by side, attribute by attribute, and what the judges are worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GENERATORS = {
    "floor": "training images",
    "dit": "LatentDiT",
    "gan": "conditional DCGAN",
    "gan_unconditional": "DCGAN",
}
CONDITIONAL = {"dit": "LatentDiT", "gan": "conditional DCGAN"}
DISTANCES = {
    "frechet": ("Fréchet", "lower is better"),
    "fid": ("FID", "Inception; lower is better"),
    "frechet_random": ("Fréchet, random network", "lower is better"),
    "kernel": ("Kernel", "lower is better; 0 on average between equal sets"),
    "precision": ("Precision", "share of pictures within the real ones' reach"),
    "recall": ("Recall", "share of real ones within the pictures' reach"),
    "density": ("Density", "1 between equal sets"),
    "coverage": ("Coverage", "share of real ones with a picture nearby"),
    "memorised": ("As close to training as 1 % of test", "1 % if nothing is memorised"),
}
SUMMARY = {
    "accuracy": ("Requests answered", "share of requested states that judge b finds, half of them present"),
    "corrected_accuracy": (
        "the same, judge's errors taken out",
        "Rogan and Gladen's estimate from its rates on real pictures",
    ),
    "unseen_accuracy": (
        "Unseen combinations",
        "share of requested states found where no training picture has them all",
    ),
    "effect": ("Effect", "change of the judge's probability of the flipped attribute; 1 is complete"),
    "leakage": ("Leakage", "mean absolute change of every other attribute's probability"),
    "leakage_of_chance": ("Leakage of chance", "what this number of pairs would show if nothing leaked"),
    "excess_leakage": ("Excess leakage", "what leakage has over the data's own correlations"),
    "independent_leakage": ("Leakage to independent ones", "between attributes that the data do not tie"),
    "selectivity": ("Selectivity", "share of all change that is the flipped attribute's"),
    "null_identical": ("Null intervention", "share of repeated requests that gave the very same picture"),
    "identity_cosine": ("Identity cosine", "before and after one flip, same noise, by the judging recogniser"),
    "same_person": (
        "Still the same person",
        "share of flips above the recogniser's threshold at a false accept rate of 0.1 %",
    ),
    "other_people_cosine": ("Other people's cosine", "between pictures of different noise: no preservation at all"),
}


def comparison(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row a distance: its name, how to read it, and a cell (value, interval) for each set of GENERATORS."""
    rows = []
    for key, (label, reading) in DISTANCES.items():
        cells = [cell(metrics[name].get(key)) for name in GENERATORS]
        if any(value for value, _ in cells):
            rows.append({"label": label, "reading": reading, "cells": cells})
    return rows


def control_table(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary rows as in `comparison`, and one row an attribute, for each conditional generator."""
    found = {name: metrics["control"][name] for name in CONDITIONAL}
    rows = [
        {
            "label": label,
            "reading": reading,
            "cells": [cell(table[key]) if key in table else ("", "") for table in found.values()],
        }
        for key, (label, reading) in SUMMARY.items()
    ]
    attributes = [
        {
            "name": name.replace("_", " "),
            "cells": [
                cell(table["attributes"][name][key])
                for table in found.values()
                for key in ("accuracy", "effect", "leakage", "identity_cosine")
            ],
        }
        for name in found["dit"]["attributes"]
    ]
    shown = [row for row in rows if any(value for value, _ in row["cells"])]
    return {"generators": list(CONDITIONAL.values()), "rows": shown, "attributes": attributes}


def judge_table(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row an attribute of what judge b is worth on real test pictures."""
    keys = ("balanced_accuracy", "auroc", "calibration_error", "majority_accuracy")
    return [
        {"name": name.replace("_", " "), "cells": [cell(row[key]) for key in keys]}
        for name, row in metrics["judge"]["attributes"].items()
    ]


def cell(figure: Any) -> tuple[str, str]:
    """Return a figure as (value, interval), both empty where there is none."""
    if figure is None:
        return "", ""
    if not isinstance(figure, Mapping):
        return digits(figure), ""
    interval = f"{digits(figure['low'])} to {digits(figure['high'])}" if "low" in figure else ""
    return digits(figure["value"]), interval


def digits(value: float) -> str:
    """Return a figure with three significant digits, at most three after the point."""
    value = 0.0 if abs(value) < 5e-4 else value  # no -0.000
    return f"{value:.3f}" if abs(value) < 1 else f"{value:#.3g}".rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"
