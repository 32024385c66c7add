"""What the score stage measures, apart from where it reads and writes.

Shapes: N images, H W size, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from facegen.metrics.features import FeatureExtractor, extract
from facegen.metrics.frechet import frechet_interval
from facegen.metrics.intervals import bootstrap_interval, mean_interval
from facegen.metrics.reconstruction import psnr_db, ssim
from facegen.rng import numpy_generator

Spaces = Mapping[str, FeatureExtractor]  # by the name that their Fréchet distance has in eval/metrics.json
Reconstruct = Callable[[np.ndarray], np.ndarray]
TIME_BIN = "mse_t"  # columns of the training log: the error per tenth of t


@dataclass(frozen=True)
class Reconstructed:
    """Images and their reconstructions, as far as the figures and one picture need them."""

    psnr_db: np.ndarray  # (N,)
    ssim: np.ndarray  # (N,)
    features: dict[str, np.ndarray]  # (N, D) of the images, by feature space
    shown: np.ndarray  # uint8 (2, K, H, W, 3): first images above, their reconstructions below


@dataclass(frozen=True)
class RealSet:
    """Features of real images, and who is on them."""

    features: np.ndarray  # (N, D)
    people: np.ndarray  # (N,) labels: pictures of one person have the same


def common_count(wanted: int, available: Mapping[str, int]) -> int:
    """Return how many images of each set are compared: the wanted number, or what the smallest set has.

    Every distance of one table is taken at this one N, because its value depends on N.

    Raises:
        ValueError: if a set has fewer than two.
    """
    name, smallest = min(available.items(), key=lambda item: item[1])
    if smallest < 2:
        raise ValueError(f"{name} holds {smallest} images; a distance needs at least 2 of each set")
    return min(wanted, smallest)


def chosen_rows(seed: int, purpose: str, *, size: int, num: int) -> np.ndarray:
    """Return `num` different rows of `size` in random order, a pure function of seed and purpose; a prefix of more."""
    return numpy_generator(seed, f"score {purpose}").permutation(size)[:num]


def person_labels(identity: np.ndarray) -> np.ndarray:
    """Return one label a person, (N,); a picture of whom nothing is known (-1) counts as a person of its own."""
    unknown = identity < 0
    return np.where(unknown, identity.max(initial=0) + 1 + np.arange(len(identity)), identity)


def measure_reconstruction(
    batches: Iterable[np.ndarray], reconstruct: Reconstruct, spaces: Spaces, *, num_shown: int
) -> Reconstructed:
    """Reconstruct images and measure what was lost.

    Args:
        batches: uint8 (B, H, W, 3) each.
        reconstruct: from such a batch to its reconstructions, of the same form.
        spaces: the feature spaces.
        num_shown: how many of the first images are kept for a picture.
    """
    ratios, similarities = [], []
    features: dict[str, list[np.ndarray]] = {name: [] for name in spaces}
    shown: list[np.ndarray] = []
    for images in batches:
        pictures = reconstruct(images)
        ratios.append(psnr_db(images, pictures))
        similarities.append(ssim(images, pictures))
        for name, extractor in spaces.items():
            features[name].append(extractor(images))
        if sum(part.shape[1] for part in shown) < num_shown:
            shown.append(np.stack([images, pictures]))
    return Reconstructed(
        np.concatenate(ratios),
        np.concatenate(similarities),
        {name: np.concatenate(parts) for name, parts in features.items()},
        np.concatenate(shown, axis=1)[:, :num_shown],
    )


def features_before_and_after(
    batches: Iterable[np.ndarray], reconstruct: Reconstruct, spaces: Spaces
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the features (N, D), by space, of images and of their reconstructions; arguments as `measure_reconstruction`."""
    before: dict[str, list[np.ndarray]] = {name: [] for name in spaces}
    after: dict[str, list[np.ndarray]] = {name: [] for name in spaces}
    for images in batches:
        pictures = reconstruct(images)
        for name, extractor in spaces.items():
            before[name].append(extractor(images))
            after[name].append(extractor(pictures))
    return _joined(before), _joined(after)


def features_of(images: np.ndarray, spaces: Spaces) -> dict[str, np.ndarray]:
    """Return the features (N, D) of uint8 images (N, H, W, 3), by space."""
    return {name: extract(extractor, [images]) for name, extractor in spaces.items()}


def frechet_figures(
    features: Mapping[str, np.ndarray], test: Mapping[str, RealSet], spaces: Spaces, *, people: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the Fréchet distance to the test images in each space, by its name, with intervals.

    The reference is held out, so that copies of training images gain nothing over the floor (training images themselves).

    Args:
        features: (N, D) by space.
        test: the reference, of as many images.
        spaces: the feature spaces.
        people: who is on the images that `features` are of; None: unrelated pictures.
    """
    found = {}
    for name, extractor in spaces.items():
        reference = test[name]
        interval, _ = frechet_interval(
            reference.features, features[name], extractor=extractor.digest, first_groups=reference.people,
            second_groups=people,
        )  # fmt: skip
        found[name] = interval.to_json()
    return found


def describe(spaces: Spaces, notes: Mapping[str, str]) -> dict[str, Any]:
    """Return the name, digest, size and a note of each feature space, for eval/metrics.json."""
    return {
        name: {"name": extractor.name, "digest": extractor.digest, "dim": extractor.dim, "note": notes[name]}
        for name, extractor in spaces.items()
    }


def mean_figure(values: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Return the mean of values (N,) with an interval that counts groups (N,); of one group alone, without."""
    if len(np.unique(groups)) < 2:
        return {"value": float(values.mean()), "n": len(values)}
    return mean_interval(values, groups=groups).to_json()


def grouped_bootstrap(values: np.ndarray, groups: np.ndarray, *, generator: np.random.Generator) -> dict[str, Any]:
    """Return the mean of values (N,) with its bootstrap interval over groups (N,) of what belongs together.

    With one group alone there is no interval.
    """
    _, place = np.unique(groups, return_inverse=True)
    sums = np.column_stack([np.bincount(place, weights=values), np.bincount(place)])  # (groups, 2)
    if len(sums) < 2:
        return {"value": float(values.mean()), "n": len(values)}
    interval = bootstrap_interval(lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum()), sums, generator=generator)
    return interval.to_json() | {"n": len(values)}


def count_parameters(folder: Path) -> int:
    """Return the number of weights in the safetensors files of a model folder (not of its subfolders).

    Raises:
        FileNotFoundError: if it has none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no *.safetensors; run the stage that makes it")
    total = 0
    for path in files:
        with safe_open(str(path), framework="np") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (no dict)
    return total


def error_by_time(log: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the velocity error per bin of t, early and late: means over the first and the last tenth of the log.

    Args:
        log: columns of the training log; empty if it has none per bin.
    """
    names = sorted((name for name in log if name.startswith(TIME_BIN)), key=lambda name: int(name[len(TIME_BIN) :]))
    if not names:
        return {}
    table = np.stack([log[name] for name in names])  # (bins, lines)
    tenth = max(1, table.shape[1] // 10)
    return {"first tenth of training": _mean(table[:, :tenth]), "last tenth of training": _mean(table[:, -tenth:])}


def _mean(table: np.ndarray) -> np.ndarray:
    """Return the mean of each row over its finite entries; NaN where there is none."""
    finite = np.isfinite(table)
    count = finite.sum(1)
    total = np.where(finite, table, 0).sum(1)
    return np.divide(total, count, out=np.full(len(table), np.nan), where=count > 0)


def _joined(parts: Mapping[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate(rows) for name, rows in parts.items()}
