"""What an inpainting model is shown: nothing of what is hidden, all of what is kept."""

import pytest
import torch

from facegen.models.autoencoder import build_autoencoder
from facegen.models.inpainting import context_of, kept_latents, normalized_latents
from facegen.rng import torch_generator

MEAN, STD = [0.1, -0.2, 0.3, 0.0], [1.0, 2.0, 0.5, 1.5]


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return build_autoencoder(architecture="tiny", channels=[8, 8, 8], layers_per_block=1, latent_channels=4).eval()


def pictures(num=2):
    return torch.rand(num, 3, 32, 32, generator=torch_generator(0, "pictures")) * 2 - 1


def test_a_latent_is_kept_only_if_no_pixel_under_it_is_repainted():
    masks = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    masks[0, 0, 7, 12] = True
    kept = kept_latents(masks, pixels=4)
    expected = torch.ones(8, 8)
    expected[1, 3] = 0
    assert torch.equal(kept[0, 0], expected)


def test_nothing_of_the_hidden_part_reaches_the_context(vae):
    images = pictures()
    masks = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    masks[:, :, 9:20, 3:14] = True
    other = torch.where(masks, pictures(2).flip(0), images)
    assert not torch.equal(other, images)
    with torch.no_grad():
        first, second = (context_of(vae, x, masks, mean=MEAN, std=STD) for x in (images, other))
        far = torch.where(masks, images, pictures(2).flip(0))
        third = context_of(vae, far, masks, mean=MEAN, std=STD)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)  # what is kept is seen


def test_all_hidden_is_all_zeros_and_nothing_hidden_is_the_picture(vae):
    images = pictures()
    with torch.no_grad():
        hidden = context_of(vae, images, torch.ones(2, 1, 32, 32, dtype=torch.bool), mean=MEAN, std=STD)
        shown = context_of(vae, images, torch.zeros(2, 1, 32, 32, dtype=torch.bool), mean=MEAN, std=STD)
        latents = normalized_latents(vae, images, mean=MEAN, std=STD)
        raw = vae.encode(images).latents
    assert (hidden == 0).all()
    assert (shown[:, 0] == 1).all()
    assert torch.equal(shown[:, 1:], latents)
    for channel in range(4):
        assert torch.allclose(latents[:, channel] * STD[channel] + MEAN[channel], raw[:, channel], atol=1e-5)


@pytest.mark.parametrize("masks", [torch.zeros(2, 32, 32, dtype=torch.bool), torch.zeros(2, 1, 32, 32)])
def test_masks_of_another_kind_are_refused(vae, masks):
    with pytest.raises(ValueError, match=r"expected bool \(2, 1, 32, 32\)"):
        context_of(vae, pictures(), masks, mean=MEAN, std=STD)
