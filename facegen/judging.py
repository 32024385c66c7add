"""The pictures of one sample file as the judges see them: features, probabilities of the attributes, face embeddings.

Shapes: N pictures, D features, A attributes, E embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from facegen.data.samples import FLIP, Samples
from facegen.score_control import Judged

BATCH = 256


class PictureJudge(Protocol):
    """Judge b: a feature space and what it sees in a picture."""

    def both(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return features (B, D) and calibrated probabilities (B, A) of uint8 (B, H, W, 3)."""
        ...


class Embedder(Protocol):
    """The judging recogniser."""

    def embed(self, images: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
        """Return unit vectors (B, E) of uint8 (B, H, W, 3); None: landmarks where the training faces have them."""
        ...


@dataclass(frozen=True)
class Answers:
    """One generator's pictures, judged."""

    samples: Samples
    features: np.ndarray  # (N, D) of judge b
    probabilities: np.ndarray  # (N, A) of judge b
    embeddings: np.ndarray | None  # (N, E), rows of zeros but for the flip sets; None without a recogniser

    def rows(self, name: str) -> np.ndarray:
        """Return the row numbers of one set, in order."""
        return np.flatnonzero(np.array(self.samples.sets) == name)

    def judged(self) -> dict[str, Judged]:
        """Return every set for `facegen.score_control`."""
        found = {}
        for name in self.samples.set_names:
            rows = self.rows(name)
            embeddings = self.embeddings[rows] if self.embeddings is not None and FLIP in name else None
            found[name] = Judged(self.samples.attributes[rows], self.probabilities[rows], embeddings)
        return found


def judge_samples(
    samples: Samples, judge: PictureJudge, embedder: Embedder | None, *, on_images: Callable[[int], object]
) -> Answers:
    """Judge all pictures, and embed those of the flip sets.

    Args:
        samples: what was generated.
        judge, embedder: the judges; None: there is no recogniser.
        on_images: called with the number of images that were just judged.
    """
    features, probabilities, embeddings = [], [], []
    flips = np.array([FLIP in name for name in samples.sets])
    for start in range(0, len(samples), BATCH):
        images = samples.images(range(start, min(start + BATCH, len(samples))))
        found, said = judge.both(images)
        features.append(found)
        probabilities.append(said)
        chosen = flips[start : start + BATCH]
        if embedder is not None and chosen.any():
            embeddings.append(embedder.embed(images[chosen], None))
        on_images(len(images))
    whole = None
    if embeddings:
        rows = np.concatenate(embeddings)
        whole = np.zeros((len(samples), rows.shape[1]), np.float32)
        whole[flips] = rows
    return Answers(samples, np.concatenate(features), np.concatenate(probabilities), whole)
