"""Where a face looks and how bright it is, from five landmarks and from the pixels: what a person's pictures vary in.

With e the middle of the eyes, m that of the corners of the mouth, n the nose, d the distance of the eyes, u the unit
vector from the left eye to the right one and w across it, downwards:

    yaw    (n - e) . u / d                      0: the nose below the middle of the eyes
    pitch  (n - e) . w / (m - e) . w            where between eyes and mouth the nose is

Neither depends on the picture's size, on where the face is, or on how the head is tilted in the plane. They are proxies:
they order, they are no angles. Pictures that nobody marked get their landmarks from a ridge regression on a judge's maps,
fitted on real faces; what it cannot see it draws to the mean, for every set alike.
Shapes: N pictures, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_LANDMARKS = 5  # eyes, nose, corners of the mouth; left ones first
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # in units of the mean eigenvalue of the features' Gram matrix
LUMA = (0.299, 0.587, 0.114)  # of red, green, blue. Source: ITU-R BT.601
_SMALL = 1e-6


@dataclass(frozen=True)
class LandmarkRegression:
    """Landmarks from features: (features - mean) / scale . weights + offset."""

    mean: np.ndarray  # (D,)
    scale: np.ndarray  # (D,)
    weights: np.ndarray  # (D, 10)
    offset: np.ndarray  # (10,)
    ridge: float  # one of RIDGES

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return landmarks (N, 5, 2) of features (N, D), in the unit that they were fitted in.

        Raises:
            ValueError: for another D.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"features have shape {features.shape}; expected (N, {len(self.mean)})")
        standard = (features.astype(np.float64) - self.mean) / self.scale
        return (standard @ self.weights + self.offset).reshape(-1, NUM_LANDMARKS, 2)


def yaw_pitch(landmarks: np.ndarray) -> np.ndarray:  # (N, 2)
    """Return yaw and pitch of landmarks (N, 5, 2) of (x, y).

    Raises:
        ValueError: for another shape, or if the eyes coincide or the mouth lies on their line.
    """
    points = np.asarray(landmarks, np.float64)
    if points.ndim != 3 or points.shape[1:] != (NUM_LANDMARKS, 2):
        raise ValueError(f"landmarks have shape {points.shape}; expected (N, {NUM_LANDMARKS}, 2)")
    left, right, nose, mouth_left, mouth_right = points.transpose(1, 0, 2)
    eyes, mouth = (left + right) / 2, (mouth_left + mouth_right) / 2
    along = right - left
    distance = np.linalg.norm(along, axis=1)
    if not (distance > _SMALL).all():
        raise ValueError("the eyes of a face coincide: there is no pose")
    along = along / distance[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    height = ((mouth - eyes) * across).sum(1)
    if not (np.abs(height) > _SMALL * distance).all():
        raise ValueError("the mouth of a face lies between its eyes: there is no pose")
    return np.stack([((nose - eyes) * along).sum(1) / distance, ((nose - eyes) * across).sum(1) / height], axis=1)


def fit_landmarks(features: np.ndarray, landmarks: np.ndarray) -> LandmarkRegression:
    """Return the ridge regression of landmarks (N, 5, 2) on standardised features (N, D).

    Of RIDGES, the one with the least squared error when each picture is left out, which needs no second fit.

    Raises:
        ValueError: if the shapes do not fit, there are fewer than three pictures, or no feature varies.

    Source: Hoerl and Kennard 1970; the left-out residual (y - yhat)_i / (1 - H_ii): Golub, Heath and Wahba 1979.
    """
    points = np.asarray(landmarks, np.float64)
    if features.ndim != 2 or points.shape != (len(features), NUM_LANDMARKS, 2) or len(features) < 3:
        raise ValueError(
            f"landmarks {points.shape} for features {features.shape}; expected (N, 5, 2) and (N, D), N > 2"
        )
    mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    scale = np.where(deviation > _SMALL, deviation, np.inf)  # what does not vary says nothing
    standard = (features - mean) / scale
    offset = points.reshape(len(points), -1).mean(0)
    targets = points.reshape(len(points), -1) - offset
    values, vectors = np.linalg.eigh(standard @ standard.T)
    values = np.maximum(values, 0)
    unit = values.mean()
    if unit <= _SMALL:
        raise ValueError("no feature varies: nothing can be told from them")
    turned = vectors.T @ targets

    def left_out_error(ridge: float) -> float:
        kept = values / (values + ridge * unit)
        shown = np.square(vectors) @ kept + 1 / len(targets)  # the diagonal of the hat matrix; 1 / N: of the mean
        residual = targets - vectors @ (kept[:, None] * turned)
        return float(np.square(residual / np.maximum(1 - shown, _SMALL)[:, None]).sum())

    ridge = min(RIDGES, key=left_out_error)
    weights = standard.T @ (vectors @ (turned / (values + ridge * unit)[:, None]))
    return LandmarkRegression(mean, scale, weights, offset, ridge)


def r_squared(truth: np.ndarray, told: np.ndarray) -> float | None:
    """Return 1 - the squared error over the squared deviation from the mean, columns of (N, ...) summed.

    1: told exactly; 0: no better than the mean; None where the truth does not vary.

    Raises:
        ValueError: if the shapes differ or there are fewer than two rows.
    """
    truth, told = np.asarray(truth, np.float64), np.asarray(told, np.float64)
    if truth.shape != told.shape or len(truth) < 2:
        raise ValueError(f"truth {truth.shape} and what was told of it {told.shape} differ, or are fewer than two")
    variation = np.square(truth - truth.mean(0)).sum()
    return float(1 - np.square(truth - told).sum() / variation) if variation > _SMALL else None


def luminance(images: np.ndarray) -> np.ndarray:  # (N,)
    """Return the mean luma of each picture, 0 (black) to 1.

    Raises:
        ValueError: if they are not uint8 (N, H, W, 3).
    """
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
        raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 (N, H, W, 3)")
    return np.clip(images.mean(axis=(1, 2), dtype=np.float64) @ np.array(LUMA) / 255, 0, 1)
