"""The figures of edits whose values are given: counts, means, tables, and what is paired with what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from facegen.measured_edits import FIGURES, MeasuredEdits
from facegen.metrics.intervals import mean_interval, wilson_interval
from facegen.score_edits import AREAS, area_names, edit_figures
from facegen.scoring import grouped_bootstrap

SEED = 0


def made(rows: list[tuple[int, str, str, str, int, float, float]]) -> MeasuredEdits:
    """Rows of (photo, method, attribute, region, state, area, success); two photographs of one person each."""
    photo, method, attribute, region, state, area, success = zip(*rows, strict=True)
    num = len(rows)
    values = {name: np.full(num, 0.25) for name in FIGURES}
    values |= {
        "success": np.array(success), "judge_accuracy": np.where(np.isnan(success), np.nan, 1.0),
        "outside_identical": np.ones(num), "same_person": np.ones(num), "evaluations": np.arange(num, dtype=float),
        "other_change": np.linspace(0, 1, num), "identity_cosine": np.full(num, np.nan),
    }  # fmt: skip
    photos = np.array(photo)
    return MeasuredEdits(
        photos, photos // 2, np.array(method), np.array(attribute), np.array(region), np.array(state),
        np.array(area, np.float32), values,
    )  # fmt: skip


ROWS = [
    (0, "blend", "Hat", "hat", 1, 0.30, 0.0),
    (1, "blend", "Hat", "hat", 0, 0.20, 1.0),
    (2, "blend", "Beard", "beard", 1, 0.03, 0.0),
    (3, "blend", "Beard", "beard", 0, 0.04, 0.0),
    (4, "blend", "Beard", "beard", 0, 0.06, np.nan),
    (0, "zoom", "Hat", "hat", 1, 0.30, 1.0),
    (1, "zoom", "Hat", "hat", 0, 0.20, 1.0),
    (2, "zoom", "Beard", "beard", 1, 0.03, 1.0),
    (3, "zoom", "Beard", "beard", 0, 0.04, 0.0),
    (5, "zoom", "Beard", "beard", 0, 0.02, 1.0),
    (0, "invert", "Hat", "", 1, 1.0, 1.0),
]
NONE = made(ROWS[:1])
COLUMNS = ("photo", "people", "method", "attribute", "region", "state", "area")
NONE = MeasuredEdits(*(getattr(NONE, name)[:0] for name in COLUMNS), {name: np.empty(0) for name in FIGURES})


def figures(found: MeasuredEdits, swept: MeasuredEdits = NONE, default: str = "zoom") -> dict:
    return edit_figures(found, swept, default=default, generator=np.random.default_rng(SEED))


def test_success_is_counted_over_what_was_to_change_method_by_method() -> None:
    found = figures(made(ROWS))
    assert found["blend"]["success"] == wilson_interval(1, 4).to_json()
    assert found["zoom"]["success"] == wilson_interval(4, 5).to_json()
    assert found["blend"]["judge_accuracy"]["value"] == 1 and found["blend"]["judge_accuracy"]["n"] == 4
    assert found["blend"]["directions"]["add"]["success"]["value"] == 0
    assert found["blend"]["directions"]["remove"]["success"] == wilson_interval(1, 2).to_json()
    zoom = found["zoom"]["attributes"]
    assert list(zoom) == ["Hat", "Beard"] and zoom["Beard"]["success"]["value"] == pytest.approx(2 / 3)
    assert zoom["Beard"]["add"] == wilson_interval(1, 1).to_json()
    assert zoom["Beard"]["remove"] == wilson_interval(1, 2).to_json()
    assert found["default"]["success"] == found["zoom"]["success"] and found["default"]["method"] == "zoom"
    assert "attributes" not in found["default"]


def test_means_count_people_and_what_has_no_meaning_is_none() -> None:
    measured = made(ROWS)
    found = figures(measured)
    values, people = measured.values["other_change"][:5], measured.people[:5]
    assert found["blend"]["other_change"] == mean_interval(values, groups=people).to_json()
    assert found["blend"]["identity_cosine"] is None and found["blend"]["evaluations"] == 2.0
    assert found["invert"]["other_change"] == {"value": 1.0, "n": 1}  # one person: no interval
    assert found["zoom"]["outside_identical"]["value"] == 1
    outside = replace(measured, values=measured.values | {"outside_identical": np.full(len(ROWS), np.nan)})
    assert figures(outside)["zoom"]["outside_identical"] is None


def test_masks_are_binned_by_their_share_and_a_missing_one_is_in_no_bin() -> None:
    found = figures(made(ROWS))
    assert list(found["blend"]["areas"]) == [
        "below_5_percent",
        "5_to_10_percent",
        "10_to_25_percent",
        "above_25_percent",
    ]
    assert found["blend"]["areas"]["below_5_percent"]["success"]["n"] == 2
    assert found["blend"]["areas"]["5_to_10_percent"]["success"] is None
    assert found["invert"]["areas"] == {} and found["invert"]["regions"] == {}
    edges = np.array([0.0, 0.049, 0.05, 0.1, 0.2499, 0.25, 1.0])
    assert area_names(edges).tolist() == [list(AREAS)[i] for i in (0, 0, 1, 2, 2, 3, 3)]


def test_small_masks_are_compared_on_the_requests_that_both_answered() -> None:
    small = figures(made(ROWS))["small"]  # photographs 2 and 3; the fifth has no blend, Hat is no small part
    assert small["default"] == wilson_interval(1, 2).to_json() and small["blend"] == wilson_interval(0, 2).to_json()
    assert small["difference"]["value"] == 0.5 and small["difference"]["n"] == 2
    assert (small["difference"]["low"], small["difference"]["high"]) == (0, 1)  # of two photographs
    sweep = made([
        (7, "blend", "Hat", "hat at 1.5%", 1, 0.015, 1.0), (7, "blend", "Hat", "hat at 3.5%", 1, 0.035, 1.0),
        (7, "zoom", "Hat", "hat at 3.5%", 1, 0.035, 0.0), (7, "zoom", "Hat", "hat at 40.0%", 1, 0.40, 1.0),
    ])  # fmt: skip
    both = figures(made(ROWS), sweep)
    assert both["small"]["difference"]["value"] == pytest.approx(0) and both["small"]["difference"]["n"] == 3
    assert both["zoom"] == figures(made(ROWS))["zoom"]  # the sweep is in no other table
    assert figures(made(ROWS[5:]))["small"] == {"default": None, "blend": None, "difference": None}


def test_the_sweep_stands_by_share_from_small_to_large() -> None:
    rows = [(i, "zoom", "Hat", f"hat {share}", 1, share, i % 2) for share in (0.399902, 0.01489) for i in range(4)]
    sweep = figures(made(ROWS), made(rows))["sweep"]
    assert list(sweep) == ["zoom"] and [row["share"] for row in sweep["zoom"]] == [0.015, 0.4]
    assert sweep["zoom"][0]["success"] == wilson_interval(2, 4).to_json()
    assert figures(made(ROWS))["sweep"] == {}


def test_a_default_method_that_made_no_edit_is_not_made_up() -> None:
    assert "default" not in figures(made(ROWS), default="sdedit")


def test_the_bootstrap_draws_groups_and_not_observations() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 25)
    values = rng.normal(0, 1, 40)[groups] + rng.normal(0, 0.1, 1000)
    found = grouped_bootstrap(values, groups, generator=np.random.default_rng(1))
    assert found["value"] == pytest.approx(values.mean()) and found["n"] == 1000
    expected = mean_interval(values, groups=groups)
    assert found["high"] - found["low"] == pytest.approx(expected.high - expected.low, rel=0.15)
    alone = mean_interval(values)
    assert found["high"] - found["low"] > 3 * (alone.high - alone.low)
    assert grouped_bootstrap(values[:9], np.zeros(9), generator=rng) == {"value": values[:9].mean(), "n": 9}
