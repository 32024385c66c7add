"""What the page in the browser computes with: trained networks, each opened when it is first needed, used one at a time.

The page itself is drawn from `read_facts` alone, which reads a few small files: it stands before torch is imported.
Shapes: N images, A attributes, S side of the model's faces, H W photograph, px.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facegen.app.people import People, PeopleFacts, Reference, people_absence, read_people
from facegen.app.photos import Opened, photo_mask
from facegen.attributes import ABSENT, PRESENT, attribute_vector
from facegen.config import load_params
from facegen.data.regions import REGIONS
from facegen.photo_face import take_face
from facegen.photograph import Photograph, open_photograph

if TYPE_CHECKING:
    from facegen.editing import EditorBundle
    from facegen.face_detector import FaceDetector
    from facegen.models.dcgan import DCGANGenerator
    from facegen.pipeline import FacePipeline
    from facegen.upscaling import FaceUpscaler

GAN = "gan-conditional"
GAN_BATCH = 16  # rows of each call of the DCGAN; a fixed number, so that equal requests give equal bytes
OnStep = Callable[[int, int], None]
"""Called with the solver steps done and their total."""


@dataclass(frozen=True)
class EditFacts:
    """How the model edits photographs: the settings of `facegen.edit.EditSettings` and what may be uploaded."""

    settings: Mapping[str, Any]
    max_megapixels: float
    has_inpainter: bool


@dataclass(frozen=True)
class Facts:
    """What the page must know of a model to offer its controls."""

    attribute_names: tuple[str, ...]
    num_steps: int
    guidance_scale: float
    edit: EditFacts | None  # None: an export without what editing needs
    regions: tuple[str, ...]  # parts of a face that have a name
    has_gan: bool
    has_upscaler: bool
    has_detector: bool
    people: PeopleFacts | None
    no_people: str | None  # why given people cannot be drawn; None: they can


@dataclass(frozen=True)
class Request:
    """Attributes (states by name, none that is left open), extra guidance by name, and the solver's settings."""

    attributes: Mapping[str, int]
    strengths: Mapping[str, float]
    num_steps: int
    guidance_scale: float

    def about(self) -> dict[str, object]:
        """Return what a picture's PNG says of the request, with the keys of `facegen sample`."""
        return {
            "attributes": dict(self.attributes), "strengths": dict(self.strengths), "steps": self.num_steps,
            "guidance": self.guidance_scale,
        }  # fmt: skip


def make_request(
    names: Sequence[str], states: Sequence[float], strengths: Sequence[float], *, steps: float, guidance: float
) -> Request:
    """Return the request that a row of controls stands for, with what is left open left out.

    Args:
        names, states, strengths: of the attributes, A each; a strength counts only where a state is asked for.
        steps, guidance: the solver's.
    """
    asked = asked_states(names, states)
    extra = {name: float(w) for name, w in zip(names, strengths, strict=True) if name in asked and w}
    return Request(asked, extra, num_steps=int(steps), guidance_scale=float(guidance))


def asked_states(names: Sequence[str], states: Sequence[float]) -> dict[str, int]:
    """Return the states that are asked for, by name."""
    return {name: int(state) for name, state in zip(names, states, strict=True) if state in (ABSENT, PRESENT)}


def read_facts(folder: Path, *, params: Path, detector: Path | None) -> Facts:
    """Return what the configuration files of a model folder say; no network is opened.

    Args:
        folder: holds `dit/` and `autoencoder/`, or is what `facegen export` wrote.
        params: the parameter file; read only if the folder does not carry its own settings, and for given people.
        detector: the folder of a face detector, or None.

    Raises:
        FileNotFoundError: if there is no model, or no such detector.
    """
    if detector is not None and not detector.exists():
        raise FileNotFoundError(f"{detector} does not exist; expected a face detection network (.onnx) or its folder")
    if (folder / "model_index.json").is_file():
        network, index = folder / "transformer", _read(folder / "model_index.json")
        steps, guidance, edit = index["num_inference_steps"], index["guidance_scale"], None
        if (folder / "edit.json").is_file():
            about = _read(folder / "edit.json")
            edit = EditFacts(about["settings"], about["max_megapixels"], _holds(folder, "inpainter"))
    elif _holds(folder, "dit"):
        network, p = folder / "dit", load_params(params)
        steps, guidance = p.sample.num_steps, p.sample.guidance_scale
        edit = EditFacts(p.edit.model_dump(), p.preprocess.max_megapixels, _holds(folder, "inpainter"))
    else:
        raise FileNotFoundError(f"{folder} holds no model; train one with `dvc repro`, or name a folder with --model")
    names, no_people = _read(network / "config.json")["attribute_names"], people_absence(folder, params=params)
    return Facts(
        tuple(names), steps, guidance, edit, tuple(REGIONS), has_gan=_holds(folder, f"{GAN}/generator"),
        has_upscaler=_holds(folder, "upscaler"), has_detector=detector is not None,
        people=None if no_people else read_people(folder, params=params, detector=detector), no_people=no_people,
    )  # fmt: skip


class Models:
    """The networks of one model folder; `busy` is held by whoever computes with them (schedulers hold state)."""

    def __init__(self, folder: Path, *, params: Path, device: str, detector: Path | None) -> None:
        """Read the facts; see `read_facts`."""
        self.folder, self.params, self.device = folder, params, device
        self.facts = read_facts(folder, params=params, detector=detector)
        self._detector_place = detector
        self.busy = threading.RLock()

    @cached_property
    def pipe(self) -> FacePipeline:
        """The generator; hold `busy`."""
        from facegen.sampling import open_model

        pipe = open_model(self.folder, params=self.params, device=self.device)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @cached_property
    def gan(self) -> DCGANGenerator:
        """The conditional baseline; hold `busy`."""
        from facegen.gan_sampling import load_generator

        return load_generator(self.folder / GAN)

    @cached_property
    def bundle(self) -> EditorBundle:
        """The generator and what else an edit needs; hold `busy`."""
        from facegen.editing import bundle_of, edit_settings

        settings, max_megapixels = edit_settings(self.folder, params=self.params)
        return bundle_of(self.pipe, self.folder, settings=settings, max_megapixels=max_megapixels)

    @cached_property
    def detector(self) -> FaceDetector | None:
        """The face detector, if the page was started with one; hold `busy`."""
        from facegen.face_detector import FaceDetector

        return None if self._detector_place is None else FaceDetector.open(self._detector_place, threads=1)

    @cached_property
    def upscaler(self) -> FaceUpscaler:
        """The trained upscaler; hold `busy`."""
        from facegen.editing import open_upscaler

        return open_upscaler(self.folder, device=self.pipe.device)

    @cached_property
    def people(self) -> People:
        """What draws given people; hold `busy`."""
        from facegen.sampling import chosen_device

        return People(self.folder, params=self.params, device=chosen_device(self.device), detector=self.detector)

    def open(self) -> None:
        """Open the networks of the first tabs now; the first request need not wait for them then."""
        with self.busy:
            _ = self.bundle if self.facts.edit else self.pipe
            _ = self.detector

    def generate(self, request: Request, seeds: Sequence[int], *, on_step: OnStep) -> np.ndarray:
        """Return uint8 images (N, S, S, 3) of one request, one per seed."""

        def step_end(_pipe: object, step: int, _timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
            on_step(step + 1, len(self.pipe.scheduler.timesteps))
            return tensors

        with self.busy:
            return self.pipe(
                request.attributes, seeds=list(seeds), num_inference_steps=request.num_steps,
                guidance_scale=request.guidance_scale, attribute_scales=request.strengths, output_type="np",
                callback_on_step_end=step_end,
            ).images  # fmt: skip

    def generate_gan(self, attributes: Mapping[str, int], seeds: Sequence[int]) -> np.ndarray:
        """Return uint8 images (N, S, S, 3) of the conditional DCGAN.

        Raises:
            ValueError: if it does not know an attribute.
        """
        from facegen.gan_sampling import generate

        with self.busy:
            vector = attribute_vector(attributes, list(self.gan.config.attribute_names))
            return generate(
                self.gan, np.repeat(vector[None], len(seeds), axis=0), np.asarray(seeds, np.int64),
                batch_size=GAN_BATCH, device=self.pipe.device,
            )  # fmt: skip

    def upscale(self, images: np.ndarray) -> np.ndarray:
        """Return images (N, S, S, 3) enlarged by the trained upscaler."""
        with self.busy:
            return self.upscaler.upscale(images)

    def upscale_factor(self, *, wanted: bool) -> int | None:
        """Return the factor of the upscaler, or None if it is not wanted."""
        with self.busy:
            return self.upscaler.scale if wanted else None

    def open_photograph(self, data: bytes, *, name: str, aligned: bool, max_megapixels: float) -> Opened:
        """Return an upload and the face in it.

        Args:
            data: the file's bytes.
            name: of the file, without its ending.
            aligned: the face fills the largest centred square; else the detector looks for it.
            max_megapixels: the most pixels allowed, in millions.

        Raises:
            ValueError: if the file is no photograph that is allowed, or no face is found in it.
        """
        photo, landmarks = open_photograph(data, max_megapixels=max_megapixels), None
        with self.busy:
            if not aligned and self.detector is not None:
                landmarks = self.detector.landmarks(photo.seen, face=None)
            editor = self.bundle.editor
            face = take_face(photo, landmarks, template=editor.mean_landmarks, resolution=editor.resolution)
        return Opened(name, photo, face, landmarks)

    def edit(
        self,
        opened: Opened,
        attributes: Mapping[str, int],
        *,
        regions: Sequence[str],
        painted: np.ndarray | None,
        seed: int,
        on_step: OnStep,
        **settings: Any,
    ) -> tuple[Photograph, float]:
        """Return the photograph with other attributes, and the share of the face that was repainted.

        Args:
            opened: the photograph.
            attributes: what is changed, by name.
            regions: parts to repaint, or "auto".
            painted: bool (S, S), all that is repainted, instead of the regions.
            seed: of the noise.
            on_step: see `OnStep`.
            settings: what else `facegen.editing.edit_photograph` takes.
        """
        from facegen.editing import edit_photograph

        with self.busy:
            made = edit_photograph(
                self.bundle, opened.photo, set=attributes, seeds=[seed], landmarks=opened.landmarks, region=regions,
                mask=None if painted is None else photo_mask(opened, painted), keep_unknown=self.bundle.judge is None,
                on_step=on_step, **settings,
            )  # fmt: skip
        return made.photos[0], float(made.edited.masks.mean())

    def read_person(self, data: bytes, **settings: Any) -> Reference:
        """Return the face of a person in an upload; see `People.reference`."""
        with self.busy:
            return self.people.reference(data, **settings)

    def draw_people(
        self, people: Sequence[Reference], prompt: str, **settings: Any
    ) -> tuple[np.ndarray, dict[str, object]]:
        """Return pictures of given people, uint8 (N, H, W, 3), and what was asked; see `People.draw`."""
        with self.busy:
            return self.people.draw(people, prompt, **settings)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _holds(folder: Path, name: str) -> bool:
    return (folder / name / "config.json").is_file()
