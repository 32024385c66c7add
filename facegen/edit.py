"""FaceEditor: a photograph with other attributes, repainted inside a mask by one of seven exchangeable methods.

    blend        the generator, the photograph's latents put back after each step; plain, as it is published: guided as
                 the generator is when it samples, not towards the changed attributes (training-free)
    guided       the same, with guidance on the changed attributes inside the mask, as all that follow (training-free)
    resample     guided, each step taken several times with jumps back in between (training-free)
    sdedit       guided, from the photograph at a strength below 1 (training-free)
    invert       the photograph's own noise by ODE inversion, then the way back with other attributes; the only method
                 that needs no mask (training-free)
    conditioned  the inpainting model, which sees what is kept
    zoom         the same on a square around a small mask, enlarged; without an inpainting model, guided in the square

Outside its mask a result equals its photograph bit for bit. Result i is a function of its photograph, request and seed,
not of its batch. Shapes: B pictures, S side in px, A attributes, E identity embedding, C h latent channels and side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facegen.attributes import ABSENT, PRESENT, UNKNOWN
from facegen.data.align import canonical_landmarks
from facegen.data.compositing import composite, cut_squares, paste_squares, zoom_squares
from facegen.data.images import to_unit
from facegen.data.regions import region_mask, regions_of
from facegen.flow.guidance import guided_velocity
from facegen.flow.inpaint import OnStep, inpaint, partial_schedule
from facegen.flow.inversion import invert, regenerate
from facegen.flow.latent_masks import nested_masks, soft_mask
from facegen.flow.sampler import initial_noise
from facegen.models.autoencoder import factor
from facegen.models.dit import LatentDiT
from facegen.models.inpainting import context_of, normalized_latents
from facegen.pipeline import FacePipeline

METHODS = ("blend", "guided", "resample", "conditioned", "zoom", "sdedit", "invert")
# Fixed-point sweeps a step of the inversion: without any, 25 steps and back give a drawn face at 68 dB (12 steps: 58 dB),
# and the autoencoder's own round trip at 27 dB.
CORRECTIONS = 0


@dataclass(frozen=True)
class EditSettings:
    """How a photograph is edited; the values come from params.yaml."""

    method: str  # one of METHODS
    num_steps: int  # solver steps from pure noise
    guidance_scale: float  # towards all requested attributes; 1 is none; invert has none
    attribute_scale: float  # extra guidance on the changed attributes inside the mask; 0 is none
    strength: float  # of sdedit: time at which it starts, 1 is pure noise
    resamples: int  # of resample: passes of each step
    dilation_cells: int  # by which the mask of the latents is wider at first
    feather: float  # width of the soft edge inside the mask, as a share of the side
    zoom_side: float  # of zoom: smallest square that is shown, as a share of the side
    zoom_below: float  # of zoom: share of the picture from which on a mask is not enlarged


@dataclass(frozen=True)
class Edited:
    """What an edit made of B photographs."""

    images: np.ndarray  # uint8 (B, S, S, 3), composited
    raw: np.ndarray  # uint8 (B, S, S, 3), as decoded; where it was zoomed, the photograph around the square
    masks: np.ndarray  # bool (B, S, S), as used
    evaluations: int  # network evaluations per picture; a guided step counts each condition


@dataclass(frozen=True)
class _Request:
    """A checked request, on the device."""

    states: Tensor  # (B, A) int8
    changed: Tensor  # (B, A) bool
    identity: Tensor | None  # (B, E)
    seeds: Sequence[int]
    settings: EditSettings
    on_step: OnStep | None


class _Counted:
    """A LatentDiT as a guidance network: float32 out, its own dtype inside, and a count of the rows it was given."""

    def __init__(self, model: LatentDiT) -> None:
        self.model, self.rows = model, 0

    def __call__(self, x_t: Tensor, t: Tensor, states: Tensor, **beside: Tensor) -> Tensor:
        self.rows += len(x_t)
        dtype = self.model.dtype
        same = {k: v.to(dtype) if v.is_floating_point() else v for k, v in beside.items()}
        v: Tensor = self.model(x_t.to(dtype), t, states, **same, return_dict=False)[0]
        return v.float()


class FaceEditor:
    """Edits photographs of the size that a pipeline's model makes."""

    def __init__(self, pipe: FacePipeline, *, inpainter: LatentDiT | None, settings: EditSettings) -> None:
        """
        Args:
            pipe: generator, autoencoder and their settings, on the device.
            inpainter: the inpainting model, on the same device; None where there is none.
            settings: what a call does not say.

        Raises:
            ValueError: if the inpainting model is none, or is of another generator's shape.
        """
        self.pipe, self.inpainter, self.settings = pipe, inpainter, settings
        if inpainter is not None:
            _check_inpainter(inpainter, pipe.transformer)

    @property
    def resolution(self) -> int:
        """Side S of the pictures, px."""
        return int(self.pipe.transformer.config.sample_size * factor(self.pipe.vae))

    @property
    def attribute_names(self) -> list[str]:
        """The attributes, in the order of states and changed."""
        return self.pipe.attribute_names

    @property
    def mean_landmarks(self) -> np.ndarray:  # (5, 2)
        """Where faces lie that have no landmarks of their own, float32 px: the training faces' mean, or canonical."""
        means = None if self.inpainter is None else self.inpainter.config.mean_landmarks
        if means is None:
            return canonical_landmarks(self.resolution)
        return np.asarray(means, np.float32) * self.resolution - 0.5

    @torch.no_grad()
    def edit(
        self,
        images: np.ndarray,
        *,
        states: np.ndarray | Tensor,
        changed: np.ndarray,
        masks: np.ndarray | None,
        seeds: Sequence[int],
        landmarks: np.ndarray | None = None,
        identity: Tensor | np.ndarray | None = None,
        method: str | None = None,
        on_step: Callable[[int, int], None] | None = None,
        **overrides: Any,
    ) -> Edited:
        """Return the photographs with the requested attributes.

        Args:
            images: uint8 (B, S, S, 3).
            states: (B, A) requested: -1 unknown, 0 absent, 1 present.
            changed: bool (B, A), the entries that the user changed.
            masks: bool (B, S, S), True = repaint. None: the whole picture with `invert`; with the other methods the
                regions of the changed attributes, by the landmarks.
            seeds: one integer per picture.
            landmarks: (B, 5, 2) px; None: the mean face's. Looked at only where masks is None.
            identity: (B, E) unit vectors of the people, or None.
            method: one of METHODS; None: that of the settings.
            on_step: called with (steps done, steps in all).
            overrides: fields of EditSettings.

        Raises:
            ValueError: for shapes, values, a method or a setting that cannot be, an empty mask, or a method whose model
                is not there.
        """
        settings = self._settings(method, overrides)
        _check_images(images, self.resolution)
        num = len(images)
        if len(seeds) != num:
            raise ValueError(f"{len(seeds)} seeds for {num} images; give one each")
        request = _Request(
            self.pipe._states(states, num).to(self.pipe.device),
            torch.from_numpy(self._changed(changed, num)).to(self.pipe.device),
            None if identity is None else self.pipe._identity(identity, num).to(self.pipe.device),
            list(seeds), settings, on_step,
        )  # fmt: skip
        if masks is None and settings.method != "invert":
            masks = self._attribute_masks(request.changed.cpu().numpy(), landmarks)
        used = np.ones(images.shape[:3], np.bool_) if masks is None else _checked_masks(masks, images)
        if settings.method == "zoom":
            squares = zoom_squares(used, least=settings.zoom_side, below=settings.zoom_below)
        else:
            squares = zoom_squares(used, least=1.0, below=0.0)
        painted, evaluations = self._paint(cut_squares(images, squares), cut_squares(used, squares), squares, request)
        raw = paste_squares(images, painted, squares)
        result = composite(images, raw, used, width_px=settings.feather * self.resolution)
        return Edited(result, raw, used, evaluations)

    def _paint(
        self, images: np.ndarray, masks: np.ndarray, squares: np.ndarray, request: _Request
    ) -> tuple[np.ndarray, int]:
        """Return decoded pictures uint8 (B, S, S, 3) and the evaluations per picture."""
        pipe, settings, config = self.pipe, request.settings, self.pipe.transformer.config
        pixels = to_unit(images).to(pipe.device)
        repaint = torch.from_numpy(masks)[:, None].to(pipe.device)
        source = normalized_latents(pipe.vae, pixels, mean=config.latent_mean, std=config.latent_std)
        inpainter = self.inpainter if settings.method in ("conditioned", "zoom") else None
        trained = inpainter is not None
        network = _Counted(pipe.transformer if inpainter is None else inpainter)
        nested = nested_masks(
            repaint, factor=factor(pipe.vae), patch=config.patch_size, cells=0 if trained else settings.dilation_cells
        )
        if settings.method == "invert":
            whole = bool(repaint.all())
            latents = self._inverted(network, source, None if whole else nested, request)
        else:
            shown = self._shown(pixels, repaint, squares) if trained else {}
            latents = self._inpainted(network, source, nested, shown, request)
        return pipe._decode(latents), network.rows // len(images)

    def _shown(self, pixels: Tensor, repaint: Tensor, squares: np.ndarray) -> dict[str, Tensor]:
        """Return what the inpainting model is shown: the context (B, 1 + C, h, h) and the crop (B, 3)."""
        config = self.pipe.transformer.config
        context = context_of(self.pipe.vae, pixels, repaint, mean=config.latent_mean, std=config.latent_std)
        left, top, side = squares.T / self.resolution
        crop = np.stack([left + side / 2, top + side / 2, side], axis=1)
        return {"context": context, "crop": torch.from_numpy(crop).float().to(pixels.device)}

    def _inpainted(
        self, network: _Counted, source: Tensor, nested: Tensor, shown: dict[str, Tensor], request: _Request
    ) -> Tensor:
        settings, pipe = request.settings, self.pipe
        weight = settings.attribute_scale * soft_mask(nested) if settings.attribute_scale else None

        def velocity(x: Tensor, t: float) -> Tensor:
            return guided_velocity(
                network, x, t, request.states, scale=settings.guidance_scale, interval=self._interval,
                attribute_scales={}, identity=request.identity, shown=shown, changed=request.changed,
                changed_weight=weight, identity_in_null=True,
            )  # fmt: skip

        return inpaint(
            velocity, source, nested,
            partial_schedule(
                settings.num_steps, shift=self._shift, strength=settings.strength if settings.method == "sdedit" else 1.0
            ),
            path=pipe.transformer.config.path, seeds=request.seeds,
            eps=initial_noise(request.seeds, source.shape[1:]).to(source.device),
            resamples=settings.resamples if settings.method == "resample" else 1, on_step=request.on_step,
        )  # fmt: skip

    def _inverted(self, network: _Counted, source: Tensor, nested: Tensor | None, request: _Request) -> Tensor:
        """Return latents on the way back: v = v(before) + (1 + w) (v(requested) - v(before)), w inside the mask.

        With nothing changed that is the photograph's own way back; guidance away from the null condition would not be.
        """
        states, path = request.states, self.pipe.transformer.config.path
        weight = 1 + request.settings.attribute_scale * (1.0 if nested is None else soft_mask(nested))
        known = states != UNKNOWN
        before = torch.where(request.changed & known, PRESENT + ABSENT - states, states)
        schedule = partial_schedule(request.settings.num_steps, shift=self._shift, strength=1.0)
        steps = len(schedule) - 1

        def said(first: int) -> OnStep | None:
            on_step = request.on_step
            return None if on_step is None else lambda done, _: on_step(first + done, 2 * steps)

        def plain(x: Tensor, t: float) -> Tensor:
            return guided_velocity(
                network, x, t, before, scale=1.0, interval=(0.0, 1.0), attribute_scales={}, identity=request.identity
            )

        def towards(x: Tensor, t: float) -> Tensor:
            both, person = torch.cat([before, states]), {}
            if request.identity is not None:
                person = {"identity": request.identity.repeat(2, 1)}
            times = torch.full((len(both),), t, device=x.device)
            own, other = network(x.repeat(2, 1, 1, 1), times, both, **person).chunk(2)
            return own + weight * (other - own)

        points = invert(plain, source, schedule, path=path, corrections=CORRECTIONS, on_step=said(0))
        return regenerate(towards, points, schedule, nested, path=path, on_step=said(steps))

    @property
    def _shift(self) -> float:
        config = self.pipe.scheduler.config
        return float(config.shift if "shift" in config else config.flow_shift if "flow_shift" in config else 1.0)

    @property
    def _interval(self) -> Sequence[float]:
        interval: Sequence[float] = self.pipe._setting("guidance_interval", None)
        return interval

    def _plain(self) -> dict[str, Any]:
        """Return the settings in which plain blending differs, where a call does not say them."""
        return {"guidance_scale": self.pipe._setting("guidance_scale", None), "attribute_scale": 0.0}

    def _settings(self, method: str | None, overrides: dict[str, Any]) -> EditSettings:
        names = [field.name for field in fields(EditSettings)]
        unknown = sorted(set(overrides) - set(names))
        if unknown:
            raise ValueError(f"unknown edit setting {', '.join(unknown)}; allowed: {', '.join(names)}")
        named = overrides.get("method", self.settings.method) if method is None else method
        plain = {} if named != "blend" else self._plain()
        settings = replace(self.settings, **{**plain, **overrides, "method": named})
        if settings.method not in METHODS:
            raise ValueError(f"unknown edit method {settings.method!r}; allowed: {', '.join(METHODS)}")
        if settings.method == "conditioned" and self.inpainter is None:
            raise ValueError(
                "method conditioned needs the inpainting model, which is not there; run `dvc repro inpainter`, "
                "or use guided, resample, sdedit or invert"
            )
        return settings

    def _changed(self, changed: np.ndarray, num: int) -> np.ndarray:
        wanted = (num, len(self.attribute_names))
        found = np.asarray(changed)
        if found.shape != wanted or found.dtype != np.bool_:
            raise ValueError(f"changed is {found.dtype} {found.shape}; expected bool {wanted}")
        return found

    def _attribute_masks(self, changed: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
        """Return bool (B, S, S): the regions of each picture's changed attributes."""
        num = len(changed)
        points = np.repeat(self.mean_landmarks[None], num, axis=0) if landmarks is None else np.asarray(landmarks)
        if points.shape != (num, 5, 2) or not np.isfinite(points).all():
            raise ValueError(f"landmarks have shape {points.shape}; expected finite {(num, 5, 2)} in px")
        masks = []
        for row, own in zip(changed, points, strict=True):
            regions = {region for k in np.flatnonzero(row) for region in regions_of(self.attribute_names[k])}
            if not regions:
                raise ValueError("no mask is given, and no attribute is changed that would say which part to repaint")
            masks.append(region_mask(sorted(regions), own, size=self.resolution))
        return np.stack(masks)


def _check_images(images: np.ndarray, resolution: int) -> None:
    wanted = (resolution, resolution, 3)
    if images.ndim != 4 or not len(images) or images.shape[1:] != wanted or images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype} {images.shape}; this model edits uint8 {('B', *wanted)}, B >= 1")


def _checked_masks(masks: np.ndarray, images: np.ndarray) -> np.ndarray:
    found = np.asarray(masks)
    if found.shape != images.shape[:3] or found.dtype != np.bool_:
        raise ValueError(f"masks are {found.dtype} {found.shape}; expected bool {images.shape[:3]}, as the images")
    empty = np.flatnonzero(~found.any(axis=(1, 2)))
    if len(empty):
        raise ValueError(f"the mask of image {empty[0]} is empty; mark at least one pixel to repaint")
    return found


def _check_inpainter(inpainter: LatentDiT, generator: LatentDiT) -> None:
    if inpainter.config.context_channels is None:
        raise ValueError("the inpainting model has no context (it is a generator); run the inpainter stage")
    for name in ("sample_size", "in_channels", "patch_size", "attribute_names", "identity_dim", "path"):
        ours, theirs = inpainter.config[name], generator.config[name]
        if (list(ours) if name == "attribute_names" else ours) != (
            list(theirs) if name == "attribute_names" else theirs
        ):
            raise ValueError(
                f"the inpainting model's {name} is {ours}, the generator's {theirs}; they do not belong together"
            )
