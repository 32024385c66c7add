"""Training a DCGAN: a step is the described one, a resume is exact, the condition is learned, NaN changes nothing."""

import copy
import threading

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from facegen.data.images import encode_png
from facegen.data.shards import Faces, FacesWriter
from facegen.errors import NonFiniteError, StoppedError
from facegen.gan_sampling import generate
from facegen.models.dcgan import DCGANDiscriminator, DCGANGenerator, draw_dcgan_weights
from facegen.rng import numpy_generator, torch_generator
from facegen.train.faces import FaceSet
from facegen.train.gan import GanLearner, GanRecipe
from facegen.train.loop import make_accelerator, train

CPU = torch.device("cpu")
NAMES = ["Red", "Bright"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def fresh_accelerate():
    """Accelerate keeps one precision a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> FaceSet:
    """Sixty-four pictures, red or blue, bright or dark, with a little grain."""
    folder = tmp_path_factory.mktemp("faces")
    with FacesWriter(folder, "train", resolution=16, attribute_names=NAMES, sources={}, rows_per_shard=64) as writer:
        for number in range(64):
            red, bright = number % 2, number // 2 % 2
            image = np.full((16, 16, 3), 60, np.uint8)
            image[:, :, 0 if red else 2] = 240 if bright else 130
            image += numpy_generator(0, "grain", number).integers(0, 15, image.shape, dtype=np.uint8)
            writer.add(f"{number}.png", encode_png(image), np.array([red, bright]), -1, np.zeros((5, 2)))
    return FaceSet(Faces.open(folder, "train"), device=CPU, threads=1)


def learner(data: FaceSet, *, names: list[str] = NAMES, name: str = "conditional", **rates) -> GanLearner:
    g = DCGANGenerator(resolution=16, width=8, noise_dim=6, attribute_names=names)
    d = DCGANDiscriminator(resolution=16, width=8, attribute_names=names)
    draw_dcgan_weights(g, torch_generator(0, "g"))
    draw_dcgan_weights(d, torch_generator(0, "d"))
    recipe = GanRecipe(**{"seed": 0, "name": name, "learning_rate": 2e-4, "beta1": 0.5, **rates})
    place = {"memory_format": torch.channels_last}
    return GanLearner(g.to(**place), d.to(**place), data, recipe)


def fit(student: GanLearner, scratch, *, total: int, stop_at: int | None = None, dtype=torch.float32) -> list[dict]:
    records: list[dict] = []
    stop = threading.Event()

    def on_log(record, _timing):
        records.append(record)
        if stop_at is not None and record["images"] >= stop_at:
            stop.set()

    train(
        student, total_images=total, batch_size=16, scratch=scratch, identity={}, log_images=16, checkpoint_images=32,
        checkpoint_minutes=60, accelerator=make_accelerator(CPU, dtype), on_log=on_log, stop=stop,
    )  # fmt: skip
    return records


@pytest.mark.parametrize("names", [[], NAMES])
def test_a_step_is_the_described_one(data, tmp_path, names):
    student = learner(data, names=names, learning_rate=1e-2)
    g, d = copy.deepcopy(student.generator), copy.deepcopy(student.discriminator)
    adam_g, adam_d = (torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.5, 0.999)) for net in (g, d))
    criterion, ones, zeros = nn.BCELoss(), torch.ones(16), torch.zeros(16)
    expected = []
    for position in (0, 16, 32):
        b = student.batch(position, 16)
        adam_d.zero_grad()
        on_real = d(b.images, b.attributes).sigmoid()
        loss_real = criterion(on_real, ones)
        loss_real.backward()
        fake = g(b.noise, b.asked)
        on_fake = d(fake.detach(), b.asked).sigmoid()
        loss_fake = criterion(on_fake, zeros)
        loss_fake.backward()
        adam_d.step()
        adam_g.zero_grad()
        loss_g = criterion(d(fake, b.asked).sigmoid(), ones)
        loss_g.backward()
        adam_g.step()
        expected.append(
            [
                float(x)
                for x in (
                    loss_real.detach() + loss_fake.detach(),
                    loss_g.detach(),
                    on_real.detach().mean(),
                    on_fake.detach().mean(),
                )
            ]
        )
    records = fit(student, tmp_path, total=48)
    for mine, plain in ((student.generator, g), (student.discriminator, d)):
        for (name, value), wanted in zip(mine.state_dict().items(), plain.state_dict().values(), strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-4, msg=name)
    found = [[r["d_loss"], r["g_loss"], r["d_real"], r["d_fake"]] for r in records]
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert [r["loss"] for r in records] == pytest.approx([r["d_loss"] + r["g_loss"] for r in records])
    assert {r["lr"] for r in records} == {1e-2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stopped_and_started_again_it_ends_with_the_same_bytes(data, tmp_path, fresh_accelerate, dtype):
    whole = learner(data)
    fit(whole, tmp_path / "whole", total=128, dtype=dtype)
    with pytest.raises(StoppedError):
        fit(learner(data), tmp_path / "parts", total=128, stop_at=64, dtype=dtype)
    resumed = learner(data)
    fit(resumed, tmp_path / "parts", total=128, dtype=dtype)
    assert (tmp_path / "parts/log.jsonl").read_text().count("\n") == 8
    final = "checkpoint-000000000128.safetensors"  # networks with running statistics, and both optimizers
    assert (tmp_path / "whole" / final).read_bytes() == (tmp_path / "parts" / final).read_bytes()
    for part in ("generator", "discriminator"):
        one, two = (getattr(student, part).state_dict() for student in (whole, resumed))
        assert any("running_var" in name for name in one)
        assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_the_condition_decides_colour_and_brightness(data, tmp_path):
    student = learner(data, learning_rate=4e-3)
    fit(student, tmp_path, total=1600)
    states = np.array([[red, bright] for red in (0, 1) for bright in (0, 1)], np.int8).repeat(8, axis=0)
    images = generate(student.generator, states, np.arange(32), batch_size=32, device=CPU)
    blue_dark, blue_bright, red_dark, red_bright = images.reshape(4, 8, 16, 16, 3).mean(axis=(1, 2, 3))
    assert blue_dark[2] > blue_dark[0] + 30
    assert blue_bright[2] > blue_bright[0] + 60
    assert red_dark[0] > red_dark[2] + 30
    assert red_bright[0] > red_bright[2] + 60
    assert blue_bright[2] > blue_dark[2] + 30
    assert red_bright[0] > red_dark[0] + 30


def test_batches_are_a_function_of_position_and_name(data):
    student = learner(data)
    first, again, later = student.batch(16, 16), learner(data).batch(16, 16), student.batch(32, 16)
    other = learner(data, name="unconditional").batch(16, 16)
    for field in ("images", "attributes", "noise", "asked"):
        assert torch.equal(getattr(first, field), getattr(again, field)), field
    assert not torch.equal(first.noise, later.noise)
    assert not torch.equal(first.noise, other.noise)
    indices, _ = student.order.draw(16, 16)
    assert torch.equal(first.attributes, data.attributes[indices])
    assert not torch.equal(first.asked, first.attributes)
    assert sorted(first.asked.tolist()) == sorted(first.attributes.tolist())
    assert student.batch(0, 64).noise.std() == pytest.approx(1, abs=0.1)


def test_each_phase_gives_gradients_to_its_own_network(data):
    student = learner(data)
    batch, (first, second) = student.batch(0, 16), student.phases
    assert [(p.name, p.module) for p in student.phases] == [
        ("discriminator", student.discriminator), ("generator", student.generator),
    ]  # fmt: skip
    first.loss(first.module, batch)[0].backward()
    assert all(p.grad is None for p in student.generator.parameters())
    assert all(p.grad.abs().sum() > 0 for p in student.discriminator.parameters())
    student.discriminator.zero_grad(set_to_none=True)
    second.loss(second.module, batch)[0].backward()
    assert all(p.grad is None for p in student.discriminator.parameters())
    assert all(p.grad.abs().sum() > 0 for p in student.generator.parameters())


@pytest.mark.parametrize("broken", ["generator", "discriminator"])
def test_without_clipping_nan_still_stops_before_the_update(data, tmp_path, broken):
    student = learner(data)
    with torch.no_grad():
        getattr(student, broken).layers[0].weight[0, 0, 0, 0] = float("nan")
    before = [p.detach().clone() for p in student.discriminator.parameters()]
    with pytest.raises(NonFiniteError, match="no weight was changed"):
        fit(student, tmp_path, total=16)
    for old, new in zip(before, student.discriminator.parameters(), strict=True):
        assert torch.equal(old.nan_to_num(7), new.detach().nan_to_num(7))


def test_networks_that_do_not_fit_are_refused(data):
    fitting = learner(data)
    recipe, g = fitting.recipe, fitting.generator
    with pytest.raises(ValueError, match="different attributes"):
        GanLearner(g, learner(data, names=[]).discriminator, data, recipe)
    foreign = DCGANGenerator(resolution=16, width=8, noise_dim=6, attribute_names=["Male", "Bright"])
    same = DCGANDiscriminator(resolution=16, width=8, attribute_names=["Male", "Bright"])
    with pytest.raises(ValueError, match="different attributes"):
        GanLearner(foreign, same, data, recipe)
    large = DCGANDiscriminator(resolution=32, width=8, attribute_names=NAMES)
    with pytest.raises(ValueError, match="different resolutions"):
        GanLearner(g, large, data, recipe)
