"""How close a reconstruction is to its image: PSNR and SSIM on 8-bit images.

Shapes: N images, H W size.
"""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity

SSIM_SIGMA = 1.5  # px
SSIM_REACH = 11  # px: the window of a Gaussian cut at 3.5 sigma, the smallest side that SSIM takes


def psnr_db(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:  # (N,)
    """Return the peak signal-to-noise ratio of each image, dB: 10 log10(255^2 / MSE) over its pixels and channels.

    An error of less than one grey level in one channel of one pixel cannot be seen in 8 bits: equal images get the
    ratio of that smallest error instead of infinity (88.9 dB at 64 px).

    Args:
        images, reconstructions: uint8 (N, H, W, 3), paired.

    Raises:
        ValueError: if they do not match or are not uint8.
    """
    _check_pair(images, reconstructions)
    difference = images.astype(np.float64) - reconstructions
    smallest = 1 / np.prod(images.shape[1:])
    mse = np.maximum(np.square(difference).mean((1, 2, 3)), smallest)
    return 10 * np.log10(255**2 / mse)


def ssim(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:  # (N,)
    """Return the structural similarity of each image, the mean over its three channels, 1 for equal images.

    Args:
        images, reconstructions: uint8 (N, H, W, 3), paired, H and W at least 11.

    Raises:
        ValueError: if they do not match, are not uint8, or are smaller than the window.

    Source: Wang et al. 2004: a Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03 (scikit-image computes it).
    """
    _check_pair(images, reconstructions)
    if min(images.shape[1:3]) < SSIM_REACH:
        raise ValueError(f"SSIM needs images of at least {SSIM_REACH} px a side, got {images.shape[1:3]}")
    return np.array([_ssim_of_pair(a, b) for a, b in zip(images, reconstructions, strict=True)])


def _ssim_of_pair(image: np.ndarray, reconstruction: np.ndarray) -> float:
    window = {"gaussian_weights": True, "sigma": SSIM_SIGMA, "use_sample_covariance": False}
    return float(structural_similarity(image, reconstruction, data_range=255, channel_axis=-1, **window))


def _check_pair(images: np.ndarray, reconstructions: np.ndarray) -> None:
    if images.shape != reconstructions.shape or images.ndim != 4 or images.shape[-1] != 3 or len(images) == 0:
        raise ValueError(f"images {images.shape} and reconstructions {reconstructions.shape} must both be (N, H, W, 3)")
    if images.dtype != np.uint8 or reconstructions.dtype != np.uint8:
        raise ValueError(f"images must be uint8, got {images.dtype} and {reconstructions.dtype}")
