"""Training an autoencoder: it learns, the decoder can learn alone, the discriminator joins late, a resume is exact."""

import threading

import numpy as np
import pytest
import torch

from facegen.data.images import encode_png
from facegen.data.shards import Faces, FacesWriter
from facegen.models.autoencoder import build_autoencoder, encode_moments
from facegen.models.discriminator import PatchDiscriminator, adversarial_loss, hinge_loss
from facegen.models.initialize import draw_weights
from facegen.models.judge import AttributeJudge
from facegen.rng import numpy_generator, torch_generator
from facegen.train.autoencoder import AutoencoderLearner, AutoencoderRecipe, encoder_parameters, reconstruct
from facegen.train.faces import FaceSet
from facegen.train.loop import make_accelerator, train

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> FaceSet:
    """Eight pictures of coloured discs."""
    folder = tmp_path_factory.mktemp("faces")
    rows, columns = np.mgrid[:32, :32]
    with FacesWriter(folder, "train", resolution=32, attribute_names=["Male"], sources={}, rows_per_shard=8) as writer:
        for number in range(8):
            generator = numpy_generator(0, "discs", number)
            image = np.empty((32, 32, 3), np.uint8)
            image[:] = generator.integers(0, 256, 3)
            centre, radius = generator.uniform(10, 22, 2), generator.uniform(6, 12)
            image[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2] = generator.integers(0, 256, 3)
            writer.add(f"{number}.png", encode_png(image), np.array([number % 2]), -1, np.zeros((5, 2)))
    return FaceSet(Faces.open(folder, "train"), device=CPU, threads=1)


def recipe(**changes) -> AutoencoderRecipe:
    values = {
        "seed": 0, "mode": "train", "total_images": 64, "learning_rate": 3e-3, "warmup_images": 64,
        "decay_fraction": 0.5,
        "grad_clip": 1.0, "ema_sigma_rel": 0.05, "l1_weight": 1.0, "mse_weight": 5.0,
        "perceptual_weight": 0.0, "kl_weight": 1e-3,
        "adversarial_weight": 0.0, "adversarial_start": 0.5,
    }  # fmt: skip
    return AutoencoderRecipe(**{**values, **changes})


def learner(
    data: FaceSet, plan: AutoencoderRecipe, *, architecture: str = "tiny", width: int = 16
) -> AutoencoderLearner:
    vae = build_autoencoder(architecture=architecture, channels=[width] * 3, layers_per_block=1, latent_channels=4)
    draw_weights(vae, torch_generator(0, "weights"))
    judge = discriminator = None
    if plan.perceptual_weight:
        judge = AttributeJudge(attribute_names=["Male"], width=8)
        draw_weights(judge, torch_generator(0, "judge"))
    if plan.adversarial_weight:
        discriminator = PatchDiscriminator(width=8)
        draw_weights(discriminator, torch_generator(0, "discriminator"))
    return AutoencoderLearner(
        vae.to(memory_format=torch.channels_last), data, plan, judge=judge, discriminator=discriminator
    )


def fit(student: AutoencoderLearner, scratch, *, stop_at: int | None = None) -> list[dict]:
    records: list[dict] = []
    stop = threading.Event()

    def on_log(record, _timing):
        records.append(record)
        if stop_at is not None and record["images"] >= stop_at:
            stop.set()

    train(
        student, total_images=student.recipe.total_images, batch_size=8, scratch=scratch, identity={}, log_images=8,
        checkpoint_images=16, checkpoint_minutes=60, accelerator=make_accelerator(CPU, torch.float32), on_log=on_log,
        stop=stop,
    )  # fmt: skip
    return records


def psnr(vae, data: FaceSet) -> float:
    images = data.images(torch.arange(8), torch.zeros(8, dtype=torch.bool))
    error = (reconstruct(vae, images, dtype=torch.float32) - images).square().mean()
    return float(-10 * torch.log10(error / 4))


@pytest.mark.parametrize(("architecture", "enough_db"), [("tiny", 17.0), ("kl", 17.0)])
def test_it_learns_eight_pictures_by_heart(data, tmp_path, architecture, enough_db):
    student = learner(data, recipe(total_images=1280, learning_rate=4e-3), architecture=architecture)
    before = psnr(student.vae.eval(), data)
    student.vae.train()
    fit(student, tmp_path)
    after = psnr(student.released(), data)
    assert before < 12
    assert after > enough_db


def test_finetuning_the_decoder_leaves_the_encoder_bit_identical(data, tmp_path):
    for architecture in ("tiny", "kl"):
        plan = recipe(mode="finetune-decoder", perceptual_weight=0.5, adversarial_weight=0.1)
        student = learner(data, plan, architecture=architecture)
        images = data.images(torch.arange(4), torch.zeros(4, dtype=torch.bool))
        encoder = [p.detach().clone() for p in encoder_parameters(student.vae)]
        decoder = [p.detach().clone() for p in student.vae.decoder.parameters()]
        with torch.no_grad():
            latents = encode_moments(student.vae, images)
        fit(student, tmp_path / architecture)
        for vae in (student.vae, student.released()):
            assert all(torch.equal(a, b) for a, b in zip(encoder, encoder_parameters(vae), strict=True))
            with torch.no_grad():
                assert all(torch.equal(a, b) for a, b in zip(latents, encode_moments(vae, images), strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(decoder, student.vae.decoder.parameters(), strict=True))


def test_the_discriminator_joins_after_its_share_and_learns_only_in_its_phase(data, tmp_path):
    student = learner(data, recipe(adversarial_weight=0.1, adversarial_start=0.5))
    first = {k: v.clone() for k, v in student.discriminator.named_parameters()}
    records = fit(student, tmp_path)
    assert ["adversarial" in r for r in records] == [r["images"] > 32 for r in records]
    assert ["discriminator_loss" in r for r in records] == [r["images"] > 32 for r in records]
    assert any(not torch.equal(v, first[k]) for k, v in student.discriminator.named_parameters())

    batch = student.batch(32, 8)
    student.discriminator.zero_grad(set_to_none=True)
    student.loss(student.phases[0].module, batch)[0].backward()
    assert all(p.grad is None for p in student.discriminator.parameters())


def test_the_judge_is_never_trained(data, tmp_path):
    student = learner(data, recipe(perceptual_weight=1.0))
    judge = student.phases[0].module.others[0]
    before = {k: v.clone() for k, v in judge.state_dict().items()}
    records = fit(student, tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in judge.state_dict().items())
    assert all(r["perceptual"] > 0 for r in records)


@pytest.mark.parametrize("architecture", ["tiny", "kl"])
def test_stopped_and_started_again_it_ends_with_the_same_bytes(data, tmp_path, architecture):
    from facegen.errors import StoppedError

    plan = recipe(perceptual_weight=0.5, adversarial_weight=0.1)
    whole = learner(data, plan, architecture=architecture)
    fit(whole, tmp_path / "whole")
    with pytest.raises(StoppedError):
        fit(learner(data, plan, architecture=architecture), tmp_path / "parts", stop_at=40)
    resumed = learner(data, plan, architecture=architecture)
    fit(resumed, tmp_path / "parts")
    assert (tmp_path / "parts/log.jsonl").read_text().count("\n") == 8
    for name, value in whole.released().state_dict().items():
        assert torch.equal(value, resumed.released().state_dict()[name]), name


def test_unknown_modes_are_refused(data):
    with pytest.raises(ValueError, match="trained ones: train, finetune-decoder"):
        learner(data, recipe(mode="pretrained"))


def test_hinge_losses():
    right, wrong = torch.full((2, 1, 4, 4), 2.0), torch.full((2, 1, 4, 4), -2.0)
    assert hinge_loss(right, wrong).item() == 0
    assert hinge_loss(torch.zeros(2, 1), torch.zeros(2, 1)).item() == 2
    assert hinge_loss(wrong, right).item() == 6
    assert adversarial_loss(right).item() == -2


def test_batches_are_a_function_of_the_position(data):
    student = learner(data, recipe())
    first, again, other = student.batch(16, 8), student.batch(16, 8), student.batch(24, 8)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.noise, again.noise)
    assert not torch.equal(first.noise, other.noise)
    everything = data.images(torch.arange(8), torch.zeros(8, dtype=torch.bool))
    order, mirrored = student.order.draw(16, 8)
    assert sorted(order.tolist()) == list(range(8))
    expected = torch.where(mirrored[:, None, None, None], everything[order].flip(3), everything[order])
    assert torch.equal(first.images, expected)
