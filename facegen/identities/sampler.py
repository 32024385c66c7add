"""PeopleSampler: pictures of synthetic people in two stages, by a pipeline's model; and the threshold that it needs.

    sampler = PeopleSampler(pipe, settings, num_steps=50, shift=1.0, mapped=middle_blocks(depth), dtype=torch.float32)
    calibration = calibrated(sampler, target=0.88, num_runs=256, seed=0, batch_size=64, model_sha256=...)
    methods = method_settings(settings, calibration, fixed_time=0.88)
    drawn = sampler.draw(identity, seeds, settings=methods["adaptive_injection"])

The methods that are compared, each one change away from the one before:

    one_stage           guidance from the first step on
    fixed               the empty identity first; everybody goes over at one time
    fixed_injection     the same; the identity's rows borrow attention
    adaptive            each picture goes over when its own map stops changing, nobody borrows
    adaptive_injection  both

Picture i is a function of its identity, request and seed, not of its batch. Shapes: B pictures, S side in px, T steps, E
identity embedding, A attributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facegen.attributes import UNKNOWN
from facegen.flow.calibration import first_identity_time, median_time, threshold_for
from facegen.flow.sampler import initial_noise, time_schedule
from facegen.flow.two_stage import Criterion, Drawn, TwoStage, two_stage
from facegen.models.sharing import Sharing
from facegen.pipeline import FacePipeline
from facegen.rng import derive_seed

METHODS = ("one_stage", "fixed", "fixed_injection", "adaptive", "adaptive_injection")
NEVER = -1.0  # a threshold that no distance is below

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class DrawnPeople:
    """Pictures, and how each was made."""

    images: np.ndarray  # uint8 (B, S, S, 3)
    switch: np.ndarray  # float32 (B,) time of the first step with the identity; 0: never
    evaluations: np.ndarray  # int64 (B,), of the network
    distances: np.ndarray  # float32 (T, B); NaN where there was none


@dataclass(frozen=True)
class Calibration:
    """A threshold, what it was found with, and how the times of switching lie with it."""

    criterion: Criterion | None
    threshold: float
    target: float  # median time of switching that was asked for
    median: float  # and that it gives on the calibration runs
    share_early: float  # of the runs that go over as soon as they may
    share_late: float  # of the runs that the criterion lets over at no time before `late`
    num_runs: int
    num_steps: int
    shift: float
    early: float
    late: float
    patience: int
    clock: str
    path: str
    mapped: tuple[int, ...]
    model_sha256: str  # of the weights' file

    def to_json(self) -> dict[str, Any]:
        """Return what `write_json` takes."""
        return {**asdict(self), "mapped": list(self.mapped)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """Return what `to_json` told.

        Raises:
            ValueError: if it is no calibration of this version.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            wrong = ", ".join(sorted(set(values) ^ names))
            raise ValueError(f"this is no calibration (missing or unknown: {wrong}); calibrate again")
        return cls(**{**values, "mapped": tuple(values["mapped"])})

    def check(self, sampler: PeopleSampler, *, model_sha256: str) -> None:
        """
        Args:
            sampler: that is to use the threshold.
            model_sha256: of the weights' file that it holds.

        Raises:
            ValueError: if it was found with another model, schedule or criterion: it then means something else.
        """
        now = sampler.conditions(model_sha256=model_sha256)
        wrong = [f"{k} is {v!r}, it was {getattr(self, k)!r}" for k, v in now.items() if getattr(self, k) != v]
        if wrong:
            raise ValueError(f"the threshold was calibrated for something else ({'; '.join(wrong)}); calibrate again")


class PeopleSampler:
    """Draws people with the model of a FacePipeline, on the pipeline's device."""

    def __init__(
        self,
        pipe: FacePipeline,
        settings: TwoStage,
        *,
        num_steps: int,
        shift: float,
        mapped: tuple[int, ...],
        dtype: torch.dtype,
    ) -> None:
        """
        Args:
            pipe: model and autoencoder.
            settings: what a call does not say.
            num_steps, shift: of the schedule.
            mapped: blocks that the criterion attn_recv looks at.
            dtype: of autocast around the networks; float32 is none.

        Raises:
            ValueError: if the model knows no identities or a block is none of its blocks.
        """
        config = pipe.transformer.config
        if config.identity_dim is None:
            raise ValueError("this model has no identity condition (it was trained without a recogniser): no people")
        for name, blocks in (("mapped", mapped), ("blocks", settings.blocks)):
            wrong = [block for block in blocks if not 0 <= block < config.depth]
            if wrong:
                raise ValueError(f"{name} holds {wrong[0]}; this model has blocks 0 to {config.depth - 1}")
        self.pipe, self.settings, self.dtype = pipe, settings, dtype
        self.num_steps, self.shift, self.mapped = num_steps, shift, tuple(mapped)
        self.schedule = time_schedule(num_steps, shift=shift)

    @property
    def identity_dim(self) -> int:
        """Size E of an identity."""
        return int(self.pipe.transformer.config.identity_dim)

    def conditions(self, *, model_sha256: str) -> dict[str, Any]:
        """Return what a threshold depends on, under the names of `Calibration`."""
        s = self.settings
        return {
            "criterion": s.criterion,
            "num_steps": self.num_steps,
            "shift": self.shift,
            "early": s.early,
            "late": s.late,
            "patience": s.patience,
            "clock": s.clock,
            "path": self.pipe.transformer.config.path,
            "mapped": self.mapped,
            "model_sha256": model_sha256,
        }

    def draw(
        self,
        identity: Tensor | np.ndarray,
        seeds: Sequence[int],
        *,
        states: Tensor | np.ndarray | None = None,
        settings: TwoStage | None = None,
        on_step: OnStep | None = None,
    ) -> DrawnPeople:
        """Return one picture per seed.

        Args:
            identity: (B, E) unit vectors.
            seeds: B integers: each is a start.
            states: (B, A) attributes that hold in both stages, -1, 0 or 1; None leaves all open.
            settings: instead of the sampler's own.
            on_step: called with (steps done, steps in all).

        Raises:
            ValueError: for shapes that do not fit, a wrong state, or an identity that is not finite.
        """
        drawn = self.latents(identity, seeds, states=states, settings=settings, on_step=on_step)
        with torch.no_grad(), self._autocast():
            images = self.pipe._decode(drawn.latents)
        told = (drawn.switch, drawn.evaluations, drawn.distances)
        return DrawnPeople(images, *(values.cpu().numpy() for values in told))

    def latents(
        self,
        identity: Tensor | np.ndarray,
        seeds: Sequence[int],
        *,
        states: Tensor | np.ndarray | None = None,
        settings: TwoStage | None = None,
        on_step: OnStep | None = None,
    ) -> Drawn:
        """Return the same before it is decoded, as tensors on the pipeline's device."""
        pipe, config, num = self.pipe, self.pipe.transformer.config, len(seeds)
        people = pipe._identity(identity, num).to(pipe.device)
        if states is None:
            states = np.full((num, len(config.attribute_names)), UNKNOWN, np.int8)
        shape = (config.in_channels, config.sample_size, config.sample_size)
        return two_stage(
            self._network, initial_noise(seeds, shape).to(pipe.device), self.schedule, path=config.path,
            attributes=pipe._states(states, num).to(pipe.device), identity=people,
            settings=self.settings if settings is None else settings, mapped=self.mapped, on_step=on_step,
        )  # fmt: skip

    def _network(
        self, x: Tensor, t: Tensor, attributes: Tensor, identity: Tensor, known: Tensor, sharing: Sharing | None
    ) -> tuple[Tensor, Tensor | None]:
        model = self.pipe.transformer
        with self._autocast():
            v, *told = model(
                x.to(model.dtype), t, attributes, identity.to(model.dtype), known, sharing=sharing, return_dict=False
            )
        return v.float(), told[0] if told else None

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.pipe.device.type, self.dtype, enabled=self.dtype != torch.float32)


def middle_blocks(depth: int) -> tuple[int, ...]:
    """Return the middle third of a model's blocks, at least one."""
    third = max(1, round(depth / 3))
    start = (depth - third) // 2
    return tuple(range(start, start + third))


def calibration_distances(
    sampler: PeopleSampler, *, num_runs: int, seed: int, batch_size: int, identity: Tensor | np.ndarray | None = None
) -> Tensor:
    """Return the distances (T, num_runs), float32 on the CPU, of runs that stay with the empty identity to the end.

    Args:
        sampler: with a criterion in its settings.
        num_runs: starts; run i is a function of (seed, i).
        seed: the user's.
        batch_size: runs at a time.
        identity: (K, E) people that the runs take in turn. Only the criterion gap looks at them.

    Raises:
        ValueError: if there is no criterion, or it is gap and there are no people.
    """
    settings = replace(sampler.settings, late=0.0, threshold=NEVER)
    if settings.criterion is None:
        raise ValueError("a fixed time of switching has no threshold to calibrate; name a criterion")
    if settings.criterion == "gap" and identity is None:
        raise ValueError("criterion gap compares the identity with the empty one: give the calibration some people")
    people = torch.zeros(1, sampler.identity_dim) if identity is None else torch.as_tensor(identity)
    parts = []
    for start in range(0, num_runs, batch_size):
        runs = range(start, min(start + batch_size, num_runs))
        drawn = sampler.latents(
            people[[i % len(people) for i in runs]], [derive_seed(seed, "calibration", i) for i in runs],
            settings=settings,
        )  # fmt: skip
        parts.append(drawn.distances.cpu())
    return torch.cat(parts, dim=1)


def calibrated(
    sampler: PeopleSampler,
    *,
    target: float,
    num_runs: int,
    seed: int,
    batch_size: int,
    model_sha256: str,
    identity: Tensor | np.ndarray | None = None,
) -> Calibration:
    """Return the smallest threshold at which the median picture goes over at `target`, and how the others then lie.

    Args:
        sampler: its settings name the criterion, early, late and patience.
        target: a time between late and early.
        num_runs, seed, batch_size, identity: as in `calibration_distances`.
        model_sha256: of the weights' file, so that the threshold is used with no other.

    Raises:
        ValueError: if no threshold reaches the target, or there is no criterion.
    """
    distances = calibration_distances(
        sampler, num_runs=num_runs, seed=seed, batch_size=batch_size, identity=identity
    )  # fmt: skip
    s, times = sampler.settings, sampler.schedule
    rule: dict[str, Any] = {"early": s.early, "late": s.late, "patience": s.patience}
    threshold = threshold_for(distances, times, target=target, **rule)
    first, found, last = (
        first_identity_time(distances, times, threshold=value, **rule) for value in (math.inf, threshold, -math.inf)
    )
    return Calibration(
        threshold=threshold, target=target, median=median_time(found), num_runs=num_runs,
        share_early=float((found == first).double().mean()), share_late=float((found == last).double().mean()),
        **sampler.conditions(model_sha256=model_sha256),
    )  # fmt: skip


def method_settings(base: TwoStage, calibration: Calibration, *, fixed_time: float) -> dict[str, TwoStage]:
    """Return the settings of the METHODS, in their order.

    Args:
        base: guidance, share, blocks and the rest.
        calibration: criterion and threshold of the two methods that adapt.
        fixed_time: when everybody goes over in the two that do not.
    """
    fixed = replace(base, criterion=None, late=fixed_time)
    adaptive = replace(base, criterion=calibration.criterion, threshold=calibration.threshold)
    return {
        "one_stage": base.one_stage(),
        "fixed": replace(fixed, share=0.0, tempering="none"),
        "fixed_injection": fixed,
        "adaptive": replace(adaptive, share=0.0, tempering="none"),
        "adaptive_injection": adaptive,
    }
