"""How different two pictures look to a judge: the distance of its maps, as LPIPS takes it of a network's.

The vector of every position of every level is scaled to unit length; the squared distance of two such vectors, 0 for
equal ones and at most 4, is averaged over the positions and the levels. The levels count alike: nothing was fitted to
anybody's judgements, and the values compare with no published LPIPS. Pictures are measured at their own size, also
where that is another than the judge learned from: a level then sees larger or smaller parts of a face.

Shapes: B pictures, H W size. Source: Zhang et al. 2018, equation 1, with all weights 1.
"""

from __future__ import annotations

import numpy as np
import torch

from facegen.metrics.judge_features import JudgeFeatures
from facegen.models.judge import perceptual_distance

MULTIPLE = 16  # of which H and W must be: the judge's coarsest map has one position for so many px
BATCH = 32


@torch.inference_mode()
def perceptual_distances(judge: JudgeFeatures, first: np.ndarray, second: np.ndarray) -> np.ndarray:  # (B,)
    """Return the distance of each pair of pictures, float64; 0 for equal ones.

    Args:
        judge: whose maps are compared.
        first, second: uint8 (B, H, W, 3), paired, H and W multiples of 16.

    Raises:
        ValueError: if they do not match, are not uint8, or have another size.
    """
    if first.shape != second.shape or first.ndim != 4 or first.shape[-1] != 3:
        raise ValueError(f"pictures have shapes {first.shape} and {second.shape}; expected two (B, H, W, 3)")
    if first.dtype != np.uint8 or second.dtype != np.uint8:
        raise ValueError(f"pictures must be uint8, got {first.dtype} and {second.dtype}")
    if first.shape[1] % MULTIPLE or first.shape[2] % MULTIPLE or 0 in first.shape[1:]:
        raise ValueError(f"pictures are {first.shape[2]}x{first.shape[1]} px; sides must be multiples of {MULTIPLE}")
    found: list[float] = []
    for start in range(0, len(first), BATCH):
        maps, targets = (judge_maps(judge, part[start : start + BATCH]) for part in (first, second))
        found += [
            float(perceptual_distance([m[i : i + 1] for m in maps], [t[i : i + 1] for t in targets]))
            for i in range(len(maps[0]))
        ]
    return np.array(found, dtype=np.float64)


def judge_maps(judge: JudgeFeatures, images: np.ndarray) -> list[torch.Tensor]:
    """Return the judge's maps of uint8 (B, H, W, 3), fine to coarse, in float32."""
    pixels = torch.from_numpy(np.array(images)).to(judge.device).permute(0, 3, 1, 2).float()
    with torch.autocast(judge.device.type, enabled=False):
        return judge.judge.features(pixels / 127.5 - 1)
