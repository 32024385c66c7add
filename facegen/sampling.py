"""Pictures on request, for the command line: open a trained model, sample, and write what came out.

A model is either the folder that holds `dit/` and `autoencoder/` (data/models of a checkout, sampled by params.yaml) or a
pipeline that `facegen export` wrote (which carries its own settings).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from facegen.artifacts import canonical_json
from facegen.attributes import ABSENT, PRESENT, UNKNOWN, attribute_vector
from facegen.config import load_params
from facegen.data.samples import write_samples
from facegen.grids import fold_rows, image_grid, save_png
from facegen.pipeline import FacePipeline
from facegen.sample_sets import TILE_PX

BATCH = 32
Enlarge = Callable[[np.ndarray], np.ndarray]
"""From uint8 images (N, H, W, 3) to larger ones."""


def open_model(folder: Path, *, params: Path, device: str) -> FacePipeline:
    """Return the pipeline of a model folder on a device (`auto`: the GPU if there is one).

    Raises:
        FileNotFoundError: if there is no model.
        ValueError: if the device is not there.
    """
    if (folder / "model_index.json").is_file():
        pipe = FacePipeline.from_pretrained(folder)
    elif (folder / "dit").is_dir():
        p = load_params(params).sample
        pipe = FacePipeline.from_models(
            folder, scheduler=p.scheduler, shift=p.time_shift, num_inference_steps=p.num_steps,
            guidance_scale=p.guidance_scale, guidance_interval=list(p.guidance_interval),
        )  # fmt: skip
    else:
        raise FileNotFoundError(f"{folder} holds no model; train one with `dvc repro`, or name a folder with --model")
    return pipe.to(chosen_device(device))


def chosen_device(device: str) -> str:
    """Return the device's name, `auto` being the GPU if there is one.

    Raises:
        ValueError: if the device is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device}: torch sees no GPU here; leave --device out or set it to cpu")
    return device


def sample(
    pipe: FacePipeline,
    states: np.ndarray,
    *,
    seeds: Sequence[int],
    steps: int | None,
    guidance: float | None,
    strengths: Mapping[str, float],
) -> np.ndarray:
    """Return uint8 images (N, H, H, 3) of states (N, A), one per seed, with a progress bar over all solver steps."""
    images = []
    for start in range(0, len(seeds), BATCH):
        stop = start + BATCH
        images.append(
            pipe(states[start:stop], seeds=list(seeds[start:stop]), num_inference_steps=steps, guidance_scale=guidance,
                 attribute_scales=strengths, output_type="np").images
        )  # fmt: skip
    return np.concatenate(images)


def write_pictures(
    output: Path,
    images: np.ndarray,
    *,
    states: np.ndarray,
    seeds: Sequence[int],
    names: Sequence[str],
    columns: int | None,
    about: Mapping[str, object],
) -> None:
    """Write a grid (.png), a data set (.parquet), or single pictures (a folder: any other name).

    Each PNG carries `about` and its seeds as text under the key `facegen`.

    Raises:
        ValueError: for an ending that is neither.
    """
    if output.suffix.lower() == ".png":
        columns = columns or math.ceil(math.sqrt(len(images)))
        grid = fold_rows(images, columns=columns)
        picture = image_grid(grid, scale=max(1, TILE_PX // images.shape[1]))
        save_png(output, picture, metadata={"facegen": canonical_json({**about, "seeds": list(seeds)})})
    elif output.suffix == ".parquet":
        write_samples(
            output, seeds=seeds, attributes=states, images_uint8=images, sets=["sample"] * len(images),
            attribute_names=names,
        )  # fmt: skip
    elif output.suffix and not output.is_dir():
        raise ValueError(f"{output}: write to a .png (grid), a .parquet (data set) or a folder (single pictures)")
    else:
        from PIL import Image

        for image, seed in zip(images, seeds, strict=True):
            note = {"facegen": canonical_json({**about, "seed": seed})}
            save_png(output / f"{seed:06d}.png", Image.fromarray(image), metadata=note)


def attribute_grid(
    pipe: FacePipeline,
    output: Path,
    *,
    seed: int,
    num: int,
    steps: int | None,
    guidance: float | None,
    enlarge: Enlarge,
) -> None:
    """Write a grid of every attribute absent and present, the same `num` seeds in each row, each picture enlarged."""
    names, seeds = pipe.attribute_names, list(range(seed, seed + num))
    states = np.full((len(names), 2, num, len(names)), UNKNOWN, dtype=np.int8)
    for k in range(len(names)):
        states[k, 0, :, k], states[k, 1, :, k] = ABSENT, PRESENT
    flat = states.reshape(-1, len(names))
    images = enlarge(sample(pipe, flat, seeds=seeds * (2 * len(names)), steps=steps, guidance=guidance, strengths={}))
    picture = image_grid(
        images.reshape(2 * len(names), num, *images.shape[1:]),
        row_labels=[f"{word}\n{name}" for name in names for word in ("without", "with")],
        column_labels=[f"seed {s}" for s in seeds],
        group_rows=2,
        scale=max(1, TILE_PX // images.shape[1]),
    )
    save_png(output, picture, metadata={"facegen": canonical_json({"attributes": names, "seeds": seeds})})


def repeated(states: Mapping[str, int], names: Sequence[str], num: int) -> np.ndarray:
    """Return the request `num` times, int8 (num, A)."""
    return np.repeat(attribute_vector(states, names)[None], num, axis=0)
