"""scenes: captioned pictures of one or two people -> data/scenes, drawn or read from a folder in FastComposer's layout.

Drawn scenes show the people of the embedded data set of faces, each in their own split. Where data.root is another data
set and scenes.root names no folder there are no scenes, and scenes.json says so.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from facegen.artifacts import write_json
from facegen.data.procedural import sample_population
from facegen.data.scene_set import SceneRecipe, write_drawn_scenes
from pipelines.stage import Stage, main

OUT, ABOUT, PREVIEW = "data/scenes", "scenes.json", "preview.png"
DRAWN_FOR = "data/procedural"
_SHOWN = 12


def run(stage: Stage) -> None:
    """Draw, import, or say that there is nothing to draw."""
    root = stage.params.scenes.root
    with stage.output(OUT) as folder:
        if root is not None:
            about = imported(stage, stage.root / root, folder)
        elif stage.params.data.root == DRAWN_FOR:
            about = drawn(stage, folder)
        else:
            reason = (
                f"scenes are drawn for {DRAWN_FOR} only; data.root is {stage.params.data.root}, scenes.root names none"
            )
            sys.stderr.write(f"facegen: {stage.name}: no scenes: {reason}\n")
            write_json(folder / ABOUT, {"absent": reason})
            return
        write_json(folder / ABOUT, about)
        _preview(folder)
    stage.metrics({"scenes": about["scenes"]})
    stage.picture(stage.root / OUT / PREVIEW)


def drawn(stage: Stage, folder: Path) -> dict[str, Any]:
    """Draw the people that the section `render` of params.yaml asks for."""
    p, r = stage.params.scenes, stage.params.render
    population = sample_population(
        seed=stage.params.base.seed,
        num_identities=r.num_identities,
        images_per_identity=r.images_per_identity,
        val_fraction=r.val_fraction,
        test_fraction=r.test_fraction,
        prevalence=r.prevalence,
        persistence=r.persistence,
        correlations=r.correlations,
    )
    counts = {"train": p.num_scenes, "test": p.num_test}
    with stage.progress(sum(counts.values()), "scenes") as bar:
        write_drawn_scenes(
            folder, population, recipe=SceneRecipe(p.height, p.width, p.two_share), counts=counts,
            workers=stage.params.machine.workers, on_drawn=bar.update,
        )  # fmt: skip
    return {"source": "drawn", "scenes": counts, "height": p.height, "width": p.width}


def imported(stage: Stage, root: Path, folder: Path) -> dict[str, Any]:
    """Read a folder in FastComposer's layout; faces are found by scenes.detector, else where the files tell them."""
    from facegen.data.fastcomposer import ImportRecipe, count_ids, is_fastcomposer, read_fastcomposer

    if not is_fastcomposer(root):
        raise FileNotFoundError(f"scenes.root: {root} is no folder in FastComposer's layout: it has no image_ids.txt")
    p, detect = stage.params.scenes, None
    if p.detector is not None:
        from facegen.face_detector import FaceDetector

        detect = FaceDetector.open(stage.root / p.detector, threads=1).detect
    recipe = ImportRecipe(p.height, p.width, stage.params.preprocess.max_megapixels, detect)
    with stage.progress(count_ids(root), "scenes") as bar:
        report = read_fastcomposer(
            root, folder, recipe=recipe, num_test=p.num_test, seed=stage.params.base.seed,
            workers=stage.params.machine.workers, on_scene=bar.update,
        )  # fmt: skip
    if not report["segments"]["kept"]:
        raise ValueError(f"{root}: not one person is left: {report['segments']}; is scenes.detector set?")
    return {"source": "FastComposer's layout", "height": p.height, "width": p.width, **report}


def _preview(folder: Path) -> None:
    from facegen.data.scene_preview import scene_preview
    from facegen.data.scenes import Scenes
    from facegen.grids import save_png

    scenes = Scenes.open(folder, "train")
    save_png(folder / PREVIEW, scene_preview(scenes, range(min(_SHOWN, len(scenes)))))


if __name__ == "__main__":
    main(run)
