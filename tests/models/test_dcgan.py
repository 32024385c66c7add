"""DCGAN: the layers are those of the description, written out here; weights, losses, conditions and folders."""

import math

import pytest
import torch
from torch import nn

from facegen.models.dcgan import (
    DCGANDiscriminator,
    DCGANGenerator,
    draw_dcgan_weights,
    gan_loss,
    level_widths,
    signs,
)
from facegen.rng import torch_generator

NAMES = ["Male", "Smiling"]


def up(before: int, after: int) -> list[nn.Module]:
    return [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]


def down(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]


def plain_generator_64(z: int, w: int) -> nn.Sequential:
    first = [nn.ConvTranspose2d(z, 8 * w, 4, 1, 0, bias=False), nn.BatchNorm2d(8 * w), nn.ReLU()]
    blocks = [*up(8 * w, 4 * w), *up(4 * w, 2 * w), *up(2 * w, w)]
    return nn.Sequential(*first, *blocks, nn.ConvTranspose2d(w, 3, 4, 2, 1, bias=False), nn.Tanh())


def plain_discriminator_64(w: int) -> nn.Sequential:
    first = [nn.Conv2d(3, w, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    blocks = [*down(w, 2 * w), *down(2 * w, 4 * w), *down(4 * w, 8 * w)]
    return nn.Sequential(*first, *blocks, nn.Conv2d(8 * w, 1, 4, 1, 0, bias=False), nn.Sigmoid())


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Layer by layer, in order; kinds and shapes must agree."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
    picked = [[m for m in net.modules() if isinstance(m, kinds)] for net in (source, target)]
    for kind in kinds:
        pairs = [[m for m in side if isinstance(m, kind)] for side in picked]
        for a, b in zip(*pairs, strict=True):
            b.load_state_dict(a.state_dict())


def networks(resolution: int, *, names: list[str], width: int = 8) -> tuple[DCGANGenerator, DCGANDiscriminator]:
    g = DCGANGenerator(resolution=resolution, width=width, noise_dim=10, attribute_names=names)
    d = DCGANDiscriminator(resolution=resolution, width=width, attribute_names=names)
    draw_dcgan_weights(g, torch_generator(0, "g"))
    draw_dcgan_weights(d, torch_generator(0, "d"))
    return g, d


@pytest.mark.parametrize("training", [True, False])
def test_at_64_px_they_are_the_described_networks(training):
    g, d = networks(64, names=[])
    plain_g, plain_d = plain_generator_64(10, 8), plain_discriminator_64(8)
    copy_weights(g, plain_g)
    copy_weights(d, plain_d)
    for network in (g, d, plain_g, plain_d):
        network.train(training)
    noise, nothing = torch.randn(5, 10, generator=torch_generator(0, "z")), torch.zeros(5, 0, dtype=torch.int8)
    images = g(noise, nothing)
    torch.testing.assert_close(images, plain_g(noise[:, :, None, None]))
    assert images.shape == (5, 3, 64, 64)
    torch.testing.assert_close(d(images, nothing).sigmoid(), plain_d(images).flatten())


def test_other_sizes_have_a_level_more_or_fewer():
    assert level_widths(16, 8) == [8, 16]
    assert level_widths(32, 8) == [8, 16, 32]
    assert level_widths(64, 64) == [64, 128, 256, 512]
    assert level_widths(128, 64) == [64, 128, 256, 512, 1024]
    for side in (16, 32, 128):
        g, d = networks(side, names=NAMES)
        states = torch.tensor([[1, 0], [-1, 1]])
        images = g(torch.randn(2, 10, generator=torch_generator(0, "z")), states)
        assert images.shape == (2, 3, side, side)
        assert d(images, states).shape == (2,)


@pytest.mark.parametrize("side", [0, 8, 48, 96, -64])
def test_other_sides_are_refused(side):
    with pytest.raises(ValueError, match="power of two from 16 on"):
        level_widths(side, 8)


def test_weights_are_drawn_as_published_and_from_the_generator_alone():
    one, two = networks(64, names=NAMES, width=16), networks(64, names=NAMES, width=16)
    for a, b in zip(one, two, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
        kernels = torch.cat([m.weight.flatten() for m in a.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)])
        gains = torch.cat([m.weight for m in a.modules() if isinstance(m, nn.BatchNorm2d)])
        assert abs(kernels.mean()) < 1e-4
        assert abs(kernels.std() - 0.02) < 1e-4
        assert abs(gains.mean() - 1) < 0.005
        assert abs(gains.std() - 0.02) < 0.005
        assert all((m.bias == 0).all() for m in a.modules() if isinstance(m, nn.BatchNorm2d))
        assert all(m.bias is None for m in a.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))


def test_the_loss_is_cross_entropy_of_the_sigmoid_and_stays_finite():
    logits = torch.linspace(-6, 6, 25)
    for real in (True, False):
        expected = nn.BCELoss()(logits.sigmoid(), torch.full_like(logits, float(real)))
        torch.testing.assert_close(gan_loss(logits, real=real), expected)
    assert gan_loss(torch.tensor([-200.0]), real=True).item() == 200
    assert gan_loss(torch.zeros(4), real=False).item() == pytest.approx(math.log(2))
    assert gan_loss(torch.zeros(4, dtype=torch.bfloat16), real=True).dtype == torch.float32


def test_unknown_stands_between_absent_and_present():
    assert signs(torch.tensor([[-1, 0, 1]], dtype=torch.int8)).tolist() == [[0.0, -1.0, 1.0]]


def test_the_generators_condition_is_more_noise_entries():
    conditional, _ = networks(32, names=NAMES)
    plain = DCGANGenerator(resolution=32, width=8, noise_dim=12, attribute_names=[])
    plain.load_state_dict(conditional.state_dict())
    noise, states = torch.randn(3, 10, generator=torch_generator(0, "z")), torch.tensor([[1, 0], [-1, -1], [0, 1]])
    joined = torch.cat([noise, torch.tensor([[1.0, -1.0], [0.0, 0.0], [-1.0, 1.0]])], dim=1)
    expected = plain(joined, torch.zeros(3, 0, dtype=torch.int8))
    assert torch.equal(conditional(noise, states), expected)


def test_the_discriminators_condition_is_a_bias_of_its_first_layer_away_from_the_border():
    _, d = networks(32, names=NAMES)
    first: list[torch.Tensor] = []
    d.layers[0].register_forward_hook(lambda _, _inputs, output: first.append(output))
    image = torch.rand(1, 3, 32, 32, generator=torch_generator(0, "x")).expand(3, -1, -1, -1) * 2 - 1
    with torch.no_grad():
        d(image, torch.tensor([[-1, -1], [1, -1], [0, 1]]))
    maps, kernel = first[0], d.layers[0].weight.detach()
    plain = nn.functional.conv2d(image, kernel[:, :3], stride=2, padding=1)
    torch.testing.assert_close(maps[0], plain[0])
    male, smiling = kernel[:, 3].sum(dim=(1, 2)), kernel[:, 4].sum(dim=(1, 2))
    inner = (maps - plain)[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inner[1], male[:, None, None].expand(-1, 14, 14), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(inner[2], (smiling - male)[:, None, None].expand(-1, 14, 14), rtol=1e-3, atol=1e-6)


def test_folders_keep_both_networks(tmp_path):
    g, d = (network.eval() for network in networks(32, names=NAMES))
    g.save_pretrained(tmp_path / "g")
    d.save_pretrained(tmp_path / "d")
    loaded = DCGANGenerator.from_pretrained(tmp_path / "g").eval(), DCGANDiscriminator.from_pretrained(tmp_path / "d")
    assert list(loaded[0].config.attribute_names) == NAMES
    assert (loaded[0].config.resolution, loaded[0].config.width, loaded[0].config.noise_dim) == (32, 8, 10)
    noise, states = torch.randn(2, 10, generator=torch_generator(0, "z")), torch.tensor([[1, 0], [-1, 1]])
    with torch.no_grad():
        images = g(noise, states)
        assert torch.equal(loaded[0](noise, states), images)
        assert torch.equal(loaded[1].eval()(images, states), d(images, states))


def test_wrong_shapes_are_refused():
    g, d = networks(32, names=NAMES)
    states = torch.zeros(2, 2, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"noise has shape \(2, 9\); expected \(B, 10\)"):
        g(torch.zeros(2, 9), states)
    with pytest.raises(ValueError, match=r"attributes has shape \(2, 1\); expected \(2, 2\) \(Male, Smiling\)"):
        g(torch.zeros(2, 10), states[:, :1])
    with pytest.raises(ValueError, match=r"expected \(B, 3, 32, 32\)"):
        d(torch.zeros(2, 3, 64, 64), states)
