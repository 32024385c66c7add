"""Pictures for training: a split that lives on the device as bytes, mirrored and scaled as it is drawn.

Shapes: S pictures in the split, B batch, H W size, A attributes. The data order and the mirroring are functions of
(seed, purpose, position); see `facegen.train.loop`.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from facegen.data.shards import Faces
from facegen.rng import torch_generator
from facegen.train.loop import epoch_indices

RESIDENT_BYTES = 6 << 30  # larger splits are decoded batch by batch


class FaceSet:
    """One split of faces as training sees it."""

    def __init__(self, faces: Faces, *, device: torch.device, threads: int) -> None:
        """
        Args:
            faces: the split.
            device: where batches are wanted.
            threads: how many PNGs are decoded at once.

        Raises:
            ValueError: if the split is empty.
        """
        if not len(faces):
            raise ValueError("the split has no pictures: nothing to train on")
        self.faces, self.device, self.threads = faces, device, threads
        self.attributes = torch.from_numpy(np.array(faces.attributes, dtype=np.int8))  # (S, A), on the host
        self.resident: Tensor | None = None
        if len(faces) * 3 * faces.resolution**2 <= RESIDENT_BYTES:
            self.resident = torch.from_numpy(faces.images(np.arange(len(faces)), threads=threads)).to(device)

    def __len__(self) -> int:
        return len(self.faces)

    def images(self, indices: Tensor, mirrored: Tensor) -> Tensor:
        """Return pictures, float32 (B, 3, H, W) in [-1, 1], channels last in memory.

        Args:
            indices: (B,) row numbers, on the host.
            mirrored: (B,) bool, on the host: which are flipped left to right.
        """
        if self.resident is None:
            pixels = torch.from_numpy(self.faces.images(indices.numpy(), threads=self.threads)).to(self.device)
        else:
            pixels = self.resident[indices.to(self.device)]  # (B, H, W, 3)
        pixels = torch.where(mirrored.to(self.device)[:, None, None, None], pixels.flip(2), pixels)
        return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


class FaceOrder:
    """The order in which a training run sees a split: a fresh permutation each epoch, every second picture mirrored."""

    def __init__(self, *, size: int, seed: int, purpose: str) -> None:
        self.size, self.seed, self.purpose = size, seed, purpose

    @functools.lru_cache(maxsize=2)  # noqa: B019 (one run a process; two epochs can meet in a batch)
    def _permutation(self, epoch: int) -> Tensor:
        return torch.randperm(self.size, generator=torch_generator(self.seed, f"{self.purpose} order", epoch))

    def draw(self, images_seen: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return (row numbers, mirrored) of the batch at this position, both (B,), on the host."""
        positions = range(images_seen, images_seen + batch_size)
        indices = epoch_indices(positions, size=self.size, permutation=self._permutation)
        generator = torch_generator(self.seed, f"{self.purpose} mirror", images_seen)
        return indices, torch.randint(2, (batch_size,), generator=generator).bool()
