"""What is drawn for the evaluation: the same requests by every method, disjoint pairs, and grids that show what they say."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from facegen.personalize.generation import METHODS
from facegen.personalize.picture_sets import Wanted, chosen_people, grids, planned, reference_rows

IDENTITY = np.array([5, 6, 5, 7, -1, 6, 8, 8, 7, 9, -1, 3, 3, 3])  # person 9 has one picture
WANTED = Wanted(
    prompts_one=("<id:0> smiling", "<id:0> in a hat"), prompts_two=("<id:0> and <id:1>",), num_people=3,
    images_per_prompt=2, alpha=0.6, alphas=(0.3, 0.6, 1.0), alpha_people=1, seed=40,
)  # fmt: skip


def test_people_and_pairs() -> None:
    people, pairs = chosen_people(IDENTITY, 3, seed=0)
    assert len(people) == 3
    assert len(pairs) == 2  # of five people with two pictures
    flat = [person for pair in pairs for person in pair]
    assert len(set(flat)) == 4
    assert {*people, *flat} <= {3, 5, 6, 7, 8}
    assert chosen_people(IDENTITY, 3, seed=0) == (people, pairs)
    assert any(chosen_people(IDENTITY, 3, seed=seed) != (people, pairs) for seed in range(1, 5))
    with pytest.raises(ValueError, match="1 people"):
        chosen_people(np.array([1, 1, 2]), 2, seed=0)


def test_every_method_is_asked_for_the_same() -> None:
    people, pairs = chosen_people(IDENTITY, 3, seed=0)
    references = reference_rows(IDENTITY, (3, 5, 6, 7, 8))
    assert (references[5], references[8]) == ((0,), (6,))
    rows = planned(WANTED, people, pairs, references)
    assert len(set(rows)) == len(rows)
    asked = defaultdict(set)
    for row in rows:
        assert row.references == tuple(references[person] for person in row.subjects)
        asked[row.method, row.alpha, len(row.subjects)].add((row.prompt, row.subjects, row.seed))
    alone, two = asked["class_word", 0.0, 1], asked["class_word", 0.0, 2]
    assert len(alone) == 3 * 2 * 2
    assert len(two) == 2 * 2
    assert len({seed for _, _, seed in alone | two}) == len(alone) + len(two)  # no two requests share noise
    for name, method in METHODS.items():
        for num in method.subjects:
            assert asked[name, method.alpha(0.6), num] == (alone if num == 1 else two), name
    swept = {request for request in two if request[1] == pairs[0]}
    assert asked["mf2d", 0.3, 2] == asked["mf2d", 1.0, 2] == swept
    assert {alpha for name, alpha, _ in asked if name == "mf2d"} == {0.3, 0.6, 1.0}


def test_grids_show_the_pictures_that_they_name() -> None:
    people, pairs = chosen_people(IDENTITY, 3, seed=0)
    references = reference_rows(IDENTITY, (3, 5, 6, 7, 8))
    rows = planned(replace(WANTED, images_per_prompt=1), people, pairs, references)
    images = np.zeros((len(rows), 16, 24, 3), np.uint8)
    images += np.arange(1, len(rows) + 1, dtype=np.uint8)[:, None, None, None]  # each of its own grey
    shown = {person: np.full((16, 16, 3), 200 + person, np.uint8) for person in references}
    found = grids(rows, images, shown, alpha=0.6, class_word="a person")
    assert set(found) == {"one", "two", "alphas"}
    number = {row: i + 1 for i, row in enumerate(rows)}

    def greys(name: str) -> set[int]:
        pixels = np.asarray(found[name])
        flat = pixels[(pixels == pixels[..., :1]).all(-1)][:, 0]
        values, counts = np.unique(flat, return_counts=True)
        return set(values[counts >= 16 * 16].tolist()) - {255}

    one = {number[row] for row in rows if len(row.subjects) == 1} | {200 + person for person in people}
    assert greys("one") == one
    swept = {number[row] for row in rows if row.subjects == pairs[0] and row.method in ("class_word", "mf2d")}
    assert greys("alphas") == swept | {200 + person for person in pairs[0]}
    default = {number[r] for r in rows if len(r.subjects) == 2 and (r.method != "mf2d" or r.alpha == 0.6)}
    assert greys("two") == default | {200 + person for pair in pairs for person in pair}
