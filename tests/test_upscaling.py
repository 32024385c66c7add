"""Enlarging pictures: tiles without seams, pictures of any size, independence of the batch, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from facegen.artifacts import write_json
from facegen.data.images import to_uint8, to_unit
from facegen.models.upscaler import ResidualUpscaler, draw_upscaler_weights
from facegen.rng import torch_generator
from facegen.upscaling import FaceUpscaler, available, lanczos

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def upscaler() -> FaceUpscaler:
    network = ResidualUpscaler(scale=4, width=8, growth=4, layers_per_block=1, num_blocks=1)
    draw_upscaler_weights(network, torch_generator(0, "upscaler"))
    torch.nn.init.normal_(network.head.weight, std=0.3, generator=torch_generator(0, "head"))
    return FaceUpscaler(network, device=CPU)


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_a_picture_is_what_the_network_makes_of_it(upscaler):
    images = pictures(2, 10, 13)
    with torch.no_grad():
        expected = to_uint8(upscaler.network(to_unit(images)))
    made = upscaler.upscale(images)
    assert np.abs(made.astype(int) - expected).max() <= 1  # another batch, another rounding
    assert np.abs(made.astype(int) - lanczos(images, 4)).mean() > 3


@pytest.mark.parametrize("size", [(70, 45), (33, 90)])
@pytest.mark.parametrize("tile_px", [16, 31])
def test_tiles_leave_no_seam(upscaler, size, tile_px):
    images = pictures(1, *size)
    whole, tiled = upscaler.upscale(images, tile_px=1000), upscaler.upscale(images, tile_px=tile_px)
    difference = np.abs(whole.astype(int) - tiled)
    assert difference.max() <= 1  # a value that lies between two grey levels
    assert (difference > 0).mean() < 1e-3


def test_tiles_that_overlap_too_little_would_have_seams(upscaler, monkeypatch):
    monkeypatch.setattr(ResidualUpscaler, "reach_px", 3)
    images = pictures(1, 40, 40)
    difference = np.abs(upscaler.upscale(images, tile_px=1000).astype(int) - upscaler.upscale(images, tile_px=16))
    assert difference.max() > 1


def test_a_picture_does_not_depend_on_its_batch(upscaler):
    images = pictures(3, 20, 20)
    together = upscaler.upscale(images)
    for row in range(3):
        assert np.array_equal(upscaler.upscale(images[row : row + 1])[0], together[row])


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (3, 2)])
def test_small_pictures_are_taken(upscaler, size):
    assert upscaler.upscale(pictures(1, *size)).shape == (1, 4 * size[0], 4 * size[1], 3)


def test_no_picture_is_no_picture(upscaler):
    assert upscaler.upscale(pictures(0, 8, 8)).shape == (0, 32, 32, 3)
    assert lanczos(pictures(0, 8, 8), 2).shape == (0, 16, 16, 3)


def test_an_untrained_upscaler_keeps_a_flat_picture_flat():
    network = ResidualUpscaler(scale=4, width=8, growth=4, layers_per_block=1, num_blocks=1)
    draw_upscaler_weights(network, torch_generator(0, "upscaler"))
    for grey in (0, 127, 255):
        flat = np.full((1, 40, 24, 3), grey, np.uint8)
        assert (FaceUpscaler(network, device=CPU).upscale(flat, tile_px=16) == grey).all()


def test_lanczos_is_pillows_and_keeps_flat_pictures():
    images = pictures(2, 6, 9)
    made = lanczos(images, 3)
    assert made.shape == (2, 18, 27, 3)
    for row in range(2):
        expected = Image.fromarray(images[row]).resize((27, 18), Image.Resampling.LANCZOS)
        assert np.array_equal(made[row], np.asarray(expected))
    assert np.array_equal(lanczos(images, 1), images)
    assert (lanczos(np.full((1, 5, 5, 3), 90, np.uint8), 4) == 90).all()


@pytest.mark.parametrize(
    "images",
    [pictures(8, 8), np.zeros((1, 8, 8, 1), np.uint8), np.zeros((1, 8, 8, 3)), np.zeros((1, 0, 8, 3), np.uint8)],
)
def test_other_pictures_are_refused(upscaler, images):
    for enlarge in (upscaler.upscale, lambda x: lanczos(x, 4)):
        with pytest.raises(ValueError, match=r"expected uint8 \(B, H, W, 3\)"):
            enlarge(images)


def test_senseless_numbers_are_refused(upscaler):
    with pytest.raises(ValueError, match="scale is 0"):
        lanczos(pictures(1, 8, 8), 0)
    with pytest.raises(ValueError, match="tile_px is 0"):
        upscaler.upscale(pictures(1, 8, 8), tile_px=0)


def test_a_folder_says_whether_there_is_one(tmp_path, upscaler):
    assert not available(tmp_path)
    with pytest.raises(FileNotFoundError, match="run the upscaler stage"):
        FaceUpscaler.load(tmp_path, device=CPU)
    write_json(tmp_path / "upscaler.json", {"absent": "no large pictures"})
    assert not available(tmp_path)
    with pytest.raises(ValueError, match="holds no upscaler: no large pictures"):
        FaceUpscaler.load(tmp_path, device=CPU)
    upscaler.network.save_pretrained(tmp_path / "model")
    write_json(tmp_path / "model/upscaler.json", {"images": 3})
    assert available(tmp_path / "model")
    back, images = FaceUpscaler.load(tmp_path / "model", device=CPU), pictures(1, 8, 8)
    assert back.scale == 4
    assert np.array_equal(back.upscale(images), upscaler.upscale(images))
