"""How well a recogniser tells people apart on pictures of any kind: published pairs, folders of people, Parquet.

    NAME.bin            the pairs of the file, in its folds (`facegen.metrics.pair_folds`)
    a folder of faces   {train,val,test}-NNNNN.parquet: pairs drawn from one split, people kept apart between the folds
    NAME.parquet        synthetic people (`facegen.data.people_set`): likewise
    any other folder    a folder per person: likewise

An embedding is that of the picture plus that of its mirror, scaled to unit length, as published figures have it.

Pictures without landmarks are framed in one of two ways. `face`: as the faces are that the recogniser was trained on,
so that its mean landmarks stand in; Parquet always is. `aligned`: the picture is the recogniser's own crop, the five
points on its template; .bin files are by their definition. A folder is taken as `aligned` unless it is said to be
`face`, and of each photograph the largest centred square counts. Shapes: N pictures, P pairs, E embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from facegen.artifacts import sha256_file
from facegen.data.align import cut_face, recognizer_crops, recognizer_matrices, recognizer_template
from facegen.data.archive import Picture, read_picture
from facegen.data.face_embedder import BATCH, FaceEmbedder
from facegen.data.images import ImageError, decode_photo
from facegen.data.pair_bins import SUFFIX, PairBin
from facegen.data.people import is_folder_per_person, read_people
from facegen.data.people_set import PeopleSet
from facegen.data.shards import Faces
from facegen.metrics.pair_folds import fold_accuracy
from facegen.metrics.verification import FARS, far_name, roc, verification_report
from facegen.rng import numpy_generator

if TYPE_CHECKING:
    from facegen.train.recognizer import PicturesOfPeople

Framing = Literal["aligned", "face"]
Done = Callable[[int], object]
"""Called with the number of pictures that were just embedded."""

PAIRS = "recognizer pairs"  # the purpose of the draw of pairs: the same pairs for every recogniser
MAX_MEGAPIXELS = 100.0  # of a photograph in a folder
_TABLE = ("accuracy", "auc", "equal_error_rate", "tar_at_far_1e-2", "tar_at_far_1e-3")


class PairEmbedder(FaceEmbedder):
    """A recogniser that also takes pictures which are its crop already."""

    def embed_aligned(self, images: np.ndarray) -> np.ndarray:
        """Return unit vectors (N, E), mirror included, of pictures with the five points on the template.

        Args:
            images: uint8 (N, H, H, 3), H a multiple of 112 or 128 px.

        Raises:
            ValueError: for another shape or size, or embeddings that are zero or not finite.
        """
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
            raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 (N, H, H, 3)")
        parts, size = [np.empty((0, self.dim), dtype=np.float32)], images.shape[1]
        template = recognizer_template(size)
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            crops = torch.from_numpy(np.ascontiguousarray(part.transpose(0, 3, 1, 2))).float().div_(127.5).sub_(1)
            if size != self.input_size:
                matrices = recognizer_matrices(np.broadcast_to(template, (len(part), 5, 2)), size=self.input_size)
                crops = recognizer_crops(crops, torch.from_numpy(matrices), size=self.input_size)
            parts.append(self._run(crops) + self._run(crops.flip(3)))
        embeddings = np.concatenate(parts)
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise ValueError(f"{self.name}: embeddings that are zero or not finite; the network is damaged")
        return embeddings / lengths


class PeopleFolder:
    """Photographs of people, a folder each, as the largest centred square of each: pictures of one size."""

    def __init__(self, root: str | Path, *, resolution: int) -> None:
        """
        Args:
            root: the folder.
            resolution: side of the pictures, px.

        Raises:
            FileNotFoundError, ValueError: as `facegen.data.people.read_people`.
        """
        source = read_people(root, attributes="all", val_fraction=0.0, test_fraction=0.0, seed=0)
        self.root, self.resolution = Path(root), resolution
        self.ids, self.identity = source.ids, source.identity
        self._pictures: list[Picture] = [source.pictures.by_name[id] for id in source.ids]

    def images(self, rows: Sequence[int] | np.ndarray, /, *, threads: int) -> np.ndarray:
        """Return pictures, uint8 (B, S, S, 3).

        Raises:
            ImageError: naming the first one that cannot be used.
        """
        out = np.empty((len(rows), self.resolution, self.resolution, 3), np.uint8)
        for slot, row in enumerate(rows):
            try:
                photo = decode_photo(read_picture(self.root, self._pictures[row]), max_megapixels=MAX_MEGAPIXELS)
                face, _, _ = cut_face(photo, resolution=self.resolution, crop="full", crop_size_px=0, landmarks=None)
            except ImageError as error:
                reason = str(error).removesuffix(" (preprocess.max_megapixels)")
                raise ImageError(f"{self.root / self.ids[row]}: {reason}") from error
            out[slot] = np.asarray(face)
        return out


def verified(
    embedder: PairEmbedder, place: str | Path, *, framing: Framing, split: str, threads: int, seed: int,
    on_done: Done = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """Return the figures of a recogniser on one set of pictures.

    Args:
        place: see the head of this module.
        framing: of a folder per person.
        split: of a folder of faces.
        threads: how many pictures are decoded at once.
        seed: of the pairs that are drawn.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: if it is none of these kinds, a picture cannot be used, or there are too few people or pairs.
    """
    path = Path(place)
    if path.is_dir():
        if next(path.glob(f"{split}-*.parquet"), None) is not None:
            faces = Faces.open(path, split)
            return {
                "kind": f"faces ({split})",
                **people_figures(embedder, faces, threads=threads, seed=seed, on_done=on_done),
            }
        if not is_folder_per_person(path):
            raise ValueError(f"{path} holds neither {split}-NNNNN.parquet nor a folder per person")
        pictures = PeopleFolder(path, resolution=embedder.input_size)
        figures = people_figures(embedder, pictures, framing=framing, threads=threads, seed=seed, on_done=on_done)
        return {"kind": f"folder per person, framed as {framing}", **figures}
    if path.suffix == ".parquet":
        people = PeopleSet.open(path)
        return {
            "kind": "synthetic people",
            **people_figures(embedder, people, threads=threads, seed=seed, on_done=on_done),
        }
    if path.suffix == SUFFIX:
        return {"kind": "pairs", **pair_figures(embedder, PairBin.open(path), threads=threads, on_done=on_done)}
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    raise ValueError(f"{path}: expected NAME.bin, NAME.parquet, a folder of faces or a folder per person")


def people_figures(
    embedder: PairEmbedder, source: PicturesOfPeople, *, framing: Framing = "face", threads: int, seed: int,
    on_done: Done = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """Return `verification_report` of all pictures whose person is known.

    Raises:
        ValueError: as it does, or as `embed_people`.
    """
    rows = np.flatnonzero(source.identity >= 0)
    vectors = embed_people(embedder, source, rows, framing=framing, threads=threads, on_done=on_done)
    return verification_report(vectors, source.identity[rows], rng=numpy_generator(seed, PAIRS))


def embed_people(
    embedder: PairEmbedder, source: PicturesOfPeople, rows: np.ndarray, *, framing: Framing = "face", threads: int,
    on_done: Done = lambda _: None,
) -> np.ndarray:  # fmt: skip
    """Return unit vectors (len(rows), E), mirror included, decoded batch by batch."""
    parts = [np.empty((0, embedder.dim), dtype=np.float32)]
    for start in range(0, len(rows), BATCH):
        images = source.images(rows[start : start + BATCH], threads=threads)
        found = embedder.embed_aligned(images) if framing == "aligned" else embedder.embed(images, None, flip=True)
        parts.append(found)
        on_done(len(images))
    return np.concatenate(parts)


def pair_figures(
    embedder: PairEmbedder, pairs: PairBin, *, threads: int, on_done: Done = lambda _: None
) -> dict[str, Any]:
    """Return the figures of a published set: accuracy over its folds, and the curve over all its pairs.

    Raises:
        ValueError: naming the file, if a picture cannot be used, has no template, or there are fewer pairs than folds.
    """
    try:
        vectors = embed_pairs(embedder, pairs, threads=threads, on_done=on_done)
        distances = np.square(vectors[::2] - vectors[1::2]).sum(axis=1)
        found, curve = fold_accuracy(distances, pairs.same), roc(-distances, pairs.same)
    except ValueError as error:
        raise error if str(pairs.path) in str(error) else ValueError(f"{pairs.path}: {error}") from error
    rates = {
        f"tar_at_far_{far_name(far)}": curve.tar_at_far(far) if curve.num_different * far >= 1 else None for far in FARS
    }
    return {
        "accuracy": found.accuracy.to_json(),
        "accuracy_std": found.deviation,
        "folds": len(found.thresholds),
        "squared_distance": float(found.thresholds.mean()),
        "auc": curve.auc(),
        "equal_error_rate": curve.equal_error_rate(),
        **rates,
        "pairs": len(pairs),
        "pictures": len(set(pairs.encoded)),
        "sha256": sha256_file(pairs.path),
    }


def embed_pairs(
    embedder: PairEmbedder, pairs: PairBin, *, threads: int, on_done: Done = lambda _: None
) -> np.ndarray:  # float64 (2P, E)
    """Return unit vectors of all pictures of a set; one that stands in several pairs is embedded once.

    Raises:
        ValueError: if a picture cannot be used.
    """
    place = {picture: number for number, picture in enumerate(dict.fromkeys(pairs.encoded))}
    number_of = np.array([place[picture] for picture in pairs.encoded])
    first = np.unique(number_of, return_index=True)[1]  # where each picture stands first
    parts = []
    for start in range(0, len(first), BATCH):
        rows = first[start : start + BATCH]
        parts.append(embedder.embed_aligned(pairs.images(rows, threads=threads)))
        on_done(int(np.isin(number_of, number_of[rows]).sum()))
    return np.concatenate(parts).astype(np.float64)[number_of]


def benchmark_files(folder: str | Path) -> list[Path]:
    """Return the verification sets of a folder, by name, each of them checked as far as `PairBin.open` does.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds none, or one cannot be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"verify.benchmarks: {folder} is not a folder")
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files:
        raise ValueError(f"verify.benchmarks: {folder} holds no {SUFFIX} file")
    for file in files:  # one after the other: together they may be larger than memory
        PairBin.open(file)
    return files


def table_rows(results: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return a line of text for each set: name, kind, pictures, pairs, and the figures in percent."""

    def cell(figure: Any) -> str:
        if figure is None:
            return "-"
        if isinstance(figure, dict):
            return f"{100 * figure['value']:.2f} ({100 * figure['low']:.2f} to {100 * figure['high']:.2f})"
        return f"{100 * figure:.2f}"

    return [
        (name, str(found["kind"]), str(found["pictures"]), str(found["pairs"]), *(cell(found[key]) for key in _TABLE))
        for name, found in results.items()
    ]
