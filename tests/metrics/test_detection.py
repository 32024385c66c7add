"""Figures of detection, against faces counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from facegen.metrics.detection import detection_figures, overlaps, pairs, point_error


def boxes(*rows):
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def test_overlap_is_the_shared_area_over_all_of_it():
    found, true = boxes((0, 0, 4, 2), (10, 10, 12, 12)), boxes((2, 0, 6, 2), (0, 0, 4, 2), (11, 11, 12, 12))
    assert np.allclose(overlaps(found, true), [[4 / 12, 1, 0], [0, 0, 1 / 4]])


def test_the_surest_takes_the_face_that_it_overlaps_most_and_each_face_is_taken_once():
    true = boxes((0, 0, 10, 10), (20, 0, 30, 10))
    assert pairs(boxes((0, 0, 10, 11), (0, 0, 10, 10), (20, 0, 30, 16)), true) == [(0, 0), (2, 1)]
    assert pairs(boxes((0, 0, 10, 20.1)), true) == []  # below one half
    assert pairs(boxes((0, 0, 10, 20)), true) == [(0, 0)]
    assert pairs(boxes(), true) == [] and pairs(true, boxes()) == []


def test_points_are_measured_in_distances_of_the_eyes():
    true = np.array([[0, 0], [10, 0], [5, 5], [2, 9], [8, 9]], dtype=np.float64)
    off = true + np.array([[3, 4], [0, 0], [0, 0], [0, 0], [0, 0]])
    assert point_error(off, true) == pytest.approx(5 / 5 / 10)


def test_figures_count_faces_not_pictures():
    figures = detection_figures([[(0, 0), (1, 1)], [], [(0, 0)]], [3, 0, 1], [2, 1, 1], [0.1, 0.2, 0.6])
    assert figures["recall"]["value"] == pytest.approx(3 / 4) and figures["recall"]["n"] == 4
    assert figures["precision"]["value"] == pytest.approx(3 / 4) and figures["precision"]["n"] == 4
    assert figures["landmark_error"]["value"] == pytest.approx(0.3) and figures["landmark_error"]["n"] == 3
    assert figures["pictures"] == 3
    assert figures["recall"]["low"] < 3 / 4 < figures["recall"]["high"]


def test_nothing_found_has_no_precision():
    figures = detection_figures([[], []], [0, 0], [1, 1], [])
    assert figures["recall"]["value"] == 0 and figures["precision"] is None and figures["landmark_error"] is None
