"""One training loop for every model: images as the unit, exact resume, and guards that no learner can bypass.

A learner says what a batch is and what its losses are; the loop does backward, clipping, the finite check, the optimizer
step, the moving averages, the log and the checkpoints. A batch is a pure function of the position in training, so that a
resumed run needs no random state: killed at any moment and started again, it ends with the same bytes (CPU, fixed threads).
"""

from __future__ import annotations

import bisect
import csv
import io
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from facegen.artifacts import atomic_write_bytes, write_json
from facegen.errors import NonFiniteError, StoppedError
from facegen.train.checkpoint import Checkpoints, load_optimizer_tensors, optimizer_tensors
from facegen.train.ema import PowerEMA

LOG = "log.jsonl"
# Dense bf16 peak, TFLOP/s, from the vendor's data sheets; utilisation is reported where the device is one of these.
PEAK_BF16_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.0}

Logs = dict[str, Tensor | tuple[Tensor, Tensor]]
Visit = tuple[Sequence[int], Callable[[int], None]]
"""(rising positions in images, what is called with the images seen by the step that crosses one or more of them)."""


@dataclass
class Phase:
    """One optimizer step within an iteration; a GAN has two."""

    name: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    grad_clip: float
    loss: Callable[[nn.Module, Any], tuple[Tensor, Logs]]


class Learner(Protocol):
    """What is trained: its models, its phases, and its batches as a function of the position."""

    models: dict[str, nn.Module]
    phases: list[Phase]
    flops_per_image: float

    @property
    def ema(self) -> PowerEMA | None:
        """The averages that are updated after each step, if there are any."""

    def batch(self, images_seen: int, batch_size: int) -> Any:
        """Return the batch that starts at this position; the same for the same arguments, always."""

    def learning_rate(self, images_seen: int) -> float:
        """Return the learning rate at this position."""


def make_accelerator(device: torch.device, dtype: torch.dtype) -> Accelerator:
    """Return Accelerate's handle on device, precision and processes (`torchrun` sets the processes)."""
    precision = {torch.bfloat16: "bf16", torch.float32: "no"}[dtype]
    return Accelerator(cpu=device.type == "cpu", mixed_precision=precision)


def adamw(
    module: nn.Module, *, learning_rate: float, betas: Sequence[float], weight_decay: float
) -> torch.optim.Optimizer:
    """Return a fused AdamW that decays matrices and kernels only: no biases, norms or embeddings."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2 and id(p) not in embeddings]
    kept = [p for p in trained if p.ndim < 2 or id(p) in embeddings]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(betas[0], betas[1]), eps=1e-8, fused=True)


def warmup_linear_decay(
    images_seen: int, *, peak: float, warmup_images: int, total_images: int, decay_fraction: float
) -> float:
    """Return the learning rate: linear warm-up, constant, then linear to 0 over the last share of training."""
    warm = min(1.0, (images_seen + 1) / max(warmup_images, 1))
    decay = max(decay_fraction * total_images, 1.0)
    return peak * min(warm, max((total_images - images_seen) / decay, 0.0), 1.0)


def epoch_indices(positions: range, *, size: int, permutation: Callable[[int], Tensor]) -> Tensor:
    """Return the data indices of these positions: position p is entry p % size of the permutation of epoch p // size."""
    parts = []
    for epoch in range(positions.start // size, (positions.stop - 1) // size + 1):
        low, high = max(positions.start - epoch * size, 0), min(positions.stop - epoch * size, size)
        parts.append(permutation(epoch)[low:high])
    return torch.cat(parts)


def positions_crossed(positions: Sequence[int], *, images_seen: int, num_images: int) -> Sequence[int]:
    """Return those of the rising positions that the last `num_images` of `images_seen` reached."""
    before = bisect.bisect_right(positions, images_seen - num_images)
    return positions[before : bisect.bisect_right(positions, images_seen)]


def train(
    learner: Learner,
    *,
    total_images: int,
    batch_size: int,
    scratch: Path,
    identity: Mapping[str, Any],
    log_images: int,
    checkpoint_images: int,
    checkpoint_minutes: float,
    accelerator: Accelerator,
    on_log: Callable[[dict[str, float], dict[str, float]], None],
    stop: threading.Event,
    visits: Sequence[Visit] = (),
) -> None:
    """Train until `total_images` have been seen, going on from the newest checkpoint in `scratch`.

    Args:
        learner: what to train.
        total_images: images to see in all; the last batch is a whole one.
        batch_size: images a step over all processes.
        scratch: folder of checkpoints and of log.jsonl (one line every `log_images`).
        identity: what must be equal for a checkpoint to be continued.
        log_images, checkpoint_images: intervals in images; checkpoint_minutes in minutes.
        on_log: called with (reproducible figures, timings) after each line.
        stop: when set, the loop finishes its step, saves and raises.
        visits: what else to do on the way, and where (on the main process). A call comes before the checkpoint of its
            step, so that a run killed during it comes by again.

    Raises:
        NonFiniteError: a loss or gradient was NaN or infinite; nothing was updated by it, post_mortem.json says where.
        StoppedError: `stop` was set; the state is saved.
        ValueError: a checkpoint in `scratch` belongs to another configuration, or the batch cannot be split.
    """
    _Run(learner, batch_size, scratch, identity, accelerator).go(
        total_images, log_images, (checkpoint_images, checkpoint_minutes), visits, on_log, stop
    )


class _Run:
    """The state of one training run: position, accumulators, checkpoints."""

    def __init__(
        self, learner: Learner, batch_size: int, scratch: Path, identity: Mapping[str, Any], accelerator: Accelerator
    ) -> None:
        if batch_size % accelerator.num_processes:
            raise ValueError(f"batch_size {batch_size} does not divide over {accelerator.num_processes} processes")
        self.learner, self.batch_size, self.scratch, self.accelerator = learner, batch_size, scratch, accelerator
        self.local_batch = batch_size // accelerator.num_processes
        self.images_seen = 0
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.bad = torch.zeros((), device=accelerator.device)  # 1 once anything was not finite; it stays 1
        self.bad_at = torch.full((), -1.0, device=accelerator.device)
        self.checkpoints = Checkpoints(scratch, identity={**identity, "batch_size": batch_size})
        self._resume()
        self.modules = [accelerator.prepare_model(phase.module) for phase in learner.phases]

    def go(
        self,
        total_images: int,
        log_images: int,
        checkpoint: tuple[int, float],
        visits: Sequence[Visit],
        on_log: Callable[[dict[str, float], dict[str, float]], None],
        stop: threading.Event,
    ) -> None:
        main = self.accelerator.is_main_process
        saved_at, clock, logged = time.monotonic(), time.monotonic(), self.images_seen
        bar = tqdm(total=total_images, initial=self.images_seen, unit="img", unit_scale=True, disable=not main,
                   file=sys.stderr, mininterval=1.0, dynamic_ncols=True)  # fmt: skip
        with bar:
            while self.images_seen < total_images:
                self._step()
                bar.update(self.batch_size)
                if self._crossed(log_images) or self.images_seen >= total_images:
                    self._require_finite()
                    record = self._averages()
                    timing = self._timing(self.images_seen - logged, time.monotonic() - clock)
                    clock, logged = time.monotonic(), self.images_seen
                    if main:
                        self._append(record | {"timing": timing})
                        on_log(record, timing)
                        bar.set_postfix(loss=f"{record['loss']:.4f}")
                for positions, visit in visits if main else ():
                    if positions_crossed(positions, images_seen=self.images_seen, num_images=self.batch_size):
                        visit(self.images_seen)  # before the save: a run killed here comes by again
                overdue = time.monotonic() - saved_at > 60 * checkpoint[1]
                done = self.images_seen >= total_images
                if self._crossed(checkpoint[0]) or overdue or done or stop.is_set():
                    self._save()
                    saved_at = time.monotonic()
                if stop.is_set() and not done:
                    raise StoppedError(f"stopped at {self.images_seen} images; the same command goes on from there")

    def _step(self) -> None:
        """One iteration: every phase's backward, clip, check and update, then the moving averages."""
        learner = self.learner
        start = self.images_seen + self.accelerator.process_index * self.local_batch
        batch = learner.batch(start, self.local_batch)
        rate = learner.learning_rate(self.images_seen)
        for phase, module in zip(learner.phases, self.modules, strict=True):
            phase.optimizer.zero_grad(set_to_none=True)
            loss, logs = phase.loss(module, batch)
            if loss.requires_grad:
                self.accelerator.backward(loss)
                parameters = [p for group in phase.optimizer.param_groups for p in group["params"]]
                norm = nn.utils.clip_grad_norm_(parameters, phase.grad_clip)
                self._guard(phase, loss, norm, rate)
                for group in phase.optimizer.param_groups:
                    group["lr"] = rate
                phase.optimizer.step()
                logs = {f"{phase.name}_grad_norm" if len(learner.phases) > 1 else "grad_norm": norm, **logs}
            self._accumulate(logs)
        self.images_seen += self.batch_size
        if learner.ema is not None:
            learner.ema.update(images_seen=self.images_seen, num_images=self.batch_size)

    def _guard(self, phase: Phase, loss: Tensor, norm: Tensor, rate: float) -> None:
        """Stop before the optimizer if the loss or the gradient is not finite.

        On CPU this raises at once. On a GPU a look would stall the queue, so the fused optimizer is told on the device
        to skip this and all later updates (`found_inf`), and the next log line or checkpoint raises.
        """
        bad = ~(torch.isfinite(loss.detach()) & torch.isfinite(norm))
        self.bad_at = torch.where(bad & (self.bad == 0), float(self.images_seen), self.bad_at)
        self.bad = torch.maximum(self.bad, bad.float())
        phase.optimizer.found_inf = self.bad  # type: ignore[attr-defined]
        if self.accelerator.device.type == "cpu" and bool(bad):
            figures = {
                "phase": phase.name,
                "loss": repr(float(loss.detach())),
                "grad_norm": repr(float(norm)),
                "lr": rate,
            }
            self._require_finite(**figures)

    def _require_finite(self, **figures: Any) -> None:
        if not bool(self.bad):
            return
        where = self.scratch / "post_mortem.json"
        write_json(where, {"images_seen": int(self.bad_at), "batch_size": self.batch_size, **figures})
        raise NonFiniteError(
            f"the loss or its gradient was NaN or infinite at {int(self.bad_at)} images; no weight was changed by it "
            f"(see {where}). Lower the learning rate or grad_clip; the last checkpoint is intact"
        )

    def _accumulate(self, logs: Logs) -> None:
        for name, value in logs.items():
            total, count = value if isinstance(value, tuple) else (value, torch.ones((), device=value.device))
            total, count = total.detach().double(), count.detach().double()
            self.sums[name] = self.sums[name] + total if name in self.sums else total
            self.counts[name] = self.counts[name] + count if name in self.counts else count

    def _averages(self) -> dict[str, float]:
        names = sorted(self.sums)
        sums, counts = torch.stack([self.sums[n] for n in names]), torch.stack([self.counts[n] for n in names])
        if self.accelerator.num_processes > 1:
            sums, counts = self.accelerator.reduce(sums), self.accelerator.reduce(counts)
        values = (sums / counts).tolist()
        self.sums, self.counts = {}, {}
        averages = {n: v for n, v, c in zip(names, values, counts.tolist(), strict=True) if c > 0}
        return {"images": self.images_seen, "lr": self.learner.learning_rate(self.images_seen), **averages}

    def _timing(self, images: int, seconds: float) -> dict[str, float]:
        """Return images/s, model TFLOP/s, utilisation where the peak is known, and peak memory in GiB."""
        device = self.accelerator.device
        timing = {"images_per_s": images / max(seconds, 1e-9)}
        tflops = timing["images_per_s"] * self.learner.flops_per_image / 1e12 / self.accelerator.num_processes
        if tflops:
            timing["model_tflops_per_s"] = tflops
        if device.type == "cuda":
            name = torch.cuda.get_device_name(device)
            peak = next((p for key, p in PEAK_BF16_TFLOPS.items() if key in name), None)
            if peak and tflops:
                timing["flops_utilisation"] = tflops / peak
            timing["memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        else:
            import psutil

            timing["memory_gib"] = psutil.Process().memory_info().rss / 2**30
        return timing

    def _crossed(self, interval: int) -> bool:
        """Whether the last step crossed a multiple of `interval` images (0: never)."""
        return bool(interval) and self.images_seen // interval > (self.images_seen - self.batch_size) // interval

    def _append(self, record: Mapping[str, Any]) -> None:
        with (self.scratch / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, sort_keys=True) + "\n")

    def _save(self) -> None:
        self._require_finite()
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        tensors: dict[str, Tensor] = {}
        for name, model in self.learner.models.items():
            tensors |= {f"model.{name}.{k}": v for k, v in model.state_dict().items()}
        for phase in self.learner.phases:
            tensors |= {f"optimizer.{phase.name}.{k}": v for k, v in optimizer_tensors(phase.optimizer).items()}
        if self.learner.ema is not None:
            tensors |= {f"ema.{k}": v for k, v in self.learner.ema.tensors().items()}
        tensors |= {f"sum.{k}": v for k, v in self.sums.items()} | {f"count.{k}": v for k, v in self.counts.items()}
        self.checkpoints.save(self.images_seen, {k: v.clone() for k, v in tensors.items()}, {})

    def _resume(self) -> None:
        found = self.checkpoints.load_latest()
        log = self.scratch / LOG
        self.images_seen = found[0] if found else 0
        if log.exists():  # lines written after the checkpoint will be written again
            lines = [line for line in log.read_text().splitlines() if _images_of(line) <= self.images_seen]
            atomic_write_bytes(log, "".join(line + "\n" for line in lines).encode())
        if found is None:
            return
        tensors = found[1]

        def part(prefix: str) -> dict[str, Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        for name, model in self.learner.models.items():
            model.load_state_dict(part(f"model.{name}."))
        for phase in self.learner.phases:
            load_optimizer_tensors(phase.optimizer, part(f"optimizer.{phase.name}."))
        if self.learner.ema is not None:
            self.learner.ema.load_tensors(part("ema."))
        device = self.accelerator.device
        self.sums = {k: v.to(device) for k, v in part("sum.").items()}
        self.counts = {k: v.to(device) for k, v in part("count.").items()}


def _images_of(line: str) -> float:
    """The position of a log line; infinite for the torn last line of a killed run."""
    try:
        return float(json.loads(line)["images"])
    except (ValueError, KeyError):
        return float("inf")


def read_log(scratch: Path) -> list[dict[str, float]]:
    """Return the reproducible figures of each log line: everything but the timings."""
    lines = (scratch / LOG).read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "timing"} for line in lines]


def write_log_csv(path: Path, records: Sequence[Mapping[str, float]]) -> None:
    """Write log records as CSV, `images` first; a figure that a line lacks is left empty."""
    columns = ["images", *sorted({k for record in records for k in record} - {"images"})]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    atomic_write_bytes(path, text.getvalue().encode())
