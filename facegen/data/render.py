"""Draws the embedded data set into a folder, over several processes.

Shape legend: N pictures.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from facegen.data.celeba_layout import ZIP_NAME, encode_jpeg, write_lists, write_zip
from facegen.data.face_parameters import FACE_ATTRIBUTES
from facegen.data.procedural import Population, draw_picture

_CHUNK = 64  # pictures handed to a process at a time
_Drawn = list[tuple[bytes, np.ndarray]]
_population: Population  # of a worker process: set once, as it starts


def _start_worker(population: Population) -> None:
    global _population
    _population = population


def _draw_chunk(start: int, *, resolution: int, supersample: int, jpeg_quality: int) -> _Drawn:
    """JPEG and landmarks (5, 2) of up to _CHUNK pictures from number `start`."""
    drawn = []
    for number in range(start, min(start + _CHUNK, len(_population))):
        pixels, landmarks = draw_picture(_population, number, resolution=resolution, supersample=supersample)
        drawn.append((encode_jpeg(pixels, quality=jpeg_quality), landmarks))
    return drawn


def render_dataset(
    folder: Path,
    population: Population,
    *,
    resolution: int,
    supersample: int,
    jpeg_quality: int,
    workers: int,
    on_drawn: Callable[[int], None],
) -> None:
    """Writes the data set in CelebA's layout; the bytes do not depend on `workers`.

    Args:
        folder: an existing, empty folder.
        population: what to draw.
        resolution: picture side in px.
        supersample: canvas pixels per picture pixel and side.
        jpeg_quality: 1 to 100.
        workers: processes; 1 draws in this one.
        on_drawn: told the number of pictures drawn since the last call.
    """
    draw = partial(_draw_chunk, resolution=resolution, supersample=supersample, jpeg_quality=jpeg_quality)
    landmarks: list[np.ndarray] = []

    def pictures(chunks: Iterator[_Drawn]) -> Iterator[bytes]:
        for chunk in chunks:
            for data, points in chunk:
                landmarks.append(points)
                yield data
            on_drawn(len(chunk))

    starts = range(0, len(population), _CHUNK)
    with _pool(population, workers) as pool:
        chunks = map(draw, starts) if pool is None else pool.map(draw, starts)
        try:
            write_zip(folder / ZIP_NAME, pictures(iter(chunks)))
        finally:
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
    write_lists(
        folder,
        attribute_names=FACE_ATTRIBUTES,
        attributes=population.attributes,
        identity=population.person,
        landmarks=np.stack(landmarks),
        split=population.split,
    )


def _pool(population: Population, workers: int) -> ProcessPoolExecutor | nullcontext[None]:
    if workers == 1:
        _start_worker(population)
        return nullcontext()
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(population,)
    )
