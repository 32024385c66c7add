"""PSNR and SSIM against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from facegen.metrics.reconstruction import psnr_db, ssim


def _images(n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(20, 230, (n, 16, 16, 3), dtype=np.uint8)


def test_psnr_of_known_errors() -> None:
    images = _images()
    off = images.copy()
    off[0] += 1  # MSE 1
    off[1, :8] -= 10  # MSE 50
    found = psnr_db(images, off)
    assert found[0] == pytest.approx(48.1308, abs=1e-4)
    assert found[1] == pytest.approx(10 * np.log10(255**2 / 50))
    assert found[2] == pytest.approx(10 * np.log10(255**2 * 16 * 16 * 3)) and np.isfinite(found).all()


def test_ssim_of_flat_images_is_its_luminance_term() -> None:
    a, b = np.full((1, 16, 16, 3), 100, np.uint8), np.full((1, 16, 16, 3), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b)[0] == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), rel=1e-6)
    assert ssim(a, a)[0] == 1


def test_ssim_falls_with_error_and_is_symmetric() -> None:
    images = _images()
    rng = np.random.default_rng(1)
    little, much = (np.clip(images + rng.normal(0, s, images.shape), 0, 255).astype(np.uint8) for s in (5, 40))
    assert (ssim(images, little) > ssim(images, much)).all()
    np.testing.assert_allclose(ssim(images, much), ssim(much, images), rtol=1e-9)


@pytest.mark.parametrize("figure", [psnr_db, ssim])
def test_pairs_that_do_not_match_are_refused(figure: object) -> None:
    images = _images()
    for other, message in ((images[:2], r"\(N, H, W, 3\)"), (images / 255, "uint8")):
        with pytest.raises(ValueError, match=message):
            figure(images, other)  # type: ignore[operator]


def test_images_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 11 px"):
        ssim(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.uint8))
