"""The report: self-contained, complete, the same bytes each time, and honest about what its figures are."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facegen.artifacts import write_json
from facegen.data.samples import write_samples
from facegen.errors import FacegenError
from facegen.report import all_figures, build_report, number, parameter_text, request_label, sheet
from facegen.score_plots import write_plots
from tests.made_evaluation import made_evaluation, write_models

NAMES = ["Male", "No_Beard", "Smiling"]
SCALES = [0.0, 2.0]


class Page(HTMLParser):
    """Collects tags with attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> does not close what is open"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def _figure(value: float) -> dict:
    return {"value": value, "low": value * 0.9, "high": value * 1.1, "n": 1152}


def _metrics() -> dict:
    row = {"balanced_accuracy": _figure(0.97), "auroc": 0.99, "calibration_error": 0.01, "majority_accuracy": 0.6}
    judge = {"balanced_accuracy": 0.97, "auroc": 0.99, "attributes": dict.fromkeys(NAMES, row)}
    figures = {**FOUND.figures, "judge": judge, "recognizer": {"absent": "nobody is named"}}
    figures["dit"] = {**figures["dit"], "frechet": _figure(4.5)}
    figures["floor"] = {**figures["floor"], "frechet": _figure(1.5)}
    return figures


FOUND, SAMPLES = made_evaluation()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    evaluation = tmp_path / "eval"
    samples = SAMPLES["dit"]
    write_samples(
        evaluation / "samples/dit.parquet", seeds=samples.seeds, attributes=samples.attributes,
        images_uint8=samples.images(), sets=samples.sets, attribute_names=samples.attribute_names,
    )  # fmt: skip
    write_models(tmp_path / "models")
    (evaluation / "plots").mkdir()
    side = samples.resolution
    shown = np.random.default_rng(1).integers(0, 255, (2, 5, side, side, 3)).astype(np.uint8)
    found = replace(FOUND, figures=_metrics(), closest=None)
    write_plots(
        evaluation / "plots", found, models=tmp_path / "models", shown=shown, samples=SAMPLES, train=None,
        test=np.concatenate(shown),
    )  # fmt: skip
    write_json(evaluation / "metrics.json", _metrics())
    write_json(
        evaluation / "preprocess.json",
        {"faces": {"train": 7000, "val": 500, "test": 1152}, "identities": 0, "resolution": 12, "crop": "full",
         "attribute_names": NAMES, "rejects": [], "notes": ["no <identity> list"]},
    )  # fmt: skip
    write_json(
        evaluation / "plots/parameters.json",
        {"autoencoder.total_images": 30000, "autoencoder.mode": "train", "dit.hidden_size": 256, "dit.depth": 8,
         "dit.total_images": 100000, "sample.scheduler": "euler", "sample.num_steps": 25, "sample.guidance_scale": 2.0,
         "sample.guidance_interval": [0.0, 0.8], "sample.grid_columns": 3, "sample.strengths": SCALES},
    )  # fmt: skip
    write_json(evaluation / "plots/manifest.json", {"parameters": {"score.feature_dim": 8}})
    write_json(
        evaluation / "plots/models.json",
        {"factor": 4, "latent_channels": 4, "parameters": {"autoencoder": 934_000, "dit": 8_951_440}},
    )
    return evaluation


def test_page_is_well_formed_and_needs_nothing_but_itself(folder: Path) -> None:
    html = build_report(folder)
    page = Page(html)
    assert page.open == []
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe")
        for name in ("src", "href", "xlink:href"):
            target = attributes.get(name) or "#"
            assert target.startswith(("data:image/webp;base64,", "#")), target[:60]
    assert "url(http" not in html and "@import" not in html
    anchors = {a["href"][1:] for tag, a in page.tags if tag == "a"}
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert anchors <= set(ids) and len(anchors) == 13
    assert len(ids) == len(set(ids)), "identifiers of two charts clash"
    assert html == build_report(folder)


def test_every_figure_stands_with_interval_n_floor_and_name_of_its_space(folder: Path) -> None:
    text = " ".join(Page(build_report(folder)).text.split())
    for shown in ("4.50", "[4.05 to 4.95]", "N = 1,152", "3.0 × the floor", "27.0", "0.900", "dit.frechet", "no FID",
                  "judge-b-4", "ab" * 32, "8,652 faces at 12 px", "9.0 M parameters", "934 k parameters",
                  "3 × 3 × 4", "no <identity> list", "100,000 images seen", "No Beard", "feature_dim"):  # fmt: skip
        assert shown in text, shown
    assert "people at" not in text  # their number is not known


def test_pictures_are_the_samples_in_their_places(folder: Path) -> None:
    page = Page(build_report(folder))
    pictures = {a["alt"]: a["src"] for tag, a in page.tags if tag == "img"}
    assert (
        len(pictures) == 3 + 2 + 3 + 2 + 2
    )  # flips, combinations, strengths; samples, reconstructions; two comparisons
    flip = _decode(pictures["3 faces without and with No Beard, the same noise in each column"])
    assert flip.shape == (2 * 14 - 2, 3 * 14 - 2, 4)
    assert (flip[12:14, :, 3] == 0).all() and (flip[:12, :12, 3] == 255).all()
    assert _decode(pictures["3 faces: not Male, Smiling"]).shape == (12, 40, 4)
    assert _decode(pictures["Smiling at guidance 0.0, 2.0"]).shape == (12, 26, 4)
    assert _decode(pictures["5 test images above their reconstructions"]).shape == (26, 68, 4)
    assert _decode(pictures["80 random samples"]).shape == (68, 222, 4)


def test_sheet_keeps_every_tile_where_it_belongs() -> None:
    tiles = np.zeros((2, 3, 16, 16, 3), np.uint8)
    tiles[0, 2], tiles[1, 0] = (250, 20, 20), (20, 20, 250)
    strip = sheet("x", tiles)
    pixels = _decode(strip.uri).astype(int)
    assert (strip.columns, strip.rows) == (3, 2)
    assert np.abs(pixels[4:12, 40:48, :3] - (250, 20, 20)).max() < 12
    assert np.abs(pixels[22:30, 4:12, :3] - (20, 20, 250)).max() < 12


def _decode(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))) as image:
        return np.asarray(image.convert("RGBA"))


def test_a_run_without_combinations_strengths_and_own_autoencoder(folder: Path) -> None:
    write_samples(
        folder / "samples/dit.parquet", seeds=[0, 0, 1], attributes=np.zeros((3, 3)),
        images_uint8=np.zeros((3, 12, 12, 3), np.uint8), sets=["flip/Male", "flip/Male", "prior"], attribute_names=NAMES,
    )  # fmt: skip
    html = build_report(folder)
    assert "#combinations" not in html and "#strength" not in html and "Autoencoder</h3>" not in html
    assert Page(html).open == []


def test_names_of_later_figures_are_shown_without_words_for_them() -> None:
    found = {
        f.name: f for f in all_figures({"control": {"dit": {"accuracy": {"value": 0.81234, "n": 10}, "shift": 0.1}}})
    }
    assert found["control.dit.accuracy"].value == "0.812" and found["control.dit.accuracy"].interval == ""
    assert found["control.dit.shift"].label == "control: dit: shift"


def test_missing_and_damaged_inputs_are_named(folder: Path) -> None:
    (folder / "metrics.json").write_text("{")
    with pytest.raises(FacegenError, match=r"metrics\.json is not valid JSON"):
        build_report(folder)
    (folder / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        build_report(folder)


def test_small_texts() -> None:
    assert [number(v) for v in (123456.0, 27.04, 0.97891, 3.0, 0.0)] == ["123,456", "27.0", "0.979", "3.00", "0.00"]
    assert parameter_text([0.1, None, True, {"a": 1}]) == "0.1, null, true, a: 1"
    assert parameter_text(30000) == "30,000" and parameter_text(128) == "128"
    assert request_label([0, -1, 1], NAMES) == "not Male, Smiling" and request_label([-1] * 3, NAMES) == "anything"


def test_dark_and_print_styles_are_there(folder: Path) -> None:
    html = build_report(folder)
    assert "prefers-color-scheme: dark" in html and "@media print" in html and 'name="viewport"' in html
    assert not re.search(r"#1c1e21|#6b7077", html.split("</style>")[1]), "a chart has a fixed colour"
