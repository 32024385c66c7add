"""Pose from landmarks, landmarks from features, brightness: closed forms and fits done by other means."""

from __future__ import annotations

import numpy as np
import pytest

from facegen.data.face_embedder import mirrored_landmarks
from facegen.metrics.pose import RIDGES, fit_landmarks, luminance, r_squared, yaw_pitch

FACE = np.array([[20.0, 30], [44, 30], [35, 44], [26, 52], [42, 54]])  # eyes, nose, mouth
RNG = np.random.default_rng(0)


def faces(num: int) -> np.ndarray:
    return FACE + RNG.normal(0, 1.5, (num, 5, 2))


def test_pose_of_a_face() -> None:
    ((yaw, pitch),) = yaw_pitch(FACE[None])
    assert yaw == pytest.approx((35 - 32) / 24) and pitch == pytest.approx((44 - 30) / (53 - 30))


def test_pose_does_not_change_with_place_size_and_tilt() -> None:
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = faces(20)
    np.testing.assert_allclose(yaw_pitch(points @ turn.T * 1.7 + [5, -3]), yaw_pitch(points), atol=1e-9)


def test_a_mirrored_face_looks_the_other_way() -> None:
    points = faces(20)
    found, mirrored = yaw_pitch(points), yaw_pitch(mirrored_landmarks(points, width=64))
    np.testing.assert_allclose(mirrored, found * [-1, 1], atol=1e-9)


def test_moving_the_nose_moves_one_of_the_two() -> None:
    aside, down = FACE.copy(), FACE.copy()
    aside[2, 0] += 2.4
    down[2, 1] += 2.3
    ahead, left, low = yaw_pitch(np.stack([FACE, aside, down]))
    np.testing.assert_allclose(left - ahead, [0.1, 0], atol=1e-9)
    np.testing.assert_allclose(low - ahead, [0, 0.1], atol=1e-9)


def linear(num: int, dim: int, *, noise: float) -> tuple[np.ndarray, np.ndarray]:
    features = RNG.normal(3, [0.1, *np.linspace(1, 9, dim - 1)], (num, dim)).astype(np.float32)
    weights = np.random.default_rng(9).standard_normal((dim, 10)) / features.std(0)[:, None]
    points = (features - 3) @ weights + FACE.reshape(-1)
    return features, (points + RNG.normal(0, noise, points.shape)).reshape(-1, 5, 2)


def test_what_depends_linearly_on_the_features_is_found() -> None:
    features, points = linear(400, 12, noise=0.0)
    regression = fit_landmarks(features[:300], points[:300])
    assert regression.ridge == RIDGES[0]
    assert r_squared(points[300:], regression(features[300:])) > 0.9999


def test_noise_tells_nothing() -> None:
    points = faces(120)
    features = RNG.standard_normal((120, 60)).astype(np.float32)
    regression = fit_landmarks(features[:80], points[:80])
    assert regression.ridge == RIDGES[-1]
    told = r_squared(points[80:], regression(features[80:]))
    assert told is not None and told < 0.1


@pytest.mark.parametrize(
    ("num", "dim", "noise"), [(40, 8, 3.0), (24, 60, 1.0), (40, 30, 0.01), (8, 5, 1.0), (9, 5, 1.0), (10, 6, 1.0)]
)
def test_the_fit_is_the_ridge_that_does_best_on_pictures_left_out(num: int, dim: int, noise: float) -> None:
    features, points = linear(num, dim, noise=noise)
    regression = fit_landmarks(features, points)
    mean, scale = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    standard, targets = (features - mean) / scale, points.reshape(num, -1)
    unit = np.trace(standard @ standard.T) / num

    def solved(rows: np.ndarray, ridge: float) -> np.ndarray:
        design = np.column_stack([np.ones(len(rows)), standard[rows]])
        penalty = ridge * unit * np.eye(dim + 1)
        penalty[0, 0] = 0  # the mean is free
        return np.linalg.solve(design.T @ design + penalty, design.T @ targets[rows])

    errors = []
    for ridge in RIDGES:
        total = 0.0
        for i in range(num):
            weights = solved(np.delete(np.arange(num), i), ridge)
            total += np.square(targets[i] - np.append(1, standard[i]) @ weights).sum()
        errors.append(total)
    assert regression.ridge == RIDGES[int(np.argmin(errors))]
    expected = np.column_stack([np.ones(num), standard]) @ solved(np.arange(num), regression.ridge)
    np.testing.assert_allclose(regression(features).reshape(num, -1), expected, atol=1e-6)


def test_a_feature_that_does_not_vary_is_left_out() -> None:
    features, points = linear(60, 6, noise=0.1)
    constant = np.column_stack([features, np.full(60, 4.0, np.float32)])
    moved = constant.copy()
    moved[:, -1] = 99
    regression = fit_landmarks(constant, points)
    np.testing.assert_array_equal(regression(moved), regression(constant))


def test_r_squared_of_known_predictions() -> None:
    truth = faces(30)
    assert r_squared(truth, truth) == 1
    assert r_squared(truth, np.broadcast_to(truth.mean(0), truth.shape)) == pytest.approx(0)
    assert r_squared(np.array([0.0, 2.0]), np.array([0.5, 2.0])) == pytest.approx(1 - 0.25 / 2)
    assert r_squared(np.ones(4), np.zeros(4)) is None


def test_brightness_of_known_pictures() -> None:
    images = np.zeros((5, 4, 6, 3), np.uint8)
    images[1] = 255
    images[2, ..., 0], images[3, ..., 1] = 255, 255
    images[4, :2] = 255
    np.testing.assert_allclose(luminance(images), [0, 1, 0.299, 0.587, 0.5])


def test_what_has_no_pose_or_fit_is_refused() -> None:
    blind, flat = FACE.copy()[None], FACE.copy()[None]
    blind[0, 0] = blind[0, 1]
    flat[0, 3:] = flat[0, :2]
    with pytest.raises(ValueError, match="eyes of a face coincide"):
        yaw_pitch(blind)
    with pytest.raises(ValueError, match="mouth of a face"):
        yaw_pitch(flat)
    with pytest.raises(ValueError, match="expected \\(N, 5, 2\\)"):
        yaw_pitch(FACE)
    with pytest.raises(ValueError, match="landmarks"):
        fit_landmarks(np.zeros((4, 2)), faces(3))
    with pytest.raises(ValueError, match="no feature varies"):
        fit_landmarks(np.ones((4, 2)), faces(4))
    with pytest.raises(ValueError, match="expected \\(N, 6\\)"):
        fit_landmarks(*linear(20, 6, noise=0.1))(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="differ"):
        r_squared(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="expected uint8"):
        luminance(np.zeros((1, 4, 4, 3)))
