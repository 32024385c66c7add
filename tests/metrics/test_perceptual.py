"""The perceptual distance, against the network's own parts put together here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from facegen.data.images import to_unit
from facegen.metrics.judge_features import JudgeFeatures
from facegen.metrics.perceptual import perceptual_distances
from facegen.models.initialize import draw_weights
from facegen.models.judges import ARCHITECTURES, build_judge
from facegen.rng import torch_generator


def judge(architecture: str = "convnext") -> JudgeFeatures:
    model = build_judge(architecture, attribute_names=["Male", "Young"], width=8)
    draw_weights(model, torch_generator(0, "judge"))
    model.register_to_config(thresholds=[0.5] * 2, temperatures=[1.0] * 2, resolution=32)
    return JudgeFeatures(model.eval(), name="b", digest="0", resolution=32, device=torch.device("cpu"))


def pictures(n: int, *, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_distances_are_those_of_unit_vectors_averaged_over_positions_and_levels() -> None:
    witness, first, second = judge(), pictures(3), pictures(3, seed=1)
    network = witness.judge
    with torch.no_grad():
        levels = []
        for images in (first, second):
            x = F.gelu(network.stem[0](to_unit(images)))
            maps = [x]
            x = network.stages[0](network.norms[0](network.stem[1](x)))
            maps.append(x)
            for i in (1, 2):
                x = network.stages[i](network.halve[i - 1](network.norms[i](x)))
                maps.append(x)
            levels.append([m.double() for m in maps])
        cosine = [F.cosine_similarity(a, b, dim=1).mean((1, 2)) for a, b in zip(*levels, strict=True)]
        expected = torch.stack([2 - 2 * c for c in cosine]).mean(0)  # |u - v|^2 of unit vectors
    found = perceptual_distances(witness, first, second)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4)
    assert found.dtype == np.float64 and found.min() > 0.01
    assert [m.shape[1:] for m in levels[0]] == [(4, 16, 16), (8, 8, 8), (16, 4, 4), (32, 2, 2)]


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_equal_pictures_are_at_0_and_it_does_not_depend_on_order_or_batch(architecture: str) -> None:
    witness, first, second = judge(architecture), pictures(35, size=16), pictures(35, size=16, seed=1)
    assert not perceptual_distances(witness, first, first).any()
    found = perceptual_distances(witness, first, second)
    np.testing.assert_allclose(perceptual_distances(witness, second, first), found, rtol=1e-6)
    np.testing.assert_allclose(perceptual_distances(witness, first[33:], second[33:]), found[33:], rtol=1e-4)


def test_more_change_is_further_and_pictures_are_measured_at_their_own_size() -> None:
    witness, first = judge(), pictures(4, size=48)
    weak, strong = (
        np.clip(first + d * np.random.default_rng(2).normal(size=first.shape), 0, 255).astype(np.uint8) for d in (4, 40)
    )
    near, far = perceptual_distances(witness, first, weak), perceptual_distances(witness, first, strong)
    assert (near < far).all()
    small = first[:, 8:40, 8:40]
    assert not np.allclose(perceptual_distances(witness, small, weak[:, 8:40, 8:40]), near)  # no resizing to 32 px
    with pytest.raises(ValueError, match="multiples of 16"):
        perceptual_distances(witness, first[:, :40], first[:, :40])
    with pytest.raises(ValueError, match="shapes"):
        perceptual_distances(witness, first, small)
    with pytest.raises(ValueError, match="uint8"):
        perceptual_distances(witness, first, first.astype(np.float32))
