"""Judge b as a feature space and as a witness: what its head sees of a picture, and what it says of it.

Distances in it know of faces what the attributes tell, and compare with no published figure; the networks that are
measured have not seen it. Shapes: B images, H W size, D features, A attributes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from facegen.artifacts import sha256_file
from facegen.metrics.features import resize
from facegen.models.judges import WEIGHTS, Judge, load_judge

BATCH = 128


class JudgeFeatures:
    """A judge's features (a `facegen.metrics.features.FeatureExtractor`), and its probabilities; float32 everywhere."""

    def __init__(self, judge: Judge, *, name: str, digest: str, resolution: int, device: torch.device) -> None:
        """
        Args:
            judge: trained, float32; moved to the device, in evaluation mode, without gradients.
            name: stands beside every figure.
            digest: of its weights.
            resolution: px, the side that it learned from; every image is brought to it.
            device: where it computes.
        """
        judge = judge.to(device=device, memory_format=torch.channels_last)
        self.judge = judge.eval().requires_grad_(False)
        self.name, self.digest, self.dim = name, digest, judge.dim
        self.resolution, self.device = resolution, device

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return features, float32 (B, D), of uint8 (B, H, W, 3); errors as `both`."""
        return self.both(images)[0]

    @torch.inference_mode()
    def both(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return features (B, D) and calibrated probabilities (B, A), float32.

        Args:
            images: uint8 (B, H, W, 3); other sizes than the judge's are resized with antialiasing.

        Raises:
            ValueError: for another rank, channel count or dtype, or no image.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or 0 in images.shape:
            raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 (B, H, W, 3)")
        features, said = [], []
        for start in range(0, len(images), BATCH):
            rows = torch.from_numpy(np.array(images[start : start + BATCH]))  # a copy: memory maps are read-only
            pixels = rows.to(self.device).permute(0, 3, 1, 2).float()
            with torch.autocast(self.device.type, enabled=False):
                found = self.judge.embed(resize(pixels, self.resolution) / 127.5 - 1)
                said.append(self.judge.probabilities(self.judge.head(found)).cpu().numpy())
            features.append(found.cpu().numpy())
        return np.concatenate(features), np.concatenate(said)


def load_judge_features(folder: str | Path, device: torch.device) -> JudgeFeatures:
    """Return the judge of a folder that the judge stage wrote, named after it and its number of features.

    Raises:
        ValueError: as `load_judge`, or if its configuration does not say which size it learned from.
        FileNotFoundError, DamagedArtifactError: as `load_judge`.
    """
    folder = Path(folder)
    judge = load_judge(folder)
    resolution = judge.config.resolution
    if resolution is None:
        raise ValueError(f"{folder}/config.json names no resolution; run the judge stage again")
    digest = sha256_file(folder / WEIGHTS)
    name = f"{folder.resolve().name}-{judge.dim}"
    return JudgeFeatures(judge, name=name, digest=digest, resolution=resolution, device=device)
