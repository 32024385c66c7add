"""Checkpoints that a kill cannot spoil: one safetensors file and, once it is on disk, a JSON record with its sha256.

A checkpoint counts only if its record exists and the digest matches; a damaged newest one falls back to the one before it.
They live outside DVC's outputs (which DVC deletes before a stage reruns).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facegen.artifacts import load_tensors, read_json, save_tensors, sha256_file, write_json
from facegen.errors import DamagedArtifactError

KEEP = 2
_RECORD = re.compile(r"checkpoint-(\d{12})\.json")


class Checkpoints:
    """The checkpoints of one training run in one folder."""

    def __init__(self, folder: Path, *, identity: Mapping[str, Any]) -> None:
        """
        Args:
            folder: where the files lie; leftovers of a killed save are swept.
            identity: what must be equal for a checkpoint to be continued (configuration, data digest, code version).
        """
        self.folder = folder
        self.identity = dict(identity)
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".checkpoint-*.tmp"):
            leftover.unlink()

    def save(self, images_seen: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write the checkpoint of this position and drop all but the last two.

        Raises:
            ValueError: if a tensor holds NaN or infinity.
            OSError: if it cannot be written; earlier checkpoints are intact.
        """
        path = self.folder / f"checkpoint-{images_seen:012d}.safetensors"
        save_tensors(path, tensors, {"images_seen": images_seen})
        record = {"images_seen": images_seen, "sha256": sha256_file(path), "identity": self.identity}
        write_json(path.with_suffix(".json"), record | {"state": dict(state)})
        for images in sorted(self._positions())[:-KEEP]:
            for suffix in (".json", ".safetensors"):
                (self.folder / f"checkpoint-{images:012d}{suffix}").unlink(missing_ok=True)

    def load_latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """Return (images seen, tensors, state) of the newest valid checkpoint, or None if there is none at all.

        Raises:
            ValueError: if the newest is of another configuration or data set; the differing keys are listed.
            DamagedArtifactError: if there are checkpoints and none is valid.
        """
        positions = sorted(self._positions(), reverse=True)
        for images in positions:
            path = self.folder / f"checkpoint-{images:012d}.safetensors"
            try:
                record = read_json(path.with_suffix(".json"))
                self._require_same_identity(record["identity"], path)
                if not path.is_file() or sha256_file(path) != record["sha256"]:
                    raise DamagedArtifactError(f"{path} does not match its recorded sha256")
                tensors, _ = load_tensors(path)
            except DamagedArtifactError as error:
                warnings.warn(f"{error}; falling back to the checkpoint before it", stacklevel=2)
                continue
            return images, tensors, record["state"]
        if positions:
            raise DamagedArtifactError(f"no checkpoint in {self.folder} is valid; delete the folder to train anew")
        return None

    def _positions(self) -> list[int]:
        return [int(m.group(1)) for p in self.folder.iterdir() if (m := _RECORD.fullmatch(p.name))]

    def _require_same_identity(self, found: Mapping[str, Any], path: Path) -> None:
        keys = sorted({*found, *self.identity})
        differing = [k for k in keys if found.get(k) != self.identity.get(k)]
        if differing:
            shown = ", ".join(f"{k}: {found.get(k)!r} there, {self.identity.get(k)!r} here" for k in differing)
            raise ValueError(f"{path} belongs to another run ({shown}); delete the folder to train anew")


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors named `<parameter index>.<entry>`."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v) for i, entries in state.items() for k, v in entries.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` returned; hyperparameters stay those of `optimizer`.

    Each moment gets the memory layout of its parameter (channels last, for one): the fused optimizers walk both by address
    and would pair the wrong elements without a word, since a file holds tensors in row-major order.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, entry = name.split(".", 1)
        like = parameters[int(index)]
        if value.shape == like.shape:
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
