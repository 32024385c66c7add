"""The charts of edits: what their tables hold, what is drawn of it, and the same bytes twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facegen.charts import SERIES, read_csv
from facegen.edit import METHODS as EDIT_METHODS
from facegen.score_edit_charts import COLOURS, MARKERS, area_chart, success_chart, trade_chart
from facegen.score_edit_plots import identity_lines, method_names, write_edit_plots, write_upscaling
from tests.made_edits import made_edit_figures

METHODS = ["blend", "invert", "zoom"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_edit_plots(tmp_path, made_edit_figures())
    return tmp_path


def test_tables_hold_the_figures_of_every_method(folder: Path) -> None:
    figures = made_edit_figures()
    assert method_names(figures) == METHODS
    table = read_csv(folder / "edit_success.csv")
    assert list(dict.fromkeys(table["method"])) == METHODS and len(table["value"]) == 9
    row = (table["method"] == "zoom") & (table["attribute"] == "No_Beard")
    expected = figures["zoom"]["attributes"]["No_Beard"]
    assert table["value"][row] == [expected["success"]["value"]] and table["high"][row] == [expected["success"]["high"]]
    assert table["judge_accuracy"][row] == [expected["judge_accuracy"]["value"]]
    table = read_csv(folder / "edit_areas.csv")
    assert table["share"].tolist() == [0.015, 0.075, 0.4] * 2 and set(table["method"]) == {"blend", "zoom"}
    assert table["value"][-1] == figures["sweep"]["zoom"][-1]["success"]["value"]
    table = read_csv(folder / "edit_identity.csv")
    assert table["other_change"].tolist() == [figures[name]["other_change"]["value"] for name in METHODS]
    assert table["value"].tolist() == [figures[name]["identity_cosine"]["value"] for name in METHODS]


def test_pictures_are_the_same_twice_and_missing_where_there_is_nothing(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    write_edit_plots(again, made_edit_figures())
    names = sorted(path.name for path in again.iterdir())
    assert names == [f"edit_{name}.{end}" for name in ("areas", "identity", "success") for end in ("csv", "png")]
    assert all((again / name).read_bytes() == (folder / name).read_bytes() for name in names)
    without = tmp_path / "without"
    without.mkdir()
    write_edit_plots(without, {"absent": "no edit was asked for"})
    assert not list(without.iterdir())
    write_edit_plots(without, made_edit_figures(identity=False) | {"sweep": {}})
    assert sorted(path.name for path in without.iterdir()) == ["edit_success.csv", "edit_success.png"]


def test_a_method_keeps_its_colour_in_every_chart(folder: Path) -> None:
    charts = {
        "success": success_chart(read_csv(folder / "edit_success.csv"), METHODS),
        "areas": area_chart(read_csv(folder / "edit_areas.csv"), METHODS),
        "identity": trade_chart(read_csv(folder / "edit_identity.csv"), METHODS, references={}),
    }
    for name, chart in charts.items():
        drawn = {box.get_label(): box.lines[0].get_color() for box in chart.axes[0].containers}
        assert drawn["zoom"] == SERIES[2] and drawn["blend"] == SERIES[0], name
        assert ("invert" in drawn) == (name != "areas")


def test_points_stand_at_their_values(folder: Path) -> None:
    table = read_csv(folder / "edit_success.csv")
    axes = success_chart(table, METHODS).axes[0]
    zoom = next(box for box in axes.containers if box.get_label() == "zoom").lines[0]
    assert zoom.get_xdata().tolist() == table["value"][table["method"] == "zoom"].tolist()
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["Smiling", "No Beard", "Male"]  # the first one on top
    assert np.round(np.asarray(zoom.get_ydata(), float)).tolist() == [2, 1, 0]
    bar = next(line for line in axes.lines if line.get_label() == "judge b on the photographs")
    assert bar.get_xdata()[0] == table["judge_accuracy"][0]
    areas = area_chart(read_csv(folder / "edit_areas.csv"), METHODS).axes[0]
    assert [text.get_text() for text in areas.get_xticklabels()] == ["1.5 %", "7.5 %", "40 %"]


def test_identity_is_drawn_against_what_is_known_of_floor_and_ceiling(folder: Path) -> None:
    table, lines = read_csv(folder / "edit_identity.csv"), identity_lines(made_edit_figures())
    assert lines == {"round_trip_cosine": 0.951, "same_person_cosine": 0.722, "other_people_cosine": 0.012}
    axes = trade_chart(table, METHODS, references=lines).axes[0]
    level = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert level == [0.951, 0.722]  # the third lies far below and is written
    texts = [text.get_text() for text in axes.texts]
    assert texts == [
        "ceiling: own round trip",
        "floor: another picture of the person",
        "floor: other people, 0.01 (below)",
    ]
    assert axes.get_ylim()[0] > 0.3
    assert identity_lines(made_edit_figures(identity=False)) == {}
    some = made_edit_figures() | {"identity": {"round_trip_cosine": {"value": 0.9}, "same_person_cosine": None}}
    assert identity_lines(some) == {"round_trip_cosine": 0.9}


def test_the_strip_of_upscaled_pictures_holds_every_tile(tmp_path: Path) -> None:
    from PIL import Image

    shown = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32, 3), dtype=np.uint8)
    write_upscaling(tmp_path / "upscaling.png", shown)
    with Image.open(tmp_path / "upscaling.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[0] > 4 * 32 and pixels.shape[1] > 3 * 32
    top = [y for y in range(pixels.shape[0] - 31) if np.array_equal(pixels[y : y + 32, -32 - 11 : -11], shown[3, 2])]
    assert len(top) == 1 and top[0] > 3 * 32


def test_every_method_has_a_look_of_its_own() -> None:
    assert len({*zip(COLOURS, MARKERS, strict=True)}) == len(COLOURS) == len(MARKERS) >= len(EDIT_METHODS)
