"""The report's section on synthetic people: the ways to draw them side by side, how near they come to real ones, and
what a recogniser learns from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from facegen.charts import figure_svg, read_csv
from facegen.report_tables import cell, digits
from facegen.score_identity_charts import (
    DATASET,
    METHOD_NAMES,
    REAL,
    SETTINGS,
    TRAINED,
    leakage_chart,
    switch_chart,
    trade_chart,
    verification_chart,
)
from facegen.score_identity_plots import (
    LEAKAGE,
    OWN_PAIRS,
    SWITCH,
    TRADE,
    VERIFICATION,
    sweep_setting,
    switch_marks,
)

TEMPLATE = "templates/report_people.html"
COLUMNS = METHOD_NAMES | {DATASET: "the data set", REAL: "real people"}
PEOPLE_ROWS = {
    "consistency": ("Consistency", "mean cosine of a picture to its person's centre; higher: more the same person"),
    "consistency_left_out": ("the same, picture left out", "to the centre of the person's other pictures"),
    "diversity": ("Diversity", "mean perceptual distance of two pictures of one person; higher: less the same picture"),
    "separation": ("Nearest other person", "cosine of the centres, mean over people; lower: further apart"),
    "eer": ("Equal error rate", "of telling one person's pairs from two people's; lower: easier to tell apart"),
    "fnmr_at_fmr_1e-3": ("Misses at 0.1 % false matches", "share of one person's pairs that are refused there"),
    "condition_cosine": (
        "Cosine to what was asked for",
        "by the conditioning recogniser; real: to the mean of the person's other pictures",
    ),
    "recall": ("Recall", "share of real test pictures within the pictures' reach, judge b's features"),
    "precision": ("Precision", "share of pictures within the real ones' reach"),
    "pose_spread": ("Spread of pose", "within a person, standard deviation of the yaw and pitch proxies together"),
    "brightness_spread": ("Spread of brightness", "within a person, standard deviation of the mean luminance, 0 to 1"),
    "brightness_entropy": ("Entropy of brightness", "within a person, bits of 16 bins"),
}
SWEEP_COLUMNS = {
    "consistency": "consistency",
    "diversity": "diversity",
    "separation": "nearest other person",
    "recall": "recall",
    "evaluations": "evaluations",
}
STRANGERS = {
    "synthetic": "synthetic people of the data set",
    "real": "real strangers: test people",
    "copies": "training people on other pictures: what a copy would show",
}
STRANGER_COLUMNS = ("0.5", "0.95", "0.99", "1")  # quantiles that are written
VERIFICATION_ROWS = {
    "accuracy": ("Accuracy", "each fold by the threshold of the others; 0.5 is chance"),
    "auc": ("AUC", "area under the curve of accepted against falsely accepted pairs"),
    "equal_error_rate": ("Equal error rate", "lower is better"),
    "tar_at_far_1e-2": ("Accepted at 1 % false accepts", "share of one person's pairs"),
    "tar_at_far_1e-3": ("Accepted at 0.1 % false accepts", "share of one person's pairs"),
}
PEOPLE_TABLES = re.compile(
    r"identities\.(calibration|switch_histogram|about|crowd|screening)"
    r"|identities\.(\w+\.(switch|separation_quantiles)|leakage\.\w+\.quantiles)"
)
"""Parts of eval/metrics.json that their section shows, and the list of all figures leaves out."""
PEOPLE_HEADLINES = (
    "identities.adaptive_injection.consistency",
    "identities.adaptive_injection.diversity",
    "verification.above_chance_ratio",
)
PEOPLE_READINGS: dict[str, tuple[str, str]] = {
    "identities.adaptive_injection.consistency": (
        "Synthetic people, consistency",
        "Mean cosine of a picture to its person's centre by the judging recogniser; read it beside identities.real.",
    ),
    "identities.adaptive_injection.diversity": (
        "Synthetic people, diversity",
        "Mean perceptual distance of two pictures of one person in judge b's maps; read it beside identities.real.",
    ),
    "verification.above_chance_ratio": (
        "Recogniser from synthetic people",
        "Its verification accuracy above chance over that of the same network from as many real pictures; 1 is equal.",
    ),
}
"""Dotted name -> (label, one sentence on how to read it), as in `facegen.report_text`."""


def people_section(identities: Mapping[str, Any], verification: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what the template shows of synthetic people.

    Args:
        identities: that part of eval/metrics.json.
        verification: the content of eval/verification.json.
        folder: eval/, with the charts' tables in plots/.
    """
    section = {
        "verification": verification_section(verification),
        "charts": people_charts(folder / "plots", identities),
    }
    if "absent" in identities:
        return section | {"absent": identities["absent"]}
    sets = {name: identities[name] for name in COLUMNS if identities.get(name) is not None}
    dataset, calibration = identities.get(DATASET) or {}, identities["calibration"] or {}
    return section | {
        "sets": [{"name": COLUMNS[name], "key": name, "people": found["people"]} for name, found in sets.items()],
        "default": identities["about"]["method"],
        "default_name": METHOD_NAMES.get(identities["about"]["method"], identities["about"]["method"]),
        "images_per_person": identities["about"]["images_per_person"],
        "rows": people_rows(sets),
        "sweep": [sweep_row(found) for found in identities["sweep"]],
        "sweep_columns": list(SWEEP_COLUMNS.values()),
        "difference": difference(identities["difference"]),
        "equal": equal_diversity(identities["equal_diversity"]),
        "leakage": leakage_section(identities["leakage"]),
        "crowd": crowd_section(identities["crowd"]),
        "screening": screening_section(identities["screening"]),
        "histogram": identities["switch_histogram"],
        "calibration": {key: calibration.get(key) for key in ("criterion", "threshold", "target", "num_runs")},
        "pose": identities["pose_regression"],
        "total": {key: dataset.get(f"total_{key}") for key in ("people", "pictures")},
    }


def people_rows(sets: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each figure that somebody has, with a cell (value, interval) for each set of people."""
    rows = [
        {"label": label, "reading": reading, "cells": [cell(found.get(key)) for found in sets.values()]}
        for key, (label, reading) in PEOPLE_ROWS.items()
    ]
    rows.append({
        "label": "Goes over to the identity at t", "reading": "median, and the middle 90 % of the pictures",
        "cells": [switch_cell(found.get("switch")) for found in sets.values()],
    })  # fmt: skip
    evaluations = [found.get("evaluations") for found in sets.values()]
    rows.append({
        "label": "Network evaluations", "reading": "a picture, mean",
        "cells": [("" if number is None else f"{number:.1f}", "") for number in evaluations],
    })  # fmt: skip
    return [row for row in rows if any(value for value, _ in row["cells"])]


def switch_cell(switch: Mapping[str, float] | None) -> tuple[str, str]:
    """Return the median of the times of the switch, and their middle 90 %, from late to early."""
    if switch is None:
        return "", ""
    return digits(switch["0.5"]), f"{digits(switch['0.05'])} to {digits(switch['0.95'])}"


def sweep_row(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return one row of the sweeps: its name in words and cells of SWEEP_COLUMNS."""
    method, setting = sweep_setting(found["method"])
    name = METHOD_NAMES.get(method, method)
    words = f"{name}, {SETTINGS.get(method, '')} = {setting:g}" if setting is not None else name
    return {"name": words, "cells": [cell(found.get(key)) for key in SWEEP_COLUMNS]}


def difference(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the paired differences of two methods with the methods' names; None where there is none."""
    if found is None or found["consistency"] is None or found["diversity"] is None:
        return None
    names = {key: METHOD_NAMES.get(found[key], found[key]) for key in ("method", "baseline")}
    return names | {key: cell(found[key]) for key in ("consistency", "diversity")}


def equal_diversity(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return how a method compares with plain guidance of as much diversity; None where no scale of it is near."""
    if found is None or found["consistency"] is None:
        return None
    names = {key: METHOD_NAMES.get(found[key], found[key]) for key in ("method", "baseline")}
    eer = None if found["eer"] is None else f"{found['eer']:+.3f}"
    return names | {"consistency": cell(found["consistency"]), "eer": eer}


def leakage_section(leakage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return how near people come to the training set: a row for synthetic people and one for real strangers."""
    if leakage is None:
        return None
    rows = [
        {
            "label": label,
            "people": leakage[key]["people"],
            "cells": [cell(leakage[key]["quantiles"].get(quantile)) for quantile in STRANGER_COLUMNS]
            + [cell(leakage[key]["above"])],
        }
        for key, label in STRANGERS.items()
        if leakage.get(key) is not None
    ]
    return {
        "rows": rows,
        "threshold": digits(leakage["threshold"]),
        "from_val": leakage["threshold_from"] == "val",
        "power": cell(leakage["copies"]["above"]) if leakage.get("copies") is not None else None,
        "percent": f"{100 * leakage['quantile']:g}",
        **{key: leakage[key] for key in ("pictures_per_centre", "training_people", "threshold_people")},
    }


def screening_section(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return whom the conditioning recogniser sorted out, and how near to a training person one who was kept comes."""
    if found is None:
        return None
    thresholds, nearest = found["thresholds"], found["nearest_training"]
    known = {name: thresholds[name] for name in ("training", "each_other")}
    return {
        "candidates": sum(found["counts"].values()),
        **{name: found["counts"][name] for name in ("kept", "training", "twin")},
        "limits": {name: None if value is None else digits(value) for name, value in known.items()},
        "nearest": None if nearest is None else digits(nearest["1"]),
        "above": found["above"],
    }


def crowd_section(crowd: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return how near people come to each other in crowds of one size; None where that is not known."""
    if crowd is None:
        return None
    cells = {name: [digits(crowd[name][share]) for share in ("0.5", "0.95", "1")] for name in ("synthetic", "real")}
    return {"people": crowd["people"], **cells}


def verification_section(verification: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template shows of the recognisers: a row a figure on test people, one a benchmark."""
    if "absent" in verification:
        return {"absent": verification["absent"]}
    trained = [name for name in TRAINED if "accuracy" in verification[name]]
    if not trained:
        return {"absent": next(verification[name]["absent"] for name in TRAINED)}
    rows = [
        {"label": label, "reading": reading, "cells": [cell(verification[name][key]) for name in trained]}
        for key, (label, reading) in VERIFICATION_ROWS.items()
    ]
    benchmarks = [
        {"label": pairs, "cells": [cell(found[name]["accuracy"]) for name in trained]}
        for pairs, found in verification["benchmarks"].items()
    ]
    return {
        "trained": [TRAINED[name] for name in trained],
        "pairs": OWN_PAIRS,
        "rows": [row for row in rows if any(value for value, _ in row["cells"])],
        "benchmarks": benchmarks,
        "ratio": cell(verification["above_chance_ratio"]),
        "trained_on": {name: verification[name]["trained_on"] for name in ("synthetic", "real")},
    }


def people_charts(plots: Path, identities: Mapping[str, Any]) -> dict[str, Markup]:
    """Return the charts that eval/plots has tables for, as SVG, by name."""
    drawn = {}
    if (plots / f"{TRADE}.csv").is_file():
        drawn[TRADE] = trade_chart(read_csv(plots / f"{TRADE}.csv"))
    if (plots / f"{SWITCH}.csv").is_file():
        drawn[SWITCH] = switch_chart(read_csv(plots / f"{SWITCH}.csv"), marks=switch_marks(identities))
    if (plots / f"{LEAKAGE}.csv").is_file():
        threshold = identities["leakage"]["threshold"]
        drawn[LEAKAGE] = leakage_chart(read_csv(plots / f"{LEAKAGE}.csv"), threshold=threshold)
    if (plots / f"{VERIFICATION}.csv").is_file():
        drawn[VERIFICATION] = verification_chart(read_csv(plots / f"{VERIFICATION}.csv"))
    return {name: Markup(figure_svg(figure, name=name)) for name, figure in drawn.items()}
