"""preprocess: photographs become faces of one size (data/faces), with a list of what was refused and why.

Some of them are cut larger too (data/faces-large), for the upscaler.
"""

from __future__ import annotations

import sys
import time

from facegen.artifacts import write_json
from facegen.data.preprocess import LargeRecipe, Recipe, write_faces
from pipelines.stage import Stage, main

REPORT = "eval/preprocess.json"
_SHOWN = 5


def run(stage: Stage) -> None:
    """Read and check the source, write data/faces and eval/preprocess.json, fail above preprocess.max_rejects."""
    from facegen.data.celeba import read_celeba  # here: worker processes import this module, and do without pyarrow
    from facegen.data.people import is_folder_per_person, read_people

    p = stage.params
    root = stage.root / p.data.root
    read = read_people if is_folder_per_person(root) else read_celeba
    source = read(
        root,
        attributes=p.data.attributes,
        val_fraction=p.preprocess.val_fraction,
        test_fraction=p.preprocess.test_fraction,
        seed=p.base.seed,
    )
    for note in source.notes:
        sys.stderr.write(f"preprocess: note: {note}\n")
    recipe = Recipe(
        resolution=p.preprocess.resolution,
        crop=p.preprocess.crop,
        crop_size_px=p.preprocess.crop_size_px,
        max_megapixels=p.preprocess.max_megapixels,
    )
    started = time.monotonic()
    with (
        stage.output("data/faces") as folder,
        stage.output("data/faces-large") as large_folder,
        stage.progress(len(source.ids), "faces") as bar,
    ):
        report = write_faces(
            source,
            folder,
            recipe=recipe,
            rows_per_shard=p.preprocess.rows_per_shard,
            workers=p.machine.workers,
            on_face=bar.update,
            large=LargeRecipe(
                large_folder, p.preprocess.large_resolution, num_images=p.preprocess.large_images, seed=p.base.seed
            ),
        )
        write_json(stage.root / REPORT, report)
        require_few_rejects(report["rejects"], p.preprocess.max_rejects)
        if not report["faces"]["train"]:
            raise ValueError("the train split is empty: nothing could be trained")
    if not report["large"]["faces"]["train"]:
        sys.stderr.write(
            f"preprocess: note: no photograph of the train split shows a face at {p.preprocess.large_resolution} px "
            "(preprocess.large_resolution): there will be no upscaler\n"
        )
    rate = len(source.ids) / (time.monotonic() - started)
    sys.stderr.write(f"preprocess: {len(source.ids)} photographs at {rate:.0f} images/s\n")
    stage.metrics({"images_per_s": rate, "faces": report["faces"], "rejects": len(report["rejects"])})


def require_few_rejects(rejects: list[dict[str, str]], allowed: int) -> None:
    """Check the number of rejects.

    Raises:
        ValueError: if there are more than allowed, with the first of them.
    """
    if len(rejects) > allowed:
        shown = "; ".join(f"{r['id']}: {r['reason']}" for r in rejects[:_SHOWN])
        raise ValueError(
            f"{len(rejects)} photographs were rejected; preprocess.max_rejects allows {allowed}. {shown}"
            f"{' ...' if len(rejects) > _SHOWN else ''} (all of them: {REPORT}). Mend or remove them, or allow more"
        )


if __name__ == "__main__":
    main(run)
