"""`facegen edit`, `inpaint` and `upscale`: a user's own photographs, one or a folder of them.

One photograph: a mistake is one line and exit code 2. A folder: every picture is tried, those that failed are told at
the end, one line each, with exit code 1; what could be known before (a wrong attribute, pictures that are there already)
is told before. Nothing is overwritten without --overwrite.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facegen.cli_options import Device, Guidance, ModelFolder, ParamsPath, Seed, Steps
from facegen.photo_jobs import Job, photo_jobs, run_jobs, write_variants

if TYPE_CHECKING:
    import numpy as np

    from facegen.editing import EditorBundle
    from facegen.photograph import Photograph

PhotoPath = Annotated[Path, typer.Argument(metavar="PHOTO", help="A PNG, JPEG or WebP picture, or a folder of them.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="A picture (.png, .jpg, .webp) or a folder; else beside PHOTO, with an ending of its own.",
    ),
]
Changes = Annotated[str, typer.Option("--set", metavar="NAME=0|1,...", help="What shall change, as in Mustache=1.")]
Brush = Annotated[
    Path | None,
    typer.Option(
        "--mask", metavar="PNG", help="White (or opaque) is repainted; of the photograph's size. Or a folder."
    ),
]
Box = Annotated[str | None, typer.Option("--box", metavar="X0,Y0,X1,Y1", help="A part to repaint, px.")]
Method = Annotated[
    str | None,
    typer.Option(
        "--method", help="blend, guided, resample, sdedit, conditioned, zoom or invert (else the model's own)."
    ),
]
Strength = Annotated[
    float | None,
    typer.Option("--strength", min=0.01, max=1, help="Of sdedit: 1 forgets the part, less keeps more of it."),
]
Num = Annotated[
    int, typer.Option("--num", "-n", min=1, max=1000, help="Variants: a grid (.png), or files in a folder.")
]
Landmarks = Annotated[
    Path | None,
    typer.Option("--landmarks", metavar="FILE", help='Five "x y" in px (text or JSON); for a folder CelebA\'s list.'),
]
Detector = Annotated[
    Path | None, typer.Option("--detector", metavar="FOLDER", help="An insightface detection model (SCRFD, .onnx).")
]
FaceNumber = Annotated[int | None, typer.Option("--face", min=1, help="Which face that it finds; 1 is the largest.")]
Aligned = Annotated[bool, typer.Option("--aligned", help="The face fills the photograph's largest centred square.")]
Upscale = Annotated[
    int | None,
    typer.Option("--upscale", metavar="4", help="Through the upscaler: new parts as sharp as the photograph."),
]
KeepUnknown = Annotated[
    bool,
    typer.Option("--keep-unknown", help="Leave open what --set does not name, instead of reading it from the face."),
]
Compare = Annotated[bool, typer.Option("--compare", help="Also write NAME-compare.png: before | after.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace pictures that are there.")]


def edit(
    photo: PhotoPath,
    changes: Changes = "",
    region: Annotated[
        str, typer.Option("--region", help="Parts of the face, as in eyes+mouth; auto: those that --set needs.")
    ] = "auto",
    mask: Brush = None,
    box: Box = None,
    output: Output = None,
    method: Method = None,
    strength: Strength = None,
    guidance: Guidance = None,
    steps: Steps = None,
    seed: Seed = 0,
    num: Num = 1,
    landmarks: Landmarks = None,
    detector: Detector = None,
    face: FaceNumber = None,
    aligned: Aligned = False,
    upscale: Upscale = None,
    keep_unknown: KeepUnknown = False,
    compare: Compare = False,
    overwrite: Overwrite = False,
    model: ModelFolder = Path("data/models"),
    params: ParamsPath = Path("params.yaml"),
    device: Device = "auto",
) -> None:
    """Change attributes of a photograph; outside the repainted part it stays as it is (in a PNG bit for bit).

    facegen edit portrait.jpg --set Mustache=1 -o out.png
    """
    if not changes:
        raise ValueError("--set names what shall change, as in --set Mustache=1 (facegen inpaint needs none)")
    _edit_all(
        photo, output, changes=changes, region=region, mask=mask, box=box, method=method, seed=seed, num=num,
        faces=_Faces(landmarks, detector, face, aligned=aligned), upscale=upscale, keep_unknown=keep_unknown,
        overrides={"strength": strength, "guidance_scale": guidance, "num_steps": steps}, compare=compare,
        overwrite=overwrite, model=model, params=params, device=device, ending="edited",
    )  # fmt: skip


def inpaint(
    photo: PhotoPath,
    mask: Brush = None,
    box: Box = None,
    changes: Changes = "",
    output: Output = None,
    method: Method = None,
    guidance: Guidance = None,
    steps: Steps = None,
    seed: Seed = 0,
    num: Num = 1,
    landmarks: Landmarks = None,
    detector: Detector = None,
    face: FaceNumber = None,
    aligned: Aligned = False,
    upscale: Upscale = None,
    keep_unknown: KeepUnknown = False,
    compare: Compare = False,
    overwrite: Overwrite = False,
    model: ModelFolder = Path("data/models"),
    params: ParamsPath = Path("params.yaml"),
    device: Device = "auto",
) -> None:
    """Repaint the masked part of a photograph, with the attributes that you name or those it has.

    facegen inpaint portrait.png --mask mask.png --set Smiling=1 -o out.png
    """
    if mask is None and box is None:
        raise ValueError("--mask or --box says which part to repaint")
    _edit_all(
        photo, output, changes=changes, region="auto", mask=mask, box=box, method=method, seed=seed, num=num,
        faces=_Faces(landmarks, detector, face, aligned=aligned), upscale=upscale, keep_unknown=keep_unknown,
        overrides={"guidance_scale": guidance, "num_steps": steps}, compare=compare, overwrite=overwrite, model=model,
        params=params, device=device, ending="inpainted",
    )  # fmt: skip


def upscale(
    photo: PhotoPath,
    output: Output = None,
    overwrite: Overwrite = False,
    model: ModelFolder = Path("data/models"),
    params: ParamsPath = Path("params.yaml"),
    device: Device = "auto",
) -> None:
    """Enlarge photographs of faces with the trained upscaler.

    facegen upscale small.png -o large.png
    """
    jobs = photo_jobs(photo, output, ending="upscaled", overwrite=overwrite)
    from facegen import editing
    from facegen.artifacts import sha256_file
    from facegen.models.judges import WEIGHTS
    from facegen.photograph import open_photograph, picture_format, save_photograph
    from facegen.sampling import chosen_device

    upscaler = editing.open_upscaler(model, device=chosen_device(device))
    max_megapixels = editing.edit_settings(model, params=params)[1]
    digest = sha256_file(model / "upscaler" / WEIGHTS)

    def work(job: Job) -> None:
        photo = open_photograph(job.source, max_megapixels=max_megapixels)
        picture_format(job.target, photo)  # refused before the work
        about = {"photo": job.source.name, "upscale": upscaler.scale, "model": {"name": "upscaler", "sha256": digest}}
        save_photograph(job.target, editing.upscale_photograph(upscaler, photo), metadata=about)

    run_jobs(jobs, work, folder=photo.is_dir())


class _Faces:
    """Where the face of each photograph lies, as the options say."""

    def __init__(self, landmarks: Path | None, detector: Path | None, face: int | None, *, aligned: bool) -> None:
        if sum([landmarks is not None, detector is not None, aligned]) > 1:
            raise ValueError("--landmarks, --detector and --aligned exclude each other")
        if face is not None and detector is None:
            raise ValueError("--face chooses among the faces that a --detector finds; name one")
        self._face = face
        self._points: np.ndarray | Mapping[str, np.ndarray] | None = None
        self._detector: Any = None  # a FaceDetector
        if landmarks is not None:
            from facegen.face_detector import read_points

            self._points = read_points(landmarks)
        elif detector is not None:
            import torch

            from facegen.face_detector import FaceDetector

            self._detector = FaceDetector.open(detector, threads=torch.get_num_threads())
        elif not aligned:
            typer.echo("facegen: no --landmarks and no --detector: taking each photograph as --aligned", err=True)

    def of(self, path: Path, photo: "Photograph") -> "np.ndarray | None":  # (5, 2)
        """Return the landmarks of a photograph, or None: it is aligned."""
        if self._detector is not None:
            try:
                return self._detector.landmarks(photo.seen, face=self._face)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        if isinstance(self._points, Mapping):
            if path.name not in self._points:
                raise ValueError(f"{path}: the list of landmarks does not name it")
            return self._points[path.name]
        return self._points


def _edit_all(
    photo: Path,
    output: Path | None,
    *,
    changes: str,
    region: str,
    mask: Path | None,
    box: str | None,
    method: str | None,
    seed: int,
    num: int,
    faces: _Faces,
    upscale: int | None,
    keep_unknown: bool,
    overrides: dict[str, Any],
    compare: bool,
    overwrite: bool,
    model: Path,
    params: Path,
    device: str,
    ending: str,
) -> None:
    """Edit one photograph or a folder of them; what does not depend on the photograph is checked first."""
    seeds = list(range(seed, seed + num))
    jobs = photo_jobs(photo, output, ending=ending, overwrite=overwrite, compare=compare, seeds=seeds)
    from facegen.attributes import parse_attributes
    from facegen.data.regions import parse_region, read_mask
    from facegen.editing import AUTO, edit_photograph, open_editor
    from facegen.photograph import open_photograph, picture_format

    parts = (AUTO,) if region == AUTO else parse_region(region)
    corners = None if box is None else _corners(box)
    bundle = open_editor(model, params=params, device=device)
    wanted = parse_attributes(changes, bundle.editor.attribute_names)
    _require(bundle, method=method, upscale=upscale)
    settings = {name: value for name, value in overrides.items() if value is not None}

    def work(job: Job) -> None:
        before = open_photograph(job.source, max_megapixels=bundle.max_megapixels)
        for path in job.files(seeds):
            picture_format(path, before)  # refused before the work
        points = faces.of(job.source, before)
        brush = None if mask is None else read_mask(_brush(mask, job.source), size=before.size)
        made = edit_photograph(
            bundle, before, set=wanted, seeds=seeds, landmarks=points, region=parts, mask=brush, box=corners,
            method=method, keep_unknown=keep_unknown, upscale=upscale is not None, **settings,
            on_step=None if photo.is_dir() else _step_bar(),
        )  # fmt: skip
        about = {
            "photo": job.source.name, "attributes": wanted,
            "region": None if region == AUTO and (brush is not None or corners is not None) else region,
            "mask": mask and mask.name, "box": corners, "method": made.method, "upscale": upscale, **settings,
            "states": made.states.tolist(), "model": bundle.about_model(made.method),
        }  # fmt: skip
        write_variants(job, before, made.photos, seeds=seeds, about=about, compare=compare)

    run_jobs(jobs, work, folder=photo.is_dir())


def _require(bundle: "EditorBundle", *, method: str | None, upscale: int | None) -> None:
    """Check what is asked of the model before the first photograph is opened."""
    from facegen.edit import METHODS
    from facegen.editing import enlarger

    if method is not None and method not in METHODS:
        raise ValueError(f"unknown edit method {method!r}; allowed: {', '.join(METHODS)}")
    if (method or bundle.editor.settings.method) == "conditioned" and bundle.editor.inpainter is None:
        others = ", ".join(name for name in METHODS if name != "conditioned")
        raise ValueError(f"{bundle.folder} holds no inpainter, which method conditioned needs; take one of {others}")
    if bundle.upscaler is None or upscale not in (None, bundle.upscaler.scale):
        enlarger(bundle.folder, upscale, device=bundle.editor.pipe.device)  # says what is wrong


def _brush(mask: Path, source: Path) -> Path:
    """Return the mask of a photograph: the file, or in a folder the one that is called as the photograph is."""
    return mask / f"{source.stem}.png" if mask.is_dir() else mask


def _corners(text: str) -> tuple[int, int, int, int]:
    try:
        left, top, right, bottom = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--box {text}: write X0,Y0,X1,Y1, four whole numbers of px") from None
    return left, top, right, bottom


def _step_bar() -> Callable[[int, int], None]:
    """Return a callback that shows the solver's steps on stderr where that is a terminal."""
    from tqdm import tqdm

    bar = tqdm(unit="step", file=sys.stderr, dynamic_ncols=True, disable=None, leave=False)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.refresh()

    return show


COMMANDS = (edit, inpaint, upscale)
