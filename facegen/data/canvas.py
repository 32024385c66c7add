"""An antialiased canvas in frame coordinates: the picture is [-1, 1] x [-1, 1], y down.

aggdraw (the Anti-Grain Geometry library) fills and strokes; it needs nothing beyond its wheel, draws the same bytes
each time, and takes a tenth of the time of the SVG renderers that install as easily.

Shape legend: P points, S canvas side in px.
"""

from collections.abc import Iterable

import aggdraw
import numpy as np
from PIL import Image

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


class Canvas:
    """A square picture that shapes are drawn on, one above the other."""

    def __init__(self, pixels: np.ndarray) -> None:
        """Starts from `pixels`, uint8 (S, S, 3)."""
        self.size = len(pixels)
        self._draw = aggdraw.Draw(Image.fromarray(pixels))

    def pixels(self) -> np.ndarray:
        """What has been drawn so far, uint8 (S, S, 3)."""
        return np.frombuffer(self._draw.tobytes(), dtype=np.uint8).reshape(self.size, self.size, 3)

    def _xy(self, points: np.ndarray) -> np.ndarray:
        return (points.ravel() + 1.0) * (0.5 * self.size)

    def fill(self, points: np.ndarray, colour: Colour, opacity: float = 1.0) -> None:
        """Fills a closed outline (P, 2)."""
        self._draw.polygon(self._xy(points), None, aggdraw.Brush(_rgb(colour), round(255 * opacity)))

    def stroke(self, points: np.ndarray, colour: Colour, width: float, opacity: float = 1.0) -> None:
        """Draws a line (P, 2) of a width in frame units."""
        self._draw.line(self._xy(points), aggdraw.Pen(_rgb(colour), 0.5 * self.size * width, round(255 * opacity)))

    def strokes(self, lines: Iterable[np.ndarray], colour: Colour, width: float, opacity: float = 1.0) -> None:
        """Draws several lines alike."""
        pen = aggdraw.Pen(_rgb(colour), 0.5 * self.size * width, round(255 * opacity))
        for points in lines:
            self._draw.line(self._xy(points), pen)

    def ellipse(self, center: np.ndarray, radius: tuple[float, float], colour: Colour, opacity: float = 1.0) -> None:
        """Fills an upright ellipse about `center` (2,)."""
        half = 0.5 * self.size
        x, y, rx, ry = (center[0] + 1.0) * half, (center[1] + 1.0) * half, radius[0] * half, radius[1] * half
        self._draw.ellipse((x - rx, y - ry, x + rx, y + ry), aggdraw.Brush(_rgb(colour), round(255 * opacity)))


def mask(size: int, shapes: Iterable[np.ndarray]) -> np.ndarray:
    """Coverage of the union of closed outlines in frame coordinates, float32 (S, S) in [0, 1]."""
    draw = aggdraw.Draw("L", (size, size), 0)
    brush = aggdraw.Brush(255)
    for points in shapes:
        draw.polygon((points.ravel() + 1.0) * (0.5 * size), None, brush)
    return np.frombuffer(draw.tobytes(), dtype=np.uint8).reshape(size, size).astype(np.float32) / 255.0
