"""How fast preprocess is, and how much memory it needs, at CelebA's size.

Makes a zip of `--listed` pictures of 178x218 px (a few hundred different noisy JPEGs, repeated) with four lists, reads
and checks all of it, and turns the first `--measured` photographs into faces. Time for all is extrapolated; memory is
that of the full listing plus the work, to which every further photograph adds its digest and its id (about 0.3 kB).

    python -m benchmarks.preprocess --listed 202599 --measured 20000 --workers 2
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from facegen.data.lists import LANDMARK_COLUMNS
from facegen.data.preprocess import Recipe, write_faces

DIFFERENT = 300
NUM_ATTRIBUTES = 40


def main() -> None:
    """Make the source, measure, print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listed", type=int, default=202_599)
    parser.add_argument("--measured", type=int, default=20_000)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    from facegen.data.celeba import read_celeba  # here: worker processes import this module, and do without pyarrow

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_source(root, options.listed)
        peak = PeakMemory()
        started = time.monotonic()
        source = read_celeba(root, attributes="all", val_fraction=0.1, test_fraction=0.1, seed=0)
        read_s = time.monotonic() - started
        listing = peak.mib
        chosen = np.arange(options.listed) < options.measured
        part = dataclasses.replace(source, split=np.where(chosen, source.split, -1))
        recipe = Recipe(resolution=options.resolution, crop="full", crop_size_px=178, max_megapixels=25)
        started = time.monotonic()
        report = write_faces(
            part, root / "faces", recipe=recipe, rows_per_shard=4096, workers=options.workers, on_face=lambda: None
        )
        rate = options.measured / (time.monotonic() - started)
    rejects = len(report["rejects"])
    print(f"listed and checked {options.listed} pictures with 4 lists in {read_s:.1f} s, peak {listing:.0f} MiB")
    print(f"{options.measured} photographs to {options.resolution} px at {rate:.0f}/s with {options.workers} workers")
    print(f"(load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {rejects} copies across splits rejected)")
    print(f"peak memory, this process and its workers together: {peak.mib:.0f} MiB")
    print(f"all {options.listed}: about {options.listed / rate / 60:.1f} minutes at this rate (extrapolated)")


class PeakMemory:
    """Samples the resident memory of this process and its children; shared pages count once for each."""

    def __init__(self) -> None:
        self.mib = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        this = psutil.Process()
        while True:
            total = 0
            for process in (this, *this.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.Error:  # it has just ended
                    continue
            self.mib = max(self.mib, total / 2**20)
            time.sleep(0.1)


def make_source(root: Path, number: int) -> None:
    """Write a source in CelebA's layout: 20 pictures a person, people in one split each."""
    photos = [photo(seed) for seed in range(DIFFERENT)]
    ids = [f"{i:06d}.jpg" for i in range(1, number + 1)]
    with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as target:
        for i, id in enumerate(ids):
            # A comment segment with the number makes every file different, as its checksum then is.
            unique = photos[i % DIFFERENT]
            target.writestr(f"img_align_celeba/{id}", unique[:2] + b"\xff\xfe\x00\x08%06d" % (i + 1) + unique[2:])
    draw = np.random.default_rng(0)
    states = draw.choice(["-1", "1"], (number, NUM_ATTRIBUTES))
    marks = draw.integers(20, 150, (number, 10)).astype(str)
    head = f"{number}\n{' '.join(f'Attribute_{a}' for a in range(NUM_ATTRIBUTES))}\n"
    write_rows(root / "list_attr_celeba.txt", head, ids, states)
    write_rows(root / "list_landmarks_align_celeba.txt", f"{number}\n{' '.join(LANDMARK_COLUMNS)}\n", ids, marks)
    person = np.arange(number) // 20
    write_rows(root / "identity_CelebA.txt", "", ids, person[:, None].astype(str))
    share = person / (person.max() + 1)
    write_rows(root / "list_eval_partition.txt", "", ids, np.digitize(share, [0.8, 0.9])[:, None].astype(str))


def write_rows(path: Path, head: str, ids: list[str], values: np.ndarray) -> None:
    """Write one list."""
    path.write_text(head + "".join(f"{id} {' '.join(row)}\n" for id, row in zip(ids, values, strict=True)))


def photo(seed: int) -> bytes:
    """Make a JPEG of about CelebA's bytes a picture (7 kB): soft shapes and some grain."""
    draw = np.random.default_rng(seed)
    soft = Image.fromarray(draw.integers(0, 256, (14, 11, 3), dtype=np.uint8)).resize(
        (178, 218), Image.Resampling.BICUBIC
    )
    grain = np.asarray(soft).astype(float) + draw.normal(0, 4, (218, 178, 1))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=75)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
