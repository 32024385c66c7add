"""FacePipeline: faces with the attributes you name, from a LatentDiT, an autoencoder and a diffusers scheduler.

    pipe = FacePipeline.from_pretrained("folder")
    images = pipe({"Male": 1, "Smiling": 1}, seeds=[0, 1, 2]).images

Image i is a function of its seed, not of the batch it is made in. Shapes: B images, C H W latents, A attributes, E
identity embedding, K people in a picture, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    SchedulerMixin,
)
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from PIL import Image
from torch import Tensor

from facegen.attributes import attribute_vector, parse_attributes, require_known
from facegen.data.images import to_uint8
from facegen.flow.guidance import guided_velocity
from facegen.flow.sampler import initial_noise
from facegen.models.autoencoder import decode, load_autoencoder
from facegen.models.dit import LatentDiT, check_states
from facegen.models.person_condition import MappedIdentity, check_masks

States = Mapping[str, int] | str | Tensor | np.ndarray
"""One request for all images ("Male=1,Smiling=0" or {"Male": 1}), or states (B, A)."""

SCHEDULERS = ("euler", "heun", "dpm++", "ddim")


def make_scheduler(name: str, *, shift: float) -> SchedulerMixin:
    """Return the diffusers scheduler of this name: euler, heun and dpm++ for the linear path, ddim for the cosine path.

    Raises:
        ValueError: for an unknown name.
    """
    if name == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    if name == "heun":
        return FlowMatchHeunDiscreteScheduler(shift=shift)
    if name == "dpm++":
        return DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, solver_order=2
        )
    if name == "ddim":
        steps = 1000
        keep = [math.cos(math.pi / 2 * min((i + 1) / steps, 0.999)) ** 2 for i in range(steps)]
        betas = [1 - now / before for now, before in zip(keep, [1.0, *keep[:-1]], strict=True)]
        return DDIMScheduler(
            trained_betas=betas, prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing"
        )
    raise ValueError(f"sample.scheduler is {name!r}; allowed: {', '.join(SCHEDULERS)}")


def scheduler_time(scheduler: SchedulerMixin, timestep: Tensor) -> float:
    """Return t in [0, 1] (1 is noise) of one of the scheduler's timesteps.

    Flow-matching schedulers count t in thousandths. A variance-preserving one says it through its signal share:
    alpha^2 = cos^2(pi t / 2).
    """
    total = scheduler.config.num_train_timesteps
    flow = "FlowMatch" in type(scheduler).__name__ or getattr(scheduler.config, "use_flow_sigmas", False)
    if flow:
        return float(timestep) / total
    kept = float(scheduler.alphas_cumprod[int(timestep)])
    return 2 / math.pi * math.acos(math.sqrt(kept))


def set_timesteps(scheduler: SchedulerMixin, num_steps: int, *, device: torch.device | str) -> None:
    """Set num_steps steps; the Euler flow scheduler gets the even schedule 1, 1 - 1/n ... 1/n, 0 of `flow.sampler`."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / num_steps, num_steps).tolist(), device=device)
    else:
        scheduler.set_timesteps(num_steps, device=device)


class FacePipeline(DiffusionPipeline):
    """Attribute-conditional face generation with any diffusers scheduler that fits the model's flow path."""

    model_cpu_offload_seq = "transformer->vae"

    def __init__(
        self,
        transformer: LatentDiT,
        vae: AutoencoderKL | AutoencoderTiny,
        scheduler: SchedulerMixin,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
    ) -> None:
        """The last three are the model's recommended settings: they travel in model_index.json and a call may differ."""
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae, scheduler=scheduler)
        self.register_to_config(
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, guidance_interval=guidance_interval
        )

    @classmethod
    def from_models(cls, root: str | Path, *, scheduler: str, shift: float, **settings: Any) -> FacePipeline:
        """Assemble a pipeline from a folder that holds `dit/` and `autoencoder/` (data/models of a checkout).

        Args:
            root: the folder.
            scheduler, shift: see `make_scheduler`.
            settings: recommended num_inference_steps, guidance_scale and guidance_interval.

        Raises:
            FileNotFoundError: if one of them is missing.
        """
        root = Path(root)
        for name in ("dit", "autoencoder"):
            if not (root / name / "config.json").is_file():
                raise FileNotFoundError(f"{root / name} holds no model; run `dvc repro`, or name a folder with --model")
        return cls(
            LatentDiT.from_pretrained(root / "dit"),
            load_autoencoder(str(root / "autoencoder")),
            make_scheduler(scheduler, shift=shift),
            **settings,
        )

    @property
    def attribute_names(self) -> list[str]:
        """The attributes that the model knows, in the order of its condition vector."""
        return list(self.transformer.config.attribute_names)

    @torch.no_grad()
    def __call__(
        self,
        attributes: States,
        *,
        seeds: Sequence[int],
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        attribute_scales: Mapping[str, float] | None = None,
        identity: Tensor | np.ndarray | MappedIdentity | None = None,
        identity_scale: float | None = None,
        identity_masks: Tensor | np.ndarray | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Any = None,
    ) -> Any:
        """Generate one image per seed; returns diffusers' ImagePipelineOutput, or a tuple if `return_dict` is False.

        Args:
            attributes: one request for all images, or states (B, A); attributes that are not named are left open.
            seeds: one integer per image; the same seed and request give the same image in any batch.
            num_inference_steps: solver steps (heun evaluates the network twice in each). This and the next two default
                to the settings that came with the model.
            guidance_scale: classifier-free guidance on all channels, towards the attributes and the identity together;
                1 is none.
            guidance_interval: (low, high): guidance acts where low <= t <= high, t = 1 being noise.
            attribute_scales: extra guidance on single attributes, by name; the identity is kept.
            identity: (B, E) unit vectors, embeddings by the recogniser that the model was trained with, or what an
                adapter made of photographs; None for the empty identity: the seed decides who it is.
            identity_scale: guidance towards the identity, guidance_scale being that towards the attributes alone; None
                is one scale for both. 0 leaves the identity out within the interval.
            identity_masks: (K, h, w) or, for each image, (B, K, h, w) from 0 to 1: where each of K people is; then the
                identities are (B, K, E).
            latents: start noise (B, C, H, W) instead of that of the seeds.
            output_type: "pil", "np" (uint8 (B, H, W, 3)) or "latent".
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": x}), as in diffusers.

        Raises:
            ValueError: for an unknown attribute, a wrong state, shapes that do not fit, an identity that is not finite
                or that the model has no condition for, or a setting that neither the call nor the model gives.
        """
        num_inference_steps = self._setting("num_inference_steps", num_inference_steps)
        guidance_scale = self._setting("guidance_scale", guidance_scale)
        guidance_interval = self._setting("guidance_interval", guidance_interval)
        config, device = self.transformer.config, self.device
        states = self._states(attributes, len(seeds)).to(device)
        masks = None if identity_masks is None else self._masks(identity_masks, len(seeds)).to(device)
        person = None
        if identity is not None:
            person = self._identity(identity, len(seeds), masks).to(device, self.transformer.dtype)
        shown = {} if masks is None else {"identity_masks": masks}
        scales = {self.attribute_names.index(require_known(k, self.attribute_names)): w
                  for k, w in (attribute_scales or {}).items()}  # fmt: skip
        shape = (config.in_channels, config.sample_size, config.sample_size)
        x = (initial_noise(seeds, shape) if latents is None else latents).to(device, torch.float32)
        if tuple(x.shape) != (len(seeds), *shape):
            raise ValueError(f"latents have shape {tuple(x.shape)}; expected {(len(seeds), *shape)}")

        def network(x_t: Tensor, t: Tensor, y: Tensor, **person: Tensor) -> Tensor:
            if isinstance(identity, MappedIdentity):
                person["identity_mapped"] = person.pop("identity")
            return self.transformer(x_t.to(self.transformer.dtype), t, y, **person, return_dict=False)[0].float()

        set_timesteps(self.scheduler, num_inference_steps, device=device)
        for step, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            v = guided_velocity(
                network, x, scheduler_time(self.scheduler, timestep), states,
                scale=guidance_scale, interval=guidance_interval, attribute_scales=scales, identity=person,
                identity_scale=identity_scale, shown=shown,
            )  # fmt: skip
            x = self.scheduler.step(v, timestep, x, return_dict=False)[0]
            if callback_on_step_end is not None:
                x = callback_on_step_end(self, step, timestep, {"latents": x}).get("latents", x)
        images: Any = x if output_type == "latent" else self._decode(x)
        if output_type == "pil":
            images = [Image.fromarray(image) for image in images]
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _setting(self, name: str, value: Any) -> Any:
        value = self.config[name] if value is None else value
        if value is None:
            raise ValueError(f"{name} is given neither in the call nor in the model's model_index.json")
        return value

    def _states(self, attributes: States, num: int) -> Tensor:
        """Return states (num, A) int8 of any accepted form of request."""
        names = self.attribute_names
        if isinstance(attributes, str):
            attributes = parse_attributes(attributes, names)
        if isinstance(attributes, Mapping):
            return torch.from_numpy(attribute_vector(attributes, names)).expand(num, -1)
        states = torch.as_tensor(attributes)
        if tuple(states.shape) != (num, len(names)):
            raise ValueError(f"attributes have shape {tuple(states.shape)}; expected {(num, len(names))}")
        check_states(states)
        return states.to(torch.int8)

    def _masks(self, masks: Tensor | np.ndarray, num: int) -> Tensor:
        """Return masks (num, K, h, w) float32, checked."""
        given = torch.as_tensor(masks, dtype=torch.float32)
        if given.ndim not in (3, 4) or (given.ndim == 4 and len(given) != num) or 0 in given.shape:
            raise ValueError(f"identity_masks have shape {tuple(given.shape)}; expected (K, h, w) or ({num}, K, h, w)")
        check_masks(given)
        return given.expand(num, -1, -1, -1)

    def _identity(
        self, identity: Tensor | np.ndarray | MappedIdentity, num: int, masks: Tensor | None = None
    ) -> Tensor:
        """Return identities (num, E), or (num, K, E) where there are masks, float32, checked."""
        config, mapped = self.transformer.config, isinstance(identity, MappedIdentity)
        size = config.hidden_size if mapped else config.identity_dim
        if size is None:
            raise ValueError("this model has no identity condition (it was trained without a recogniser); leave it out")
        given = identity.vectors if isinstance(identity, MappedIdentity) else identity
        vectors = torch.as_tensor(given, dtype=torch.float32)
        wanted = (num, size) if masks is None else (num, masks.shape[1], size)
        if tuple(vectors.shape) != wanted:
            raise ValueError(f"identity has shape {tuple(vectors.shape)}; expected {wanted}, a row per seed")
        if not bool(vectors.isfinite().all()):
            raise ValueError("identity holds NaN or infinity; expected unit vectors")
        return vectors

    def _decode(self, x: Tensor) -> np.ndarray:
        """Return uint8 images (B, H, W, 3) of normalised latents."""
        config = self.transformer.config
        mean, std = (
            torch.tensor(v, device=x.device).view(1, -1, 1, 1) for v in (config.latent_mean, config.latent_std)
        )
        return to_uint8(decode(self.vae, (x * std + mean).to(self.vae.dtype)).float())
