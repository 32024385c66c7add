"""Faces to people: against all assignments tried one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from facegen.personalize.matching import assign_faces, match_faces
from facegen.rng import numpy_generator


def best_sum(similarity):
    faces, people = similarity.shape
    if faces >= people:
        return max(sum(similarity[f, k] for k, f in enumerate(p)) for p in itertools.permutations(range(faces), people))
    return max(sum(similarity[f, k] for f, k in enumerate(p)) for p in itertools.permutations(range(people), faces))


@pytest.mark.parametrize(("faces", "people"), [(1, 1), (2, 2), (3, 2), (2, 3), (5, 3), (4, 4), (1, 3)])
def test_no_assignment_is_better(faces, people):
    for i in range(20):
        similarity = numpy_generator(i, "similarity").uniform(-1, 1, (faces, people))
        matched, assigned = match_faces(similarity), assign_faces(similarity)
        assert matched.sum() == pytest.approx(best_sum(similarity))
        seen = assigned[assigned >= 0]
        assert len(seen) == len(set(seen)) == min(faces, people)  # nobody's face is given twice
        for k, f in enumerate(assigned):
            assert matched[k] == (similarity[f, k] if f >= 0 else 0)


def test_the_greedy_choice_is_not_taken():
    similarity = np.array([[0.9, 0.8], [0.85, 0.1]])  # greedy: 0.9 + 0.1
    assert match_faces(similarity).tolist() == [0.85, 0.8]
    assert assign_faces(similarity).tolist() == [1, 0]


def test_without_a_face_it_is_0():
    assert match_faces(np.empty((0, 3))).tolist() == [0, 0, 0]
    assert assign_faces(np.empty((0, 2))).tolist() == [-1, -1]
    assert match_faces(np.array([[-0.4, -0.2]])).tolist() == [0, -0.2]  # a face that is there keeps its sign


@pytest.mark.parametrize("similarity", [np.ones(3), np.array([[np.nan]])])
def test_what_is_no_similarity_is_refused(similarity):
    with pytest.raises(ValueError, match="expected finite numbers"):
        match_faces(similarity)
