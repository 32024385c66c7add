"""What the personalise tab computes: the faces of given people, read from photographs, and the pictures they are put into.

What is there, and whether enough is, is read from small files: the page stands before torch is imported. The networks
open with the first photograph or picture. Shapes: N pictures, H W px, K people, S side of an aligned face in px.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facegen.config import load_params

if TYPE_CHECKING:
    from torch import Tensor

    from facegen.face_detector import FaceDetector
    from facegen.models.text_to_image import TextToImage
    from facegen.personalize.generation import OnStep, Personalizer

BY_NUMBER, NOBODY, ONE, SEVERAL = "auto", "class_word", "single", "mf2d"
MAPPERS: Mapping[str, str | None] = {SEVERAL: "mf2d", "naive": "single", ONE: "single", NOBODY: None}
"""The methods on offer and the mapper of each, as facegen.personalize.generation.METHODS has them."""
BASE, ENCODER, MAPPER, DETECTOR = "text-to-image", "msid", "mapper", "detector"
_ABOUT = (f"{BASE}/text_to_image.json", f"{ENCODER}/recognizer.json", f"{MAPPER}/mapper.json")
_ABSENT = "absent"


@dataclass(frozen=True)
class PeopleFacts:
    """How given people are drawn: the settings of `personalize` in params.yaml, and what may be asked for."""

    settings: Mapping[str, Any]
    examples: tuple[str, ...]  # prompts, those of one person first
    methods: tuple[str, ...]
    max_people: int
    max_megapixels: float
    has_detector: bool


@dataclass(frozen=True, eq=False)  # equal only to itself: gradio asks whether a state has changed
class Reference:
    """The face of a person as the identity encoder takes it, and the name of its photograph."""

    name: str
    crop: Tensor  # (1, 3, S, S) in [-1, 1]

    @property
    def view(self) -> np.ndarray:
        """uint8 (S, S, 3)."""
        shown: np.ndarray = ((self.crop[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
        return shown


def people_absence(folder: Path, *, params: Path) -> str | None:
    """Return in one line why a model folder draws no given people; None: it does.

    Args:
        folder: of the models.
        params: the parameter file, whose sections say how people are drawn.
    """
    for file in _ABOUT:
        if (folder / file).is_file() and (reason := _read(folder / file).get(_ABSENT)):
            return f"{reason} ({folder / file})"
    missing = [] if _holds_base(folder) else [BASE]
    missing += [] if (folder / ENCODER / "config.json").is_file() else [ENCODER]
    missing += [] if _mappers(folder) else [MAPPER]
    if missing:
        return f"{folder} holds no {', '.join(missing)}; `dvc repro personalize` trains what is missing"
    return None if params.is_file() else f"{params} does not exist; its section personalize has the settings (--params)"


def read_people(folder: Path, *, params: Path, detector: Path | None) -> PeopleFacts:
    """Return what the small files of a model folder say; no network is opened.

    Args:
        folder: of the models; it lacks nothing (`people_absence`).
        params: the parameter file.
        detector: a detection network that was named, or None.
    """
    p, there = load_params(params), _mappers(folder)
    own = p.personalize
    return PeopleFacts(
        own.model_dump(include={"num_steps", "guidance_scale", "alpha", "negative", "scheduler"}),
        (*own.prompts_one, *own.prompts_two) if p.mapper.max_subjects > 1 else own.prompts_one,
        tuple(method for method, mapper in MAPPERS.items() if mapper is None or mapper in there),
        p.mapper.max_subjects, p.preprocess.max_megapixels,
        has_detector=detector is not None or any((folder / DETECTOR).glob("*.onnx")),
    )  # fmt: skip


def chosen_method(method: str, num_people: int, *, methods: Sequence[str]) -> str:
    """Return the method for so many people, which `auto` leaves to their number.

    Raises:
        ValueError: if there is nobody to draw, or too many people for the method.
    """
    if method == NOBODY:
        return method
    if num_people == 0:
        raise ValueError("Choose a photograph of each person first, or the method that draws nobody in particular")
    if method == BY_NUMBER:
        order = [ONE, SEVERAL] if num_people == 1 else [SEVERAL, "naive"]
        method = next((name for name in order if name in methods), order[0])
    if method not in methods:
        raise ValueError(f"There is no mapper for {method}; there is one for {', '.join(methods)}")
    if method == ONE and num_people > 1:
        raise ValueError(f"The method {ONE} draws one person, and {num_people} photographs are here; take another one")
    return method


def given_people(references: Sequence[Reference | None]) -> list[Reference]:
    """Return the people, <id:0> first.

    Raises:
        ValueError: if one is missing before another.
    """
    given = [reference for reference in references if reference is not None]
    first = references[: len(given)]
    if None in first:
        raise ValueError(f"The photograph of <id:{first.index(None)}> is missing; people are counted from <id:0> on")
    return given


class People:
    """The networks that draw given people, each opened when it is first needed. Whoever calls it holds the others off."""

    def __init__(self, folder: Path, *, params: Path, device: str, detector: FaceDetector | None) -> None:
        """
        Args:
            folder: of the models.
            params: the parameter file.
            device: where everything computes.
            detector: what finds faces; None: the network in the folder, if there is one.
        """
        self.folder, self.params, self.device = folder, load_params(params), device
        self._detector, self._personalizers = detector, dict[str | None, "Personalizer"]()

    @cached_property
    def detector(self) -> FaceDetector | None:
        """What finds faces."""
        from facegen.face_detector import FaceDetector

        own = self.folder / DETECTOR
        if self._detector is None and any(own.glob("*.onnx")):
            return FaceDetector.open(own, threads=1)
        return self._detector

    @cached_property
    def base(self) -> TextToImage:
        """The text-to-image model."""
        from facegen.models.text_to_image import TextToImage
        from facegen.personalize.opening import base_source

        return TextToImage.open(base_source(self.folder / BASE), device=self.device)

    def personalizer(self, mapper: str | None) -> Personalizer:
        """Return what draws with a mapper; None: nobody in particular."""
        from facegen.personalize.opening import open_personalizer

        if mapper not in self._personalizers:
            p = self.params.mapper
            known = {"class_word": p.class_word, "fusion": p.fusion} if mapper is None else {}
            self._personalizers[mapper] = open_personalizer(
                self.base, msid=None if mapper is None else self.folder / ENCODER,
                mapper=None if mapper is None else self.folder / MAPPER / mapper, device=self.device, **known,
            )  # fmt: skip
        return self._personalizers[mapper]

    def reference(
        self, data: bytes, *, name: str, aligned: bool, max_megapixels: float, tell: Callable[[str], object]
    ) -> Reference:
        """Return the face of a person.

        Args:
            data: of the photograph's file.
            name: of the photograph, in messages.
            aligned: the photograph is framed as the data are; else the detector looks for the face.
            max_megapixels: the most pixels allowed, in millions.
            tell: is told, in one line, what was chosen where there was a choice.

        Raises:
            ValueError: if the file is no photograph that is allowed, or no face is found in it.
        """
        from facegen.data.align import CANONICAL
        from facegen.data.face_embedder import ABOUT
        from facegen.personalize.references import FaceFinder, reference_crop
        from facegen.photograph import open_photograph

        about = self.folder / ENCODER / ABOUT
        mean = np.array(_read(about)["mean_landmarks"]) if about.is_file() else CANONICAL
        detect = None if aligned or self.detector is None else self.detector.detect
        size = int(_read(self.folder / ENCODER / "config.json")["image_size"])
        crop = reference_crop(
            open_photograph(data, max_megapixels=max_megapixels).seen, FaceFinder(mean, detect=detect, tell=tell),
            size=size, max_megapixels=max_megapixels, name=name,
        )  # fmt: skip
        return Reference(name, crop)

    def draw(
        self, people: Sequence[Reference], prompt: str, *, method: str, seeds: Sequence[int], on_step: OnStep, **settings: Any
    ) -> tuple[np.ndarray, dict[str, object]]:  # fmt: skip
        """Return pictures, uint8 (N, H, W, 3), one per seed, and what their PNGs say of the request.

        Args:
            people: K, that of <id:0> first.
            prompt: with a marker for each of them.
            method: one of MAPPERS.
            seeds: of the pictures, each of which depends on its own alone.
            on_step: called with the steps done and their total.
            settings: as `facegen.personalize.generation.Settings`.

        Raises:
            ValueError: if prompt and people do not fit each other, or the prompt is too long.
        """
        import torch

        from facegen.personalize.generation import METHODS

        given, drawer = [] if method == NOBODY else people, self.personalizer(MAPPERS[method])
        settings = {**settings, "alpha": METHODS[method].alpha(settings["alpha"])}
        features = torch.stack([drawer.features([person.crop]) for person in given]) if given else None
        images = drawer.generate(features, prompt, seeds=seeds, on_step=on_step, **settings)
        about = {
            "prompt": prompt, "method": method, "references": [[person.name] for person in given],
            "fusion": drawer.fusion, "class_word": drawer.class_word, **settings,
        }  # fmt: skip
        return images, about


def known_steps(about: Mapping[str, Any]) -> str:
    """Return in words in which of the steps the people of a request were known."""
    from facegen.personalize.schedule import subject_steps

    total = int(about["num_steps"])
    first = subject_steps(total, float(about["alpha"]))
    if not about["references"] or first == total:
        return f"{about['class_word']} at each marker: nobody in particular."
    when = f"in all {total} steps" if first == 0 else f"in the last {total - first} of {total} steps"
    who = "the person is" if len(about["references"]) == 1 else "the people are"
    return f"{about['method']}: {who} known {when}."


def _holds_base(folder: Path) -> bool:
    return any((folder / BASE / name).is_file() for name in ("model_index.json", "pointer.json"))


def _mappers(folder: Path) -> set[str]:
    return {file.parent.name for file in (folder / MAPPER).glob("*/config.json")} & {*filter(None, MAPPERS.values())}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
