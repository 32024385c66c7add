"""From photographs to faces, in parallel: read, decode, cut, encode; then drop copies that would leak across splits.

Work goes to processes in chunks of pictures and comes back in the order of the jobs, with a bounded number of chunks
on the way, so memory does not grow with the data and the result does not depend on the number of workers.

Some of the photographs are cut a second time, larger (data/faces-large): the truth that the upscaler learns from.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facegen.data.align import Crop, cut_face
from facegen.data.archive import Picture, read_picture
from facegen.data.images import ImageError, decode_photo, encode_png
from facegen.errors import FacegenError
from facegen.rng import numpy_generator

if TYPE_CHECKING:
    from PIL import Image

    from facegen.data.celeba import Source
    from facegen.data.shards import FacesWriter

CHUNK = 64  # pictures a task
_CHUNKS_AHEAD = 3  # per worker
_ROUNDING = 1e-6  # of a scale of 1


@dataclass(frozen=True)
class Recipe:
    """How a photograph becomes a face: params.yaml's preprocess section."""

    resolution: int
    crop: Crop
    crop_size_px: int
    max_megapixels: float


@dataclass(frozen=True)
class LargeRecipe:
    """Which photographs are cut a second time, and how large: the rest of that section."""

    folder: Path
    resolution: int  # px; a photograph whose face has fewer is left out
    num_images: int  # of all splits together, drawn at random
    seed: int

    def chosen(self, num_photographs: int) -> np.ndarray:  # (N,) bool
        """Return which photographs of the source are tried."""
        order = numpy_generator(self.seed, "large faces").permutation(num_photographs)
        return order < self.num_images


@dataclass(frozen=True, slots=True)
class Job:
    """One photograph to do: its place, its landmarks ((5, 2) px) where known, and the side, px, of a second face."""

    picture: Picture
    landmarks: np.ndarray | None
    large: int | None = None


@dataclass(frozen=True, slots=True)
class Face:
    """A photograph done: PNG and landmarks, or the reason why there are none."""

    id: str
    png: bytes
    landmarks: np.ndarray | None
    scale: float
    reason: str | None
    large: tuple[bytes, np.ndarray] | None = None  # PNG and landmarks of the second face, where it was asked for


def write_faces(
    source: Source,
    folder: str | Path,
    *,
    recipe: Recipe,
    rows_per_shard: int,
    workers: int,
    on_face: Callable[[], object],
    large: LargeRecipe | None = None,
) -> dict[str, Any]:
    """Turn a source into the shards of a faces folder, and of a second one with larger faces.

    Args:
        source: the photographs and what is known of them.
        folder: where the shards go.
        recipe: how a photograph becomes a face.
        rows_per_shard: faces a file.
        workers: processes; the result does not depend on it.
        on_face: called after every photograph.
        large: the second folder; None for no such.

    Returns:
        What was done, for eval/preprocess.json: faces by split, rejects with reasons, and counts worth a look.

    Raises:
        ValueError: if the crop needs landmarks and the source has none.
    """
    from facegen.data.shards import SPLITS  # here, so that worker processes do without pyarrow

    if recipe.crop == "landmarks" and source.landmarks is None:
        raise ValueError("preprocess.crop is landmarks, but the source has no landmark list; use center or full")
    counts: dict[str, int] = {}
    large_counts: dict[str, int] = {}
    rejects: list[dict[str, str]] = []
    copies, enlarged = Copies(), 0
    for split in ("test", "val", "train"):
        rows = np.flatnonzero(source.split == SPLITS.index(split)).tolist()
        counts[split] = large_counts[split] = 0
        with ExitStack() as writers:
            writer = writers.enter_context(_writer(source, folder, split, recipe.resolution, rows_per_shard))
            second = None
            if large is not None:
                made = _writer(source, large.folder, split, large.resolution, rows_per_shard)
                second = writers.enter_context(made)
            faces = make_faces(source.pictures.place, _jobs(source, rows, large), recipe, workers=workers)
            for row, face in zip(rows, faces, strict=True):
                reason = face.reason or copies.of(face, split)
                labels = source.attributes[row], int(source.identity[row])
                if reason or face.landmarks is None:
                    rejects.append({"id": face.id, "reason": str(reason)})
                else:
                    writer.add(face.id, face.png, *labels, face.landmarks)
                    counts[split] += 1
                    enlarged += face.scale > 1
                    if second is not None and face.large is not None:
                        second.add(face.id, face.large[0], *labels, face.large[1])
                        large_counts[split] += 1
                on_face()
    return {
        "faces": counts,
        "rejects": sorted(rejects, key=lambda r: r["id"]),
        "copies_within_a_split": copies.within,
        "enlarged": enlarged,
        "resolution": recipe.resolution,
        "crop": recipe.crop,
        "attribute_names": list(source.attribute_names),
        "identities": len(set(source.identity.tolist()) - {-1}),
        "notes": source.notes,
        **({} if large is None else {"large": {"resolution": large.resolution, "faces": large_counts}}),
    }


def _writer(source: Source, folder: str | Path, split: str, resolution: int, rows_per_shard: int) -> FacesWriter:
    from facegen.data.shards import FacesWriter

    return FacesWriter(
        folder, split, resolution=resolution, attribute_names=source.attribute_names, sources=source.digests,
        rows_per_shard=rows_per_shard,
    )  # fmt: skip


def _jobs(source: Source, rows: Sequence[int], large: LargeRecipe | None) -> list[Job]:
    chosen = np.zeros(len(source.ids), bool) if large is None else large.chosen(len(source.ids))
    return [
        Job(
            source.pictures.by_name[source.ids[row]],
            None if source.landmarks is None else source.landmarks[row],
            large.resolution if large is not None and chosen[row] else None,
        )
        for row in rows
    ]


class Copies:
    """Finds faces whose pixels were seen before in another split.

    Feed the splits one after the other; what comes later is the copy, so feed test first: it then stays whole.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[str, str]] = {}
        self.within = 0  # copies inside one split: harmless, counted

    def of(self, face: Face, split: str) -> str | None:
        """Return the reason to reject a copy of a face in another split, else None."""
        key = hashlib.sha256(face.png).digest()[:16]
        other, where = self._seen.setdefault(key, (face.id, split))
        if where != split:
            return f"the same picture as {other} in {where}, but listed in {split}"
        self.within += other != face.id
        return None


def make_face(place: str | Path, job: Job, recipe: Recipe) -> Face:
    """Do one photograph; whatever is wrong with it becomes the reason."""
    name = job.picture.name
    try:
        photo = decode_photo(read_picture(place, job.picture), max_megapixels=recipe.max_megapixels)
        image, landmarks, scale = _cut(photo, job, recipe, recipe.resolution)
        second = None
        if job.large is not None:
            bigger, points, growth = _cut(photo, job, recipe, job.large)
            if growth <= 1 + _ROUNDING:
                second = encode_png(bigger), points
    except ImageError as error:
        return Face(name, b"", None, 0.0, str(error))
    return Face(name, encode_png(image), landmarks, scale, None, second)


def _cut(photo: Image.Image, job: Job, recipe: Recipe, resolution: int) -> tuple[Image.Image, np.ndarray, float]:
    return cut_face(
        photo, resolution=resolution, crop=recipe.crop, crop_size_px=recipe.crop_size_px, landmarks=job.landmarks
    )


def make_faces(place: str | Path, jobs: Sequence[Job], recipe: Recipe, *, workers: int) -> Iterator[Face]:
    """Do photographs in parallel, in order.

    Args:
        place: the zip or folder that they lie in.
        jobs: what to do.
        recipe: how.
        workers: processes; 0 does the work in this one. The result is the same.

    Yields:
        One Face a job, in the order of the jobs.

    Raises:
        FacegenError: if a worker process is killed.
    """
    chunks = (jobs[at : at + CHUNK] for at in range(0, len(jobs), CHUNK))
    if workers == 0:
        for chunk in chunks:
            yield from _make_chunk(place, chunk, recipe)
        return
    context = multiprocessing.get_context("spawn")  # threads of this process (tracking) make fork unsafe
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_obey_parent)
    waiting: deque[Future[list[Face]]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_make_chunk, place, chunk, recipe))
            if len(waiting) >= workers * _CHUNKS_AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        message = "a worker process died, most likely for lack of memory; set machine.workers lower"
        raise FacegenError(message) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _make_chunk(place: str | Path, jobs: Sequence[Job], recipe: Recipe) -> list[Face]:
    return [make_face(place, job, recipe) for job in jobs]


def _obey_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it does, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
