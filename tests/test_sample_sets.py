"""What the sample stage asks for, and that its grids show each answer in its place."""

import numpy as np
import pytest

from facegen.sample_sets import combinations, generate, grids, requests, state_label

NAMES = ["Male", "Smiling", "Bald", "Young"]
SIDE = 16


def train_states(num=400):
    share = np.array([0.5, 0.45, 0.05, 0.7])
    return (np.random.default_rng(0).random((num, 4)) < share).astype(np.int8)


@pytest.fixture
def table():
    return requests(
        train_states(),
        NAMES,
        seed=0,
        num_images=300,
        num_pairs=5,
        strengths=[0.0, 2.0],
        guidance_scale=1.5,
        num_columns=4,
    )


def of(table, name):
    rows = [i for i, found in enumerate(table.sets) if found == name]
    return table.seeds[rows], table.attributes[rows], table.guidance[rows]


def test_prior_follows_the_training_set(table):
    seeds, states, guidance = of(table, "prior")
    assert len(seeds) == len(set(seeds.tolist())) == 300 and (guidance == 1.5).all()
    assert np.allclose(states.mean(0), train_states().mean(0), atol=0.08)
    assert {tuple(row) for row in states} <= {tuple(row) for row in train_states()}


def test_flips_are_pairs_of_one_seed_that_differ_in_one_state(table):
    for k, name in enumerate(NAMES):
        seeds, states, _ = of(table, f"flip/{name}")
        assert (seeds[0::2] == seeds[1::2]).all() and len(set(seeds.tolist())) == 5
        assert (states[0::2, k] == 0).all() and (states[1::2, k] == 1).all()
        assert (np.delete(states, k, axis=1) == -1).all()
    assert (of(table, "flip/Male")[0] == of(table, "flip/Bald")[0]).all()  # one noise for all of them


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

    def __call__(self, attributes, *, seeds, guidance_scale, output_type):
        images = np.zeros((len(seeds), SIDE, SIDE, 3), np.uint8)
        images[..., 0] = (np.array(seeds) % 251)[:, None, None]
        images[..., 1] = (attributes.astype(int) @ [1, 3, 9, 27] + 100)[:, None, None]
        images[..., 2] = int(guidance_scale * 10)
        return type("Out", (), {"images": images})


def test_answers_stand_in_the_order_of_the_requests(table):
    seen = []
    images = generate(Painter(), table, batch_size=7, on_images=seen.append)
    assert (images[:, 0, 0, 0] == table.seeds % 251).all()
    assert (images[:, 0, 0, 1] == table.attributes.astype(int) @ [1, 3, 9, 27] + 100).all()
    assert (images[:, 0, 0, 2] == (table.guidance * 10).astype(int)).all() and sum(seen) == len(images)
    pictures = grids(table, images, NAMES, strengths=[0.0, 2.0], num_columns=4)
    assert set(pictures) == {"attributes", "combination", "strength", "prior"}
    pixels = np.asarray(pictures["attributes"])
    absent_male = [int(100 + np.array([0, -1, -1, -1]) @ [1, 3, 9, 27]), 15]
    found = np.argwhere((pixels[..., 1] == absent_male[0]) & (pixels[..., 2] == absent_male[1]))
    present_male = np.argwhere((pixels[..., 1] == absent_male[0] + 1) & (pixels[..., 2] == 15))
    assert len(found) and found[:, 0].max() < present_male[:, 0].min()  # absent above present


def test_labels_say_what_was_asked():
    assert state_label(np.array([1, 0, -1, -1]), NAMES) == "Male\nnot Smiling"
    assert state_label(np.full(4, -1), NAMES) == "anything"
