"""What an edit did to the pixels: how far the rest of the photograph stayed, and whether the border of the mask shows.

Shapes: B pictures, H W size. Masks are bool, True where the picture was to be repainted.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

RING = 2 / 64  # reach of the ring to either side of the mask's border, as a share of the picture's shorter side
_FLAT = 1e-6  # grey levels per px: a ring of the photograph below this has no gradient to compare with


def outside_psnr_db(photographs: np.ndarray, edited: np.ndarray, masks: np.ndarray) -> np.ndarray:  # (B,)
    """Return the peak signal-to-noise ratio outside the masks, dB: 10 log10(255^2 / MSE) over the pixels kept.

    An error of less than one grey level in one channel of one pixel of the picture cannot be seen in 8 bits: where the
    outside is untouched the ratio is that of this smallest error instead of infinity (89.0 dB at 64 px), which no
    touched outside reaches.

    Args:
        photographs, edited: uint8 (B, H, W, 3), paired.
        masks: bool (B, H, W).

    Returns:
        float64; NaN where the mask leaves no outside.

    Raises:
        ValueError: if shapes or dtypes do not match.
    """
    _check(photographs, edited, masks)
    errors = np.square(photographs.astype(np.float64) - edited).mean(axis=3)
    outside = (~masks).sum(axis=(1, 2))
    sums = np.where(masks, 0, errors).sum(axis=(1, 2))
    mse = np.divide(sums, outside, out=np.full(len(masks), np.nan), where=outside > 0)
    smallest = 1 / np.prod(photographs.shape[1:])
    return 10 * np.log10(255**2 / np.maximum(mse, smallest))


def outside_identical(photographs: np.ndarray, edited: np.ndarray, masks: np.ndarray) -> np.ndarray:  # (B,)
    """Return 1 where every pixel outside the mask is the photograph's, else 0; NaN where the mask leaves no outside."""
    _check(photographs, edited, masks)
    same = ((photographs == edited).all(axis=3) | masks).all(axis=(1, 2))
    return np.where(masks.all(axis=(1, 2)), np.nan, same.astype(np.float64))


def changed_share(photographs: np.ndarray, edited: np.ndarray) -> np.ndarray:  # (B,)
    """Return the share of pixels that differ in at least one channel."""
    _check(photographs, edited, np.zeros(photographs.shape[:3], dtype=bool))
    return (photographs != edited).any(axis=3).mean(axis=(1, 2))


def seam_ratio(photographs: np.ndarray, edited: np.ndarray, masks: np.ndarray) -> np.ndarray:  # (B,)
    """Return the mean gradient around the mask's border, relative to the photograph's there: 1 is no seam.

    The ring holds the pixels within 2 px of the border at 64 px a side (in proportion at others), on both sides of it;
    the border of the picture is none. The gradient is the length of the vector of differences to the right and downward
    neighbour, the mean over the channels. What was asked for may itself add edges there (a hat's brim), so that ratios
    compare methods on equal masks rather than stand alone.

    Args:
        photographs, edited: uint8 (B, H, W, 3), paired.
        masks: bool (B, H, W).

    Returns:
        float64; NaN where the mask has no border or the photograph is flat along it.

    Raises:
        ValueError: if shapes or dtypes do not match.
    """
    _check(photographs, edited, masks)
    found = np.full(len(masks), np.nan)
    for i, mask in enumerate(masks):
        ring = border_ring(mask)
        before, after = (_gradient(images[i])[ring] for images in (photographs, edited))
        if ring.any() and before.mean() > _FLAT:
            found[i] = after.mean() / before.mean()
    return found


def border_ring(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of (H, W) that lie within the ring's reach of the mask's border, bool (H, W)."""
    reach = max(1, round(RING * min(mask.shape)))
    square = np.ones((2 * reach + 1, 2 * reach + 1), dtype=bool)
    outer = ndimage.binary_dilation(mask, square)
    return outer & ~ndimage.binary_erosion(mask, square, border_value=1)


def _gradient(image: np.ndarray) -> np.ndarray:  # (H, W, 3) -> (H, W)
    pixels = image.astype(np.float64)
    right = np.diff(pixels, axis=1, append=pixels[:, -1:])
    down = np.diff(pixels, axis=0, append=pixels[-1:])
    return np.hypot(right, down).mean(axis=2)


def _check(photographs: np.ndarray, edited: np.ndarray, masks: np.ndarray) -> None:
    if photographs.shape != edited.shape or photographs.ndim != 4 or photographs.shape[-1] != 3 or 0 in edited.shape:
        raise ValueError(f"photographs {photographs.shape} and edits {edited.shape} must both be (B, H, W, 3)")
    if photographs.dtype != np.uint8 or edited.dtype != np.uint8:
        raise ValueError(f"pictures must be uint8, got {photographs.dtype} and {edited.dtype}")
    if masks.shape != photographs.shape[:3] or masks.dtype != bool:
        raise ValueError(f"masks are {masks.dtype} {masks.shape}; expected bool {photographs.shape[:3]}")
