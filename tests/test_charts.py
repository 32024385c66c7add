"""Charts and tables: equal figures give equal bytes, and a page gets SVG in its own colours."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from facegen.charts import (
    VARIABLES,
    drawn_curves,
    figure_png,
    figure_svg,
    interval_chart,
    loss_chart,
    read_csv,
    time_chart,
    write_csv,
)


def _curves() -> dict[str, np.ndarray]:
    return {"loss": np.array([1.0, 0.5, 0.25]), "val_mse": np.array([np.nan, 0.4, np.nan])}


def test_csv_round_trip_with_gaps(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ["set", "value"], [("real", 0.1 + 0.2), ("none", float("nan")), ("lost", None)])
    assert (tmp_path / "a.csv").read_text() == "set,value\nreal,0.30000000000000004\nnone,\nlost,\n"
    table = read_csv(tmp_path / "a.csv")
    assert table["set"].tolist() == ["real", "none", "lost"]
    assert table["value"][0] == 0.1 + 0.2 and np.isnan(table["value"][1:]).all()
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match="is empty"):
        read_csv(tmp_path / "empty.csv")


def test_curves_are_in_order_and_an_mse_that_is_the_loss_is_left_out() -> None:
    log = {"images": np.arange(2.0), "val_mse": np.ones(2), "mse": np.ones(2), "loss": np.full(2, 2.0)}
    assert list(drawn_curves(log)) == ["loss", "mse", "val_mse"]
    assert list(drawn_curves(log | {"loss": np.ones(2)})) == ["loss", "val_mse"]


def test_pictures_are_byte_equal_and_show_the_data() -> None:
    images = np.array([0.0, 1000.0, 2000.0])

    def draw(last: float) -> tuple[bytes, str]:
        curves = {"loss": np.array([1.0, 0.5, last])}
        figure = loss_chart(images, curves, ylabel="loss")
        return figure_png(figure), figure_svg(figure, name="dit")

    assert draw(0.25) == draw(0.25)
    assert draw(0.25)[0] != draw(0.3)[0] and draw(0.25)[1] != draw(0.3)[1]
    png = draw(0.25)[0]
    assert png.startswith(b"\x89PNG") and b"Software" not in png and b"tIME" not in png


@pytest.mark.parametrize("kind", ["loss", "time", "interval"])
def test_svg_stands_in_a_page_by_itself(kind: str) -> None:
    figure = {
        "loss": lambda: loss_chart(np.arange(3) * 1e3, _curves(), ylabel="loss"),
        "time": lambda: time_chart({"first": np.ones(10), "last": np.full(10, 0.5)}),
        "interval": lambda: interval_chart(["a & b"], np.array([1.0]), np.array([0.5]), np.array([2.0]), xlabel="x"),
    }[kind]()
    svg = figure_svg(figure, name=f"chart-{kind}")
    root = ET.fromstring(svg)
    assert root.get("role") == "img" and root.get("aria-label") == f"chart-{kind}"
    assert root.get("width") is None and root.get("height") is None and root.get("viewBox")
    assert "var(--ink)" in svg or "var(--series-0)" in svg
    assert not any(colour in svg for colour in VARIABLES)
    assert "<image" not in svg and "font-family" not in svg and "<metadata" not in svg


def test_values_that_cannot_be_drawn_leave_no_point() -> None:
    figure = loss_chart(np.arange(4.0), {"loss": np.array([np.nan, -1.0, 2.0, 1.0])}, ylabel="loss")
    assert figure.axes[0].lines[0].get_ydata().tolist() == [2.0, 1.0]
