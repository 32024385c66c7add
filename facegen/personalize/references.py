"""Photographs of the people who are asked for: where their faces lie, and what the identity encoder makes of them.

A face is found by its landmarks: given ones, those that a detection network finds (the largest face is taken, and the
choice is told), or the mean ones of the data, for a picture that is framed as those are. Several pictures of one person
give one vector: the mean of theirs, which the mapper takes as it takes one. Shapes: B crops, I identity features, H W px.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from facegen.data.align import face_crops
from facegen.models.msid import MSID, embed_subjects
from facegen.photograph import SUFFIXES, open_photograph


class FoundFace(Protocol):
    """A face in a photograph, as `facegen.face_detector` tells of it."""

    @property
    def landmarks(self) -> np.ndarray:
        """float32 (5, 2) px."""
        ...


Detect = Callable[[np.ndarray], Sequence[FoundFace]]  # the faces of uint8 (H, W, 3), the largest first


@dataclass(frozen=True)
class FaceFinder:
    """How the face of a photograph is found: by given landmarks, else by detection, else by how the data are framed.

    Attributes:
        mean_landmarks: (5, 2), fractions of the side of a square picture, of faces framed as the data are.
        points: landmarks (5, 2) px of every photograph, or by its file's name; None: not given.
        detect: a detection network; None: there is none.
        tell: is told, in one line, what was chosen where there was a choice.
    """

    mean_landmarks: np.ndarray
    points: np.ndarray | Mapping[str, np.ndarray] | None = None
    detect: Detect | None = None
    tell: Callable[[str], object] = lambda _: None

    def landmarks(self, pixels: np.ndarray, *, name: str) -> np.ndarray:
        """Return the landmarks of the face, float64 (5, 2) px.

        Args:
            pixels: uint8 (H, W, 3).
            name: of the photograph, in messages and among given landmarks.

        Raises:
            ValueError: naming the photograph: it shows no face, the given landmarks leave it out or cannot be those of
                a face in it, or it is not square and nothing tells where its face lies.
        """
        height, width = pixels.shape[:2]
        if isinstance(self.points, Mapping):
            if Path(name).name not in self.points:
                raise ValueError(f"{name}: the list of landmarks does not name it")
            found = self.points[Path(name).name]
        elif self.points is not None:
            found = self.points
        elif self.detect is not None:
            faces = self.detect(pixels)
            if not faces:
                raise ValueError(f"{name}: no face found; name its landmarks, or crop the photograph to the face")
            if len(faces) > 1:
                self.tell(f"{name}: {len(faces)} faces found; the largest one is taken")
            found = faces[0].landmarks
        elif height == width:
            found = self.mean_landmarks * width - 0.5
        else:
            raise ValueError(f"{name}: {width}x{height} px; without landmarks or a detector it has to be a square face")
        found = np.asarray(found, np.float64)
        if not np.isfinite(found).all() or not _near(found, width=width, height=height):
            raise ValueError(f"{name}: landmarks {found.tolist()} lie outside its {width}x{height} px")
        return found


def person_pictures(place: str | Path) -> list[Path]:
    """Return the photographs of one person: a file, or all pictures of a folder, by name.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if the folder holds no picture.
    """
    place = Path(place)
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise FileNotFoundError(f"{place}: no such photograph or folder of them")
    found = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"{place} holds no picture ({', '.join(SUFFIXES)})")
    return found


def reference_crop(
    source: str | Path | np.ndarray, finder: FaceFinder, *, size: int, max_megapixels: float, name: str = "the picture"
) -> Tensor:  # (1, 3, size, size)
    """Return the aligned face of a photograph, float in [-1, 1].

    Args:
        source: a file, or uint8 (H, W, 3).
        finder: says where the face lies.
        size: of the crop, px: what the identity encoder takes.
        max_megapixels: the most pixels of a file.
        name: of an array, in messages.

    Raises:
        FileNotFoundError, ImageError: as `open_photograph`.
        ValueError: as `FaceFinder.landmarks`, for an array of another shape or dtype, or landmarks that coincide.
    """
    if isinstance(source, np.ndarray):
        pixels = source
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"{name} is {pixels.dtype} {pixels.shape}; expected uint8 (H, W, 3)")
    else:
        name, pixels = str(source), open_photograph(source, max_megapixels=max_megapixels).seen
    points = finder.landmarks(pixels, name=name)
    try:
        return face_crops(pixels[None], points[None], size=size)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


@torch.no_grad()
def person_features(msid: MSID, crops: Sequence[Tensor]) -> Tensor:  # (I,)
    """Return the features of one person, float32 on the host: the mean of those of the crops (1, 3, size, size).

    Raises:
        ValueError: if there is no crop.
    """
    if not crops:
        raise ValueError("a person needs at least one picture")
    return embed_subjects(msid, torch.cat(list(crops))).cpu().mean(dim=0)


def _near(points: np.ndarray, *, width: int, height: int) -> bool:
    """Return whether the middle of the face lies in the picture."""
    x, y = points.mean(axis=0)
    return bool(0 <= x < width and 0 <= y < height)
