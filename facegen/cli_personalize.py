"""`facegen personalize`: pictures of given people, one or several, by a prompt that says where each of them stands.

What can be checked before the networks are opened is checked before. Nothing is overwritten without --overwrite.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facegen.cli_options import Device, ModelFolder, ParamsPath, Seed, Steps

if TYPE_CHECKING:
    import numpy as np

    from facegen.personalize.references import FaceFinder

Refs = Annotated[
    list[Path] | None,
    typer.Option("--ref", metavar="PHOTO", help="A photograph of the next person, or a folder of photographs of one."),
]
Prompt = Annotated[
    str, typer.Option("--prompt", metavar="TEXT", help="<id:0> is the person of the first --ref, <id:1> of the second.")
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="single, naive, mf2d, single_plain, mf2d_unlocalized or class_word (else single for one person, mf2d).",
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option("--alpha", min=0, max=1, help="Share of the steps, the last ones, that know the people."),
]
Guidance = Annotated[
    float | None, typer.Option("--guidance", "--cfg", min=0, max=100, help="Towards the prompt; up to 1 is none.")
]
Output = Annotated[
    Path, typer.Option("--output", "-o", "--out", help="A picture or grid (.png), or a folder of pictures.")
]
Fusion = Annotated[str | None, typer.Option("--fusion", help="replace_input or add_output (else as it was trained).")]
Place = Annotated[str | None, typer.Option(metavar="PLACE", help="A folder or hub id (else that of --model).")]
Landmarks = Annotated[
    Path | None,
    typer.Option("--landmarks", metavar="FILE", help='Five "x y" in px, or a list that names each photograph.'),
]
Detector = Annotated[
    Path | None, typer.Option("--detector", metavar="FILE", help="A face detection network (SCRFD, .onnx).")
]


def personalize(
    ref: Refs = None,
    prompt: Prompt = "",
    method: Method = None,
    alpha: Alpha = None,
    negative: Annotated[str | None, typer.Option("--negative", help="What guidance leads away from.")] = None,
    num: Annotated[int, typer.Option("--num", "-n", min=1, max=10_000, help="How many pictures.")] = 4,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    scheduler: Annotated[str | None, typer.Option("--scheduler", help="euler, euler_ancestral, dpm++ or ddim.")] = None,
    output: Output = Path("people.png"),
    landmarks: Landmarks = None,
    detector: Detector = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="The photographs are framed as the data are.")] = False,
    fusion: Fusion = None,
    class_word: Annotated[
        str | None, typer.Option("--class-word", help="What stands for a person, as in 'a person'.")
    ] = None,
    base: Place = None,
    msid: Place = None,
    mapper: Place = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace pictures that are there.")] = False,
    model: ModelFolder = Path("data/models"),
    params: ParamsPath = Path("params.yaml"),
    device: Device = "auto",
) -> None:
    """Draw given people: a photograph of each, and a prompt that says where they stand.

    facegen personalize --ref a.jpg --ref b.jpg --prompt "<id:0> and <id:1> wearing hats" --alpha 0.6
    """
    people, seeds = ref or [], list(range(seed, seed + num))
    files = result_files(output, seeds, overwrite=overwrite)
    from transformers.utils.logging import disable_progress_bar

    from facegen.config import load_params
    from facegen.personalize.generation import METHODS
    from facegen.personalize.opening import open_personalizer
    from facegen.personalize.references import person_pictures, reference_crop
    from facegen.sampling import chosen_device

    name = chosen_method(method, prompt, len(people), known=list(METHODS))
    photos = [person_pictures(place) for place in people]
    disable_progress_bar()
    every = load_params(params)
    p, chosen = every.personalize, METHODS[name]
    if chosen.mapper is None and (alpha is not None or mapper is not None):
        raise ValueError(f"method {name} knows nobody; --alpha and --mapper belong to the others")
    encoder = model / "msid" if msid is None else msid
    drawer = open_personalizer(
        model / "text-to-image" if base is None else base, msid=None if chosen.mapper is None else encoder,
        mapper=None if chosen.mapper is None else mapper or model / "mapper" / chosen.mapper,
        class_word=class_word or (every.mapper.class_word if unnamed(mapper, chosen.mapper) else None),
        fusion=fusion or (every.mapper.fusion if unnamed(mapper, chosen.mapper) else None),
        device=chosen_device(device),
    )  # fmt: skip
    features = None
    if drawer.msid is not None:
        import torch

        finder = face_finder(landmarks, detector, aligned=aligned, model=model, encoder=encoder)
        size, most = int(drawer.msid.config.image_size), every.preprocess.max_megapixels
        crops = [[reference_crop(path, finder, size=size, max_megapixels=most) for path in own] for own in photos]
        features = torch.stack([drawer.features(own) for own in crops])
    settings: dict[str, Any] = {
        "num_steps": steps or p.num_steps, "guidance_scale": p.guidance_scale if guidance is None else guidance,
        "alpha": chosen.alpha(p.alpha) if alpha is None else alpha,
        "negative": p.negative if negative is None else negative, "scheduler": scheduler or p.scheduler,
    }  # fmt: skip
    images = drawer.generate(features, prompt, seeds=seeds, **settings, on_step=_step_bar())
    about = {
        "prompt": prompt, "method": name, "references": [[path.name for path in own] for own in photos],
        "fusion": drawer.fusion, "class_word": drawer.class_word, **settings,
    }  # fmt: skip
    write_results(files, images, seeds=seeds, about=about)
    typer.echo(str(output))


def chosen_method(method: str | None, prompt: str, num_people: int, *, known: Sequence[str]) -> str:
    """Return the method, by default the one for so many people; checks that people and prompt are there.

    Raises:
        ValueError: for an unknown method, no prompt, or as many people as the method does not take.
    """
    if not prompt.strip():
        raise ValueError('--prompt says what to draw, as in --prompt "<id:0> smiling"')
    name = method or ("single" if num_people == 1 else "mf2d")
    if name not in known:
        raise ValueError(f"unknown method {name!r}; allowed: {', '.join(known)}")
    if name == "class_word" and num_people:
        raise ValueError("method class_word knows nobody: leave --ref out, or take another method")
    if name != "class_word" and not num_people:
        raise ValueError("--ref names a photograph of each person; --method class_word draws nobody in particular")
    return name


def unnamed(mapper: str | None, variant: str | None) -> bool:
    """Return whether nothing beside the mapper says how it was trained, so that params.yaml has to."""
    return variant is None or (mapper is not None and Path(mapper).suffix == ".pt")


def face_finder(
    landmarks: Path | None, detector: Path | None, *, aligned: bool, model: Path, encoder: str | Path
) -> "FaceFinder":
    """Return how faces are found in the photographs: as the options say, else by the detector of the model's folder.

    Raises:
        ValueError: for options that exclude each other.
        FileNotFoundError, ValueError: if landmarks or a detector do not open.
    """
    import torch

    from facegen.artifacts import read_json
    from facegen.data.align import CANONICAL
    from facegen.data.face_embedder import ABOUT
    from facegen.face_detector import FaceDetector, read_points
    from facegen.personalize.references import FaceFinder

    if sum([landmarks is not None, detector is not None, aligned]) > 1:
        raise ValueError("--landmarks, --detector and --aligned exclude each other")
    import numpy as np

    about, own = Path(encoder) / ABOUT, model / "detector"
    mean = np.array(read_json(about)["mean_landmarks"]) if about.is_file() else CANONICAL
    if detector is None and landmarks is None and not aligned and any(own.glob("*.onnx")):
        detector = own
    elif detector is None and landmarks is None and not aligned:
        typer.echo("facegen: no --landmarks and no --detector: taking each photograph as --aligned", err=True)
    return FaceFinder(
        mean_landmarks=mean,
        points=None if landmarks is None else read_points(landmarks),
        detect=None if detector is None else FaceDetector.open(detector, threads=torch.get_num_threads()).detect,
        tell=lambda text: typer.echo(f"facegen: {text}", err=True),
    )


def result_files(output: Path, seeds: Sequence[int], *, overwrite: bool) -> list[Path]:
    """Return the pictures to write: one (.png; of several pictures a grid), or one a seed in a folder.

    Raises:
        ValueError: for another ending, or if one is there already.
    """
    if output.suffix.lower() == ".png":
        files = [output]
    elif output.suffix and not output.is_dir():
        raise ValueError(f"{output}: write to a .png (a picture, or a grid of several) or a folder")
    else:
        files = [output / f"{seed:06d}.png" for seed in seeds]
    there = [path for path in files if path.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise ValueError(f"{there[0]}{more}: there already; --overwrite replaces it")
    return files


def write_results(
    files: Sequence[Path], images: "np.ndarray", *, seeds: Sequence[int], about: Mapping[str, Any]
) -> None:
    """Write uint8 pictures (N, H, W, 3), one a file or all as a grid; each PNG carries what it was made with."""
    import math

    from PIL import Image

    from facegen.artifacts import canonical_json
    from facegen.grids import fold_rows, image_grid, save_png
    from facegen.photograph import METADATA_KEY

    if len(files) == len(images):
        for path, image, seed in zip(files, images, seeds, strict=True):
            save_png(path, Image.fromarray(image), metadata={METADATA_KEY: canonical_json({**about, "seed": seed})})
        return
    grid = image_grid(fold_rows(images, columns=math.ceil(math.sqrt(len(images)))))
    save_png(files[0], grid, metadata={METADATA_KEY: canonical_json({**about, "seeds": list(seeds)})})


def _step_bar() -> Callable[[int, int], None]:
    """Return a callback that shows the sampler's steps on stderr where that is a terminal."""
    from tqdm import tqdm

    bar = tqdm(unit="step", file=sys.stderr, dynamic_ncols=True, disable=None, leave=False)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show


COMMANDS = (personalize,)
"""What `facegen.cli` registers."""
