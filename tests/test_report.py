"""The report: self-contained, complete, the same bytes each time, and honest about what its figures are."""

from __future__ import annotations

import base64
import io
import re
import shutil
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
from facegen.score_edit_plots import write_edit_plots, write_upscaling
from facegen.score_identity_plots import write_identity_plots
from facegen.score_personalize_plots import write_personalize_plots
from facegen.score_plots import write_plots
from tests.made_edits import made_edit_figures, made_upscale_figures
from tests.made_evaluation import made_evaluation, write_models
from tests.made_identities import made_identity_figures, made_verification
from tests.made_personalize_figures import (
    made_detector,
    made_encoder,
    made_personalize_figures,
)

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
    return figures | {
        "edit": made_edit_figures(), "upscale": made_upscale_figures(),
        "identities": made_identity_figures(), "verification": made_verification(),
        "personalize": made_personalize_figures(), "detector": made_detector(), "msid": made_encoder(),
    }  # fmt: skip


FOUND, SAMPLES = made_evaluation()


@pytest.fixture
def folder(tmp_path: Path, made: Path) -> Path:
    return shutil.copytree(made, tmp_path / "eval")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("report")
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
    write_edit_plots(evaluation / "plots", _metrics()["edit"])
    write_upscaling(evaluation / "plots/upscaling.png", np.zeros((4, 2, 32, 32, 3), np.uint8))
    write_identity_plots(evaluation / "plots", _metrics()["identities"], _metrics()["verification"])
    write_personalize_plots(evaluation / "plots", _metrics()["personalize"], _metrics()["msid"]["probes"])
    for name in ("identities/people", "personalize/two", "personalize-dit/pairs"):
        (evaluation / name).parent.mkdir()
        Image.new("RGB", (50, 20), (30, 30, 200)).save(evaluation / f"{name}.png")
    (evaluation / "edits").mkdir()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(evaluation / "edits/attributes.png")
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
    assert anchors <= set(ids) and len(anchors) == 20
    assert len(ids) == len(set(ids)), "identifiers of two charts clash"
    assert html == build_report(folder)


def test_every_figure_stands_with_interval_n_floor_and_name_of_its_space(folder: Path) -> None:
    text = " ".join(Page(build_report(folder)).text.split())
    for shown in ("4.50", "[4.05 to 4.95]", "N = 1,152", "3.0 × the floor", "27.0", "0.900", "dit.frechet", "no FID",
                  "judge-b-4", "ab" * 32, "8,652 faces at 12 px", "9.0 M parameters", "934 k parameters",
                  "3 × 3 × 4", "no <identity> list", "100,000 images seen", "No Beard", "feature_dim"):  # fmt: skip
        assert shown in text, shown
    assert (
        "People of the data set" in text and "The methods, from the same noise" not in text
    )  # stages.png is not there
    assert "people at" not in text  # their number is not known
    for shown in ("Two given people, minimum identity", "personalize.mf2d.min_identity", "mf2d over naive",
                  "Two people, each with a part of one face", "class token of block 3", "Landmark error"):  # fmt: skip
        assert shown in text, shown
    assert "personalize.difference" not in text and "Two people, told in the last steps" not in text  # no alphas.png


def test_pictures_are_the_samples_in_their_places(folder: Path) -> None:
    page = Page(build_report(folder))
    pictures = {a["alt"]: a["src"] for tag, a in page.tags if tag == "img"}
    assert (
        len(pictures) == 3 + 2 + 3 + 2 + 2 + 2 + 1 + 2
    )  # flips, combinations, strengths; samples, reconstructions; two comparisons; edits, upscaling; people; given ones
    assert _decode(pictures["Given people: Two people in one picture"]).shape == (20, 50, 4)
    assert _decode(pictures["Edits: attributes"]).shape == (30, 40, 4)
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


def test_edits_stand_with_floor_ceiling_judge_and_default(folder: Path) -> None:
    figures = made_edit_figures()
    html = build_report(folder)
    text = " ".join(Page(html).text.split())
    for shown in ("zoom (default)", "N = 30", "Ceiling", "0.951", "Floor, same person", "0.722", "0.012", "89.0",
                  "edits use zoom", "Judge b on these photographs", "zoom, by attribute"):  # fmt: skip
        assert shown in text, shown
    small = figures["small"]
    assert (
        f"On the {small['default']['n']} requests" in text
        and f"difference of {small['difference']['value']:.3f}" in text
    )
    assert f"{figures['zoom']['attributes']['No_Beard']['add']['value']:.3f}" in text
    for name in ("edit_success", "edit_areas", "edit_identity"):
        assert f'aria-label="{name}"' in html
    assert "edit.zoom.success" in text and "edit.zoom.attributes" not in text and "edit.sweep" not in text


def test_upscaling_stands_beside_lanczos_and_says_what_is_assumed(folder: Path) -> None:
    text = " ".join(Page(build_report(folder)).text.split())
    for shown in ("24 test pictures of 256 px, reduced by 4", "27.3", "24.8", "2.48",
                  "the size that the model is used at",
                  "Input after the autoencoder", "Input clean", "41.7"):  # fmt: skip
        assert shown in text, shown
    write_json(
        folder / "metrics.json", _metrics() | {"upscale": made_upscale_figures(assumption="The data have no truth.")}
    )
    text = " ".join(Page(build_report(folder)).text.split())
    assert "The data have no truth." in text and "the size that the model is used at" not in text


def test_what_is_absent_is_said_and_what_is_not_known_left_out(folder: Path) -> None:
    absent = {"edit": {"absent": "no edit was asked for"}, "upscale": {"absent": "no picture is large enough"}}
    write_json(folder / "metrics.json", _metrics() | absent)
    (folder / "plots/upscaling.png").unlink()
    html = build_report(folder)
    assert "There are none: no edit was asked for." in html
    assert "There is no upscaler to measure: no picture is large enough." in html and Page(html).open == []
    write_json(folder / "metrics.json", _metrics() | {"edit": made_edit_figures(identity=False)})
    text = " ".join(Page(build_report(folder)).text.split())
    assert "There is no recogniser, and so no figure of identity." in text and "Ceiling" not in text


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
