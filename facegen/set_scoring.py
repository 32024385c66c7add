"""How far one set of pictures is from another: what `facegen score` computes.

Every figure is taken at one number of images of both sets, because their values depend on it. Which images those are is
a pure function of the seed. The same figures from features that are at hand: `compare_features`.

Shapes: N images of both sets, D features.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facegen import __version__
from facegen.image_sets import ImageSet, set_digest
from facegen.metrics.features import FeatureExtractor, RandomProjection
from facegen.metrics.frechet import frechet_infinity, frechet_interval
from facegen.metrics.inception import InceptionFeatures
from facegen.metrics.kernel import kernel_distance
from facegen.metrics.manifold import Duplicates, duplicate_rate, manifold_scores, memorisation
from facegen.rng import numpy_generator

RANDOM, INCEPTION = "random", "inception"
FEATURE_DIM = 256  # of the fixed random projection; as score.feature_dim, so that figures compare
PACKAGES = ("numpy", "scipy", "torch", "pillow", "torch-fidelity")

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]  # (batches, images, what) -> the same batches
Note = Callable[[str], None]


@dataclass(frozen=True)
class SetFeatures:
    """Features of some images of a set, and what they came from."""

    features: np.ndarray  # (N, D)
    rows: np.ndarray  # (N,) of the set
    keys: list[bytes]  # N digests of pixels
    size: list[int]  # [width, height] in px


def open_extractor(features: str | None, *, inception: str | None, device: str) -> FeatureExtractor:
    """Return the feature space that a user named.

    Args:
        features: `random`, `inception`, a folder with a trained attribute judge, or None: Inception if its weights are
            named, else random.
        inception: path of torch-fidelity's InceptionV3 weights, or `download`.
        device: auto, cpu, cuda or cuda:N, of the trained networks.

    Raises:
        FileNotFoundError: if weights or folder are not there.
        ValueError: if names contradict each other, or the device is not there.
    """
    features = features or (INCEPTION if inception else RANDOM)
    if inception and features != INCEPTION:
        raise ValueError(f"--inception names weights, but --features is {features}; leave one of them out")
    if features == RANDOM:
        return RandomProjection(FEATURE_DIM)
    chosen = _device(device)
    if features == INCEPTION:
        if not inception:
            raise ValueError("--features inception needs its weights: --inception PATH, or --inception download")
        return InceptionFeatures(inception, device=chosen)
    if not Path(features).is_dir():
        raise FileNotFoundError(
            f"{features}: no such folder of a judge; --features takes random, inception or a folder"
        )
    from facegen.metrics.judge_features import load_judge_features

    return load_judge_features(Path(features), chosen)


def score_sets(
    generated: ImageSet,
    reference: ImageSet,
    extractor: FeatureExtractor,
    *,
    num: int | None,
    seed: int,
    k: int,
    train: ImageSet | None,
    progress: Progress,
    note: Note,
) -> dict[str, Any]:
    """Return every figure of generated images against a reference, and what they depend on.

    Args:
        generated, reference: the images to judge, and real ones.
        extractor: the feature space.
        num: images of both at most; None: as many as the smaller set has.
        seed: of the choice of images, of the intervals and of the extrapolation.
        k: neighbour of precision, recall, density and coverage.
        train: what the generator was trained on, for memorisation; the reference must then be held out from it.
        progress: wraps the batches of a set.
        note: takes a remark for the user.

    Raises:
        ValueError: if a set has fewer than two images, pictures cannot be read, or k does not fit.
    """
    for images in (generated, reference, *([train] if train else [])):
        for remark in images.notes:
            note(remark)
    n = min(len(generated), len(reference), num or len(generated))
    if n < 2:
        raise ValueError(f"{len(generated)} generated and {len(reference)} real images; at least 2 of each are needed")
    if len(generated) != len(reference) or n < len(generated):
        note(f"all figures are taken at {n} images of {len(generated)} generated and {len(reference)} real ones")
    own = _features(generated, _chosen(seed, "generated", len(generated), n), extractor, progress)
    real = _features(reference, _chosen(seed, "reference", len(reference), n), extractor, progress)
    if own.size != real.size:
        note(
            f"generated images are {own.size[0]}x{own.size[1]} px, real ones {real.size[0]}x{real.size[1]}: see --size"
        )
    if shared := len(set(own.keys) & set(real.keys)):
        note(f"{shared} images are in both sets: the reference should be held out")
    seen = _features(train, np.arange(len(train)), extractor, progress) if train else None
    if seen and (shared := len(set(seen.keys) & set(real.keys))):
        note(f"{shared} images of the reference are in the training set: memorisation needs held-out ones")
    figures = compare_features(
        own.features,
        real.features,
        extractor,
        k=k,
        seed=seed,
        keys=own.keys,
        train=seen.features if seen else None,
        note=note,
    )
    for pair in figures.get("memorisation", {}).get("closest_pairs", []):
        pair[0] = int(own.rows[pair[0]])  # as the set counts them
    sources = {"generated": (generated, own), "reference": (reference, real)}
    if train and seen:
        sources["train"] = (train, seen)
    return {
        "n_generated": len(generated),
        "n_reference": len(reference),
        "n": n,
        "seed": seed,
        "k": k,
        "extractor": {"name": extractor.name, "digest": extractor.digest, "dim": extractor.dim},
        **figures,
        "sets": {
            role: {"name": images.name, "images": len(found.keys), "size": found.size, "sha256": set_digest(found.keys)}
            for role, (images, found) in sources.items()
        },
        "versions": _versions(),
    }


def compare_features(
    generated: np.ndarray,
    reference: np.ndarray,
    extractor: FeatureExtractor,
    *,
    k: int,
    seed: int,
    keys: Sequence[bytes] | None = None,
    train: np.ndarray | None = None,
    reference_groups: np.ndarray | None = None,
    note: Note = lambda _: None,
) -> dict[str, Any]:
    """Return every figure of generated against reference features, (N, D) each.

    Args:
        generated, reference: features of equally many images.
        extractor: where they come from; `fid` is added where that is Inception.
        k: neighbour of precision, recall, density and coverage.
        seed: of the intervals and of the extrapolation.
        keys: digests of the generated images' pixels, for exact duplicates; None: their features tell.
        train: (T, D) of the training set, for memorisation.
        reference_groups: (N,) labels of real images that belong together.
        note: takes a remark: why a figure is null.

    Raises:
        ValueError: as the metrics.
    """
    if len(generated) != len(reference):
        raise ValueError(f"{len(generated)} generated and {len(reference)} real images; compare equally many")
    interval, distance = frechet_interval(
        generated, reference, extractor=extractor.digest, second_groups=reference_groups
    )
    frechet = {**interval.to_json(), "clipped": distance.clipped}
    figures: dict[str, Any] = {"frechet": frechet, "frechet_infinity": None}
    if isinstance(extractor, InceptionFeatures):
        figures["fid"] = frechet
    try:
        figures["frechet_infinity"] = frechet_infinity(
            generated, reference, extractor=extractor.digest, generator=numpy_generator(seed, "score infinity")
        ).to_json()
    except ValueError as error:
        note(f"frechet_infinity is null: {error}")
    figures["kernel"] = kernel_distance(generated, reference, second_groups=reference_groups).to_json()
    scores = manifold_scores(
        real=reference, fake=generated, k=k, generator=numpy_generator(seed, "score halves"),
        real_groups=reference_groups,
    )  # fmt: skip
    figures |= scores.to_json()
    keys = keys if keys is not None else [row.tobytes() for row in np.ascontiguousarray(generated)]
    repeated: Duplicates = duplicate_rate(scores.nearest_fake, reference_nearest=scores.nearest_real, keys=keys)
    figures["duplicates"] = vars(repeated)
    if train is not None:
        figures["memorisation"] = memorisation(
            train=train, generated=generated, test=reference, generator=numpy_generator(seed, "score memorisation")
        ).to_json()
    return figures


def _features(images: ImageSet, rows: np.ndarray, extractor: FeatureExtractor, progress: Progress) -> SetFeatures:
    """Take the features of some images of a set, checked to be finite."""
    parts: list[np.ndarray] = []
    keys: list[bytes] = []
    size = [0, 0]
    batches = images.batches(rows, threads=os.cpu_count() or 1)
    for pixels, found in progress(batches, len(rows), images.name):
        parts.append(extractor(pixels))
        keys += found
        size = [pixels.shape[2], pixels.shape[1]]
    features = np.concatenate(parts)
    if bad := int((~np.isfinite(features)).any(1).sum()):
        raise ValueError(f"{extractor.name}: {bad} of {len(features)} images of {images.name} have no finite features")
    return SetFeatures(features, rows, keys, size)


def _chosen(seed: int, role: str, size: int, num: int) -> np.ndarray:
    """Return `num` of `size` rows in ascending order, a pure function of seed and role."""
    return np.sort(numpy_generator(seed, f"score {role}").permutation(size)[:num])


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name}: torch sees no GPU here; leave --device out or set it to cpu")
    return torch.device(name)


def _versions() -> dict[str, str]:
    found = {"facegen": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # torch-fidelity is needed for Inception alone
            continue
    return found
