"""The five landmarks of faces in a photograph: found by an insightface detection network, or read from a file.

The network is the user's: an SCRFD model as .onnx (det_10g.onnx of insightface's buffalo_l, for one), run by
insightface itself; nothing is ever downloaded. A point is in px of the photograph, counted from the centre of the top
left pixel; five a face in CelebA's order, which is insightface's. Shapes: H W photograph.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facegen.data.lists import read_landmarks

_FIRST = ("det", "scrfd")  # how files of detection networks are usually called: opened before the others
_WITH_LANDMARKS = (9, 15)  # outputs of an SCRFD network that has them: scores, boxes and points of 3 or 5 levels


@dataclass(frozen=True)
class DetectedFace:
    """One face in a photograph: its box (x0, y0, x1, y1) px, its score in [0, 1], its landmarks float32 (5, 2) px."""

    box: tuple[float, float, float, float]
    score: float
    landmarks: np.ndarray

    @property
    def area(self) -> float:
        """Of the box, square px."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


class FaceDetector:
    """A detection network that finds faces and their landmarks. See `FaceDetector.open`."""

    def __init__(self, model: Any, *, name: str) -> None:
        self._model, self.name = model, name

    @classmethod
    def open(cls, place: str | Path, *, threads: int) -> FaceDetector:
        """Open a detection network on the CPU.

        Args:
            place: an .onnx file, or a folder that holds one (beside others, as insightface's model packs do).
            threads: CPU threads of the network.

        Raises:
            FileNotFoundError: if there is no such file or folder.
            ValueError: if it is, or holds, no detection network with landmarks.
        """
        place = Path(place)
        if place.is_dir():
            files = sorted(place.glob("*.onnx"), key=lambda file: (not file.name.startswith(_FIRST), file.name))
            found = next((file for file in files if _num_outputs(file) in _WITH_LANDMARKS), None)
            if found is None:
                raise ValueError(f"{place} holds no face detection network with landmarks (SCRFD, .onnx)")
            place = found
        if not place.is_file():
            raise FileNotFoundError(f"{place} does not exist; expected a face detection network (.onnx) or its folder")
        if place.suffix != ".onnx" or _num_outputs(place) not in _WITH_LANDMARKS:
            raise ValueError(f"{place} is no face detection network with landmarks (SCRFD, .onnx)")
        return cls(_open_scrfd(place, threads=threads), name=place.stem)

    def detect(self, pixels: np.ndarray) -> list[DetectedFace]:
        """Return the faces in a photograph, the largest first.

        Args:
            pixels: uint8 (H, W, 3), RGB.

        Raises:
            ValueError: for another shape or dtype.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}; expected uint8 (H, W, 3)")
        boxes, points = self._model.detect(np.ascontiguousarray(pixels[..., ::-1]))  # it takes BGR
        faces = [
            DetectedFace((float(x0), float(y0), float(x1), float(y1)), float(score), own.astype(np.float32))
            for (x0, y0, x1, y1, score), own in zip(boxes, points, strict=True)
        ]
        return sorted(faces, key=lambda face: -face.area)

    def landmarks(self, pixels: np.ndarray, *, face: int | None) -> np.ndarray:  # (5, 2)
        """Return the landmarks of one face, float32 (5, 2) px.

        Args:
            pixels: uint8 (H, W, 3), RGB.
            face: its number, 1 being the largest; None for that.

        Raises:
            ValueError: if there is no face, or none of that number.
        """
        faces = self.detect(pixels)
        if not faces:
            raise ValueError("no face found; name its landmarks, or crop the photograph to the face and leave them out")
        number = 1 if face is None else face
        if not 1 <= number <= len(faces):
            raise ValueError(f"face {number}: the photograph has {len(faces)}, counted from 1, the largest")
        return faces[number - 1].landmarks


def read_points(path: str | Path) -> np.ndarray | Mapping[str, np.ndarray]:
    """Read landmarks from a file: of one photograph, (5, 2) px, or by file name of many.

    One photograph: five lines "x y", or JSON [[x, y], ...]. Many: a line "NAME x y x y x y x y x y" each (CelebA's list,
    with or without its count and header; .csv as on Kaggle), or JSON {"NAME": [[x, y], ...]}.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is none of these.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected landmarks")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text ({error.reason})") from None
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if path.suffix == ".csv" or (len(lines) > 2 and len(lines[0]) == 1 and lines[0][0].isdigit()):
        table = read_landmarks(path)
        return {name: row.reshape(5, 2) for name, row in zip(table.lines, table.values, strict=True)}
    if text.lstrip()[:1] in ("[", "{"):
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error})") from None
        if isinstance(values, dict):
            return {name: _five(points, f"{path}, {name}") for name, points in values.items()}
        return _five(values, str(path))
    if lines and all(len(line) == 11 for line in lines):
        return {name: _five(np.reshape(rest, (5, 2)).tolist(), f"{path}, {name}") for name, *rest in lines}
    return _five(lines, str(path))


def _five(values: Any, where: str) -> np.ndarray:
    points: np.ndarray = np.empty(0, dtype=np.float32)
    with suppress(TypeError, ValueError):
        points = np.array([[float(value) for value in pair] for pair in values], dtype=np.float32)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise ValueError(
            f"{where}: expected five points x y in px: left eye, right eye, nose, left and right corner of the mouth"
        )
    return points


def _num_outputs(file: Path) -> int:
    """Return the number of outputs of an ONNX network, 0 for what is none."""
    import onnx

    try:
        return len(onnx.load_model(str(file), load_external_data=False).graph.output)
    except Exception:  # of protobuf or onnx; whatever it is, it is no network
        return 0


def _open_scrfd(file: Path, *, threads: int) -> Any:
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what insightface imports
        from insightface.model_zoo import get_model
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        model = get_model(str(file), providers=["CPUExecutionProvider"], sess_options=options, download=False)
    except Exception as error:  # of protobuf, onnx, onnxruntime, or an assertion
        raise ValueError(f"{file} is not a usable ONNX network: {' '.join(str(error).split())}") from error
    if getattr(model, "taskname", None) != "detection" or not model.use_kps:
        raise ValueError(f"{file} is no face detection network with landmarks (SCRFD)")
    return model
