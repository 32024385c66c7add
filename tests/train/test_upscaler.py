"""Training an upscaler: its pairs, its batches, what it learns, the terms of its loss, and exact resumption."""

import copy
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from facegen.data.images import encode_png, to_unit
from facegen.data.shards import Faces, FacesWriter
from facegen.errors import StoppedError
from facegen.models.autoencoder import build_autoencoder
from facegen.models.discriminator import PatchDiscriminator
from facegen.models.initialize import draw_weights
from facegen.models.judge import AttributeJudge, perceptual_distance
from facegen.models.upscaler import ResidualUpscaler, draw_upscaler_weights, interpolate
from facegen.rng import numpy_generator, torch_generator
from facegen.train.autoencoder import reconstruct
from facegen.train.faces import FaceSet
from facegen.train.loop import make_accelerator, train
from facegen.train.upscaler import PairSet, UpscalerLearner, UpscalerRecipe, reduced, round_trips

CPU = torch.device("cpu")
SIDE, COUNT = 64, 6  # px of the truths, pictures


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def vae():
    made = build_autoencoder(architecture="tiny", channels=[16, 16], layers_per_block=1, latent_channels=4)
    draw_weights(made, torch_generator(0, "vae"))
    return made.eval()


@pytest.fixture(scope="module")
def truths(tmp_path_factory) -> FaceSet:
    """Coloured discs with hard edges on coloured ground."""
    folder = tmp_path_factory.mktemp("large")
    rows, columns = np.mgrid[:SIDE, :SIDE]
    options = {"resolution": SIDE, "attribute_names": ["Male"], "sources": {}, "rows_per_shard": COUNT}
    with FacesWriter(folder, "train", **options) as writer:
        for number in range(COUNT):
            generator = numpy_generator(0, "discs", number)
            image = np.empty((SIDE, SIDE, 3), np.uint8)
            image[:] = generator.integers(0, 256, 3)
            for centre in generator.uniform(8, SIDE - 8, (3, 2)):
                image[np.hypot(rows - centre[0], columns - centre[1]) < 9] = generator.integers(0, 256, 3)
            writer.add(f"{number}.png", encode_png(image), np.array([number % 2]), -1, np.zeros((5, 2)))
    return FaceSet(Faces.open(folder, "train"), device=CPU, threads=1)


@pytest.fixture(scope="module")
def data(truths, vae) -> PairSet:
    return PairSet(truths, vae, scale=4, dtype=torch.float32)


class OnePicture:
    """The first picture of a split."""

    def __init__(self, faces: Faces):
        self.resolution, self.images = faces.resolution, faces.images

    def __len__(self):
        return 1


def recipe(**changes) -> UpscalerRecipe:
    values = {
        "seed": 0, "total_images": 64, "learning_rate": 2e-3, "warmup_images": 16, "decay_fraction": 0.5,
        "grad_clip": 1.0, "ema_sigma_rel": 0.05, "patch_px": 8, "round_trip_share": 0.5, "l1_weight": 1.0,
        "perceptual_weight": 0.0, "adversarial_weight": 0.0, "adversarial_start": 0.5,
    }  # fmt: skip
    return UpscalerRecipe(**{**values, **changes})


def learner(data: PairSet, plan: UpscalerRecipe) -> UpscalerLearner:
    upscaler = ResidualUpscaler(scale=4, width=16, growth=8, layers_per_block=1, num_blocks=1, resolution=data.side)
    draw_upscaler_weights(upscaler, torch_generator(0, "weights"))
    judge = discriminator = None
    if plan.perceptual_weight:
        judge = AttributeJudge(attribute_names=["Male"], width=8)
        draw_weights(judge, torch_generator(0, "judge"))
    if plan.adversarial_weight:
        discriminator = PatchDiscriminator(width=8)
        draw_weights(discriminator, torch_generator(0, "discriminator"))
    return UpscalerLearner(
        upscaler.to(memory_format=torch.channels_last), data, plan, judge=judge, discriminator=discriminator
    )


def fit(student: UpscalerLearner, scratch, *, stop_at: int | None = None, interval: int = 8) -> list[dict]:
    records: list[dict] = []
    stop = threading.Event()

    def on_log(record, _timing):
        records.append(record)
        if stop_at is not None and record["images"] >= stop_at:
            stop.set()

    train(
        student, total_images=student.recipe.total_images, batch_size=4, scratch=scratch, identity={},
        log_images=interval, checkpoint_images=2 * interval, checkpoint_minutes=60,
        accelerator=make_accelerator(CPU, torch.float32), on_log=on_log, stop=stop,
    )  # fmt: skip
    return records


def psnr(made: torch.Tensor, truths: torch.Tensor) -> float:
    return float(-10 * torch.log10((made.clamp(-1, 1) - truths).square().mean() / 4))


def test_reduction_averages_over_what_it_drops():
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 16, 3), dtype=np.uint8)
    made = reduced(images, 4, threads=2)
    assert made.shape == (2, 6, 4, 3)
    assert np.array_equal(made[1], np.asarray(Image.fromarray(images[1]).resize((4, 6), Image.Resampling.LANCZOS)))
    stripes = np.zeros((1, 32, 32, 3), np.uint8)
    stripes[:, ::2] = 200  # every fourth row alone would be all 0 or all 200
    assert np.abs(reduced(stripes, 4, threads=1)[0, 2:-2].astype(int) - 100).max() <= 2
    with pytest.raises(ValueError, match="do not reduce by 4"):
        reduced(images[:, :-1], 4, threads=1)
    with pytest.raises(ValueError, match="expected uint8"):
        reduced(images.astype(np.float32), 4, threads=1)


def test_pairs_are_the_reduced_pictures_and_their_round_trips(data, truths, vae):
    pixels = truths.faces.images(np.arange(COUNT), threads=1)
    small = reduced(pixels, 4, threads=1)
    assert np.array_equal(data.inputs[0].numpy(), small)
    expected = reconstruct(vae, to_unit(small), dtype=torch.float32).permute(0, 2, 3, 1).add(1).mul(127.5)
    assert np.abs(data.inputs[1].numpy() - expected.numpy()).max() < 0.51
    assert np.array_equal(data.inputs[1].numpy(), round_trips(vae, small, dtype=torch.float32))
    assert (data.inputs[0] != data.inputs[1]).any()


def test_pairs_that_the_autoencoder_does_not_take_are_refused(truths, vae):
    with pytest.raises(ValueError, match="truths of 64 px: upscaling by 3 needs multiples of 6 px"):
        PairSet(truths, vae, scale=3, dtype=torch.float32)


@pytest.mark.parametrize("mirrored", [False, True])
def test_crops_of_input_and_truth_show_the_same_place(data, mirrored):
    corner, rows = (3, 5), torch.tensor([2])
    flags = torch.tensor([mirrored]), torch.tensor([False])
    inputs, high = data.crops(rows, *flags, torch.tensor([corner]), 8)
    whole = data.truths.images(rows, flags[0])
    assert torch.equal(high, whole[:, :, 12:44, 20:52])
    small = F.interpolate(whole, scale_factor=0.25, mode="bicubic", antialias=True)[:, :, 3:11, 5:13]
    assert (inputs - small).abs().mean() < 0.03
    assert (inputs - small.flip(3)).abs().mean() > 0.1


def test_batches_are_a_function_of_the_position(data):
    plan = recipe(round_trip_share=0.5)
    student, other = learner(data, plan), learner(data, plan)
    first = student.batch(8, 4)
    student.batch(12, 4)
    again = other.batch(8, 4)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.truths, again.truths)
    assert not torch.equal(first.truths, student.batch(12, 4).truths)
    assert not torch.equal(first.truths, learner(data, recipe(seed=1)).batch(8, 4).truths)


@pytest.mark.parametrize(("share", "which"), [(0.0, 0), (1.0, 1)])
def test_the_share_says_how_many_inputs_are_round_trips(data, share, which):
    """Whole pictures, so that each input can be looked up."""
    batch = learner(data, recipe(round_trip_share=share, patch_px=100)).batch(0, COUNT)
    known = data.inputs.permute(0, 1, 4, 2, 3).float().div(127.5).sub(1)  # (2, S, 3, side, side)
    known = torch.cat([known, known.flip(4)], dim=1)
    for image in batch.inputs:
        assert (known[which] == image).flatten(1).all(dim=1).any()
        assert not (known[1 - which] == image).flatten(1).all(dim=1).any()


def test_a_share_between_mixes_them(data):
    batches = [learner(data, recipe(round_trip_share=0.25, patch_px=100)).batch(4 * i, 4) for i in range(20)]
    known = data.inputs[1].permute(0, 3, 1, 2).float().div(127.5).sub(1)
    known = torch.cat([known, known.flip(3)])
    images = torch.cat([batch.inputs for batch in batches])
    hits = sum(bool((known == image).flatten(1).all(dim=1).any()) for image in images)
    assert 0.1 < hits / len(images) < 0.45


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_it_learns_a_picture_by_heart(truths, vae, tmp_path, share):
    """And is then far better than the interpolation that it began as, from a clean input or from a round trip."""
    lone = copy.copy(truths)
    lone.resident, lone.faces = truths.resident[:1], OnePicture(truths.faces)
    data = PairSet(lone, vae, scale=4, dtype=torch.float32)
    student = learner(data, recipe(total_images=480, learning_rate=5e-3, patch_px=16, round_trip_share=share))
    fit(student, tmp_path, interval=320)
    row, flag = torch.tensor([0]), torch.tensor([bool(share)])
    inputs, high = data.crops(row, torch.tensor([False]), flag, torch.zeros(1, 2, dtype=torch.long), 16)
    with torch.no_grad():
        made, plain = psnr(student.released()(inputs), high), psnr(interpolate(inputs, 4), high)
    assert made > plain + 1.5


def test_the_terms_are_what_they_are_called(data):
    plan = recipe(l1_weight=0.7, perceptual_weight=0.3)
    student = learner(data, plan)
    judge = student.phases[0].module.others[0]
    batch = student.batch(0, 4)
    loss, logs = student.loss(student.phases[0].module, batch)
    made = student.upscaler(batch.inputs)
    expected = (made - batch.truths).abs().mean()
    halves = [F.avg_pool2d(images, 2) for images in (made, batch.truths)]
    distance = perceptual_distance(*(judge.features(half) for half in halves))
    torch.testing.assert_close(loss, (0.7 * expected + 0.3 * distance).detach())
    torch.testing.assert_close(logs["perceptual"], distance.detach())
    assert logs["perceptual"] > 0
    assert all(p.grad is None and not p.requires_grad for p in judge.parameters())


def test_the_discriminator_joins_after_its_share_and_learns_only_in_its_phase(data, tmp_path):
    student = learner(data, recipe(adversarial_weight=0.1))
    first = {k: v.clone() for k, v in student.discriminator.named_parameters()}
    records = fit(student, tmp_path)
    assert ["adversarial" in r for r in records] == [r["images"] > 32 for r in records]
    assert ["discriminator_loss" in r for r in records] == [r["images"] > 32 for r in records]
    assert any(not torch.equal(v, first[k]) for k, v in student.discriminator.named_parameters())
    student.discriminator.zero_grad(set_to_none=True)
    student.loss(student.phases[0].module, student.batch(40, 4))[0].backward()
    assert all(p.grad is None for p in student.discriminator.parameters())


def test_stopped_and_started_again_it_ends_with_the_same_bytes(data, tmp_path):
    plan = recipe(perceptual_weight=0.5, adversarial_weight=0.1)
    whole = learner(data, plan)
    fit(whole, tmp_path / "whole")
    with pytest.raises(StoppedError):
        fit(learner(data, plan), tmp_path / "parts", stop_at=24)
    resumed = learner(data, plan)
    fit(resumed, tmp_path / "parts")
    began = learner(data, plan).released().state_dict()
    for name, value in whole.released().state_dict().items():
        assert torch.equal(value, resumed.released().state_dict()[name]), name
    assert any(not torch.equal(value, began[name]) for name, value in whole.released().state_dict().items())


def test_crops_that_do_not_fit_are_refused_or_made_smaller(data):
    assert learner(data, recipe(patch_px=100)).batch(0, 2).truths.shape == (2, 3, SIDE, SIDE)
    with pytest.raises(ValueError, match="crops of 12 px enlarge to 48 px; the judge needs multiples of 32 px"):
        learner(data, recipe(patch_px=12, perceptual_weight=1.0))
    other = ResidualUpscaler(scale=2, width=8, growth=4, layers_per_block=1, num_blocks=1)
    with pytest.raises(ValueError, match="the upscaler's scale is 2, that of the pairs 4"):
        UpscalerLearner(other, data, recipe(), judge=None, discriminator=None)
