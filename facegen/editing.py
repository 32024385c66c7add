"""Photographs of any size, edited and enlarged: what the command line and the page in the browser both call.

A model's folder is data/models of a checkout (edited by params.yaml) or what `facegen export` wrote (which carries its
own settings in edit.json). Beside the generator an edit uses what is there: the inpainting model, judge a (it reads
from the photograph the attributes that the user does not name), the conditioning recogniser (who it is) and the
upscaler. Shapes: B pictures, S the model's side, A attributes, H W photograph, px.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from facegen.artifacts import read_json, sha256_file, write_json
from facegen.attributes import ABSENT, PRESENT, UNKNOWN, attribute_vector
from facegen.config import load_params
from facegen.data import face_embedder
from facegen.data.face_embedder import FaceEmbedder
from facegen.data.images import to_unit
from facegen.data.regions import box_mask, region_mask, regions_of
from facegen.edit import Edited, EditSettings, FaceEditor
from facegen.edit_sets import changed_states
from facegen.models.dit import LatentDiT
from facegen.models.judges import WEIGHTS, Judge, load_judge
from facegen.models.loading import load_checked
from facegen.photo_face import AlignedFace, put_back, take_face, take_mask
from facegen.photograph import Photograph
from facegen.pipeline import FacePipeline
from facegen.sampling import Enlarge, open_model

if TYPE_CHECKING:
    from facegen.upscaling import FaceUpscaler

AUTO = "auto"  # region: the parts that the changed attributes need
EDIT_JSON = "edit.json"  # of an exported folder: settings and max_megapixels
SURE_PRESENT, SURE_ABSENT = 0.7, 0.3  # judge a's probabilities beyond which a state counts as known
BATCH = 16  # variants that are edited at a time
UNMASKED = "invert"  # the method that takes the whole picture where no part is named
_PARTS = {  # folders that editing needs beside the generator, and their files
    "inpainter": ("config.json", WEIGHTS),
    "upscaler": ("config.json", WEIGHTS),
    "judge-a": ("config.json", WEIGHTS),
    "recognizer-condition": (face_embedder.ONNX, face_embedder.ABOUT),
}


@dataclass(frozen=True)
class EditorBundle:
    """The networks of a model's folder that edits use; None: it is not there."""

    folder: Path
    editor: FaceEditor
    judge: Judge | None
    embedder: FaceEmbedder | None
    upscaler: FaceUpscaler | None
    max_megapixels: float  # of photographs

    def states_of(self, images: np.ndarray) -> np.ndarray:
        """Return what judge a sees, int8 (B, A): present above 0.7, absent below 0.3, else unknown.

        Args:
            images: uint8 (B, S, S, 3).

        Raises:
            ValueError: if there is no judge a.
        """
        if self.judge is None:
            raise ValueError(
                f"{self.folder}/judge-a holds no judge that could read the attributes; --keep-unknown does without"
            )
        with torch.no_grad():
            logits = self.judge(to_unit(images).to(self.judge.device))
            said = self.judge.probabilities(logits).float().cpu().numpy()
        states = np.full(said.shape, UNKNOWN, np.int8)
        states[said > SURE_PRESENT], states[said < SURE_ABSENT] = PRESENT, ABSENT
        known, names = list(self.judge.config.attribute_names), self.editor.attribute_names
        columns = [known.index(name) if name in known else -1 for name in names]
        return np.stack([states[:, c] if c >= 0 else np.full(len(images), UNKNOWN, np.int8) for c in columns], axis=1)

    def about_model(self, method: str) -> dict[str, str]:
        """Return name and sha256 of the weights that a method draws with."""
        trained = self.editor.inpainter is not None and method in ("conditioned", "zoom")
        exported = (self.folder / "transformer").is_dir()
        place = self.folder / ("inpainter" if trained else "transformer" if exported else "dit") / WEIGHTS
        return {"name": place.parent.name, "sha256": sha256_file(place)}


@dataclass(frozen=True)
class EditedPhotograph:
    """What an edit made of one photograph."""

    photos: list[Photograph]  # one a seed
    face: AlignedFace  # as it was taken
    edited: Edited  # the faces, one a seed
    states: np.ndarray  # (A,) int8, all that was asked for
    method: str


def open_editor(folder: Path, *, params: Path, device: str) -> EditorBundle:
    """Open what a model's folder holds for editing.

    Args:
        folder: data/models, or what `facegen export` wrote.
        params: the parameter file; not read for an exported folder.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        FileNotFoundError: if there is no model.
        ValueError: if the device is not there, or an exported folder says nothing of editing.
    """
    pipe = open_model(folder, params=params, device=device)
    settings, max_megapixels = edit_settings(folder, params=params)
    return bundle_of(pipe, folder, settings=settings, max_megapixels=max_megapixels)


def bundle_of(pipe: FacePipeline, folder: Path, *, settings: EditSettings, max_megapixels: float) -> EditorBundle:
    """Return the bundle of an open pipeline and the other networks of its folder, on the pipeline's device."""
    device = pipe.device
    inpainter = judge = embedder = None
    if _holds(folder, "inpainter"):
        inpainter = load_checked(LatentDiT, folder / "inpainter").eval().to(device)
    if _holds(folder, "judge-a"):
        judge = load_judge(folder / "judge-a").to(device)
    if pipe.transformer.config.identity_dim is not None and _holds(folder, "recognizer-condition"):
        embedder = FaceEmbedder.load(folder / "recognizer-condition", threads=torch.get_num_threads())
    editor = FaceEditor(pipe, inpainter=inpainter, settings=settings)
    upscaler = open_upscaler(folder, device=device) if _holds(folder, "upscaler") else None
    return EditorBundle(folder, editor, judge, embedder, upscaler, max_megapixels)


def open_upscaler(folder: Path, *, device: torch.device | str) -> FaceUpscaler:
    """Open the upscaler of a model's folder.

    Raises:
        ValueError: if it holds none.
    """
    if not _holds(folder, "upscaler"):
        about = folder / "upscaler" / "upscaler.json"
        reason = read_json(about).get("absent") if about.is_file() else None
        raise ValueError(f"{folder} holds no upscaler: {reason or 'train it with `dvc repro upscaler`'}")
    from facegen.upscaling import FaceUpscaler

    return FaceUpscaler.load(folder / "upscaler", device=torch.device(device))


def enlarger(folder: Path, scale: int | None, *, device: torch.device) -> Enlarge:
    """Return what makes pictures larger: the upscaler of a model's folder, or for None nothing.

    Raises:
        ValueError: if there is no upscaler, or it is of another scale.
    """
    if scale is None:
        return lambda images: images
    upscaler = open_upscaler(folder, device=device)
    if scale != upscaler.scale:
        raise ValueError(f"--upscale {scale}: this upscaler was trained for {upscaler.scale}")
    return upscaler.upscale


def edit_settings(folder: Path, *, params: Path) -> tuple[EditSettings, float]:
    """Return how photographs are edited, and the most megapixels that one may have.

    Raises:
        FileNotFoundError: if the parameter file is missing.
        ValueError: if an exported folder says nothing of editing.
    """
    if (folder / "model_index.json").is_file():
        if not (folder / EDIT_JSON).is_file():
            raise ValueError(
                f"{folder} holds no {EDIT_JSON}: it was exported without what editing needs; export it again"
            )
        about = read_json(folder / EDIT_JSON)
        return EditSettings(**about["settings"]), float(about["max_megapixels"])
    p = load_params(params)
    values = {field.name: getattr(p.edit, field.name) for field in fields(EditSettings)}
    return EditSettings(**values), p.preprocess.max_megapixels


def export_editing(folder: Path, output: Path, *, params: Path) -> list[str]:
    """Copy what editing needs beside an exported pipeline; returns the names of what was there.

    Args:
        folder: data/models or an exported folder.
        output: the exported pipeline.
        params: the parameter file, read for data/models.
    """
    exported = (folder / "model_index.json").is_file()
    if exported and not (folder / EDIT_JSON).is_file():
        return []
    settings, max_megapixels = edit_settings(folder, params=params)
    values = {field.name: getattr(settings, field.name) for field in fields(EditSettings)}
    write_json(output / EDIT_JSON, {"settings": values, "max_megapixels": max_megapixels})
    found = [name for name in _PARTS if _holds(folder, name)]
    for name in found:
        (output / name).mkdir()
        for file in _PARTS[name]:
            shutil.copyfile(folder / name / file, output / name / file)
    return found


def edit_photograph(
    bundle: EditorBundle,
    photo: Photograph,
    *,
    set: Mapping[str, int],
    seeds: Sequence[int],
    landmarks: np.ndarray | None,
    region: Sequence[str] = (AUTO,),
    mask: np.ndarray | None = None,
    box: tuple[int, int, int, int] | None = None,
    method: str | None = None,
    keep_unknown: bool = False,
    upscale: bool = False,
    on_step: Callable[[int, int], None] | None = None,
    **overrides: Any,
) -> EditedPhotograph:
    """Return a photograph with other attributes, once for each seed; outside the edited part it is the same bit for bit.

    Args:
        bundle: the networks.
        photo: the photograph.
        set: states by attribute, what shall change; may be empty if `mask`, `box` or a region says what to repaint.
        seeds: one a variant.
        landmarks: (5, 2) px in the photograph; None: the face fills its largest centred square, as a model's faces do.
        region: parts of the face by name, or "auto": those that the changed attributes need (with the method `invert`
            the whole face); "auto" is nothing beside a mask or a box.
        mask: bool (H, W) of the photograph, True = repaint.
        box: (x0, y0, x1, y1) px of the photograph. What mask, box and regions name is repainted together.
        method: one of facegen.edit.METHODS; None: that of the settings.
        keep_unknown: leave the other attributes open, instead of asking for what judge a sees.
        upscale: put the face back through the upscaler, so that new parts are as sharp as a larger photograph.
        on_step: called with (steps done, steps in all) of the variants at work.
        overrides: fields of EditSettings.

    Raises:
        ValueError: for an unknown attribute, region, method or setting, landmarks that cannot be, a part that is empty
            or outside the face, or a network that is not there.
    """
    editor = bundle.editor
    method = editor.settings.method if method is None else method
    if upscale and bundle.upscaler is None:
        open_upscaler(bundle.folder, device="cpu")  # says why there is none
    marked = [part for part in (mask, None if box is None else box_mask(box, size=photo.size)) if part is not None]
    within = np.logical_or.reduce(marked) if marked else None
    face = take_face(photo, landmarks, template=editor.mean_landmarks, resolution=editor.resolution)
    where = _part(face, set, region=region, within=within, method=method)
    if any(name != AUTO for name in region):
        within = None  # the part is not what is marked alone
    images = face.image[None]
    names = editor.attribute_names
    states = requested_states(
        np.full((1, len(names)), UNKNOWN) if keep_unknown else bundle.states_of(images), set, names
    )
    changed = np.array([[name in set for name in names]])
    person = None if bundle.embedder is None else bundle.embedder.embed(images, face.landmarks[None])
    made = []
    for start in range(0, len(seeds), BATCH):
        rows = list(seeds[start : start + BATCH])
        same = {"states": states, "changed": changed, "landmarks": face.landmarks[None]}
        if where is not None:
            same["masks"] = where[None]
        if person is not None:
            same["identity"] = person
        batch: dict[str, Any] = {
            "masks": None,
            **{name: value.repeat(len(rows), axis=0) for name, value in same.items()},
        }
        repeated = images.repeat(len(rows), axis=0)
        made.append(editor.edit(repeated, **batch, seeds=rows, method=method, on_step=on_step, **overrides))
    edited = Edited(
        images=np.concatenate([part.images for part in made]),
        raw=np.concatenate([part.raw for part in made]),
        masks=np.concatenate([part.masks for part in made]),
        evaluations=made[0].evaluations,
    )
    faces = bundle.upscaler.upscale(edited.images) if upscale and bundle.upscaler is not None else edited.images
    photos = [
        photo.with_pixels(put_back(photo, face, image, used, within=within))
        for image, used in zip(faces, edited.masks, strict=True)
    ]
    return EditedPhotograph(photos, face, edited, states[0], method)


def requested_states(seen: np.ndarray, set: Mapping[str, int], names: Sequence[str]) -> np.ndarray:  # (1, A) int8
    """Return the states to ask for: what is seen, with the changes, and without what they exclude (other hair colours).

    Raises:
        ValueError: for an unknown attribute or state.
    """
    wanted = attribute_vector(set, names)
    states = seen.astype(np.int8)
    for name, state in set.items():
        states = changed_states(states, names, list(names).index(name), state)
    return np.where([name in set for name in names], wanted, states).astype(np.int8)


def upscale_photograph(upscaler: FaceUpscaler, photo: Photograph) -> Photograph:
    """Return a photograph enlarged by the upscaler: alpha by Lanczos, grey stays grey."""
    pixels = upscaler.upscale(photo.pixels[None])[0]
    if photo.grey:
        pixels = np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[..., None], 3, axis=-1)
    alpha = photo.alpha
    if alpha is not None:
        size = (pixels.shape[1], pixels.shape[0])
        alpha = np.asarray(Image.fromarray(alpha).resize(size, Image.Resampling.LANCZOS))
    return replace(photo, pixels=pixels, seen=pixels, alpha=alpha).with_pixels(pixels)


def _part(
    face: AlignedFace, set: Mapping[str, int], *, region: Sequence[str], within: np.ndarray | None, method: str
) -> np.ndarray | None:
    """Return which pixels of the face are repainted, bool (S, S); None is the whole face, for `invert`."""
    if within is not None:
        part = take_mask(within, face)
        named = [name for name in region if name != AUTO]
        if named:
            part = part | region_mask(named, face.landmarks, size=len(face.image))
        if not part.any():
            raise ValueError("the mask does not touch the square of the face that the model sees")
        return part
    names = list(region)
    if AUTO in names:
        if method == UNMASKED and len(names) == 1:
            return None
        if not set:
            raise ValueError("nothing to edit: name attributes to change, or the part to repaint")
        needed = [part for name in set for part in regions_of(name)]
        names = list(dict.fromkeys([name for name in names if name != AUTO] + needed))
    part = region_mask(names, face.landmarks, size=len(face.image))
    if not part.any():
        raise ValueError(f"region {'+'.join(names)} lies outside the square of the face that the model sees")
    return part


def _holds(folder: Path, name: str) -> bool:
    return all((folder / name / file).is_file() for file in _PARTS[name])
