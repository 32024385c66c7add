"""The report's sections on pictures of given people: by text, the identity encoder, and by the LatentDiT."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from facegen.charts import figure_svg, read_csv
from facegen.report_identities import VERIFICATION_ROWS
from facegen.report_tables import cell, digits
from facegen.score_personalize_charts import DIT_NAMES, ENCODERS, ONE_PERSON, PERSONS, TWO_PEOPLE
from facegen.score_personalize_plots import CHARTS, feature_name, features

TEMPLATE = "templates/report_personalize.html"
NOT_MEASURED = {"absent": "this run did not measure it"}
UNKNOWN_ENCODER: dict[str, dict[str, Any]] = {"probes": NOT_MEASURED, "verification": {"msid": NOT_MEASURED}}
GIVEN_GRIDS = {
    "personalize/one": "One person, told by one photograph",
    "personalize/two": "Two people in one picture",
    "personalize/alphas": "Two people, told in the last steps: more and more of them",
}
DIT_GRIDS = {
    "personalize-dit/people": "Told to the LatentDiT by one photograph, at rising scales",
    "personalize-dit/pairs": "Two people, each with a part of one face",
}
"""Pictures in eval/ without their ending, and what they are called."""
ALL_METHODS = {**ONE_PERSON, **TWO_PEOPLE}
ABOUT = (
    "alpha", "class_word", "scheduler", "num_steps", "guidance_scale", "people", "pairs", "pictures", "unusable_faces",
)  # fmt: skip
GIVEN_ROWS = {
    "identity": ("Identity", "mean cosine of a person's face to the reference; 0 where there is no face"),
    "min_identity": ("Minimum identity", "of the person in the picture who is least like the reference"),
    "prompt": ("Prompt", "share of the attributes asked for that judge b sees on the right face"),
    "harmonic": ("Harmonic mean", "of minimum identity and prompt; high only where both are"),
    "detection_rate": ("Faces found", "share of the people for whom there is a face"),
    "clip": ("CLIP", "cosine of picture and prompt"),
    "dclip": ("dCLIP", "cosine of what changes in picture and in prompt, from the reference"),
    "harmonic_clip": ("Harmonic mean with CLIP", "of minimum identity and CLIP"),
}
DIFFERENCES = ("identity", "min_identity", "prompt", "harmonic", "detection_rate")
ONE_IN_WORDS = {"identity": "identity", "prompt": "prompt"}
TWO_IN_WORDS = {"min_identity": "minimum identity", "prompt": "prompt"}
DETECTOR_ROWS = {
    "recall": ("Recall", "share of the faces that are found"),
    "precision": ("Precision", "share of what is found that is a face"),
    "landmark_error": ("Landmark error", "mean distance, as a share of the distance of the eyes"),
}
DETECTOR_SETS = {"test": "test scenes", "test_soft": "the same, softened"}
PROBE_COLUMNS = {
    "identity_auc": "identity, AUC", "yaw_r2": "yaw, R²", "pitch_r2": "pitch, R²", "smiling_auc": "smiling, AUC",
}  # fmt: skip
FEATURES = {"joined": "all of them joined", "output": "what it puts out"}
VERIFIED = {"msid": "identity encoder", "condition": "conditioning recogniser", "judge": "judging recogniser"}
DIT_ROWS = {
    "identity": ("Identity", "cosine to the photograph that told the person"),
    "identity_others": ("Identity, other photographs", "cosine to the mean of the person's others, which were not shown"),
    "attributes": ("Attributes", "share of those asked for that judge b sees"),
    "inside": ("Change inside the head", "of the pixels, beside the picture without identity from the same seed"),
    "outside": ("Change outside the head", "the same; what class guidance keeps"),
}  # fmt: skip
DIT_TOLD_IN_WORDS = {"identity": "identity", "attributes": "attributes", "outside": "change outside the head"}
PERSONALIZE_TABLES = re.compile(r"personalize\.(difference|about|dit\.about)|msid\.probes")
"""Parts of eval/metrics.json that their section shows, and the list of all figures leaves out."""
PERSONALIZE_HEADLINES = (
    "personalize.single.identity",
    "personalize.mf2d.min_identity",
    "personalize.mf2d.harmonic",
)
PERSONALIZE_READINGS: dict[str, tuple[str, str]] = {
    "personalize.single.identity": (
        "A given person, identity",
        "Cosine of a face drawn from a prompt to the one photograph that told it; read it beside personalize.class_word"
        " and personalize.real.",
    ),
    "personalize.mf2d.min_identity": (
        "Two given people, minimum identity",
        "Cosine of the person in the picture who is least like the reference; read it beside personalize.class_word_two.",
    ),
    "personalize.mf2d.harmonic": (
        "Two given people, identity and prompt",
        "Harmonic mean of minimum identity and the share of what was asked for that is seen; high only where both are.",
    ),
}
"""Dotted name -> (label, one sentence on how to read it), as in `facegen.report_text`."""


def personalize_section(metrics: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what the template shows of given people: by text, the encoder, the LatentDiT, and the charts.

    Args:
        metrics: eval/metrics.json; what it does not have (`personalize`, `detector`, `msid`) was not measured.
        folder: eval/, with the charts' tables in plots/.
    """
    found, msid = metrics.get("personalize", NOT_MEASURED), metrics.get("msid", UNKNOWN_ENCODER)
    return {
        "text": given_section(found),
        "detector": detector_section(metrics.get("detector", NOT_MEASURED)),
        "encoder": encoder_section(msid["probes"]),
        "verified": verified_section(msid["verification"] | {"judge": metrics.get("recognizer", NOT_MEASURED)}),
        "dit": dit_section(found.get("dit", NOT_MEASURED)),
        "charts": personalize_charts(folder / "plots"),
    }


def given_section(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is shown of pictures by text, from `personalize`."""
    if "absent" in found:
        return {"absent": found["absent"]}
    real = found["real"]
    photographs = {
        "the same people": {"identity": real["same"], "detection_rate": real["detection_rate"]},
        "strangers": {"identity": real["strangers"]},
    }
    scenes = {} if real["scenes"] is None else {"scenes": real["scenes"]}
    one = {key: name for key, name in GIVEN_ROWS.items() if key != "min_identity"}  # which is identity
    about = found["about"]
    return {
        "tables": [
            figure_table("One person", ONE_PERSON, found, one, photographs),
            figure_table("Two people", TWO_PEOPLE, found, GIVEN_ROWS, scenes),
        ],
        "differences": [
            difference_row(
                f"{ALL_METHODS[name]} over {ALL_METHODS[other]}",
                told,
                DIFFERENCES,
                ONE_IN_WORDS if name in ONE_PERSON else TWO_IN_WORDS,
            )
            for name in ALL_METHODS
            for other in ALL_METHODS
            if (told := found["difference"].get(name, {}).get(other)) is not None
        ],
        "difference_columns": [(GIVEN_ROWS[key][0].lower(), "") for key in DIFFERENCES],
        "prompts": [prompt_table("One person", ONE_PERSON, found), prompt_table("Two people", TWO_PEOPLE, found)],
        "base": "the small Stable Diffusion of this run" if about["base"] is None else about["base"],
        "clip": about["clip"],
        **{key: about[key] for key in ABOUT},
    }


def figure_table(
    title: str, methods: Mapping[str, str], found: Mapping[str, Any], rows: Mapping[str, tuple[str, str]],
    photographs: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """Return a column for each method that was measured and for photographs, and the rows that somebody has."""
    measured = {name: found[key] for key, name in methods.items() if key in found}
    columns = [(name, f"{figures['pictures']:,} pictures") for name, figures in measured.items()]
    columns += [(name, "photographs" if name != "scenes" else "of the data") for name in photographs]
    return {"title": title, "columns": columns, "rows": figure_rows([*measured.values(), *photographs.values()], rows)}


def figure_rows(columns: Iterable[Mapping[str, Any]], rows: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Return a row for each figure that somebody has, with a cell (value, interval) for each column."""
    sets = list(columns)
    found = [
        {"label": label, "reading": reading, "cells": [cell(column.get(key)) for column in sets]}
        for key, (label, reading) in rows.items()
    ]
    return [row for row in found if any(value for value, _ in row["cells"])]


def difference_row(
    label: str, told: Mapping[str, Any], columns: Iterable[str], words: Mapping[str, str]
) -> dict[str, Any]:
    """Return one row of what a method has more than another, with the figures of `words` in words."""
    said = [difference_words(name, told[key]) for key, name in words.items() if told.get(key) is not None]
    return {
        "label": label,
        "reading": "; ".join(said),
        "cells": [cell(told.get(key)) for key in columns],
    }


def difference_words(name: str, figure: Mapping[str, float]) -> str:
    """Return whether a paired difference is clear: its interval does not hold 0."""
    if figure["low"] > 0:
        return f"{name} above by {digits(figure['value'])}"
    if figure["high"] < 0:
        return f"{name} below by {digits(-figure['value'])}"
    return f"{name}: no clear difference"


def prompt_table(title: str, methods: Mapping[str, str], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row a prompt, with minimum identity and prompt, means over pictures, of each method."""
    known = [key for key in methods if key in found]
    rows = []
    for row in found["prompts"]:
        told = [row["methods"].get(key) for key in known]
        if any(told):
            rows.append({"label": row["prompt"], "reading": "", "cells": [prompt_cell(figures) for figures in told]})
    return {"title": title, "columns": [(methods[key], "") for key in known], "rows": rows}


def prompt_cell(told: Mapping[str, float | None] | None) -> tuple[str, str]:
    """Return minimum identity, and the prompt's share where something is asked for."""
    if told is None or told["min_identity"] is None:
        return "", ""
    return digits(told["min_identity"]), "" if told["prompt"] is None else f"prompt {digits(told['prompt'])}"


def detector_section(detector: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the network that finds the faces is worth on scenes."""
    if "absent" in detector or "absent" in detector["test"]:
        return {"absent": (detector if "absent" in detector else detector["test"])["absent"]}
    sets = [detector[key] for key in DETECTOR_SETS]
    return {
        "columns": [
            (name, f"{found['pictures']:,} pictures") for name, found in zip(DETECTOR_SETS.values(), sets, strict=True)
        ],
        "rows": figure_rows(sets, DETECTOR_ROWS),
        "source": detector["source"],
    }


def encoder_section(probes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what linear probes read out of each depth of the identity encoder, from `msid.probes`."""
    if "absent" in probes:
        return {"absent": probes["absent"]}
    encoders = {key: probes[key] for key in ENCODERS if probes[key] is not None}
    told = [figures for encoder in encoders.values() for figures in encoder.values()]
    columns = [key for key in PROBE_COLUMNS if any(figures.get(key) is not None for figures in told)]
    return {
        "encoders": [ENCODERS[key] for key in encoders],
        "columns": [PROBE_COLUMNS[key] for key in columns],
        "rows": [
            {
                "label": FEATURES.get(name, f"class token of {feature_name(name)}"),
                "reading": "",
                "cells": [cell(encoder[name].get(key)) for encoder in encoders.values() for key in columns],
            }
            for name in features(probes)
        ],
        "people": probes["people"],
        "pictures": probes["pictures"],
    }


def verified_section(verification: Mapping[str, Any]) -> dict[str, Any]:
    """Return the verification of the identity encoder beside that of the recognisers; absent where it has none."""
    own = verification["msid"]
    if "absent" in own:
        return {"absent": own["absent"]}
    found = {
        name: told for key, name in VERIFIED.items() if "absent" not in (told := verification.get(key, NOT_MEASURED))
    }
    return {
        "columns": [(name, "") for name in found],
        "rows": figure_rows(found.values(), VERIFICATION_ROWS),
        "people": own["people"],
    }


def dit_section(dit: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is shown of people told to the LatentDiT, from `personalize.dit`."""
    if "absent" in dit:
        return {"absent": dit["absent"]}
    points = [(DIT_NAMES["none"], "", dit["none"])]
    for method, name in DIT_NAMES.items():
        if method != "none":
            points += [(name, f"scale {point['scale']:g}", point) for point in dit.get(method, [])]
    return {
        "columns": [(name, note) for name, note, _ in points],
        "rows": figure_rows([point for _, _, point in points], DIT_ROWS),
        "differences": [
            difference_row(
                f"{DIT_NAMES[told['method']]} over {DIT_NAMES[told['baseline']]}", told, DIT_ROWS, DIT_TOLD_IN_WORDS
            )
            for told in dit["difference"]
        ],
        "difference_columns": [(label.lower(), "") for label, _ in DIT_ROWS.values()],
        "shares": [(f"{point['share']:g}", "") for points in list(dit["pairs"].values())[:1] for point in points],
        "pairs": [
            {
                "label": f"{DIT_NAMES[method]}, {person} person",
                "reading": "",
                "cells": [cell(point[person]) for point in points],
            }
            for method in DIT_NAMES
            if (points := dit["pairs"].get(method)) is not None
            for person in PERSONS
        ],
        "real": {key: cell(dit["real"][key]) for key in ("identity_others", "strangers")},
        "about": dit["about"],
    }


def personalize_charts(plots: Path) -> dict[str, Markup]:
    """Return the charts that eval/plots has tables for, as SVG, by name."""
    return {
        name: Markup(figure_svg(chart(read_csv(plots / f"{name}.csv")), name=name))
        for name, chart in CHARTS.items()
        if (plots / f"{name}.csv").is_file()
    }
