"""Which pictures a command makes of which photographs: names, what is there already, batches, variants, comparisons.

Nothing here imports torch: the command line reads it at its start.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from facegen.cli_options import FAILED

if TYPE_CHECKING:
    from facegen.photograph import Photograph

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # of pictures


@dataclass(frozen=True)
class Job:
    """One photograph, and where its results go."""

    source: Path
    target: Path
    grid: bool  # several variants become one picture, not files with numbers

    def files(self, seeds: Sequence[int]) -> list[Path]:
        """Return the pictures of the variants, in order; of a grid the one."""
        if self.grid or len(seeds) == 1:
            return [self.target]
        return [self.target.with_name(f"{self.target.stem}-{seed:06d}{self.target.suffix}") for seed in seeds]

    @property
    def comparison(self) -> Path:
        """Where before and after stand side by side."""
        return self.target.with_name(f"{self.target.stem}-compare.png")


def photo_jobs(
    photo: Path,
    output: Path | None,
    *,
    ending: str,
    overwrite: bool,
    compare: bool = False,
    seeds: Sequence[int] = (0,),
) -> list[Job]:
    """Return what is to be done.

    Raises:
        FileNotFoundError: if there is no photograph.
        ValueError: if a result is there already, two results have the same name, or a name does not fit.
    """
    if photo.is_dir():
        sources = sorted(p for p in photo.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if not sources:
            raise FileNotFoundError(f"{photo} holds no picture ({', '.join(SUFFIXES)})")
        place = photo.with_name(f"{photo.name}-{ending}") if output is None else output
        if place.suffix.lower() in SUFFIXES or place.is_file():
            raise ValueError(f"{place}: the pictures of a folder go into a folder")
        jobs = [Job(source, place / source.name, grid=False) for source in sources]
    elif photo.is_file():
        target = photo.with_name(f"{photo.stem}-{ending}{photo.suffix}") if output is None else output
        into = target.is_dir() or not target.suffix
        target = target / photo.name if into else target
        if target.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{target}: the name of a picture ends in {', '.join(SUFFIXES)}")
        jobs = [Job(photo, target, grid=len(seeds) > 1 and not into and output is not None)]
        if jobs[0].grid and target.suffix.lower() != ".png":
            raise ValueError(f"{target}: several variants become a grid (.png) or files in a folder")
    else:
        raise FileNotFoundError(f"{photo}: no such file or folder")
    results = [path for job in jobs for path in [*job.files(seeds), *([job.comparison] if compare else [])]]
    if len(set(results)) < len(results):
        double = next(path for path in results if results.count(path) > 1)
        raise ValueError(f"two results would be called {double}; rename one of the photographs")
    there = [path for path in results if path.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise ValueError(f"{there[0]}{more}: there already; --overwrite replaces it")
    return jobs


def run_jobs(jobs: Sequence[Job], work: Callable[[Job], None], *, folder: bool) -> None:
    """Do the jobs; of a folder, those that fail are told at the end."""
    if not folder:
        work(jobs[0])
        typer.echo(str(jobs[0].target))
        return
    from tqdm import tqdm

    failures = []
    for job in tqdm(jobs, unit="img", file=sys.stderr, dynamic_ncols=True, disable=None):
        try:
            work(job)
        except (ValueError, OSError) as error:
            text = str(error)
            failures.append(text if str(job.source) in text else f"{job.source}: {text}")
    typer.echo(str(jobs[0].target.parent))
    for text in failures:
        typer.echo(f"facegen: {text}", err=True)
    if failures:
        typer.echo(f"facegen: {len(failures)} of {len(jobs)} pictures failed, the others are written", err=True)
        raise typer.Exit(FAILED)


def write_variants(
    job: Job,
    before: Photograph,
    after: Sequence[Photograph],
    *,
    seeds: Sequence[int],
    about: Mapping[str, Any],
    compare: bool,
) -> None:
    """Write the variants of one photograph, and the comparison."""
    import numpy as np

    from facegen.artifacts import canonical_json
    from facegen.grids import fold_rows, image_grid, save_png
    from facegen.photograph import METADATA_KEY, save_photograph

    note = {METADATA_KEY: canonical_json({**about, "seeds": list(seeds)})}
    seen = np.stack([photo.seen for photo in after])
    if job.grid:
        save_png(job.target, image_grid(fold_rows(seen, columns=math.ceil(math.sqrt(len(seen))))), metadata=note)
    else:
        for path, photo, seed in zip(job.files(seeds), after, seeds, strict=True):
            save_photograph(path, photo, metadata={**about, "seed": seed})
    if compare:
        save_png(job.comparison, image_grid(np.concatenate([before.seen[None], seen])[None]), metadata=note)
