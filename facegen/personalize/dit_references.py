"""Who tells whom in an adapter's training, and where a face is: reference pictures, their features, masks from landmarks.

A few pictures of each person are references, drawn once, so that no features are computed of the others. A person told by
another picture than the one that is denoised cannot be copied from it.
Shapes: N pictures, R references, B batch, I identity features, h w latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from facegen.data.align import face_crops
from facegen.data.shards import Faces
from facegen.models.msid import MSID, embed_subjects
from facegen.rng import numpy_generator

CHUNK = 256  # pictures decoded at once
SAMPLES = 4  # points along each side of a latent that its share of a mask is counted with
# Centre and radii of the ellipse of a face and of a head with hair: u in half distances of the eyes, v in distances from
# the eyes to the mouth, the middle of the eyes at 0.
ELLIPSES = {"face": (0.35, 2.45, 1.5), "head": (-0.2, 3.3, 2.1)}  # v of the centre, radius in u, radius in v

Part = Literal["face", "head"]


@dataclass(frozen=True)
class References:
    """Which pictures are references, and whose; those of one person stand together."""

    rows: Tensor  # (R,) int64, pictures
    start: Tensor  # (N,) where the references of each picture's person begin
    count: Tensor  # (N,) how many there are, 1 at least
    rank: Tensor  # (N,) of the picture among them; -1: it is none

    @classmethod
    def chosen(cls, identity: np.ndarray, *, most: int, seed: int) -> References:
        """Draw at most `most` pictures of each person; a picture of nobody known tells of itself.

        Args:
            identity: (N,) integers, -1 where unknown.
        """
        number = np.arange(len(identity))
        person = np.where(identity < 0, identity.max(initial=0) + 1 + number, identity)
        order = numpy_generator(seed, "adapter references").permutation(len(person))
        order = order[np.argsort(person[order], kind="stable")]
        _, first, of_picture, counts = np.unique(
            person[order], return_index=True, return_inverse=True, return_counts=True
        )
        place = number - first[of_picture]  # of each picture, in this order, among its person's
        kept = np.minimum(counts, most)
        start, count, rank = (np.empty(len(identity), np.int64) for _ in range(3))
        start[order], count[order] = (np.cumsum(kept) - kept)[of_picture], kept[of_picture]
        rank[order] = np.where(place < most, place, -1)
        return cls(*(torch.from_numpy(x) for x in (order[place < most], start, count, rank)))

    def __len__(self) -> int:
        return len(self.start)

    def to(self, device: torch.device) -> References:
        """Return them on another device."""
        return References(*(x.to(device) for x in (self.rows, self.start, self.count, self.rank)))

    def draw(self, indices: Tensor, *, other_share: float, generator: torch.Generator) -> Tensor:
        """Return, for each of these pictures (B,), a reference of its person: its number in `rows`.

        Args:
            other_share: of the pictures that are references themselves: how many are told by another one, if there is any.
        """
        start, count, rank = self.start[indices], self.count[indices], self.rank[indices]
        coins = torch.rand(2, len(indices), generator=generator, device=indices.device, dtype=torch.float64)
        other = (rank + 1 + (coins[0] * (count - 1)).long()) % count  # of a reference: one of the others, or itself
        of_any = (coins[0] * count).long()
        own = torch.where(coins[1] < other_share, other, rank)
        return start + torch.where(rank < 0, of_any, own)


def picture_features(msid: MSID, faces: Faces, rows: np.ndarray, *, threads: int) -> Tensor:
    """Return the features (len(rows), I) of pictures, float32 on the host, each aligned by its landmarks.

    Args:
        msid: in evaluation mode, on the device where to compute.
        rows: row numbers.
        threads: how many PNGs are decoded at once.
    """
    parts = [torch.empty(0, msid.embedding_size)]
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        crops = face_crops(faces.images(part, threads=threads), faces.landmarks[part], size=msid.image_size)
        parts.append(embed_subjects(msid, crops).cpu())
    return torch.cat(parts)


def part_masks(landmarks: Tensor, *, size_px: int, grid: int, part: Part) -> Tensor:
    """Return the share of each latent that the ellipse of a face or head covers, float32 (B, 1, grid, grid).

    Args:
        landmarks: (B, 5, 2) px, in CelebA's order.
        size_px: side of the pictures.
        grid: latents a side.
        part: which ellipse.
    """
    points = (landmarks.float() + 0.5) / size_px  # in sides of the picture, from its corner
    eyes, mouth = points[:, :2].mean(dim=1), points[:, 3:].mean(dim=1)
    axes = torch.stack([(points[:, 1] - points[:, 0]) / 2, mouth - eyes], dim=2)  # (B, 2, 2): columns u and v
    steps = (torch.arange(grid * SAMPLES, device=points.device) + 0.5) / (grid * SAMPLES)
    places = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).view(1, -1, 2)  # (1, P, 2) of (x, y)
    u, v = torch.linalg.solve(axes, (places - eyes[:, None]).transpose(1, 2)).unbind(dim=1)  # each (B, P)
    middle, radius_u, radius_v = ELLIPSES[part]
    inside = (u / radius_u).square() + ((v - middle) / radius_v).square() <= 1
    covered = inside.float().view(-1, 1, grid * SAMPLES, grid * SAMPLES)
    return F.avg_pool2d(covered, SAMPLES)
