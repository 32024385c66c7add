"""The report's sections on photographs: what the methods of editing are worth, and upscaling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from facegen.charts import figure_svg, read_csv
from facegen.report_tables import cell
from facegen.score_edit_charts import area_chart, success_chart, trade_chart
from facegen.score_edit_plots import identity_lines, method_names

TEMPLATE = "templates/report_photographs.html"
METHOD_ROWS = {
    "success": ("Success", "share of edits in which judge b sees what was asked, where it was not so before"),
    "judge_accuracy": (
        "Judge b on these photographs",
        "share in which it sees, before the edit, what the label says: what its word is worth",
    ),
    "other_change": (
        "Change of what was not asked for",
        "mean absolute change of judge b's probability of every other attribute; 0 is none",
    ),
    "identity_cosine": (
        "Identity cosine",
        "photograph and edit, by the judging recogniser; see floor and ceiling below",
    ),
    "same_person": (
        "Still the same person",
        "share of edits above the recogniser's threshold at a false accept rate of 0.1 %",
    ),
    "perceptual": ("Perceptual distance", "of photograph and edit in judge b's maps, whole picture; 0 is no change"),
    "outside_psnr_db": (
        "PSNR outside the mask, dB",
        "after compositing; untouched pixels count as one grey level in one channel of one pixel (89.0 dB at 64 px)",
    ),
    "outside_identical": ("Outside untouched", "share of edits whose every pixel outside the mask is the photograph's"),
    "outside_psnr_db_raw": ("PSNR outside before compositing, dB", "what the method itself keeps of the rest"),
    "seam": ("Seam", "gradient along the mask's border over the photograph's there; 1 is no seam"),
    "changed_share": ("Changed pixels", "share of the picture"),
}
REFERENCES = {
    "round_trip_cosine": ("Ceiling", "photograph and its own round trip through the autoencoder"),
    "same_person_cosine": ("Floor, same person", "two different test pictures of one person"),
    "other_people_cosine": ("Floor, other people", "two test pictures of different people"),
}
UPSCALE_ROWS = {
    "psnr_db": ("PSNR, dB", "to the truth; higher is better, and smoothness is rewarded"),
    "ssim": ("SSIM", "to the truth; 1 is identical"),
    "perceptual": ("Perceptual distance", "to the truth in judge b's maps; lower is better, smoothness costs"),
    "identity_cosine": ("Identity cosine", "with the truth, by the judging recogniser"),
    "consistency_db": ("Consistency, dB", "the result, reduced again, against its input; higher is more faithful"),
}
INPUTS = {"": "after the autoencoder", "clean": "clean"}  # tables of `upscale`


def edit_section(edit: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what the template shows of edits.

    Args:
        edit: that part of eval/metrics.json.
        folder: eval/, with the charts' tables in plots/.
    """
    if "absent" in edit:
        return {"absent": edit["absent"]}
    methods = {name: edit[name] for name in method_names(edit)}
    default = edit["default"]["method"] if "default" in edit else None
    rows = [
        {"label": label, "reading": reading, "cells": [cell(found[key]) for found in methods.values()]}
        for key, (label, reading) in METHOD_ROWS.items()
    ]
    evaluations = [(f"{found['evaluations']:,.0f}", "") for found in methods.values()]
    rows.append({"label": "Network evaluations", "reading": "a picture", "cells": evaluations})
    references = edit["identity"] or {}
    return {
        "methods": {name: (found["success"] or {"n": 0})["n"] for name, found in methods.items()},
        "default": default,
        "rows": [row for row in rows if any(value for value, _ in row["cells"])],
        "references": [
            {"label": label, "reading": reading, "cell": cell(references[key])}
            for key, (label, reading) in REFERENCES.items()
            if references.get(key) is not None
        ],
        "attributes": attribute_rows(methods[default]) if default is not None else [],
        "small": {key: cell(edit["small"][key]) for key in ("default", "blend", "difference")},
        "small_num": (edit["small"]["default"] or {"n": 0})["n"],
        "charts": edit_charts(folder / "plots", edit),
    }


def attribute_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row an attribute of one method."""
    keys = ("add", "remove", "judge_accuracy", "other_change", "identity_cosine", "seam")
    return [
        {"name": name.replace("_", " "), "cells": [cell(row[key]) for key in keys]}
        for name, row in found["attributes"].items()
    ]


def edit_charts(plots: Path, edit: Mapping[str, Any]) -> dict[str, Markup]:
    """Return the charts that eval/plots has tables for, as SVG, by name."""
    drawn, methods = {}, method_names(edit)
    if (plots / "edit_success.csv").is_file():
        drawn["edit_success"] = success_chart(read_csv(plots / "edit_success.csv"), methods)
    if (plots / "edit_areas.csv").is_file():
        drawn["edit_areas"] = area_chart(read_csv(plots / "edit_areas.csv"), methods)
    if (plots / "edit_identity.csv").is_file():
        drawn["edit_identity"] = trade_chart(
            read_csv(plots / "edit_identity.csv"), methods, references=identity_lines(edit)
        )
    return {name: Markup(figure_svg(figure, name=name)) for name, figure in drawn.items()}


def upscale_section(upscale: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template shows of upscaling, from that part of eval/metrics.json."""
    if "absent" in upscale:
        return {"absent": upscale["absent"]}
    tables = []
    for key, label in INPUTS.items():
        found = upscale[key] if key else upscale
        rows = [
            {
                "label": words[0],
                "reading": words[1],
                "cells": [cell(found[name]), cell(found[f"lanczos_{name}"]), cell(found["difference"][name])],
            }
            for name, words in UPSCALE_ROWS.items()
        ]
        tables.append({"label": label, "rows": [row for row in rows if row["cells"][0][0]]})
    return {
        "tables": tables,
        **{key: upscale[key] for key in ("truth_resolution", "scale", "images", "assumption")},
    }
