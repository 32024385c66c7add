"""What the sample stage asks for, and that its grids show each answer in its place."""

import numpy as np
import pytest

from facegen.sample_sets import (
    Requests,
    combinations,
    curve_requests,
    generate,
    grids,
    picture_requests,
    requests,
    state_label,
)

NAMES = ["Male", "Smiling", "Bald", "Young"]
SIDE = 16


def train_states(num=400):
    share = np.array([0.5, 0.45, 0.05, 0.7])
    return (np.random.default_rng(0).random((num, 4)) < share).astype(np.int8)


@pytest.fixture
def table():
    train = train_states()
    scored = requests(train, NAMES, seed=0, num_images=300, num_pairs=5, guidance_scale=1.5, num_steps=8)
    shown = picture_requests(train, NAMES, seed=0, strengths=[0.0, 2.0], guidance_scale=1.5, num_steps=8, num_columns=4)
    curves = curve_requests(
        scored, NAMES, guidance=[1.5, 3.0], num_pairs=2, steps=[2, 8], images_seen=[1000], num_images=20
    )
    return Requests.joined([scored, shown, curves])


def of(table, name):
    rows = [i for i, found in enumerate(table.sets) if found == name]
    return table.seeds[rows], table.attributes[rows], table.guidance[rows]


def test_prior_follows_the_training_set(table):
    seeds, states, guidance = of(table, "prior")
    assert len(seeds) == len(set(seeds.tolist())) == 300 and (guidance == 1.5).all()
    assert np.allclose(states.mean(0), train_states().mean(0), atol=0.08)
    assert {tuple(row) for row in states} <= {tuple(row) for row in train_states()}


def test_flips_are_pairs_of_one_seed_that_differ_in_one_state(table):
    seen = {tuple(row) for row in train_states()}
    for k, name in enumerate(NAMES):
        seeds, states, _ = of(table, f"flip/{name}")
        assert (seeds[0::2] == seeds[1::2]).all() and len(set(seeds.tolist())) == 5
        assert (states[0::2, k] == 0).all() and (states[1::2, k] == 1).all()
        assert (np.delete(states[0::2], k, axis=1) == np.delete(states[1::2], k, axis=1)).all()
        assert {tuple(row) for row in states} <= seen  # both sides of every pair exist in the data
    assert (of(table, "flip/Male")[0] == of(table, "flip/Bald")[0]).all()  # one noise for all of them


def test_null_asks_for_the_same_twice_and_unseen_for_what_nobody_has(table):
    seeds, states, _ = of(table, "null")
    half = len(seeds) // 2
    assert half and (seeds[:half] == seeds[half:]).all() and (states[:half] == states[half:]).all()
    train = np.array([row for row in train_states(4000) if tuple(row[[0, 2]]) != (0, 1) or row[3] == 1])  # one left out
    asked = requests(train, NAMES, seed=0, num_images=8, num_pairs=5, guidance_scale=1.5, num_steps=8).of("unseen")
    missing = {tuple(row) for row in train_states(4000)} - {tuple(row) for row in train}
    assert {tuple(row) for row in asked.attributes} == missing and len(asked.seeds) == 5


def test_curves_repeat_the_first_requests_under_other_settings(table):
    seeds, states, guidance = of(table, "guidance=3/flip/Bald")
    whole = of(table, "flip/Bald")
    assert (seeds == whole[0][:4]).all() and (states == whole[1][:4]).all() and (guidance == 3).all()
    assert not any(name.startswith("guidance=1.5") for name in table.sets)  # that is flip/ itself
    prior = table.of("prior")
    for name, steps, images in (("steps=2", 2, 0), ("images=1000", 8, 1000)):
        rows = table.of(name)
        assert (rows.seeds == prior.seeds[:20]).all() and (rows.attributes == prior.attributes[:20]).all()
        assert (rows.steps == steps).all() and (rows.images_seen == images).all()
    assert "steps=8" not in table.sets


def test_combinations_are_of_the_most_balanced_attributes(table):
    rows = combinations(train_states())
    assert rows.shape == (8, 4) and (rows[:, 2] == -1).all()  # Bald is the rare one
    assert len({tuple(row) for row in rows}) == 8 and set(rows[:, [0, 1, 3]].ravel()) == {0, 1}
    seeds, states, _ = of(table, "combination")
    assert len(seeds) == 32 and (states[:4] == rows[0]).all() and (seeds[:4] == seeds[4:8]).all()
    assert combinations(np.ones((3, 1), np.int8)).shape == (2, 1)


def test_strength_rises_from_one_noise(table):
    seeds, states, guidance = of(table, "strength/Bald")
    assert guidance.tolist() == [0.0, 2.0] and len(set(seeds.tolist())) == 1 and (states[:, 2] == 1).all()


class Painter:
    """Stands in for the pipeline: paints what was asked, so that a mix-up of rows shows."""

    def __init__(self, images_seen):
        self.images_seen, self.shapes = images_seen, []

    def __call__(self, attributes, *, seeds, num_inference_steps, guidance_scale, output_type):
        self.shapes.append(len(seeds))
        images = np.zeros((len(seeds), SIDE, SIDE, 3), np.uint8)
        images[..., 0] = (np.array(seeds) % 251)[:, None, None]
        images[..., 1] = (attributes.astype(int) @ [1, 3, 9, 27] + 100)[:, None, None]
        images[..., 2] = int(guidance_scale * 10) + num_inference_steps + self.images_seen // 10
        return type("Out", (), {"images": images})


def test_answers_stand_in_the_order_of_the_requests(table):
    seen = []
    images = generate(Painter, table, batch_size=7, on_images=seen.append)
    assert (images[:, 0, 0, 0] == table.seeds % 251).all()
    assert (images[:, 0, 0, 1] == table.attributes.astype(int) @ [1, 3, 9, 27] + 100).all()
    third = (table.guidance * 10).astype(int) + table.steps + table.images_seen // 10
    assert (images[:, 0, 0, 2] == third).all() and sum(seen) == len(images)
    pictures = grids(table, images, NAMES, strengths=[0.0, 2.0], num_columns=4)
    assert set(pictures) == {"attributes", "combination", "strength", "prior"}
    pixels = np.asarray(pictures["attributes"])
    absent, present = table.of("flip/Male").attributes[:2].astype(int) @ [1, 3, 9, 27] + 100
    found, below = (np.argwhere((pixels[..., 1] == code) & (pixels[..., 2] == 23)) for code in (absent, present))
    assert len(found) and len(below) and found[:, 0].min() < below[:, 0].min()  # absent above present


def test_both_halves_of_null_are_made_alike(table):
    painter = Painter(0)
    generate(lambda _: painter, table.of("null"), batch_size=5, on_images=lambda _: None)
    assert painter.shapes == [5, 3, 5, 3]


def test_labels_say_what_was_asked():
    assert state_label(np.array([1, 0, -1, -1]), NAMES) == "Male\nnot Smiling"
    assert state_label(np.full(4, -1), NAMES) == "anything"
