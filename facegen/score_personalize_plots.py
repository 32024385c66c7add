"""The tables and pictures of eval/plots that pictures of given people give: CSV for the report, PNG to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facegen.artifacts import atomic_write_bytes
from facegen.charts import figure_png, read_csv, write_csv
from facegen.score_edit_plots import ENDS, ends
from facegen.score_personalize_charts import (
    CURVES,
    DIT_CURVES,
    DIT_NAMES,
    ENCODERS,
    ONE_PERSON,
    PERSONS,
    SCENES,
    TARGETS,
    TWO_PEOPLE,
    alpha_chart,
    dit_pair_chart,
    dit_scale_chart,
    probe_chart,
    trade_chart,
)

TRADE, ALPHA, PROBES = "personalize_trade", "personalize_alpha", "msid_probes"
DIT_SCALES, DIT_PAIRS = "personalize_dit_scales", "personalize_dit_pairs"
COLUMNS = {
    TRADE: ("method", "prompt", "prompt_low", "prompt_high", *ENDS),
    ALPHA: ("alpha", "figure", *ENDS),
    PROBES: ("encoder", "feature", "target", *ENDS),
    DIT_SCALES: ("method", "scale", "figure", *ENDS),
    DIT_PAIRS: ("method", "share", "person", *ENDS),
}
CHARTS = {
    TRADE: trade_chart, ALPHA: alpha_chart, PROBES: probe_chart, DIT_SCALES: dit_scale_chart, DIT_PAIRS: dit_pair_chart,
}  # fmt: skip
JOINED = ("joined", "output")  # features beside those of the depths
Rows = list[tuple[Any, ...]]


def write_personalize_plots(folder: Path, figures: Mapping[str, Any], probes: Mapping[str, Any]) -> None:
    """Write what there is of five tables with their charts.

    Args:
        folder: eval/plots.
        figures: `personalize` of eval/metrics.json, with its part `dit`.
        probes: `msid.probes` of eval/metrics.json, the content of eval/msid.json.
    """
    tables: dict[str, Rows] = {}
    if "absent" not in figures:
        tables |= {TRADE: trade_rows(figures), ALPHA: alpha_rows(figures["alpha"])}
    if "absent" not in probes:
        tables[PROBES] = probe_rows(probes)
    if "absent" not in figures["dit"]:
        tables |= {DIT_SCALES: dit_scale_rows(figures["dit"]), DIT_PAIRS: dit_pair_rows(figures["dit"]["pairs"])}
    for name, rows in tables.items():
        if rows:
            write_csv(folder / f"{name}.csv", COLUMNS[name], rows)
            atomic_write_bytes(folder / f"{name}.png", figure_png(CHARTS[name](read_csv(folder / f"{name}.csv"))))


def trade_rows(figures: Mapping[str, Any]) -> Rows:
    """Return a row for each method of which both figures are known, and for real scenes."""
    found = {name: figures[name] for name in (*ONE_PERSON, *TWO_PEOPLE) if name in figures}
    if figures["real"]["scenes"] is not None:
        found[SCENES] = figures["real"]["scenes"]
    return [
        (name, *ends(row["prompt"]), *ends(row["min_identity"]))
        for name, row in found.items()
        if row["prompt"] is not None and row["min_identity"] is not None
    ]


def alpha_rows(curve: list[Mapping[str, Any]]) -> Rows:
    """Return a row for each alpha and figure; none where there is one alpha alone."""
    return [
        (point["alpha"], name, *ends(point[name]))
        for point in curve
        for name in CURVES
        if len(curve) > 1 and point[name] is not None
    ]


def probe_rows(probes: Mapping[str, Any]) -> Rows:
    """Return a row for each encoder, feature and target; areas under the curve are put between 0 and 1: 2 AUC - 1."""
    rows: Rows = []
    for encoder in ENCODERS:
        for feature in features(probes) if probes[encoder] is not None else []:
            told = probes[encoder][feature]
            for target in TARGETS:
                told_by = {key: told.get(f"{target}_{key}") for key in ("r2", "auc")}
                if told_by["r2"] is not None:
                    rows.append((encoder, feature_name(feature), target, *ends(told_by["r2"])))
                elif (area := told_by["auc"]) is not None:
                    rows.append((encoder, feature_name(feature), target, *(2 * area[end] - 1 for end in ENDS)))
    return rows


def features(probes: Mapping[str, Any]) -> list[str]:
    """Return the names of the features, the depths rising."""
    return [*(f"depth_{depth}" for depth in sorted(probes["depths"])), *JOINED]


def feature_name(name: str) -> str:
    """Return "block 3" of "depth_3", other names as they are."""
    return name.replace("depth_", "block ")


def dit_scale_rows(dit: Mapping[str, Any]) -> Rows:
    """Return a row for each method, scale and figure; no identity stands at scale 0."""
    points = [("none", {"scale": 0.0, **dit["none"]})]
    points += [(method, point) for method in DIT_NAMES if method != "none" for point in dit.get(method, [])]
    return [
        (method, point["scale"], name, *ends(point[name]))
        for method, point in points
        for name in DIT_CURVES
        if point[name] is not None
    ]


def dit_pair_rows(pairs: Mapping[str, list[Mapping[str, Any]]]) -> Rows:
    """Return a row for each method, share of the first person, and person."""
    return [
        (method, point["share"], person, *ends(point[person]))
        for method in DIT_NAMES
        for point in pairs.get(method, [])
        for person in PERSONS
        if point[person] is not None
    ]
