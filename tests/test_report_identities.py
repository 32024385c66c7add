"""The report's section on synthetic people: every figure in its column, what is missing said, nothing from outside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import facegen
from facegen.report import all_figures
from facegen.report_identities import (
    COLUMNS,
    PEOPLE_HEADLINES,
    PEOPLE_READINGS,
    PEOPLE_TABLES,
    TEMPLATE,
    people_section,
)
from facegen.score_identity_charts import METHOD_NAMES
from facegen.score_identity_plots import write_identity_plots
from tests.made_identities import METHODS, figure, made_identity_figures, made_verification

ABSENT = {"absent": "there is no recogniser"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plots").mkdir()
    write_identity_plots(tmp_path / "plots", made_identity_figures(sweep=True), made_verification(benchmarks=True))
    return tmp_path


def page(section: dict[str, Any], grids: list[tuple[str, str]] | None = None) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(facegen.__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(TEMPLATE).render(people=section, people_grids=grids or [])


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"<svg.*?</svg>", " ", html, flags=re.S)).split())


def test_every_method_has_its_figures_in_its_own_column(tmp_path: Path) -> None:
    figures = made_identity_figures()
    section = people_section(figures, made_verification(), tmp_path)
    assert [found["name"] for found in section["sets"]] == list(COLUMNS.values())
    rows = {row["label"]: row["cells"] for row in section["rows"]}
    assert [value for value, _ in rows["Consistency"]] == [
        "0.902",
        "0.893",
        "0.889",
        "0.896",
        "0.899",
        "0.898",
        "0.861",
    ]
    assert rows["Consistency"][1][1] == "0.885 to 0.903"
    assert [value for value, _ in rows["Diversity"]][:5] == [f"{METHODS[name][1]:.3f}" for name in METHOD_NAMES]
    assert [value for value, _ in rows["Network evaluations"]] == ["100.0", "94.0", "94.0", "93.8", "93.8", "93.9", ""]
    assert rows["Goes over to the identity at t"][3] == ("0.880", "0.840 to 0.920")
    assert rows["Goes over to the identity at t"][-1] == ("", "")
    assert rows["Cosine to what was asked for"][-1] == ("", "") and section["default"] == "adaptive_injection"


def test_the_page_says_what_was_found(folder: Path) -> None:
    figures, verification = made_identity_figures(sweep=True), made_verification(benchmarks=True)
    html = page(people_section(figures, verification, folder), [("Stages", "data:image/webp;base64,AAAA")])
    text = words(html)
    for shown in (
        "adaptive + injection default, 60 people",
        "2,400 pictures of 400 people",
        "it explains 71 % of their variance",
        "differs from one stage by -0.003 (-0.007 to 0.002) in consistency",
        "and by 0.025 (0.021 to 0.030) in diversity",
        "From one stage at the guidance scale that makes it as diverse, it differs by",
        "0.011 (0.008 to 0.015) in consistency and by -0.012 in equal error rate",
        "fixed switch, t = 0.6",
        "one stage, s = 16",
        "attn_recv, 0.0213, was set on 256",
        "median of 0.88. 0 % go over at the earliest possible step, 3 % at the latest",
        "99 % of 160 real strangers",
        "stay below 0.962",
        "of the 1,540 people",
        "0.013",
        "what a copy would show",
        "would also catch 0.482 of the training people",
        "Of 500 candidates 400 were kept",
        "3 too near to a training person (above 0.993) and 7 too near to one another (above 0.970)",
        "the nearest who was kept is at 0.993, and 0 are above the threshold",
        "among 300 people, the nearest other one is at a cosine of 0.912",
        "0.946 (0.926 to 0.970)",
        "2,400 pictures of 400 synthetic people",
        "2,397 of 400 real ones",
        "on real people",
        "untrained",
        "cfp_fp",
        "0.741",
    ):
        assert shown in text, shown
    assert "1 % false accepts" not in text, "nobody has it"
    for name in ("people_trade", "people_switch", "people_leakage", "people_verification"):
        assert f'aria-label="{name}"' in html
    assert 'alt="Synthetic people: Stages"' in html
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", html) and not re.search(r"#1c1e21|#6b7077|#2a6fb0", html)
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids)), "identifiers of two charts clash"
    for tag in ("section", "table", "tr", "td", "th", "figure", "figcaption", "div", "p"):
        assert len(re.findall(rf"<{tag}[ >]", html)) == html.count(f"</{tag}>"), tag


def test_what_is_not_there_is_said_and_nothing_else_shown(tmp_path: Path) -> None:
    text = words(page(people_section(ABSENT, ABSENT, tmp_path)))
    assert text.count("there is no recogniser") == 2 and "Consistency" not in text and "Accuracy" not in text
    figures = made_identity_figures()
    some = {name: found for name, found in figures.items() if name not in ("fixed", "dataset")} | {
        "leakage": None, "crowd": None, "screening": None,
        "calibration": None, "difference": None, "pose_regression": None, "real": None,
        "switch_histogram": figures["switch_histogram"] | {"at_early": None, "at_late": None},
    }  # fmt: skip
    section = people_section(some, made_verification() | {"untrained": {"absent": "x"}}, tmp_path)
    text = words(page(section))
    assert [found["key"] for found in section["sets"]] == [n for n in METHOD_NAMES if n != "fixed"]
    assert "training set" not in text and "untrained" not in text and "was set on" not in text
    assert section["verification"]["trained"] == ["on synthetic people", "on real people"]
    few = {name: {"absent": "the test split: too few people", "trained_on": {}} for name in made_verification()}
    text = words(page(people_section(ABSENT, few, tmp_path)))
    assert "There is none: the test split: too few people." in text


def test_where_the_validation_split_names_nobody_the_threshold_is_told_otherwise(tmp_path: Path) -> None:
    figures = made_identity_figures()
    figures["leakage"] |= {"threshold_from": "train", "copies": None}
    figures["screening"] |= {"nearest_training": None, "above": None}
    figures["screening"]["thresholds"]["training"] = None
    figures["difference"]["diversity"] = None
    figures["pose_regression"]["r2_landmarks"] = None
    text = words(page(people_section(figures, ABSENT, tmp_path)))
    assert "99 % of the training people are no nearer to another one of them than 0.962" in text
    assert "strangers, of the validation" not in text and "would also catch" not in text and "variance" not in text
    assert "3 too near to a training person and 7" in text and "differs from" not in text


def test_a_figure_that_nobody_has_is_no_row(tmp_path: Path) -> None:
    figures = made_identity_figures()
    for found in figures.values():
        if isinstance(found, dict) and "fnmr_at_fmr_1e-3" in found:
            found["fnmr_at_fmr_1e-3"] = None
    labels = [row["label"] for row in people_section(figures, ABSENT, tmp_path)["rows"]]
    assert "Misses at 0.1 % false matches" not in labels and "Equal error rate" in labels


def test_the_list_of_all_figures_keeps_to_what_is_one_figure() -> None:
    metrics = {"identities": made_identity_figures(), "verification": made_verification()}
    names = {found.name for found in all_figures(metrics)}
    assert set(PEOPLE_HEADLINES) <= names and set(PEOPLE_READINGS) <= names
    tables = ["identities.fixed.switch", "identities.dataset.separation_quantiles", "identities.calibration",
              "identities.leakage.real.quantiles", "identities.switch_histogram"]  # fmt: skip
    assert all(PEOPLE_TABLES.fullmatch(name) for name in tables)
    kept = ["identities.fixed", "identities.leakage", "identities.leakage.real", "identities.fixed.eer"]
    assert not any(PEOPLE_TABLES.fullmatch(name) for name in kept)


def test_words_of_a_name_are_escaped(tmp_path: Path) -> None:
    verification = made_verification() | {
        "benchmarks": {"<b>lfw": {key: {"accuracy": figure(0.7)} for key in ("synthetic", "real", "untrained")}}
    }
    html = page(people_section(ABSENT, verification, tmp_path))
    assert "&lt;b&gt;lfw" in html and "<b>lfw" not in html
