"""An antialiased canvas in frame coordinates: a square picture is [-1, 1] x [-1, 1], y down.

A `Frame` puts those coordinates elsewhere, so that one canvas holds several people. With an alpha channel the canvas
also gathers how much of each pixel has been painted over, while its colours are those of a canvas without.

aggdraw (the Anti-Grain Geometry library) fills and strokes; it needs nothing beyond its wheel, draws the same bytes
each time, and takes a tenth of the time of the SVG renderers that install as easily.

Shape legend: P points, H W canvas size in px, C 3 (RGB) or 4 (RGB and alpha).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import aggdraw
import numpy as np

Colour = tuple[float, float, float]  # red, green, blue in [0, 255]


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`share` of the second colour in the first."""
    keep = 1.0 - share
    return (
        first[0] * keep + second[0] * share,
        first[1] * keep + second[1] * share,
        first[2] * keep + second[2] * share,
    )


def scaled(colour: Colour, factor: float) -> Colour:
    """A darker (factor < 1) or lighter colour."""
    return (min(255.0, colour[0] * factor), min(255.0, colour[1] * factor), min(255.0, colour[2] * factor))


def _rgb(colour: Colour) -> tuple[int, int, int]:
    return (round(colour[0]), round(colour[1]), round(colour[2]))


@dataclass(frozen=True)
class Frame:
    """Where frame coordinates lie on a canvas.

    Attributes:
        unit: canvas px of a frame unit.
        left: frame units from the canvas's left edge to the frame's origin.
        top: frame units from its upper edge to there.
    """

    unit: float
    left: float = 1.0
    top: float = 1.0

    @classmethod
    def square(cls, size: int) -> "Frame":
        """The frame that a square canvas of `size` px is filled by."""
        return cls(0.5 * size)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Canvas px (P, 2) of frame coordinates (P, 2)."""
        return (points + np.array([self.left, self.top])) * self.unit

    def axes(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Frame coordinates x (W,) and y (H,) of the pixels' centres, float32."""
        x, y = (np.arange(count, dtype=np.float32) + 0.5 for count in (width, height))
        return x * (1.0 / self.unit) - self.left, y * (1.0 / self.unit) - self.top


class Canvas:
    """A picture that shapes are drawn on, one above the other."""

    def __init__(self, pixels: np.ndarray, frame: Frame) -> None:
        """Starts from `pixels`, uint8 (H, W, C)."""
        self.shape = pixels.shape
        self.frame = frame
        self._origin = np.array([self.frame.left, self.frame.top])
        self._draw = aggdraw.Draw("RGB" if pixels.shape[-1] == 3 else "RGBA", (pixels.shape[1], pixels.shape[0]))
        self._draw.frombytes(pixels.tobytes())

    def pixels(self) -> np.ndarray:
        """What has been drawn so far, uint8 (H, W, C)."""
        return np.frombuffer(self._draw.tobytes(), dtype=np.uint8).reshape(self.shape)

    def _xy(self, points: np.ndarray) -> np.ndarray:
        return ((points + self._origin) * self.frame.unit).ravel()

    def fill(self, points: np.ndarray, colour: Colour, opacity: float = 1.0) -> None:
        """Fills a closed outline (P, 2)."""
        self._draw.polygon(self._xy(points), None, aggdraw.Brush(_rgb(colour), round(255 * opacity)))

    def stroke(self, points: np.ndarray, colour: Colour, width: float, opacity: float = 1.0) -> None:
        """Draws a line (P, 2) of a width in frame units."""
        self._draw.line(self._xy(points), aggdraw.Pen(_rgb(colour), self.frame.unit * width, round(255 * opacity)))

    def strokes(self, lines: Iterable[np.ndarray], colour: Colour, width: float, opacity: float = 1.0) -> None:
        """Draws several lines alike."""
        pen = aggdraw.Pen(_rgb(colour), self.frame.unit * width, round(255 * opacity))
        for points in lines:
            self._draw.line(self._xy(points), pen)

    def ellipse(self, center: np.ndarray, radius: tuple[float, float], colour: Colour, opacity: float = 1.0) -> None:
        """Fills an upright ellipse about `center` (2,)."""
        x, y = self.frame.pixels(center)
        rx, ry = radius[0] * self.frame.unit, radius[1] * self.frame.unit
        self._draw.ellipse((x - rx, y - ry, x + rx, y + ry), aggdraw.Brush(_rgb(colour), round(255 * opacity)))


def mask(size: tuple[int, int], frame: Frame, shapes: Iterable[np.ndarray]) -> np.ndarray:
    """Coverage of the union of closed outlines in frame coordinates, float32 (H, W) in [0, 1]; `size` is (H, W)."""
    height, width = size
    draw = aggdraw.Draw("L", (width, height), 0)
    brush = aggdraw.Brush(255)
    for points in shapes:
        draw.polygon(frame.pixels(points).ravel(), None, brush)
    return np.frombuffer(draw.tobytes(), dtype=np.uint8).reshape(height, width).astype(np.float32) / 255.0
