"""A curve of plain guidance, read at the diversity of another method."""

import numpy as np
import pytest

from facegen.score_equal_diversity import at_equal_diversity

PEOPLE = 40


def people(diversity, consistency):
    """Values whose means are these, different from person to person."""
    varied = np.linspace(-0.05, 0.05, PEOPLE)
    return {
        "diversity": diversity + varied[::-1], "consistency": consistency + varied,
        "consistency_left_out": consistency - 0.1 + varied,
    }  # fmt: skip


def rates(eer):
    return {"eer": {"value": eer}, "fnmr_at_fmr_1e-3": None}


CURVE = {"one_stage": people(0.3, 0.9), "one_stage@2": people(0.7, 0.5), "one_stage@4": people(0.5, 0.8)}
RATES = {"one_stage": rates(0.1), "one_stage@2": rates(0.4), "one_stage@4": rates(0.2)}


def compared(diversity, consistency, eer=0.15, curve=CURVE):
    values = {**curve, "ours": people(diversity, consistency), "fixed": people(0.45, 0.1)}
    figures = {**RATES, "ours": rates(eer), "fixed": rates(0.5)}
    return at_equal_diversity(
        values, figures, method="ours", baseline="one_stage", generator=np.random.default_rng(0)
    )  # fmt: skip


def test_the_curve_is_read_between_the_two_nearest_scales():
    found = compared(0.45, 0.83)
    assert found["sets"] == ["one_stage@4", "one_stage"]
    assert found["weight"] == pytest.approx(0.75) and found["diversity"] == pytest.approx(0.45)
    # at 0.45 plain guidance has 0.75 * 0.8 + 0.25 * 0.9
    assert found["consistency"]["value"] == pytest.approx(0.83 - 0.825)
    assert found["consistency"]["low"] == pytest.approx(0.005) == found["consistency"]["high"]  # all differ alike
    assert found["consistency_left_out"]["value"] == pytest.approx(0.005)
    assert found["eer"] == pytest.approx(0.15 - 0.175)
    assert found["fnmr_at_fmr_1e-3"] is None


def test_at_a_scale_of_the_curve_it_is_that_scale():
    found = compared(0.5, 0.75)
    assert found["sets"][0] == "one_stage@4" and found["weight"] == pytest.approx(1.0)
    assert found["consistency"]["value"] == pytest.approx(-0.05)


@pytest.mark.parametrize("diversity", [0.2, 0.8])
def test_beyond_the_curve_nothing_is_said(diversity):
    assert compared(diversity, 0.9) is None


def test_one_scale_is_no_curve():
    assert compared(0.45, 0.9, curve={"one_stage": CURVE["one_stage"]}) is None
