"""What upscaling is worth: test pictures reduced, upscaled again, and compared with what they were.

The input is the truth reduced by the scale and passed through the autoencoder, as generated and edited pictures have
been; a second table takes the clean reduction. Lanczos' interpolation of the same input stands beside every figure.
Shapes: N pictures, H W size of the truth, s scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from facegen.data.shards import Faces
from facegen.judging import Embedder
from facegen.metrics.identity import identity_cosines
from facegen.metrics.judge_features import JudgeFeatures
from facegen.metrics.perceptual import perceptual_distances
from facegen.metrics.reconstruction import psnr_db, ssim
from facegen.scoring import grouped_bootstrap
from facegen.train.upscaler import reduced

BATCH = 16
NUM_SHOWN = 6
FIGURES = ("psnr_db", "ssim", "perceptual", "identity_cosine", "consistency_db")
Upscale = Callable[[np.ndarray], np.ndarray]  # uint8 (B, H/s, W/s, 3) -> uint8 (B, H, W, 3)
ASSUMPTION = (
    "The data have no truth at {wanted} px: the model is trained on pictures reduced to a quarter of what they have "
    "({truth} px), and is used one scale higher. That it does there what it does here is assumed, not measured."
)


@dataclass(frozen=True)
class MeasuredUpscaling:
    """One value a picture of every figure, and the first pictures."""

    values: dict[str, dict[str, np.ndarray]]  # (N,) each, by kind of input and way ("clean", "lanczos"), then by figure
    shown: np.ndarray  # uint8 (4, K, H, W, 3): input (every pixel repeated), Lanczos, ours, truth


def measure_upscaling(
    faces: Faces,
    rows: np.ndarray,
    *,
    ours: Upscale,
    lanczos: Upscale,
    round_trip: Upscale,
    scale: int,
    judge: JudgeFeatures,
    embedder: Embedder | None,
    threads: int,
    on_images: Callable[[int], object],
) -> MeasuredUpscaling:
    """Upscale both inputs of test pictures both ways.

    Args:
        faces: the test split of the large faces; rows: which of them.
        ours, lanczos: the ways.
        round_trip: the autoencoder's, uint8 to uint8 of the same size.
        scale: s.
        judge: judge b, for the perceptual distance; sides must be multiples of 16 px.
        embedder: the judging recogniser; None: there is none.
        threads: of decoding and reducing.
        on_images: called with the number of pictures that were just measured.

    Raises:
        ValueError: if the pictures do not reduce by the scale, or to a size that the autoencoder takes.
    """
    parts: dict[str, list[dict[str, np.ndarray]]] = {}
    shown: list[np.ndarray] = []
    for start in range(0, len(rows), BATCH):
        truth = faces.images(rows[start : start + BATCH], threads=threads)
        clean = reduced(truth, scale, threads=threads)
        known = None if embedder is None else embedder.embed(truth, None)
        made: dict[str, np.ndarray] = {}
        for kind, inputs in (("", round_trip(clean)), ("clean_", clean)):
            for way, upscale in (("ours", ours), ("lanczos", lanczos)):
                result = made[f"{kind}{way}"] = upscale(inputs)
                found = {
                    "psnr_db": psnr_db(truth, result),
                    "ssim": ssim(truth, result),
                    "perceptual": perceptual_distances(judge, truth, result),
                    "consistency_db": psnr_db(inputs, reduced(result, scale, threads=threads)),
                }
                if embedder is not None and known is not None:
                    found["identity_cosine"] = identity_cosines(known, embedder.embed(result, None))
                parts.setdefault(f"{kind}{way}", []).append(found)
            made[f"{kind}input"] = inputs.repeat(scale, axis=1).repeat(scale, axis=2)
        if sum(part.shape[1] for part in shown) < NUM_SHOWN:
            shown.append(np.stack([made["input"], made["lanczos"], made["ours"], truth]))
        on_images(len(truth))
    values = {
        way: {name: np.concatenate([part[name] for part in found]) for name in found[0]} for way, found in parts.items()
    }
    return MeasuredUpscaling(values, np.concatenate(shown, axis=1)[:, :NUM_SHOWN])


def upscaling_figures(
    found: MeasuredUpscaling, *, people: np.ndarray, truth_resolution: int, resolution: int, scale: int,
    generator: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    """Return the figures for eval/metrics.json: of our upscaler, with `lanczos_` before those of the interpolation.

    Intervals are a bootstrap over people, those of `difference` over the same pictures upscaled both ways, ours less
    Lanczos'; identity_cosine is None without a recogniser.

    Args:
        found: what was measured; people: (N,) labels of who is on the pictures.
        truth_resolution: side of the truth, px; resolution: of the generator's pictures; scale: s.
        generator: draws the resamples.
    """

    def mean(values: np.ndarray) -> dict[str, Any]:
        return grouped_bootstrap(values, people, generator=generator)

    def both(kind: str) -> dict[str, Any]:
        ours, other = found.values[f"{kind}ours"], found.values[f"{kind}lanczos"]
        return {
            **{name: mean(ours[name]) if name in ours else None for name in FIGURES},
            **{f"lanczos_{name}": mean(other[name]) if name in other else None for name in FIGURES},
            "difference": {name: mean(ours[name] - other[name]) if name in ours else None for name in FIGURES},
        }

    wanted = scale * resolution
    return both("") | {
        "clean": both("clean_"),
        "truth_resolution": truth_resolution,
        "scale": scale,
        "images": len(people),
        "assumption": ASSUMPTION.format(wanted=wanted, truth=truth_resolution) if truth_resolution < wanted else None,
    }
