"""Enlarging pictures of any size: with the trained upscaler, or with Lanczos' filter, which it is measured against.

A picture is one call of the network, or several where it is large: tiles that overlap by what a pixel depends on, so
that there is no seam. Picture i does not depend on its batch. Shapes: B pictures, H W size, s scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from facegen.artifacts import read_json
from facegen.data.images import to_uint8, to_unit
from facegen.models.upscaler import ResidualUpscaler, load_upscaler

ABOUT = "upscaler.json"  # of a model folder: figures, or why there is no upscaler
TILE_PX = 192  # side of a tile without its overlap; pictures up to this size are one call


def available(folder: str | Path) -> bool:
    """Whether a folder holds an upscaler: False if there is no such folder, or it says that there is none."""
    return (Path(folder) / "config.json").is_file()


def lanczos(images: np.ndarray, scale: int) -> np.ndarray:  # (B, H, W, 3) -> (B, sH, sW, 3)
    """Return pictures enlarged with Lanczos' filter (of three lobes, Pillow's).

    Args:
        images: uint8 (B, H, W, 3).
        scale: from 1 on.

    Raises:
        ValueError: for another rank, dtype or scale.
    """
    _check(images)
    if scale < 1:
        raise ValueError(f"scale is {scale}; it must be at least 1")
    height, width = images.shape[1:3]
    out = np.empty((len(images), scale * height, scale * width, 3), dtype=np.uint8)
    for made, image in zip(out, images, strict=True):
        made[:] = np.asarray(Image.fromarray(image).resize((scale * width, scale * height), Image.Resampling.LANCZOS))
    return out


class FaceUpscaler:
    """A trained upscaler on a device; computes in float32."""

    def __init__(self, network: ResidualUpscaler, *, device: torch.device) -> None:
        self.network = network.to(device, memory_format=torch.channels_last).eval()
        self.device = device
        self.scale = int(network.config.scale)

    @classmethod
    def load(cls, folder: str | Path, *, device: torch.device) -> FaceUpscaler:
        """Open the upscaler of a model folder.

        Raises:
            FileNotFoundError: if the folder holds none.
            ValueError: if the folder says why there is none.
            DamagedArtifactError: if its weights are broken.
        """
        about = Path(folder) / ABOUT
        if not available(folder) and about.is_file() and (reason := read_json(about).get("absent")):
            raise ValueError(f"{folder} holds no upscaler: {reason}")
        return cls(load_upscaler(folder), device=device)

    @torch.no_grad()
    def upscale(self, images: np.ndarray, *, tile_px: int = TILE_PX) -> np.ndarray:  # (B, H, W, 3) -> (B, sH, sW, 3)
        """Return the pictures enlarged.

        Args:
            images: uint8 (B, H, W, 3), of any size from 1 px on.
            tile_px: largest side of what is computed at once, without the overlap; it bounds the memory, and changes
                no pixel but by rounding.

        Raises:
            ValueError: for another rank or dtype, or tiles of no pixel.
        """
        _check(images)
        if tile_px < 1:
            raise ValueError(f"tile_px is {tile_px}; it must be at least 1")
        s, reach = self.scale, self.network.reach_px
        height, width = images.shape[1:3]
        out = np.empty((len(images), s * height, s * width, 3), dtype=np.uint8)
        for made, image in zip(out, images, strict=True):
            for top, bottom in _spans(height, tile_px):
                for left, right in _spans(width, tile_px):
                    y, x = max(top - reach, 0), max(left - reach, 0)
                    part = to_unit(image[None, y : bottom + reach, x : right + reach])
                    enlarged = self.network(part.to(self.device, memory_format=torch.channels_last))
                    rows, columns = slice(s * (top - y), s * (bottom - y)), slice(s * (left - x), s * (right - x))
                    made[s * top : s * bottom, s * left : s * right] = to_uint8(enlarged[:, :, rows, columns])[0]
        return out


def _spans(side: int, tile: int) -> Iterator[tuple[int, int]]:
    """Yield the first pixel of each tile along a side and that after its last; all are about equally long."""
    count = -(-side // tile)
    for index in range(count):
        yield side * index // count, side * (index + 1) // count


def _check(images: np.ndarray) -> None:
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
        raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 (B, H, W, 3)")
