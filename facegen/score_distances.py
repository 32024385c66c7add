"""How far one generator's pictures are from real ones: the figures of eval/metrics.json beside the Fréchet distances.

Shapes: N images of each set, T training images, D features of judge b.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from facegen.metrics.frechet import frechet_infinity
from facegen.metrics.kernel import kernel_distance
from facegen.metrics.manifold import CLOSE, Memorisation, duplicate_rate, manifold_scores, memorisation
from facegen.scoring import RealSet


def set_figures(
    features: np.ndarray,
    test: RealSet,
    *,
    k: int,
    generator: np.random.Generator,
    keys: list[bytes] | None = None,
    people: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return kernel distance, precision, recall, density, coverage and, for generated pictures, the duplicates.

    Args:
        features: (N, D); test: the reference, of as many images.
        k: neighbours of the balls.
        generator: draws the splits of the intervals.
        keys: one per generated image, equal where the pixels are; None for real ones.
        people: who is on the images; None: unrelated pictures.
    """
    scores = manifold_scores(
        real=test.features, fake=features, k=k, generator=generator, real_groups=test.people, fake_groups=people
    )
    kernel = kernel_distance(test.features, features, first_groups=test.people, second_groups=people)
    figures = {"kernel": kernel.to_json(), **scores.to_json()}
    if keys is not None:
        found = duplicate_rate(scores.nearest_fake, reference_nearest=scores.nearest_real, keys=keys)
        figures["duplicates"] = {"exact": found.exact, "near": found.near, "yardstick": found.yardstick}
    return figures


def compare_with_training(
    features: np.ndarray, test: RealSet, train: np.ndarray, *, generator: np.random.Generator
) -> Memorisation | None:
    """Return whether generated pictures (N, D) lie closer to the training set (T, D) than test images do.

    None where the test images are too few to have the quantile that it is read against.
    """
    if (len(test.features) + 1) * CLOSE < 1:
        return None
    return memorisation(train=train, generated=features, test=test.features, generator=generator)


def memorisation_figures(found: Memorisation | None) -> dict[str, Any]:
    """Return the share of pictures as close to a training image as 1 % of test images are, and how often one is closer."""
    if found is None:
        return {"memorised": None, "closer_than_test": None}
    return {"memorised": found.close.to_json(), "closer_than_test": found.closer.to_json()}


def extrapolated(
    features: np.ndarray, test: RealSet, *, extractor: str, generator: np.random.Generator
) -> dict[str, Any] | None:
    """Return the Fréchet distance at infinite N, or None where there are too few images for the line."""
    try:
        return frechet_infinity(test.features, features, extractor=extractor, generator=generator).to_json()
    except ValueError:  # its rule of how many a line needs
        return None
