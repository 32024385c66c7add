"""The inpainting model learns to fill: batches as stated, pure functions of the position, and better than before."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from facegen.data.align import canonical_landmarks
from facegen.data.images import encode_png, to_unit
from facegen.data.mask_shapes import random_masks
from facegen.data.shards import Faces, FacesWriter
from facegen.flow.loss import velocity_loss
from facegen.models.autoencoder import build_autoencoder
from facegen.models.dit import LatentDiT, inpainting_model
from facegen.models.inpainting import normalized_latents
from facegen.rng import torch_generator
from facegen.train.faces import FaceSet
from facegen.train.inpainter import (
    InpainterLearner,
    InpainterRecipe,
    bounding_squares,
    shown_parts,
    validation_mse,
    zoomed,
)
from facegen.train.loop import make_accelerator, train
from facegen.train.preview import averaged_copy

CPU = torch.device("cpu")
SIZE = 32


def recipe(**changes):
    values = dict(
        seed=0, dtype=torch.float32, path="linear", time_mean=-0.5, time_std=1.0, laplacian_weight=0.1,
        total_images=1600, learning_rate=3e-3, warmup_images=64, decay_fraction=0.5, betas=(0.9, 0.95), grad_clip=1.0,
        drop_all=0.1, drop_some=0.3, drop_identity=0.5, empty_share=0.2, zoom_share=0.3, zoom_side=0.4, mask_weight=4.0,
        ema_sigma_rel=0.1,
    )  # fmt: skip
    return InpainterRecipe(**{**values, **changes})


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return build_autoencoder(architecture="tiny", channels=[8, 8], layers_per_block=1, latent_channels=4).eval()


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """48 plain pictures of one colour each, of 16 people; the attribute says which half of the colours."""
    folder, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    with FacesWriter(
        folder, "train", resolution=SIZE, attribute_names=["Red"], sources={}, rows_per_shard=64
    ) as writer:
        for n in range(48):
            colour = np.array([200 if n % 2 else 40, *rng.integers(60, 200, 2)], np.uint8)
            picture = Image.fromarray(np.broadcast_to(colour, (SIZE, SIZE, 3)).copy())
            writer.add(
                f"{n}.png", encode_png(picture), np.array([n % 2]), n % 16, np.add(canonical_landmarks(SIZE), (2, 0))
            )
    return FaceSet(Faces.open(folder, "train"), device=CPU, threads=1)


def raw_latents(vae, faces):
    """Latents (S, 2, 4, 16, 16) of the pictures and their mirrors, with mean and deviation of each channel."""
    images = to_unit(faces.resident.numpy())
    with torch.no_grad():
        z = torch.stack([vae.encode(x).latents for x in (images, images.flip(3))], dim=1)
    return z, z.mean((0, 1, 3, 4)).tolist(), z.std((0, 1, 3, 4)).tolist()


def learner(vae, faces, *, embedding=None, **changes):
    z, mean, std = raw_latents(vae, faces)
    generator = LatentDiT(
        sample_size=16, in_channels=4, patch_size=4, hidden_size=32, depth=2, num_heads=2, mlp_ratio=2.0,
        attribute_names=["Red"], latent_mean=mean, latent_std=std, identity_dim=None if embedding is None else 4,
    )  # fmt: skip
    generator.initialize_weights(torch_generator(0, "weights"))
    model = inpainting_model(generator)
    return InpainterLearner(model, vae, faces, recipe(**changes), latents=z.numpy(), embedding=embedding)


def test_the_rows_of_a_batch_are_of_the_stated_kinds(vae, faces):
    batches = [learner(vae, faces).batch(64 * i, 64) for i in range(6)]
    context, crop = torch.cat([b.context for b in batches]), torch.cat([b.crop for b in batches])
    weight = torch.cat([b.weight for b in batches])
    empty = (context == 0).flatten(1).all(dim=1)
    zoom = crop[:, 2] < 1
    assert 0.12 < empty.float().mean() < 0.28
    assert 0.15 < zoom.float().mean() < 0.4  # large masks are shown whole even there
    assert not (empty & zoom).any()
    assert crop[:, 2].min() >= 0.4
    assert (crop[:, :2] - crop[:, 2:] / 2 >= -1e-6).all()
    assert (crop[:, :2] + crop[:, 2:] / 2 <= 1 + 1e-6).all()
    kept = context[:, :1]
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert ((kept == 0).flatten(1).any(dim=1)).all()  # there is always something to fill
    assert torch.equal(weight, torch.where(kept == 1, 1.0, 4.0))


def test_a_batch_is_a_function_of_its_position(vae, faces):
    first, second = (learner(vae, faces).batch(96, 16) for _ in range(2))
    other = learner(vae, faces).batch(112, 16)
    for name in ("x_t", "t", "attributes", "context", "crop", "target"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert not torch.equal(first.x_t, other.x_t)


def test_target_and_noise_make_the_clean_latents_of_what_is_shown(vae, faces):
    trainer = learner(vae, faces, zoom_share=0.8)
    batch = trainer.batch(0, 48)
    x0 = batch.x_t - batch.t[:, None, None, None] * batch.target  # linear path
    indices, _ = trainer.order.draw(0, 48)
    _, mean, std = raw_latents(vae, faces)
    with torch.no_grad():
        plain = normalized_latents(vae, to_unit(faces.resident.numpy())[indices], mean=mean, std=std)
    assert torch.allclose(x0, plain, atol=2e-2)  # pictures of one colour: every part of them is the same picture


def test_zooming_shows_the_stated_square():
    ramp = torch.arange(SIZE).float().add(0.5).div(SIZE)
    image = torch.stack([ramp.expand(SIZE, SIZE), ramp[:, None].expand(SIZE, SIZE)])[None]  # x and y of each pixel
    shown = zoomed(image, torch.tensor([[0.6, 0.4, 0.5]]))
    assert torch.allclose(shown[0, 0, 0], 0.6 + 0.5 * (ramp - 0.5), atol=1e-5)
    assert torch.allclose(shown[0, 1, :, 0], 0.4 + 0.5 * (ramp - 0.5), atol=1e-5)


def test_masks_of_mirrored_pictures_lie_where_the_mirrored_faces_do(vae, faces, monkeypatch):
    asked = []

    def spied(landmarks, **options):
        asked.append(landmarks.copy())
        return random_masks(landmarks, **options)

    monkeypatch.setattr("facegen.train.inpainter.random_masks", spied)
    mirrored = torch.tensor([False, True, True, False])
    learner(vae, faces).masks_and_crops(torch.arange(4), mirrored, 0)
    left, right = asked[0][0], asked[0][1]
    assert np.allclose(left, np.add(canonical_landmarks(SIZE), (2, 0)), atol=1e-4)
    assert np.allclose(right[:, 0], SIZE - 1 - left[[1, 0, 2, 4, 3], 0], atol=1e-4)
    assert np.allclose(right[:, 1], left[[1, 0, 2, 4, 3], 1], atol=1e-4)
    assert np.allclose(asked[0][2], right)
    assert np.allclose(asked[0][3], left)


def test_squares_hold_their_masks():
    rng = np.random.default_rng(0)
    masks = np.zeros((200, SIZE, SIZE), bool)
    for mask in masks:
        x, y = rng.integers(0, SIZE - 6, 2)
        mask[y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = True
    squares = bounding_squares(masks)
    assert squares[:, 2].max() <= 5 / SIZE + 1e-9
    parts = shown_parts(squares, least=0.25, rng=rng)
    assert (parts[:, 2] >= 0.25).all()
    low, high = parts[:, :2] - parts[:, 2:] / 2, parts[:, :2] + parts[:, 2:] / 2
    assert (low >= -1e-9).all()
    assert (high <= 1 + 1e-9).all()
    for mask, (left, top), (right, bottom) in zip(masks, low, high, strict=True):
        ys, xs = np.nonzero(mask)
        assert left * SIZE <= xs.min() + 1e-6
        assert xs.max() + 1 <= right * SIZE + 1e-6
        assert top * SIZE <= ys.min() + 1e-6
        assert ys.max() + 1 <= bottom * SIZE + 1e-6
    with pytest.raises(ValueError, match="mask 1 is empty"):
        bounding_squares(np.stack([masks[0], np.zeros((SIZE, SIZE), bool)]))


def test_the_identity_is_that_of_another_picture(vae, faces):
    embedding = np.eye(4, dtype=np.float32)[np.arange(48) // 16]  # the three pictures of a person have different ones
    trainer = learner(vae, faces, embedding=embedding)
    batch = trainer.batch(0, 32)
    indices, _ = trainer.order.draw(0, 32)
    own = torch.from_numpy(embedding)[indices]
    assert not (batch.identity == own).all(dim=1).any()
    assert batch.identity_known.any()
    assert not batch.identity_known.all()


def test_it_learns_to_fill(vae, faces, tmp_path):
    trainer = learner(vae, faces, empty_share=0.1)
    fresh = averaged_copy(trainer.models["inpainter"], trainer.ema, 0.1)
    before = validation_mse(trainer, fresh, batch_size=48, num_images=96)
    tmp_path.mkdir(exist_ok=True)
    train(
        trainer, total_images=1600, batch_size=32, scratch=tmp_path, identity={"test": 1}, log_images=320,
        checkpoint_images=10**9, checkpoint_minutes=1e9, accelerator=make_accelerator(CPU, torch.float32),
        on_log=lambda record, timing: None, stop=threading.Event(),
    )  # fmt: skip
    model = averaged_copy(trainer.models["inpainter"], trainer.ema, 0.1)
    after = validation_mse(trainer, model, batch_size=48, num_images=96)
    assert after < 0.8 * before
    batch = trainer.batch(0, 48)
    shown = model(batch.x_t, batch.t, batch.attributes, context=batch.context, crop=batch.crop).sample
    blind = model(batch.x_t, batch.t, batch.attributes, crop=batch.crop).sample
    hidden = 1 - batch.context[:, :1]
    errors = [velocity_loss(v, batch.target, hidden)[0].mean() for v in (shown, blind)]
    assert errors[0] < errors[1]  # what is around tells what is missing


def test_what_does_not_fit_is_refused(vae, faces):
    with pytest.raises(ValueError, match="do not fit 48 pictures"):
        learner(vae, faces, embedding=np.eye(4, dtype=np.float32))
    generator = LatentDiT(
        sample_size=16, in_channels=4, patch_size=4, hidden_size=32, depth=1, num_heads=2, mlp_ratio=2.0,
        attribute_names=["Red"], latent_mean=[0.0] * 4, latent_std=[1.0] * 4,
    )  # fmt: skip
    with pytest.raises(ValueError, match="the model has no context"):
        InpainterLearner(
            generator, vae, faces, recipe(), latents=np.zeros((48, 2, 4, 16, 16), np.float16), embedding=None
        )
