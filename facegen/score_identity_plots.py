"""The tables and pictures of eval/plots that synthetic people give: CSV for the report, PNG to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from facegen.artifacts import atomic_write_bytes
from facegen.charts import figure_png, read_csv, write_csv
from facegen.score_edit_plots import ends
from facegen.score_identity_charts import (
    METHOD_NAMES,
    PEOPLE_LOOK,
    REAL,
    TRAINED,
    leakage_chart,
    switch_chart,
    trade_chart,
    verification_chart,
)

TRADE, SWITCH, LEAKAGE = "people_trade", "people_switch", "people_leakage"
VERIFICATION = "people_verification"
TRADE_COLUMNS = ("method", "setting", "diversity", "diversity_low", "diversity_high", "value", "low", "high")
STRANGERS = dict(zip(PEOPLE_LOOK, ("synthetic", "real", "copies"), strict=True))  # of the chart: the key of `leakage`
MARKS = ("early", "target", "late")  # of the calibration, in the histogram
OWN_PAIRS = "test people"


def write_identity_plots(folder: Path, figures: Mapping[str, Any], verification: Mapping[str, Any]) -> None:
    """Write what there is of four tables with their charts.

    Args:
        folder: eval/plots.
        figures: `identities` of eval/metrics.json.
        verification: the content of eval/verification.json.
    """
    if "absent" not in figures:
        if rows := trade_rows(figures):
            write_csv(folder / f"{TRADE}.csv", TRADE_COLUMNS, rows)
            _save(folder / f"{TRADE}.png", trade_chart(read_csv(folder / f"{TRADE}.csv")))
        if (histogram := figures["switch_histogram"]) is not None and histogram["times"]:
            rows = list(zip(histogram["times"], histogram["shares"], strict=True))
            write_csv(folder / f"{SWITCH}.csv", ["time", "share"], rows)
            _save(
                folder / f"{SWITCH}.png", switch_chart(read_csv(folder / f"{SWITCH}.csv"), marks=switch_marks(figures))
            )
        if (leakage := figures["leakage"]) is not None:
            write_csv(folder / f"{LEAKAGE}.csv", ["people", "quantile", "cosine"], leakage_rows(leakage))
            chart = leakage_chart(read_csv(folder / f"{LEAKAGE}.csv"), threshold=leakage["threshold"])
            _save(folder / f"{LEAKAGE}.png", chart)
    if "absent" not in verification and (rows := verification_rows(verification)):
        write_csv(folder / f"{VERIFICATION}.csv", ["pairs", "recognizer", "value", "low", "high"], rows)
        _save(folder / f"{VERIFICATION}.png", verification_chart(read_csv(folder / f"{VERIFICATION}.csv")))


def trade_rows(figures: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return a row of TRADE_COLUMNS for each method, for each point of a sweep, and for real people."""
    found: list[tuple[str, float | None, Any]] = [
        (name, None, figures[name]) for name in (*METHOD_NAMES, REAL) if figures.get(name) is not None
    ]
    for point in figures["sweep"]:
        method, setting = sweep_setting(point["method"])
        if method in METHOD_NAMES and setting is not None:
            found.append((method, setting, point))
    return [
        (method, setting, *ends(row["diversity"]), *ends(row["consistency"]))
        for method, setting, row in found
        if row["diversity"] is not None and row["consistency"] is not None
    ]


def sweep_setting(name: str) -> tuple[str, float | None]:
    """Return ("fixed", 0.9) of "fixed@0.90"; None where the name states no number."""
    method, _, setting = name.partition("@")
    try:
        return method, float(setting)
    except ValueError:
        return method, None


def switch_marks(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the times that the histogram is read against: bounds and target of the calibration, and the median."""
    calibration, histogram = figures["calibration"] or {}, figures["switch_histogram"]
    marks = {name: float(calibration[name]) for name in MARKS if isinstance(calibration.get(name), int | float)}
    return marks | {"median": float(histogram["median"])}


def leakage_rows(leakage: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Return (people, quantile, cosine) of `leakage`, quantiles rising."""
    return [
        (people, float(quantile), cosine)
        for people, key in STRANGERS.items()
        if leakage.get(key) is not None
        for quantile, cosine in sorted(leakage[key]["quantiles"].items(), key=lambda pair: float(pair[0]))
    ]


def verification_rows(verification: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return (pairs, recogniser, value, low, high) of the accuracies on test people and on each benchmark."""
    sets = {OWN_PAIRS: verification, **verification["benchmarks"]}
    return [
        (pairs, name, *ends(found[name]["accuracy"]))
        for pairs, found in sets.items()
        for name in TRAINED
        if "accuracy" in found[name]
    ]


def _save(path: Path, chart: Figure) -> None:
    atomic_write_bytes(path, figure_png(chart))
