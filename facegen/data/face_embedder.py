"""Face embeddings: a recogniser's ONNX file, trained here or published, run on pictures of faces.

A recogniser's folder holds `recognizer.onnx` and `recognizer.json`: input_size (px), embedding_size, mean_landmarks
(5 x (x, y), fractions of the side, the landmarks of pictures that have none), source (null or the published file),
thresholds (cosines, by false accept rate) and licence; or only {"absent": reason} where the data name no people.
Shapes: N pictures, H W size, E embedding.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facegen.artifacts import read_json, sha256_file
from facegen.data.align import CANONICAL, face_crops
from facegen.data.shards import Faces

ONNX, ABOUT = "recognizer.onnx", "recognizer.json"
BATCH = 256
_MIRRORED = [1, 0, 2, 4, 3]  # which point each of the five is in the mirror


def available(folder: str | Path) -> bool:
    """Return whether the folder holds a recogniser, rather than the reason why there is none."""
    about = Path(folder) / ABOUT
    return about.is_file() and "absent" not in read_json(about)


def open_onnx(path: str | Path, *, threads: int) -> Any:
    """Return insightface's model of a recognition network in an ONNX file, on the CPU.

    Args:
        path: the file; nothing is ever downloaded.
        threads: CPU threads of the network; figures are byte-equal only at a fixed count.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it cannot be read, or is no recognition network.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a recognition network as .onnx")
    if Path(path).suffix != ".onnx":  # insightface would take it for the name of a model in the user's home
        raise ValueError(f"{path} is not a usable ONNX network: its name has to end in .onnx")
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what insightface imports
        from insightface.model_zoo import get_model
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        model = get_model(str(path), providers=["CPUExecutionProvider"], sess_options=options)
    except Exception as error:  # of protobuf, onnx, onnxruntime, or an assertion
        raise ValueError(f"{path} is not a usable ONNX network: {error}") from error
    if getattr(model, "taskname", None) != "recognition":
        raise ValueError(f"{path} is no recognition network: expected one square input from 112 px on and one output")
    return model


class FaceEmbedder:
    """A recogniser that turns pictures into unit vectors. See `FaceEmbedder.load`."""

    def __init__(self, path: str | Path, *, name: str, about: dict[str, Any], threads: int) -> None:
        """
        Args:
            path: the ONNX file.
            name: what figures call it.
            about: mean_landmarks and thresholds of recognizer.json.
            threads: as `open_onnx`.

        Raises:
            FileNotFoundError, ValueError: as `open_onnx`.
        """
        self._model = open_onnx(path, threads=threads)
        self.name, self.sha256 = name, sha256_file(path)
        self.input_size = int(self._model.input_size[0])  # px
        self.mean_landmarks = np.array(about["mean_landmarks"], dtype=np.float64)  # (5, 2), fractions of the side
        self.thresholds: dict[str, float] = dict(about["thresholds"])
        self.dim = int(self._run(torch.zeros(1, 3, self.input_size, self.input_size)).shape[1])

    @classmethod
    def load(cls, path: str | Path, *, threads: int) -> FaceEmbedder:
        """Open a recogniser.

        Args:
            path: its folder; or an ONNX file alone, and then pictures without landmarks are taken to have the canonical
                ones, and there are no thresholds.
            threads: as `open_onnx`.

        Raises:
            FileNotFoundError: if it is missing.
            ValueError: if the folder says that there is no recogniser, or the file is none.
        """
        path = Path(path)
        if path.suffix == ".onnx":
            about: dict[str, Any] = {"mean_landmarks": CANONICAL, "thresholds": {}}
            return cls(path, name=path.stem, about=about, threads=threads)
        about = read_json(path / ABOUT)
        if "absent" in about:
            raise ValueError(f"{path} holds no recogniser: {about['absent']}")
        return cls(path / ONNX, name=path.name, about=about, threads=threads)

    def embed(self, images: np.ndarray, landmarks: np.ndarray | None, *, flip: bool = False) -> np.ndarray:
        """Return unit vectors, float32 (N, E).

        Args:
            images: uint8 (N, H, W, 3), RGB.
            landmarks: (N, 5, 2) px; None: the mean ones of the training faces, for pictures framed as those are.
            flip: add the embedding of the mirrored picture before scaling to unit length.

        Raises:
            ValueError: for other shapes or types, pictures without landmarks that are not square, landmarks that
                coincide, or an embedding that is zero or not finite.
        """
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
            raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 (N, H, W, 3)")
        count, height, width = images.shape[:3]
        if landmarks is None:
            if height != width:
                raise ValueError(f"pictures of {width}x{height} px need landmarks; only square ones can do without")
            landmarks = np.broadcast_to(self.mean_landmarks * width - 0.5, (count, 5, 2))
        if landmarks.shape != (count, 5, 2):
            raise ValueError(f"landmarks have shape {landmarks.shape}; expected ({count}, 5, 2)")
        parts = [np.empty((0, self.dim), dtype=np.float32)]
        for start in range(0, count, BATCH):
            part, points = images[start : start + BATCH], landmarks[start : start + BATCH]
            rows = self._crop_and_run(part, points)
            if flip:
                rows += self._crop_and_run(part[:, :, ::-1], mirrored_landmarks(points, width=width))
            parts.append(rows)
        embeddings = np.concatenate(parts)
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise ValueError(f"{self.name}: embeddings that are zero or not finite; the network is damaged")
        return embeddings / lengths

    def _crop_and_run(self, images: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        return self._run(face_crops(images, landmarks, size=self.input_size))

    def _run(self, crops: torch.Tensor) -> np.ndarray:
        return self._model.forward((crops * 127.5 + 127.5).numpy())  # takes pixel values and scales them itself


def mirrored_landmarks(landmarks: np.ndarray, *, width: int) -> np.ndarray:  # (N, 5, 2) px
    """Return the landmarks of the mirrored pictures: what was the left eye is the right one there."""
    mirrored = np.array(landmarks, dtype=np.float64)[:, _MIRRORED]
    mirrored[:, :, 0] = width - 1 - mirrored[:, :, 0]
    return mirrored


def embed_faces(
    embedder: FaceEmbedder, faces: Faces, rows: np.ndarray, *, by_landmarks: bool, threads: int
) -> np.ndarray:
    """Return the unit vectors (len(rows), E) of a split's pictures, decoded batch by batch.

    Args:
        rows: row numbers.
        by_landmarks: align each by its own landmarks; else by the mean ones, as pictures are that have none.
        threads: how many PNGs are decoded at once.
    """
    parts = [np.empty((0, embedder.dim), dtype=np.float32)]
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        landmarks = faces.landmarks[part] if by_landmarks else None
        parts.append(embedder.embed(faces.images(part, threads=threads), landmarks))
    return np.concatenate(parts)
