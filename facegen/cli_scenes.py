"""`facegen scenes`: look at captioned pictures of people, write them in FastComposer's layout, read that layout."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from facegen.cli_options import ParamsPath

if TYPE_CHECKING:
    from tqdm import tqdm

scenes_app = typer.Typer(no_args_is_help=True, help="Captioned pictures of one or more people.")

ScenesFolder = Annotated[Path, typer.Argument(metavar="SCENES", help="A scenes folder (data/scenes).")]
Split = Annotated[Literal["train", "test"], typer.Option("--split", help="Which people.")]


@scenes_app.command("show")
def show(
    scenes: ScenesFolder,
    num: Annotated[int, typer.Option("--num", "-n", min=1, max=400, help="How many.")] = 12,
    first: Annotated[int, typer.Option("--first", min=0, help="Number of the first one.")] = 0,
    split: Split = "train",
    long: Annotated[bool, typer.Option("--descriptions", help="The longer captions.")] = False,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The grid, a PNG.")] = Path("scenes.png"),
) -> None:
    """Write a grid of scenes with their captions.

    facegen scenes show data/scenes -n 12 --out scenes.png
    """
    from facegen.data.scene_preview import scene_preview
    from facegen.data.scenes import Scenes
    from facegen.grids import save_png

    opened = Scenes.open(scenes, split)
    rows = range(first, min(first + num, len(opened)))
    if not rows:
        raise ValueError(f"scene {first}: {scenes} has {len(opened)} of {split}, from 0")
    save_png(out, scene_preview(opened, rows, descriptions=long))
    typer.echo(f"{len(rows)} scenes of {split}: {out}")


@scenes_app.command("export")
def export(
    scenes: ScenesFolder,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write; new or empty.")],
) -> None:
    """Write scenes in FastComposer's layout: image_ids*.txt and a JPEG, a JSON and a map (.npy) of each.

    facegen scenes export data/scenes fastcomposer
    """
    from facegen.data.fastcomposer import write_fastcomposer
    from facegen.data.scenes import SPLITS, Scenes

    splits = {split: Scenes.open(scenes, split) for split in SPLITS}
    num = sum(map(len, splits.values()))
    with _bar(num) as bar:
        write_fastcomposer(folder, splits, on_scene=bar.update)
    typer.echo(f"{num} scenes: {folder}")


@scenes_app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder in FastComposer's layout.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The scenes folder; new or empty.")],
    detector: Annotated[
        Path | None,
        typer.Option("--detector", metavar="FILE", help="Finds faces (SCRFD, .onnx); else as the JSON files tell."),
    ] = None,
    height: Annotated[int | None, typer.Option("--height", min=16, max=2048, help="px (else scenes.height).")] = None,
    width: Annotated[int | None, typer.Option("--width", min=16, max=2048, help="px (else scenes.width).")] = None,
    params: ParamsPath = Path("params.yaml"),
) -> None:
    """Read FastComposer's layout into a scenes folder, which the stages can learn from.

    facegen scenes import ffhq_wild_files my-scenes --detector det_10g.onnx
    """
    from facegen.config import load_params
    from facegen.data.fastcomposer import ImportRecipe, count_ids, is_fastcomposer, read_fastcomposer

    if not is_fastcomposer(folder):
        raise FileNotFoundError(f"{folder} is no folder in FastComposer's layout: it has no image_ids.txt")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; name a new folder")
    every = load_params(params)
    detect = None
    if detector is not None:
        from facegen.face_detector import FaceDetector

        detect = FaceDetector.open(detector, threads=1).detect
    p = every.scenes
    recipe = ImportRecipe(height or p.height, width or p.width, every.preprocess.max_megapixels, detect)
    with _bar(count_ids(folder)) as bar:
        report = read_fastcomposer(
            folder, out, recipe=recipe, num_test=p.num_test, seed=every.base.seed, workers=every.machine.workers,
            on_scene=bar.update,
        )  # fmt: skip
    people, counts = report["segments"], report["scenes"]
    typer.echo(
        f"{counts['train']} scenes of train and {counts['test']} of test: {out}\n{people['kept']} people; dropped: "
        f"{people['cut_away']} cut away by the crop, {people['without_a_face']} without a face"
    )


def _bar(total: int) -> "tqdm":
    from tqdm import tqdm

    return tqdm(total=total, desc="scenes", unit="img", file=sys.stderr, dynamic_ncols=True, disable=None)
