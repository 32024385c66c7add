"""Stateless randomness: every draw takes a generator made from (seed, purpose, index).

Nothing here reads or sets global state, so a resumed run needs no random state and image i never depends on its batch.
Source: the discipline of EDM2's training loop (one reseed per position), with named purposes.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive_seed(seed: int, purpose: str, *index: int) -> int:
    """Return a 63-bit seed for one purpose and position.

    Args:
        seed: the user's seed.
        purpose: what the draw is for; different purposes give unrelated streams.
        index: integers that name the position (epoch, image, step...).
    """
    key = "/".join([str(int(seed)), purpose, *(str(int(i)) for i in index)])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1


def torch_generator(seed: int, purpose: str, *index: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a torch generator seeded by `derive_seed`, living on `device`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, purpose, *index))


def numpy_generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """Return a numpy generator (PCG64) seeded by `derive_seed`."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(derive_seed(seed, purpose, *index)))
