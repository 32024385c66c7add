"""The upscaler's network: the interpolation at the start, its layers, how far a pixel sees, and its folder."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from facegen.errors import DamagedArtifactError
from facegen.models.upscaler import (
    DenseBlock,
    ResidualDenseBlock,
    ResidualUpscaler,
    draw_upscaler_weights,
    interpolate,
    load_upscaler,
)
from facegen.rng import torch_generator


def network(*, drawn_head: bool = True, **changes) -> ResidualUpscaler:
    values = {"scale": 4, "width": 8, "growth": 4, "layers_per_block": 2, "num_blocks": 1, **changes}
    made = ResidualUpscaler(**values)
    draw_upscaler_weights(made, torch_generator(0, "upscaler"))
    if drawn_head:
        torch.nn.init.normal_(made.head.weight, std=0.1, generator=torch_generator(0, "head"))
    return made.eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch_generator(0, "x")) * 2 - 1


def test_untrained_it_is_the_interpolation():
    images = noise(2, 3, 9, 14)
    torch.testing.assert_close(network(drawn_head=False)(images), interpolate(images, 4), rtol=0, atol=0)
    assert (network()(images) - interpolate(images, 4)).abs().max() > 0.05


def test_the_interpolation_is_pillows_bicubic():
    """Of single-channel pictures of floats, which Pillow does not round."""
    image = noise(1, 1, 7, 12)
    expected = Image.fromarray(image[0, 0].numpy()).resize((48, 28), Image.Resampling.BICUBIC)
    made = interpolate(image.expand(1, 3, 7, 12), 4)
    for channel in made[0]:
        np.testing.assert_allclose(channel.numpy(), np.asarray(expected), atol=1e-5)


def test_a_dense_block_is_the_described_one():
    block = DenseBlock(6, 3, 2)
    x = noise(1, 6, 5, 5)
    first = F.leaky_relu(block.layers[0](x), 0.2)
    second = F.leaky_relu(block.layers[1](torch.cat([x, first], 1)), 0.2)
    torch.testing.assert_close(block(x), x + 0.2 * block.fuse(torch.cat([x, first, second], 1)))
    three = ResidualDenseBlock(6, 3, 2)
    h = three[2](three[1](three[0](x)))
    torch.testing.assert_close(three(x), x + 0.2 * h)


def test_each_output_pixel_comes_from_its_own_place():
    """A head that only has biases shows the order of the shuffle: channel c, row i and column j of each 4x4 cell."""
    made = network(drawn_head=False)
    made.head.bias.data = torch.arange(48, dtype=torch.float32)
    out = made(torch.zeros(1, 3, 2, 3))
    for channel in range(3):
        cell = torch.arange(16.0).reshape(4, 4) + 16 * channel
        torch.testing.assert_close(out[0, channel], cell.repeat(2, 3))


@pytest.mark.parametrize(("layers", "blocks"), [(1, 1), (2, 1), (1, 2)])
def test_a_pixel_sees_as_far_as_it_says_and_no_farther(layers, blocks):
    made = network(layers_per_block=layers, num_blocks=blocks).double()
    for parameter in made.parameters():  # no path may cancel another or be cut by the ReLU
        torch.nn.init.uniform_(parameter, 0.2, 0.4, generator=torch_generator(0, "positive"))
    reach = made.reach_px
    side = 2 * reach + 5
    image = noise(1, 3, 1, side).abs().double().requires_grad_()
    made(image)[0, 0, 0, 4 * (reach + 2)].backward()
    seen = torch.nonzero(image.grad.abs().sum(dim=(0, 1, 2))).flatten()
    assert (int(seen.min()), int(seen.max())) == (2, 2 * reach + 2)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
def test_it_takes_any_size(scale, size):
    made = network(scale=scale)
    assert made(noise(2, 3, *size)).shape == (2, 3, scale * size[0], scale * size[1])


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (1, 3, 0, 8)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        network()(torch.zeros(shape))


def test_under_autocast_the_interpolation_stays_exact():
    images = noise(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        made = network(drawn_head=False)(images)
    assert made.dtype == torch.float32
    assert torch.equal(made, interpolate(images, 4))


def test_folders_give_the_same_network_back_or_say_what_is_wrong(tmp_path):
    made = network(resolution=16)
    made.save_pretrained(tmp_path / "whole")
    back = load_upscaler(tmp_path / "whole")
    images = noise(1, 3, 8, 8)
    assert torch.equal(made(images), back(images))
    assert (back.config.resolution, back.config.scale) == (16, 4)
    assert not back.training
    assert not any(p.requires_grad for p in back.parameters())
    with pytest.raises(FileNotFoundError, match="run the upscaler stage"):
        load_upscaler(tmp_path)
    made.head.bias.data[0] = torch.nan
    made.save_pretrained(tmp_path / "nan")
    with pytest.raises(DamagedArtifactError, match=r"head\.bias holds NaN"):
        load_upscaler(tmp_path / "nan")
    weights = next((tmp_path / "whole").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(DamagedArtifactError, match="do not load"):
        load_upscaler(tmp_path / "whole")
