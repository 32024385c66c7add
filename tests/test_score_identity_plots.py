"""The charts of synthetic people: what their tables hold, what is drawn of it, and the same bytes twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facegen.charts import INK, SERIES, read_csv
from facegen.score_identity_charts import (
    MARKERS,
    METHOD_NAMES,
    TRAINED,
    TRAINED_LOOK,
    leakage_chart,
    switch_chart,
    trade_chart,
    verification_chart,
)
from facegen.score_identity_plots import sweep_setting, switch_marks, trade_rows, write_identity_plots
from tests.made_identities import METHODS, made_identity_figures, made_verification

TABLES = ("leakage", "switch", "trade", "verification")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plots")
    write_identity_plots(path, made_identity_figures(sweep=True), made_verification(benchmarks=True))
    return path


def containers(chart) -> dict:  # by label
    return {box.get_label(): box for box in chart.axes[0].containers}


def test_tables_hold_the_figures(folder: Path) -> None:
    table = read_csv(folder / "people_trade.csv")
    assert table["method"].tolist() == [*METHOD_NAMES, "real", "fixed", "fixed", "one_stage", "one_stage"]
    assert table["value"][:5].tolist() == [METHODS[name][0] for name in METHOD_NAMES]
    assert table["diversity"][:6].tolist() == [*(METHODS[name][1] for name in METHOD_NAMES), 0.168]
    assert np.isnan(table["setting"][:6]).all() and table["setting"][6:].tolist() == [0.6, 0.95, 2, 16]
    assert (table["low"] < table["value"]).all() and (table["diversity_high"] > table["diversity"]).all()
    table = read_csv(folder / "people_switch.csv")
    assert table["time"][0] == 0.94 and table["share"].sum() == pytest.approx(1)
    table = read_csv(folder / "people_leakage.csv")
    synthetic = table["people"] == "synthetic people"
    assert table["cosine"][synthetic][-1] == 0.958 and table["quantile"][synthetic].tolist() == sorted(
        table["quantile"][synthetic]
    )
    strangers = table["people"] == "real strangers"
    assert table["cosine"][strangers][-1] == 0.97 and table["people"][-1] == "training people again"
    table = read_csv(folder / "people_verification.csv")
    assert table["pairs"].tolist() == ["test people"] * 3 + ["lfw"] * 3 + ["cfp_fp"] * 3
    assert table["recognizer"].tolist() == [*TRAINED] * 3 and table["value"][:3].tolist() == [0.889, 0.911, 0.606]


def test_pictures_are_the_same_twice_and_missing_where_there_is_nothing(folder: Path, tmp_path: Path) -> None:
    again, without = tmp_path / "again", tmp_path / "without"
    again.mkdir(), without.mkdir()
    write_identity_plots(again, made_identity_figures(sweep=True), made_verification(benchmarks=True))
    names = sorted(path.name for path in again.iterdir())
    assert names == [f"people_{name}.{end}" for name in TABLES for end in ("csv", "png")]
    assert all((again / name).read_bytes() == (folder / name).read_bytes() for name in names)
    write_identity_plots(without, {"absent": "nobody is named"}, {"absent": "nobody is named"})
    assert not list(without.iterdir())
    write_identity_plots(without, {"absent": "nobody is named"}, made_verification())
    assert sorted(path.name for path in without.iterdir()) == ["people_verification.csv", "people_verification.png"]
    write_identity_plots(without, made_identity_figures() | {"leakage": None}, {"absent": "x"})
    assert not (without / "people_leakage.csv").exists() and (without / "people_trade.png").exists()


def test_methods_stand_at_their_values_in_their_own_look(folder: Path) -> None:
    chart = trade_chart(read_csv(folder / "people_trade.csv"))
    drawn = containers(chart)
    for number, (method, name) in enumerate(METHOD_NAMES.items()):
        line = drawn[name].lines[0]
        assert (line.get_color(), line.get_marker()) == (SERIES[number], MARKERS[number])
        assert (line.get_xdata()[0], line.get_ydata()[0]) == (METHODS[method][1], METHODS[method][0])
    assert drawn["real people"].lines[0].get_color() == INK
    assert sorted(text.get_text() for text in chart.axes[0].texts) == ["s = 16", "s = 2", "t = 0.6", "t = 0.95"]
    labels = [text.get_text() for text in chart.legends[0].get_texts()]
    assert labels == [*METHOD_NAMES.values(), "real people"], "points of a sweep have no entry"
    low, high = chart.axes[0].get_xlim()
    assert low < 0.109 and high > 0.185, "intervals lie inside"


def test_the_histogram_runs_from_noise_to_data_with_its_marks(folder: Path) -> None:
    marks = switch_marks(made_identity_figures())
    assert marks == {"early": 0.98, "target": 0.88, "late": 0.775, "median": 0.88}
    axes = switch_chart(read_csv(folder / "people_switch.csv"), marks=marks).axes[0]
    left, right = axes.get_xlim()
    assert left > 0.98 and right < 0.76, "noise is on the left"
    bars = {round(bar.get_x() + bar.get_width() / 2, 3): bar.get_height() for bar in axes.patches}
    assert bars[0.88] == pytest.approx(27) and len(bars) == 8
    assert {text.get_text() for text in axes.texts} == {"early 0.98", "target 0.88", "median 0.88", "late 0.775"}
    assert switch_marks(made_identity_figures() | {"calibration": None}) == {"median": 0.88}


def test_one_switch_time_alone_can_be_drawn() -> None:
    table = {"time": np.array([0.88]), "share": np.array([1.0])}
    axes = switch_chart(table, marks={"median": 0.88}).axes[0]
    assert axes.get_xlim()[0] > 0.88 > axes.get_xlim()[1] and axes.patches[0].get_height() == 100


def test_leakage_is_read_against_strangers_and_the_threshold(folder: Path) -> None:
    axes = leakage_chart(read_csv(folder / "people_leakage.csv"), threshold=0.962).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["synthetic people"].get_xdata().tolist() == [0.62, 0.75, 0.83, 0.89, 0.93, 0.951, 0.958]
    assert lines["real strangers"].get_ydata().tolist() == pytest.approx([5, 25, 50, 75, 95, 99, 100])
    assert lines["threshold 0.962"].get_xdata()[0] == 0.962


def test_accuracies_stand_in_their_rows_beside_chance(folder: Path) -> None:
    chart = verification_chart(read_csv(folder / "people_verification.csv"))
    axes, drawn = chart.axes[0], containers(chart)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["cfp_fp", "lfw", "test people"]
    for name, label in TRAINED.items():
        line = drawn[label].lines[0]
        assert (line.get_color(), line.get_marker()) == TRAINED_LOOK[name]
        assert np.round(np.asarray(line.get_ydata(), float)).tolist() == [2, 1, 0]
    assert drawn["on synthetic people"].lines[0].get_xdata().tolist() == pytest.approx([88.9, 74.1, 66.0])
    assert 50 in [line.get_xdata()[0] for line in axes.lines] and axes.get_xlim()[0] < 50


def test_names_of_a_sweep() -> None:
    assert sweep_setting("fixed@0.90") == ("fixed", 0.9) and sweep_setting("one_stage@4") == ("one_stage", 4.0)
    assert sweep_setting("adaptive") == ("adaptive", None) and sweep_setting("fixed@late") == ("fixed", None)


def test_a_point_of_an_unknown_method_is_left_out_of_the_chart() -> None:
    figures = made_identity_figures()
    odd = figures["fixed"] | {"method": "borrowed@0.3"}
    assert [row[0] for row in trade_rows(figures | {"sweep": [odd]})] == [*METHOD_NAMES, "real"]
    assert [row[0] for row in trade_rows(figures | {"real": figures["real"] | {"diversity": None}})] == [*METHOD_NAMES]
