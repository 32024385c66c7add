"""The evaluation of generators whose faults are known."""

import numpy as np
import pytest

from facegen.metrics.identity import identity_cosines
from facegen.score_distances import set_figures
from facegen.scoring import RealSet
from tests.made_evaluation import NAMES, NUM, PAIRS, made_answers, made_evaluation, made_samples


@pytest.fixture(scope="module")
def found():
    return made_evaluation()[0]


def test_distances_order_the_generators_and_share_one_n(found):
    f = found.figures
    order = [f[name]["frechet"]["value"] for name in ("floor", "dit", "gan", "gan_unconditional")]
    assert order == sorted(order)
    assert f["gan"]["frechet"]["value"] == pytest.approx(4 * 4, rel=0.25)  # means 2 apart in 4 dimensions
    assert {f[name]["frechet"]["n"] for name in ("floor", "reconstruction", "dit", "gan")} == {NUM}
    assert f["dit"]["coverage"]["value"] > f["gan"]["coverage"]["value"]
    assert f["dit"]["memorised"]["value"] < 0.2 and f["dit"]["duplicates"]["exact"] == 0
    assert f["floor"]["kernel"]["low"] < 0 < f["floor"]["kernel"]["high"]
    assert f["dit"]["kernel"]["low"] > 0
    assert "memorised" not in f["floor"] and "no FID" in f["extractors"]["frechet"]["note"]


def test_control_tells_who_does_what_is_asked(found):
    dit, gan = found.figures["control"]["dit"], found.figures["control"]["gan"]
    assert dit["accuracy"]["value"] == 1 and dit["accuracy"]["n"] == PAIRS
    assert dit["effect"] == pytest.approx(0.8) and dit["leakage"] == pytest.approx(0, abs=1e-12)
    assert dit["null_identical"] == 1 and dit["selectivity"] == pytest.approx(1)
    assert gan["effect"] == pytest.approx(0.4) and gan["leakage"] == pytest.approx(0.2 / 2)
    assert 0.65 < gan["accuracy"]["value"] < 0.85  # wrong where it is absent (0.5) and the one before it present
    assert gan["attributes"]["Male"]["leakage"] == pytest.approx(0.1)
    assert found.matrices["gan"][0] == pytest.approx([0.4, 0.2, 0]) and set(found.matrices) == {"dit", "gan", "data"}
    # P(said present | absent) = 0, so that the corrected shares are 1 and 0 at any rates; Smiling cannot be corrected
    assert dit["attributes"]["No_Beard"]["corrected_accuracy"] == 1
    assert dit["attributes"]["Smiling"]["corrected_accuracy"] is None
    assert dit["unseen_accuracy"]["value"] == 1 and dit["prior_accuracy"]["n"] == NUM
    assert "gan_unconditional" not in found.figures["control"]


def test_identity_is_kept_by_one_and_lost_by_the_other(found):
    dit, gan = found.figures["control"]["dit"], found.figures["control"]["gan"]
    assert dit["identity_cosine"]["value"] > 0.95 and dit["same_person"] == 1
    assert gan["identity_cosine"]["value"] < 0.4 and gan["same_person"] < 0.3
    assert abs(dit["other_people_cosine"]) < 0.1
    without = made_evaluation(same_person=None)[0].figures["control"]["dit"]
    assert "identity_cosine" not in without and without["attributes"]["Male"]["identity_cosine"] is None
    assert without["accuracy"] == dit["accuracy"]


def test_curves_stand_at_their_settings_with_one_n(found):
    assert [row["guidance"] for row in found.guidance] == [1, 2]
    assert [row["images"] for row in found.by_images] == [1000, 2000, 4000]
    assert [row["steps"] for row in found.by_steps] == [4, 8]
    assert {row["n"] for row in found.by_images + found.by_steps} == {60}
    values = [row["value"] for row in found.by_images]
    assert values == sorted(values, reverse=True)
    assert found.by_steps[1]["value"] == found.by_images[-1]["value"]  # both are the prior itself


def test_copies_of_the_training_set_are_found_out(found):
    assert found.figures["gan_unconditional"]["memorised"]["value"] == 1
    assert found.figures["gan_unconditional"]["closer_than_test"]["value"] == 1
    assert found.figures["gan"]["memorised"]["value"] < 0.2


def test_a_generator_of_one_mode_is_precise_and_recalls_little():
    rng = np.random.default_rng(0)
    real = RealSet(rng.normal(0, 1, (200, 4)), np.arange(200))
    figures = set_figures(rng.normal(0, 0.1, (200, 4)), real, k=3, generator=rng)
    assert figures["precision"]["value"] > 0.9 and figures["recall"]["value"] < 0.2


def test_every_guidance_scale_counts_the_same_pairs(found):
    answers = made_answers("dit", made_samples("dit"))
    first = [answers.embeddings[answers.rows(f"flip/{name}")[:20]] for name in NAMES]  # guidance=1 has 10 pairs
    expected = np.mean([identity_cosines(rows[0::2], rows[1::2]).mean() for rows in first])
    assert found.guidance[1]["identity_cosine"] == pytest.approx(expected, rel=1e-12)


def test_a_judge_without_noise_finds_every_leak_and_no_other(found):
    chance = found.figures["control"]["gan"]["leakage_of_chance"]
    assert chance == pytest.approx(0, abs=1e-9)  # the made judge has no noise
    assert found.figures["control"]["gan"]["significant_leaks"] == 3  # each flip drags one other along
    assert np.isfinite(found.matrices["data"]).all() and len(NAMES) == 3
