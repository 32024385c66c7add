"""The report's sections on given people: every figure in its column, what is missing said, nothing from outside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import facegen
from facegen.artifacts import read_json, write_json
from facegen.report import all_figures
from facegen.report_personalize import (
    PERSONALIZE_HEADLINES,
    PERSONALIZE_READINGS,
    PERSONALIZE_TABLES,
    TEMPLATE,
    difference_words,
    personalize_section,
)
from facegen.score_personalize_plots import CHARTS, write_personalize_plots
from tests.made_identities import figure
from tests.made_personalize_figures import (
    GIVEN,
    made_accuracy,
    made_detector,
    made_encoder,
    made_personalize_figures,
    made_probes,
)


@pytest.fixture
def metrics() -> dict[str, Any]:
    return {
        "personalize": made_personalize_figures(), "detector": made_detector(), "msid": made_encoder(plain=True),
        "recognizer": made_accuracy(0.951),
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plots").mkdir()
    write_personalize_plots(tmp_path / "plots", made_personalize_figures(), made_probes(plain=True))
    return tmp_path


def page(section: dict[str, Any], grids: list[tuple[str, str]] | None = None) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(facegen.__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(TEMPLATE).render(given=section, given_grids=grids or [], dit_grids=[])


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"<svg.*?</svg>", " ", html, flags=re.S)).split())


def cells(table: dict[str, Any], label: str) -> list[str]:
    return [value for value, _ in next(row for row in table["rows"] if row["label"] == label)["cells"]]


def test_every_method_has_its_figures_in_its_own_column(metrics: dict[str, Any], tmp_path: Path) -> None:
    one, two = personalize_section(metrics, tmp_path)["text"]["tables"]
    assert [name for name, _ in one["columns"]] == [
        "class word", "single, plain loss", "single", "the same people", "strangers",
    ]  # fmt: skip
    assert cells(one, "Identity") == ["0.052", "0.571", "0.564", "0.774", "0.182"]
    assert cells(one, "Prompt") == ["0.861", "0.612", "0.741", "", ""]
    assert cells(one, "Faces found")[-2:] == ["0.998", ""]
    assert "Minimum identity" not in [row["label"] for row in one["rows"]], "it is the identity"
    assert [name for name, _ in two["columns"]] == ["class word", "naive", "mf2d, not localised", "mf2d", "scenes"]
    assert cells(two, "Minimum identity") == ["0.031", "0.214", "0.287", "0.341", "0.724"]
    assert cells(two, "Identity")[:4] == [
        f"{GIVEN[n][0]:.3f}" for n in ("class_word_two", "naive", "mf2d_unlocalized", "mf2d")
    ]
    assert next(row for row in two["rows"] if row["label"] == "Prompt")["cells"][3][1] == "0.674 to 0.740"
    assert not any("CLIP" in row["label"] for row in two["rows"])


def test_a_clip_model_adds_its_rows(metrics: dict[str, Any], tmp_path: Path) -> None:
    for name in GIVEN:
        metrics["personalize"][name] |= {"clip": figure(0.27), "dclip": figure(0.11), "harmonic_clip": figure(0.3)}
    metrics["personalize"]["about"]["clip"] = "vit-tiny"
    section = personalize_section(metrics, tmp_path)
    assert cells(section["text"]["tables"][0], "CLIP") == ["0.270"] * 3 + ["", ""]
    assert "CLIP is vit-tiny" in words(page(section))


def test_differences_say_what_is_clear_and_what_is_not(metrics: dict[str, Any], tmp_path: Path) -> None:
    rows = {row["label"]: row for row in personalize_section(metrics, tmp_path)["text"]["differences"]}
    assert [*rows] == [
        "single over class word", "single over single, plain loss", "mf2d over class word", "mf2d over naive",
        "mf2d over mf2d, not localised",
    ]  # fmt: skip
    assert rows["single over class word"]["reading"] == ("identity above by 0.512; prompt below by 0.120")
    assert rows["single over single, plain loss"]["reading"] == "identity: no clear difference; prompt above by 0.129"
    assert rows["mf2d over naive"]["reading"] == "minimum identity above by 0.127; prompt above by 0.151"
    assert rows["mf2d over naive"]["cells"][:3] == [
        ("0.051", "0.031 to 0.075"), ("0.127", "0.107 to 0.151"), ("0.151", "0.131 to 0.175"),
    ]  # fmt: skip
    assert rows["mf2d over naive"]["cells"][4] == ("", "")
    assert difference_words("x", {"value": -0.2, "low": -0.3, "high": 0.0}) == "x: no clear difference"
    assert difference_words("x", {"value": -0.2, "low": -0.3, "high": -0.1}) == "x below by 0.200"


def test_prompts_stand_with_the_methods_that_drew_them(metrics: dict[str, Any], tmp_path: Path) -> None:
    one, two = personalize_section(metrics, tmp_path)["text"]["prompts"]
    assert [row["label"] for row in one["rows"]] == ["<id:0> smiling", "<id:0>"]
    assert one["rows"][0]["cells"][2] == ("0.564", "prompt 0.741") and one["rows"][1]["cells"][2] == ("0.564", "")
    assert len(two["rows"]) == 2 and two["rows"][1]["cells"][1] == ("0.214", "prompt 0.553")


def test_the_page_says_what_was_found(metrics: dict[str, Any], folder: Path) -> None:
    html = page(personalize_section(metrics, folder), [("Two people", "data:image/webp;base64,AAAA")])
    text = words(html)
    for shown in (
        "24 people of the test split, and 23 pairs of people",
        "the text-to-image model (the small Stable Diffusion of this run) is not changed",
        "nobody in particular, “a person”",
        "mf2d in the last 60 %",
        "single 72 pictures",
        "scenes of the data",
        "1,234 pictures",
        "&lt;id:0&gt; smiling and &lt;id:1&gt; with eyeglasses",
        "1,800 test pictures of 300 people",
        "class token of block 5 0.874",
        "all of them joined",
        "all depths last depth alone",
        "0.183 0.163 to 0.207",  # yaw of the plain one's block 5
        "Pairs of 300 test people identity encoder conditioning recogniser judging recogniser",
        "0.907 0.900 to 0.915 0.927",
        "Detector of faces test scenes 300 pictures the same, softened 300 pictures",
        "0.983 0.979 to 0.988 0.961",
        "no identity recogniser scale 1 recogniser scale 2",
        "adapter, plain loss scale 2",
        "0.812 (0.792 to 0.836)",
        "adapter over no identity identity above by 0.410; attributes below by 0.051; change outside the head above by 0.060",
        "identity: no clear difference; attributes: no clear difference; change outside the head below by 0.021",
        "24 pairs at scale 4",
        "recogniser, second person 0.600",
    ):
        assert shown in text, shown
    for name in CHARTS:
        assert f'aria-label="{name}"' in html
    assert 'alt="Given people: Two people"' in html
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", html) and not re.search(r"#1c1e21|#6b7077|#2a6fb0", html)
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids)), "identifiers of two charts clash"
    for tag in ("section", "table", "thead", "tr", "td", "th", "figure", "figcaption", "div", "p"):
        assert len(re.findall(rf"<{tag}[ >]", html)) == html.count(f"</{tag}>"), tag
    for rows in re.findall(r"<table>(.*?)</table>", html, flags=re.S):
        widths = {
            len(re.findall(r"<t[hd][ >]", row)) for row in re.findall(r"<tr>.*?</tr>", rows) if "colspan" not in row
        }
        assert len(widths) == 1, widths


def test_what_is_not_there_is_said_and_nothing_else_shown(metrics: dict[str, Any], tmp_path: Path) -> None:
    text = words(page(personalize_section({}, tmp_path)))
    assert text.count("this run did not measure it") == 5 and "class word" not in text and "%" not in text
    unknown = {
        "probes": {"absent": "nobody is named"},
        "verification": {"msid": {"absent": "no msid"}, "condition": {}},
    }
    absent = {"detector": {"absent": "no detector"}, "msid": unknown}
    dit = metrics["personalize"]["dit"]
    text = words(page(personalize_section(absent | {"personalize": {"absent": "no scenes", "dit": dit}}, tmp_path)))
    for shown in ("There are none: no scenes.", "encoder tells: nobody is named.", "not known: no msid.",
                  "detector of faces: no detector.", "Given people by the LatentDiT 48 people"):  # fmt: skip
        assert shown in text, shown
    metrics["personalize"]["dit"] = {"absent": "there is no judging recogniser"}
    metrics["detector"]["test"] = {"absent": "there are no test scenes"}
    metrics["recognizer"] = {"absent": "x"}
    text = words(page(personalize_section(metrics, tmp_path)))
    for shown in ("There are none: there is no judging recogniser.", "detector of faces: there are no test scenes.",
                  "What one method has more than another"):  # fmt: skip
        assert shown in text, shown
    assert "judging recogniser 0" not in text and "conditioning recogniser Accuracy" in text


def test_a_figure_that_nobody_has_is_no_row_and_no_column(metrics: dict[str, Any], tmp_path: Path) -> None:
    found, probes = metrics["personalize"], made_probes()
    metrics["msid"]["probes"] = probes
    del found["single_plain"]
    del found["dit"]["recognizer"], found["dit"]["pairs"]["recognizer"]
    found["real"]["scenes"] = None
    for told in probes["msid"].values():
        del told["smiling_auc"]
    section = personalize_section(metrics, tmp_path)
    assert [name for name, _ in section["text"]["tables"][0]["columns"]][:2] == ["class word", "single"]
    assert [name for name, _ in section["text"]["tables"][1]["columns"]][-1] == "mf2d"
    assert section["encoder"]["columns"] == ["identity, AUC", "yaw, R²", "pitch, R²"]
    assert "recogniser" not in [name for name, _ in section["dit"]["columns"]] and len(section["dit"]["pairs"]) == 2
    text = words(page(section))
    assert (
        "Accepted at 0.1 % false accepts" not in text and "last depth alone" not in text and "smiling, AUC" not in text
    )


def test_the_list_of_all_figures_keeps_to_what_is_one_figure(metrics: dict[str, Any]) -> None:
    names = {found.name for found in all_figures(metrics)}
    assert set(PERSONALIZE_HEADLINES) <= names and set(PERSONALIZE_READINGS) <= names
    assert {"personalize.dit.none.identity", "personalize.real.scenes.prompt", "detector.test.recall"} <= names
    assert not any(part in name for name in names for part in (".difference", ".about", ".probes"))
    assert all(PERSONALIZE_TABLES.fullmatch(f"personalize.{name}") for name in ("difference", "about", "dit.about"))
    assert PERSONALIZE_TABLES.fullmatch("msid.probes") and "msid.verification.condition.accuracy" in names
    assert not PERSONALIZE_TABLES.fullmatch("personalize.single") and not PERSONALIZE_TABLES.fullmatch(
        "personalize.dit"
    )


def test_rows_keep_their_order_whatever_that_of_the_files(metrics: dict[str, Any], tmp_path: Path) -> None:
    probes = made_probes()
    renamed = {"depth_1": "depth_2", "depth_3": "depth_5", "depth_5": "depth_8", "depth_7": "depth_11"}
    msid = {renamed.get(name, name): told for name, told in probes["msid"].items()}
    metrics["msid"]["probes"] = probes | {"depths": [2, 5, 8, 11], "msid": msid}
    write_json(tmp_path / "metrics.json", metrics)  # sorts the names
    section = personalize_section(read_json(tmp_path / "metrics.json"), tmp_path)
    assert [row["label"].removeprefix("class token of ") for row in section["encoder"]["rows"]] == [
        "block 2", "block 5", "block 8", "block 11", "all of them joined", "what it puts out",
    ]  # fmt: skip
    assert section["encoder"]["rows"][3]["cells"][0][0] == "0.881"
    assert section["text"]["differences"][0]["label"] == "single over class word"
    assert section["dit"]["pairs"][0]["label"] == "recogniser, first person"


def test_words_of_a_name_are_escaped(metrics: dict[str, Any], tmp_path: Path) -> None:
    metrics["personalize"]["about"]["base"] = "<b>hub"
    html = page(personalize_section(metrics, tmp_path))
    assert "&lt;b&gt;hub" in html and "<b>hub" not in html and "<id:0>" not in html
