"""Pictures from a trained DCGAN: each a function of its seed and its states.

Every call of the network has the same number of rows, the last one filled up, so that no picture's rounding depends on
how many are asked for: equal seeds and states give equal bytes. Shapes: N images, A attributes, H image side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facegen.attributes import STATES, UNKNOWN
from facegen.data.images import to_uint8
from facegen.models.dcgan import DCGANGenerator
from facegen.rng import torch_generator


def load_generator(folder: str | Path) -> DCGANGenerator:
    """Return the generator of a model folder (data/models/gan-NAME), in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: if the folder holds none.
    """
    place = Path(folder) / "generator"
    if not (place / "config.json").is_file():
        raise FileNotFoundError(f"{place} holds no DCGAN; run the gan stage")
    return DCGANGenerator.from_pretrained(place, use_safetensors=True).eval()


@torch.no_grad()
def generate(
    generator: DCGANGenerator,
    states: np.ndarray | None,
    seeds: np.ndarray,
    *,
    batch_size: int,
    device: torch.device,
    on_images: Callable[[int], object] | None = None,
) -> np.ndarray:
    """Return pictures, uint8 (N, H, H, 3), in float32 and with the running statistics of batch norm.

    Args:
        generator: the network, conditional or not; it is moved to the device and set to evaluation mode.
        states: (N, A) of -1, 0, 1, or None to ask for nothing. An unconditional network takes them only if nothing is
            asked for (all -1).
        seeds: (N,) integers; the noise of row i is a function of seeds[i] alone.
        batch_size: rows of a call of the network.
        device: where to compute.
        on_images: called with the number of pictures that were just made.

    Raises:
        ValueError: if nothing is to be made, a shape or a state is wrong, or an unconditional network is asked for an
            attribute.
    """
    requests = torch.from_numpy(_requests(generator, states, len(seeds)))
    generator = generator.to(device).eval()
    made = []
    for start in range(0, len(seeds), batch_size):
        rows = np.arange(start, min(start + batch_size, len(seeds)))
        filled = np.resize(rows, batch_size)
        noise = seeded_noise(seeds[rows].tolist(), generator.config.noise_dim)[filled - start]
        images = generator(noise.to(device), requests[filled].to(device))
        made.append(to_uint8(images[: len(rows)]))
        if on_images is not None:
            on_images(len(rows))
    return np.concatenate(made)


def seeded_noise(seeds: Sequence[int], noise_dim: int) -> Tensor:
    """Return noise (N, Z), float32 on the CPU: row i is a function of seeds[i] alone."""
    return torch.stack([torch.randn(noise_dim, generator=torch_generator(seed, "gan noise")) for seed in seeds])


def _requests(generator: DCGANGenerator, states: np.ndarray | None, num: int) -> np.ndarray:
    """Return the states that the network is given, int8 (N, A) with its own A, checked."""
    names = list(generator.config.attribute_names)
    if not num:
        raise ValueError("there is nothing to make: no seed")
    if states is None:
        return np.full((num, len(names)), UNKNOWN, np.int8)
    if states.ndim != 2 or len(states) != num:
        raise ValueError(f"states have shape {states.shape}; expected (N, A) with a row for each of {num} seeds")
    if not np.isin(states, STATES).all():
        raise ValueError(f"attribute states hold {np.setdiff1d(states, STATES)[0]}; allowed: -1 (unknown), 0, 1")
    if names and states.shape[1] != len(names):
        raise ValueError(f"states name {states.shape[1]} attributes; this DCGAN has {len(names)}: {', '.join(names)}")
    if not names and (states != UNKNOWN).any():
        raise ValueError("this DCGAN is unconditional; ask it for no attribute (all states -1, or None)")
    return np.ascontiguousarray(states[:, : len(names)], dtype=np.int8)
