"""The charts of pictures of given people: what their tables hold, what is drawn of it, and the same bytes twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from facegen.charts import INK, MUTED, SERIES, read_csv
from facegen.score_personalize_charts import (
    CURVES,
    DIT_LOOK,
    DIT_NAMES,
    METHOD_LOOK,
    ONE_PERSON,
    TARGETS,
    TWO_PEOPLE,
    alpha_chart,
    dit_pair_chart,
    dit_scale_chart,
    probe_chart,
    trade_chart,
)
from facegen.score_personalize_plots import CHARTS, alpha_rows, write_personalize_plots
from tests.made_personalize_figures import CURVE, FEATURES, GIVEN, SHARES, made_personalize_figures, made_probes

ABSENT = {"absent": "there are no scenes"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plots")
    write_personalize_plots(path, made_personalize_figures(), made_probes(plain=True))
    return path


def boxes(chart: Figure) -> list[Any]:
    return [*chart.axes[0].containers]


def containers(chart: Figure) -> dict[str, Any]:
    return {box.get_label(): box for box in boxes(chart)}


def test_names_are_those_of_the_pictures() -> None:
    from facegen.personalize.dit_pictures import METHODS as DIT_METHODS
    from facegen.personalize.dit_pictures import NONE
    from facegen.personalize.generation import METHODS
    from facegen.score_personalize import TWO

    measured = {
        name + (TWO if name == "class_word" and num > 1 else ""): num
        for name, m in METHODS.items()
        for num in m.subjects
    }
    assert {name for name, num in measured.items() if num == 1} == set(ONE_PERSON)
    assert {name for name, num in measured.items() if num == 2} == set(TWO_PEOPLE)
    assert [*DIT_NAMES] == [*DIT_LOOK] == [NONE, *DIT_METHODS]


def test_tables_hold_the_figures(folder: Path) -> None:
    table = read_csv(folder / "personalize_trade.csv")
    assert table["method"].tolist() == [*ONE_PERSON, *TWO_PEOPLE, "scenes"]
    assert table["value"][:-1].tolist() == [GIVEN[name][1] for name in (*ONE_PERSON, *TWO_PEOPLE)]
    assert table["prompt"].tolist() == [*(GIVEN[name][2] for name in (*ONE_PERSON, *TWO_PEOPLE)), 0.981]
    assert (table["low"] < table["value"]).all() and (table["prompt_high"] > table["prompt"]).all()
    table = read_csv(folder / "personalize_alpha.csv")
    least = table["figure"] == "min_identity"
    assert dict(zip(table["alpha"][least], table["value"][least], strict=True)) == {a: v for a, (v, _) in CURVE.items()}
    assert set(table["figure"]) == set(CURVES)
    table = read_csv(folder / "msid_probes.csv")
    rows = (table["encoder"] == "msid") & (table["feature"] == "block 3")
    told = dict(zip(table["target"][rows], table["value"][rows], strict=True))
    assert told == pytest.approx({"yaw": 0.141, "pitch": 0.061, "smiling": 2 * 0.742 - 1})
    assert len(table["value"]) == 2 * len(FEATURES) * len(TARGETS)
    table = read_csv(folder / "personalize_dit_scales.csv")
    rows = (table["method"] == "dit_mapped") & (table["figure"] == "identity")
    assert (table["scale"][rows].tolist(), table["value"][rows].tolist()) == ([1, 2, 4], [0.33, 0.52, 0.66])
    assert table["scale"][table["method"] == "none"].tolist() == [0, 0]
    table = read_csv(folder / "personalize_dit_pairs.csv")
    rows = (table["method"] == "recognizer") & (table["person"] == "second")
    assert table["value"][rows] == pytest.approx([0.6 - 0.55 * share for share in SHARES])


def test_pictures_are_the_same_twice_and_missing_where_there_is_nothing(folder: Path, tmp_path: Path) -> None:
    again, without = tmp_path / "again", tmp_path / "without"
    again.mkdir()
    without.mkdir()
    figures = made_personalize_figures()
    write_personalize_plots(again, figures, made_probes(plain=True))
    names = sorted(path.name for path in again.iterdir())
    assert names == sorted(f"{name}.{end}" for name in CHARTS for end in ("csv", "png"))
    assert all((again / name).read_bytes() == (folder / name).read_bytes() for name in names)
    write_personalize_plots(without, ABSENT | {"dit": ABSENT}, ABSENT)
    assert not list(without.iterdir())
    write_personalize_plots(without, ABSENT | {"dit": figures["dit"] | {"pairs": {}}}, ABSENT)
    assert sorted(path.name for path in without.iterdir()) == [
        "personalize_dit_scales.csv",
        "personalize_dit_scales.png",
    ]
    assert alpha_rows(figures["alpha"][:1]) == []


def test_what_is_not_known_is_no_point(tmp_path: Path) -> None:
    figures, probes = made_personalize_figures(), made_probes()
    figures["naive"]["prompt"] = figures["real"]["scenes"] = None
    del figures["single_plain"], figures["dit"]["recognizer"]
    for told in probes["msid"].values():
        told["yaw_r2"] = None
        del told["smiling_auc"]
    write_personalize_plots(tmp_path, figures, probes)
    assert read_csv(tmp_path / "personalize_trade.csv")["method"].tolist() == [
        "class_word", "single", "class_word_two", "mf2d_unlocalized", "mf2d",
    ]  # fmt: skip
    assert set(read_csv(tmp_path / "msid_probes.csv")["target"]) == {"pitch"}
    assert "recognizer" not in read_csv(tmp_path / "personalize_dit_scales.csv")["method"]


def test_methods_stand_at_their_values_in_their_own_look(folder: Path) -> None:
    drawn = containers(trade_chart(read_csv(folder / "personalize_trade.csv")))
    assert len(drawn) == len(METHOD_LOOK)
    for method, label in {"mf2d": "mf2d", "single": "single", "class_word_two": "class word (2)"}.items():
        line = drawn[label].lines[0]
        assert (line.get_color(), line.get_marker()) == METHOD_LOOK[method]
        assert (line.get_xdata()[0], line.get_ydata()[0]) == (GIVEN[method][2], GIVEN[method][1])
    assert drawn["real scenes"].lines[0].get_color() == INK
    assert drawn["class word (1)"].lines[0].get_color() == MUTED


def test_lines_rise_over_what_is_varied(folder: Path) -> None:
    table = read_csv(folder / "personalize_alpha.csv")
    mixed = {name: column[::-1] for name, column in table.items()}
    lines = containers(alpha_chart(mixed))
    assert lines["minimum identity"].lines[0].get_xdata().tolist() == [*CURVE]
    assert lines["prompt"].lines[0].get_ydata().tolist() == [prompt for _, prompt in CURVE.values()]
    table = read_csv(folder / "personalize_dit_scales.csv")
    own, dotted = lines_of(dit_scale_chart(table), SERIES[0])
    assert own.get_ydata().tolist() == [0.33, 0.52, 0.66] and own.get_xdata() == pytest.approx([1, 2, 4], abs=0.1)
    assert dotted.get_ydata() == pytest.approx([0.92, 0.9, 0.86])
    assert (own.get_linestyle(), dotted.get_linestyle(), dotted.get_markerfacecolor()) == ("-", ":", "none")
    chart = dit_pair_chart(read_csv(folder / "personalize_dit_pairs.csv"))
    assert [*filter(lambda label: label[0] != "_", containers(chart))] == ["recogniser", "adapter"]
    first, second = lines_of(chart, SERIES[1])
    assert first.get_ydata() == pytest.approx(0.6 * np.array(SHARES)) and second.get_linestyle() == ":"
    assert second.get_ydata() == pytest.approx(0.6 - 0.55 * np.array(SHARES))


def lines_of(chart: Figure, colour: str) -> list[Any]:
    """The lines of one colour, drawn out ones first."""
    found = [box.lines[0] for box in boxes(chart) if box.lines[0].get_color() == colour]
    return sorted(found, key=lambda line: line.get_linestyle() != "-")


def test_probes_of_both_encoders_stand_at_their_feature(folder: Path) -> None:
    chart = probe_chart(read_csv(folder / "msid_probes.csv"))
    ticks = [tick.get_text() for tick in chart.axes[0].get_xticklabels()]
    assert ticks == ["block 1", "block 3", "block 5", "block 7", "joined", "output"]
    drawn = containers(chart)
    assert drawn["yaw, all depths"].lines[0].get_ydata().tolist() == [values[1] for values in FEATURES.values()]
    plain = drawn["yaw, last depth alone"].lines[0]
    assert plain.get_ydata() == pytest.approx([values[1] + 0.1 for values in FEATURES.values()])
    assert plain.get_linestyle() == ":" and len(drawn) == 6
