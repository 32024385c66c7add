"""Judge b as a feature space: what the network computes, at its resolution, in float32, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from facegen.artifacts import sha256_file
from facegen.data.images import to_unit
from facegen.metrics.features import extract, resize
from facegen.metrics.judge_features import JudgeFeatures, load_judge_features
from facegen.models.initialize import draw_weights
from facegen.models.judges import WEIGHTS, Judge, build_judge
from facegen.rng import torch_generator

CPU = torch.device("cpu")


def _judge(architecture: str = "convnext", resolution: int | None = 32) -> Judge:
    judge = build_judge(architecture, attribute_names=["Male", "Young", "Bald"], width=8)
    draw_weights(judge, torch_generator(0, "judge"))
    judge.register_to_config(thresholds=[0.5] * 3, temperatures=[0.5, 1.0, 2.0], resolution=resolution)
    return judge.eval()


def _images(n: int, *, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("architecture", ["residual", "convnext"])
def test_features_are_the_embedding_and_probabilities_the_calibrated_logits(architecture: str) -> None:
    judge, images = _judge(architecture), _images(5)
    extractor = JudgeFeatures(judge, name="judge-b", digest="0", resolution=32, device=CPU)
    features, said = extractor.both(images)
    with torch.no_grad():
        pixels = to_unit(images)
        np.testing.assert_allclose(features, judge.embed(pixels).numpy(), atol=1e-5)
        expected = (judge(pixels) / torch.tensor([0.5, 1.0, 2.0])).sigmoid().numpy()
    np.testing.assert_allclose(said, expected, atol=1e-5)
    assert features.shape == (5, extractor.dim) and features.dtype == said.dtype == np.float32
    assert np.array_equal(extractor(images), features)


def test_autocast_around_it_changes_nothing() -> None:
    extractor, images = JudgeFeatures(_judge(), name="b", digest="0", resolution=32, device=CPU), _images(4)
    plain = extractor(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(extractor(images), plain)


def test_features_do_not_depend_on_the_batch() -> None:
    extractor, images = JudgeFeatures(_judge(), name="b", digest="0", resolution=32, device=CPU), _images(131)
    together = extract(extractor, [images])  # more than one batch
    apart = extract(extractor, [images[:130], images[130:]])
    assert together.shape == (131, 64)
    np.testing.assert_allclose(apart, together, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_other_sizes_are_brought_to_the_judges() -> None:
    extractor, large = JudgeFeatures(_judge(), name="b", digest="0", resolution=32, device=CPU), _images(3, size=64)
    small = resize(torch.from_numpy(large.transpose(0, 3, 1, 2).astype(np.float32)), 32)
    exact = small.permute(0, 2, 3, 1).round().clamp(0, 255).numpy().astype(np.uint8)
    found = extractor(large)
    assert np.abs(found - extractor(exact)).mean() < 0.02 < np.abs(found - extractor(exact[::-1])).mean()


def test_a_folder_gives_name_digest_and_the_same_features(tmp_path: Path) -> None:
    folder, judge, images = tmp_path / "judge-b", _judge(), _images(2)
    judge.save_pretrained(folder)
    found = load_judge_features(folder, CPU)
    assert (found.name, found.dim, found.resolution) == ("judge-b-64", 64, 32)
    assert found.digest == sha256_file(folder / WEIGHTS)
    assert np.array_equal(found(images), JudgeFeatures(judge, name="", digest="", resolution=32, device=CPU)(images))
    _judge(resolution=None).save_pretrained(folder)
    with pytest.raises(ValueError, match="names no resolution"):
        load_judge_features(folder, CPU)


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 32, 32, 3), np.float32), np.zeros((32, 32, 3), np.uint8), np.zeros((0, 32, 32, 3), np.uint8)],
)
def test_what_is_not_images_is_refused(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        JudgeFeatures(_judge(), name="b", digest="0", resolution=32, device=CPU)(images)
