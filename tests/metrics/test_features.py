"""The fixed random projection: the same everywhere, and a distance in it grows with what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from facegen.metrics.features import RandomProjection, extract, resize
from facegen.metrics.frechet import frechet_interval


def _scenes(n: int, *, seed: int, size: int = 64) -> np.ndarray:
    """Discs of random colour, place and size on random gradients: pictures with edges, colour and structure."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    out = np.empty((n, size, size, 3), np.uint8)
    for image in out:
        ramp = x * rng.uniform(-80, 80) + y * rng.uniform(-80, 80)
        picture = rng.uniform(60, 180, 3) + ramp[..., None]
        for _ in range(3):
            inside = (x - rng.normal(0.5, 0.1)) ** 2 + (y - rng.normal(0.4, 0.1)) ** 2 < rng.uniform(0.05, 0.3) ** 2
            picture[inside] = rng.uniform(0, 255, 3)
        image[:] = np.clip(picture + rng.normal(0, 2, picture.shape), 0, 255)
    return out


GOLDEN = [-0.244754, -0.283861, 0.56073, 0.510294]


@pytest.fixture(scope="module")
def extractor() -> RandomProjection:
    return RandomProjection(32)


def test_golden_features_and_digest(extractor: RandomProjection) -> None:
    again = RandomProjection(32)
    images = _scenes(3, seed=0)
    assert extractor.name == "random-projection-32" and extractor.digest == again.digest
    assert extractor.digest != RandomProjection(33).digest
    assert np.array_equal(extractor(images), again(images))
    golden = np.arange(64 * 64 * 3).reshape(1, 64, 64, 3) % 251
    np.testing.assert_allclose(extractor(golden.astype(np.uint8))[0, :4], GOLDEN, rtol=1e-4)


def test_features_do_not_depend_on_the_batch(extractor: RandomProjection) -> None:
    images = _scenes(7, seed=1)
    together = extract(extractor, [images])
    apart = extract(extractor, [images[:3], images[3:4], images[4:]])
    assert together.shape == (7, 32) and together.dtype == np.float32
    np.testing.assert_allclose(apart, together, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_distance_grows_with_blur_and_noise_and_sees_structure(extractor: RandomProjection) -> None:
    real, other = _scenes(120, seed=2), _scenes(120, seed=3)
    features = extract(extractor, [real])
    rng = np.random.default_rng(4)

    def distance(images: np.ndarray) -> float:
        return frechet_interval(features, extract(extractor, [images]), extractor=extractor.digest)[0].value

    def blurred(sigma: float) -> np.ndarray:
        return np.stack([np.asarray(Image.fromarray(i).filter(ImageFilter.GaussianBlur(sigma))) for i in other])

    def noisy(sigma: float) -> np.ndarray:
        return np.clip(other + rng.normal(0, sigma, other.shape), 0, 255).astype(np.uint8)

    floor = distance(other)
    assert floor < distance(blurred(1)) < distance(blurred(2)) < distance(blurred(4))
    assert floor < distance(noisy(16)) < distance(noisy(40))
    assert distance(other[:, ::-1]) > 1.5 * floor  # upside down
    assert distance(other[:5].repeat(24, 0)) > 1.5 * floor  # five pictures, over and over


def test_resize_is_pillows_bicubic_on_float_pixels() -> None:
    import torch

    pixels = np.random.default_rng(5).uniform(0, 255, (1, 1, 128, 128)).astype(np.float32)
    want = np.asarray(Image.fromarray(pixels[0, 0], "F").resize((64, 64), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(resize(torch.from_numpy(pixels), 64)[0, 0].numpy(), want, atol=1e-3)


def test_other_sizes_are_brought_to_one(extractor: RandomProjection) -> None:
    large = _scenes(2, seed=6, size=128)
    small = np.stack([np.asarray(Image.fromarray(i).resize((64, 64), Image.Resampling.BICUBIC)) for i in large])
    np.testing.assert_allclose(extractor(large), extractor(small), atol=0.02)


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 64, 64, 3), np.float32), np.zeros((64, 64, 3), np.uint8), np.zeros((0, 64, 64, 3), np.uint8)],
)
def test_what_is_not_images_is_refused(extractor: RandomProjection, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        extractor(images)


def test_no_images_no_dimensions_and_broken_features_are_refused(extractor: RandomProjection) -> None:
    with pytest.raises(ValueError, match="no images"):
        extract(extractor, [])
    with pytest.raises(ValueError, match="at least 1"):
        RandomProjection(0)

    class Broken:
        name, digest, dim = "broken", "0", 1

        def __call__(self, images: np.ndarray) -> np.ndarray:
            return np.where(np.arange(len(images)) == 1, np.nan, 0.0)[:, None].astype(np.float32)

    with pytest.raises(ValueError, match="broken: 1 of 3 images"):
        extract(Broken(), [np.zeros((3, 4, 4, 3), np.uint8)])
