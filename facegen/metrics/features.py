"""From images to feature rows, in which distances between sets of images are taken.

`RandomProjection` needs no trained weights: a fixed random convolutional network, drawn once from a constant seed. It
sees colour, edges and texture at four scales and where in the picture they are, and knows nothing of faces: distances
in it order blur, noise and broken structure, but they are not Inception's: no published figure compares with them.

Shapes: B images in a batch, N images, H W size, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from facegen.rng import numpy_generator

SEED = 20240229  # of the extractor, apart from params.yaml: figures of different runs must share it
SIZE = 64  # px; every image is brought to this size first
CHANNELS = (24, 32, 48, 64)  # of the levels, at 64, 32, 16 and 8 px
POOLED = 4  # each level is averaged over POOLED x POOLED cells
BATCH = 128


class FeatureExtractor(Protocol):
    """What a metric needs of a feature space; `digest` changes whenever a feature would."""

    name: str
    digest: str
    dim: int

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return float32 (B, D) of uint8 (B, H, W, 3)."""
        ...


def extract(extractor: FeatureExtractor, batches: Iterable[np.ndarray]) -> np.ndarray:
    """Return the features of all images, in order.

    Args:
        extractor: the feature space.
        batches: uint8 (B, H, W, 3) each.

    Returns:
        float32 (N, D).

    Raises:
        ValueError: if there is no image, or a feature is not finite.
    """
    parts = [extractor(batch) for batch in batches]
    if not parts:
        raise ValueError("there are no images to take features of")
    features = np.concatenate(parts)
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features)).any(1).sum())
        raise ValueError(f"{extractor.name}: {bad} of {len(features)} images have features that are not finite")
    return features


class RandomProjection:
    """A fixed random network: four levels of zero-mean convolution, ReLU and averaging, projected to D numbers.

    Float32 on the CPU, always, so that a figure does not depend on the machine's accelerator.
    """

    def __init__(self, dim: int) -> None:
        """Draw the weights.

        Args:
            dim: number of features, at least 1.

        Raises:
            ValueError: if it is below 1.
        """
        if dim < 1:
            raise ValueError(f"the number of features is {dim}; at least 1 is needed")
        self.dim = dim
        inputs = (3, *CHANNELS[:-1])
        self._kernels = [_kernel(level, inputs[level], CHANNELS[level]) for level in range(len(CHANNELS))]
        width = POOLED**2 * (3 + sum(CHANNELS))
        projection = numpy_generator(SEED, "feature projection", dim).standard_normal((width, dim)) / np.sqrt(width)
        self._projection = torch.from_numpy(projection.astype(np.float32))
        weights = hashlib.sha256(f"{SIZE}/{CHANNELS}/{POOLED}/relu-mean-sqrt".encode())
        for tensor in (*self._kernels, self._projection):
            weights.update(tensor.numpy().tobytes())
        self.digest = weights.hexdigest()
        self.name = f"random-projection-{dim}"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return float32 (B, D) of uint8 (B, H, W, 3); images of other sizes are resized with antialiasing.

        Raises:
            ValueError: for another rank, channel count or dtype, or no image.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or 0 in images.shape:
            raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 (B, H, W, 3)")
        with torch.inference_mode():
            parts = [self._batch(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        return np.concatenate(parts)

    def _batch(self, images: np.ndarray) -> np.ndarray:
        x = resize(torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32)), SIZE) / 127.5 - 1
        parts = [_cells(x)]
        for kernel in self._kernels:
            reach = kernel.shape[-1] // 2
            x = F.relu(F.conv2d(F.pad(x, (reach,) * 4, mode="replicate"), kernel))
            parts.append(_cells(x).sqrt())  # contrast differs by factors between photographs; its root less
            x = F.avg_pool2d(x, 2)
        return (torch.cat(parts, 1) @ self._projection).numpy()


def resize(images: Tensor, size: int) -> Tensor:  # (B, C, H, W) -> (B, C, size, size)
    """Resize with an antialiased bicubic filter, in float, without rounding (PIL's filter on float pixels)."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False)


def _kernel(level: int, inputs: int, outputs: int) -> Tensor:  # (outputs, inputs, k, k)
    """Draw kernels whose entries sum to zero (they see contrast, not brightness) and keep the scale of their input."""
    side = 5 if level == 0 else 3
    shape = (outputs, inputs, side, side)
    kernel = numpy_generator(SEED, "feature kernel", level).standard_normal(shape)
    kernel -= kernel.mean((1, 2, 3), keepdims=True)
    kernel *= np.sqrt(8) / np.sqrt(np.square(kernel).sum((1, 2, 3), keepdims=True))
    return torch.from_numpy(kernel.astype(np.float32))


def _cells(maps: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C * POOLED^2)
    """Return the mean of each channel in each of POOLED x POOLED cells."""
    return F.avg_pool2d(maps, maps.shape[-1] // POOLED).flatten(1)
