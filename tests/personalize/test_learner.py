"""Training f_map: what is trained and what is frozen, the batches, the terms of the loss, and exact resumption."""

import dataclasses
import threading

import pytest
import torch
from torch import nn

from facegen.data.images import to_unit
from facegen.errors import StoppedError
from facegen.personalize.injection import class_start, encode_prompts
from facegen.personalize.learner import (
    MapperLearner,
    MapperRecipe,
    SubjectDenoiser,
    first_positions,
    scene_latents,
    seeded_dropout,
)
from facegen.personalize.losses import masked_loss
from facegen.personalize.mapping import Mapper
from facegen.personalize.prompts import build_prompt
from facegen.personalize.subjects import person_masks
from facegen.rng import torch_generator
from facegen.train.loop import make_accelerator, train
from tests.personalize.made_subjects import LATENT, rule, small_base, subject_scenes, write_faces, write_scenes

PEOPLE = [[0, 1], [2], [3, 4], [5], [1, 2], [0]]
CPU = torch.device("cpu")
PLAIN = {"cgdr_share": 0.0, "localization_weight": 0.0}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small_base(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    scenes = write_scenes(tmp_path_factory.mktemp("scenes"), PEOPLE)
    faces = write_faces(tmp_path_factory.mktemp("faces"), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    return subject_scenes(scenes, faces, rule())


class Tint:
    """An expression encoder: the crop's mean colour."""

    name = "tint"

    def __call__(self, crops):
        return crops.mean(dim=(2, 3))


def recipe(**changes) -> MapperRecipe:
    values = {
        "seed": 0, "name": "test", "max_subjects": 2, "fusion": "replace_input", "class_word": "a person",
        "drop_expression": 0.2, "background_weight": 1.0, "cgdr_share": 1.0, "localization_weight": 0.1,
        "mask_share": 0.0, "total_images": 64, "learning_rate": 3e-3, "weight_decay": 0.0, "grad_clip": 1.0,
    }  # fmt: skip
    return MapperRecipe(**{**values, **changes})


def made_mapper(base, data, *, expression_dim=3, expression="none", gain=20.0, **changes) -> Mapper:
    """Away from its start, so that faces differ."""
    mapper = Mapper(
        identity_dim=data.features.shape[1], expression_dim=expression_dim, hidden_size=16, out_dim=16,
        expression=expression, **{"dropout": 0.0, **changes},
    )  # fmt: skip
    mapper.initialize(torch_generator(0, "mapper"), class_start(base.text_encoder, base.tokenizer, "a person"))
    with torch.no_grad():
        for network in (mapper.i2t_first, mapper.i2t_last):
            network.fc_out.weight.mul_(gain)
    return mapper


def learner(base, data, plan: MapperRecipe, mapper: Mapper | None = None) -> MapperLearner:
    latents = scene_latents(base, data.scenes, dtype=torch.float32, threads=1)
    masks = person_masks(data.scenes, kind="segment", most=data.most, latent_size=LATENT, threads=1)
    return MapperLearner(mapper or made_mapper(base, data), base, data, plan, latents=latents, masks=masks)


def loss_of(student: MapperLearner, batch):
    loss, logs = student.loss(student.phases[0].module, batch)
    return loss, {name: float(value.detach()) for name, value in logs.items()}


def fit(student: MapperLearner, scratch, *, stop_at: int | None = None, total: int = 64) -> list[dict]:
    records: list[dict] = []
    stop = threading.Event()

    def on_log(record, _timing):
        records.append(record)
        if stop_at is not None and record["images"] >= stop_at:
            stop.set()

    train(
        student, total_images=total, batch_size=4, scratch=scratch, identity={}, log_images=8,
        checkpoint_images=16, checkpoint_minutes=60, accelerator=make_accelerator(CPU, torch.float32),
        on_log=on_log, stop=stop,
    )  # fmt: skip
    return records


def states(*modules):
    return [{k: v.clone() for k, v in module.state_dict().items()} for module in modules]


@pytest.mark.parametrize("fusion", ["replace_input", "add_output"])
def test_only_f_map_and_the_null_expression_learn(base, data, tmp_path, fusion):
    frozen = (base.text_encoder, base.unet, base.vae)
    before = states(*frozen)
    student = learner(base, data, recipe(fusion=fusion, total_images=8))
    mapper = student.models["mapper"]
    first = states(mapper)[0]
    module = student.phases[0].module
    loss, _ = student.loss(module, student.batch(0, 4))
    loss.backward()
    trained = {id(p) for group in student.phases[0].optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in mapper.parameters()} == {id(p) for p in module.parameters()}
    unused = {"i2t_last"} if fusion == "add_output" else set()
    for name, parameter in mapper.named_parameters():
        if name.split(".")[0] in unused:
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    for network in frozen:
        assert not network.training and not any(p.requires_grad or p.grad is not None for p in network.parameters())
    fit(student, tmp_path, total=8)
    for old, network in zip(before, frozen, strict=True):
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in old.items())
    assert all((value != first[name]).any() for name, value in mapper.state_dict().items() if name[:8] not in unused)


def test_the_same_words_have_no_background_gradient(base, data):
    """Where f_map says the class word itself, outside the masks there is nothing to learn."""
    mapper = made_mapper(base, data, gain=0.0)  # its outputs are the class word, for everybody
    student = learner(base, data, recipe(localization_weight=0.0, max_subjects=1), mapper)
    batch = student.batch(0, 4)
    rows = [n for n, p in enumerate(batch.prompts) if p.positions[0][1] == 1]  # elsewhere positions differ
    assert rows
    none = dataclasses.replace(batch, masks=torch.zeros_like(batch.masks))
    out = student.phases[0].module(none)
    assert torch.allclose(out["prediction"][rows], out["guide"][rows], atol=1e-4)  # two kernels of attention
    assert not out["guide"].requires_grad and out["prediction"].requires_grad


def test_full_masks_make_the_guided_loss_the_plain_one(base, data):
    student, plain = learner(base, data, recipe(localization_weight=0.0)), learner(base, data, recipe(**PLAIN))
    batch = student.batch(0, 6)
    full = dataclasses.replace(batch, masks=torch.ones_like(batch.masks))
    unguided = plain.batch(0, 6)
    assert not unguided.guided.any() and batch.guided.all()
    assert loss_of(student, full)[1]["denoising"] == pytest.approx(loss_of(plain, unguided)[1]["denoising"], rel=1e-5)


def test_the_guided_loss_by_hand(base, data):
    student = learner(base, data, recipe(localization_weight=0.0, background_weight=0.5))
    batch = student.batch(0, 6)
    out = student.phases[0].module(batch)
    texts = data.draw(student.order, 0, 6, max_subjects=2).prompts
    plain = [text.replace("<id:0>", "a person").replace("<id:1>", "a person") for text in texts]
    hidden = encode_prompts(base.text_encoder, base.tokenizer, plain)
    guide = base.predict(batch.noisy, batch.timesteps, hidden)
    assert torch.allclose(out["guide"], guide, atol=1e-5)
    union = batch.masks.sum(dim=1, keepdim=True).clamp(max=1)  # the people of a scene do not overlap
    inside, outside = (out["prediction"] - batch.target) ** 2, (out["prediction"] - guide) ** 2
    expected = torch.where(union > 0.5, inside, 0.5 * outside).mean()
    assert float(loss_of(student, batch)[0]) == pytest.approx(float(expected), rel=1e-4)


def test_masked_and_plain_samples_are_mixed_by_their_shares(base, data):
    student = learner(base, data, recipe(cgdr_share=0.5, mask_share=0.5, localization_weight=0.0))
    kinds = student.batch(0, 400)
    assert not (kinds.guided & kinds.masked).any()
    assert float(kinds.guided.float().mean()) == pytest.approx(0.5, abs=0.08)
    assert float(kinds.masked.float().mean()) == pytest.approx(0.25, abs=0.08)
    batch = next(b for n in range(100) if (b := student.batch(6 * n, 6)).masked.any() and b.guided.any()
                 and not (b.masked | b.guided).all())  # fmt: skip
    parts = []
    for row in range(6):
        one = torch.zeros(6, dtype=torch.bool)
        one[row] = True
        kept = dataclasses.replace(batch, guided=batch.guided & one, masked=batch.masked & one)
        out = student.phases[0].module(batch)
        prediction, target = out["prediction"][one], batch.target[one]
        union = batch.masks[one].amax(1, keepdim=True)
        if kept.guided.any():
            target = union * target + (1 - union) * out["guide"][one]
        masked = masked_loss(prediction, target, union)
        parts.append(masked if kept.masked.any() else (prediction - target).square().mean())
    expected = torch.stack(parts).mean()
    assert float(loss_of(student, batch)[0]) == pytest.approx(float(expected), rel=1e-3)


def test_noise_is_that_of_the_ddpm_schedule(base, data):
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, and v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0."""
    student = learner(base, data, recipe())
    batch, told = student.batch(8, 4), data.draw(student.order, 8, 4, max_subjects=2)
    images = to_unit(data.scenes.images(told.rows, threads=1))
    x0 = base.vae.encode(images).latents * base.vae.config.scaling_factor
    abar = base.ddpm.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
    noise = (batch.noisy - abar.sqrt() * x0) / (1 - abar).sqrt()
    assert torch.allclose(batch.target, abar.sqrt() * noise - (1 - abar).sqrt() * x0, atol=1e-3)
    many = student.batch(0, 300)
    assert int(many.timesteps.min()) < 30 and int(many.timesteps.max()) > 970


def test_masks_and_features_go_with_the_markers(base, data):
    student = learner(base, data, recipe())
    batch, told = student.batch(0, 12), data.draw(student.order, 0, 12, max_subjects=2)
    at = 0
    for slot in range(12):
        for k, segment in enumerate(told.segments[slot]):
            assert bool(batch.valid[slot, k]) == (segment >= 0)
            expected = student.masks[told.rows[slot], segment] if segment >= 0 else torch.zeros(LATENT)
            assert torch.equal(batch.masks[slot, k], expected)
        num = int(batch.valid[slot].sum())
        assert torch.equal(batch.identity[at : at + num], data.features[told.references[at : at + num]])
        assert batch.owners[at : at + num].tolist() == [slot] * num
        assert batch.prompts[slot].num_subjects == num and not batch.class_prompts[slot].positions
        at += num
    assert at == len(batch.identity)


def test_first_positions(base):
    prompts = [build_prompt(base.tokenizer, text, num_subjects=n) for text, n in
               (("<id:1> smiling and <id:0>", 2), ("a person and <id:0>", 1))]  # fmt: skip
    assert first_positions(prompts, 3).tolist() == [[5, 1, 0], [4, 0, 0]]


def test_localisation_enters_by_its_weight(base, data):
    batch = learner(base, data, recipe()).batch(0, 6)
    alone, _ = loss_of(learner(base, data, recipe(localization_weight=0.0)), batch)
    both, logs = loss_of(learner(base, data, recipe(localization_weight=10.0)), batch)
    assert logs["localization"] != 0
    assert float(both) == pytest.approx(float(alone) + 10 * logs["localization"], rel=1e-4)
    assert logs["denoising"] == pytest.approx(float(alone), rel=1e-4)


def test_localisation_alone_draws_attention_to_the_people(base, data, tmp_path):
    student = learner(base, data, recipe(localization_weight=1e4, total_images=160, learning_rate=3e-2))
    batch = student.batch(10**6, 32)
    before = loss_of(student, batch)[1]["localization"]
    fit(student, tmp_path, total=160)
    after = loss_of(student, batch)[1]["localization"]
    assert after < before - 3e-4, (before, after)


def test_expressions_are_dropped_at_their_rate_and_null_exp_learns(base, data):
    told = subject_scenes(data.scenes, None, rule(), expression=Tint())
    student = learner(base, told, recipe(drop_expression=0.3), made_mapper(base, told, expression="tint"))
    batch = student.batch(0, 400)
    assert batch.expression.shape == (len(batch.owners), 3)
    assert float(batch.known.float().mean()) == pytest.approx(0.7, abs=0.07)
    some = student.batch(0, 8)
    assert some.known.any() and not some.known.all()
    loss_of(student, some)[0].backward()
    assert student.models["mapper"].null_exp.grad.abs().sum() > 0
    everyone = dataclasses.replace(some, known=torch.ones_like(some.known))
    student.models["mapper"].null_exp.grad = None
    loss_of(student, everyone)[0].backward()
    null = student.models["mapper"].null_exp.grad
    assert null is None or not null.any()


def test_it_learns_the_people_s_colours(base, data, tmp_path):
    student = learner(base, data, recipe(total_images=320, learning_rate=1e-2, **PLAIN))
    batch = student.batch(10**6, 64)
    before = loss_of(student, batch)[1]["denoising"]
    fit(student, tmp_path, total=320)
    assert loss_of(student, batch)[1]["denoising"] < 0.98 * before


def test_dropout_is_a_function_of_the_batch(base, data):
    layers = nn.Sequential(nn.Dropout(0.25), nn.Identity()).eval()
    ones = torch.ones(100, 100)
    with seeded_dropout(layers, 7):
        first, second = layers(ones), layers(ones)
    with seeded_dropout(layers, 7):
        again = layers(ones)
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert (
        torch.allclose(first.unique(), torch.tensor([0.0, 4 / 3])) and 0.73 < float((first > 0).float().mean()) < 0.77
    )
    assert torch.equal(layers(ones), ones)  # closed
    student = learner(base, data, recipe(), made_mapper(base, data, dropout=0.5))
    torch.manual_seed(1)
    one = float(loss_of(student, student.batch(0, 4))[0].detach())
    torch.manual_seed(2)
    assert float(loss_of(student, student.batch(0, 4))[0].detach()) == one
    other = dataclasses.replace(student.batch(0, 4), seed=0)
    assert float(loss_of(student, other)[0].detach()) != one


def test_a_killed_run_ends_with_the_same_bytes(base, data, tmp_path):
    plan = recipe(total_images=32)
    whole = learner(base, data, plan)
    records = fit(whole, tmp_path / "whole", total=32)
    killed = learner(base, data, plan)
    with pytest.raises(StoppedError):
        fit(killed, tmp_path / "killed", stop_at=16, total=32)
    resumed = learner(base, data, plan)
    again = fit(resumed, tmp_path / "killed", total=32)
    assert again == [record for record in records if record["images"] > 16]
    for name, value in whole.models["mapper"].state_dict().items():
        assert torch.equal(value, resumed.models["mapper"].state_dict()[name]), name


def test_what_does_not_fit_is_refused(base, data):
    latents, masks = torch.zeros(len(PEOPLE), 4, *LATENT), torch.zeros(len(PEOPLE), 2, *LATENT)
    mapper = made_mapper(base, data)
    with pytest.raises(ValueError, match="agree in number and size"):
        MapperLearner(mapper, base, data, recipe(), latents=latents[1:], masks=masks)
    with pytest.raises(ValueError, match="agree in number and size"):
        MapperLearner(mapper, base, data, recipe(), latents=latents, masks=masks[..., 1:])
    other = Mapper(identity_dim=5, expression_dim=3, hidden_size=16, out_dim=16, dropout=0.0)
    with pytest.raises(ValueError, match="the mapper's identity_dim is 5; expected 16"):
        MapperLearner(other, base, data, recipe(), latents=latents, masks=masks)


def test_the_module_saves_the_mapper_alone(base, data):
    module = SubjectDenoiser(made_mapper(base, data), base, fusion="replace_input", localize=True)
    assert {name.split(".")[0] for name in module.state_dict()} == {"mapper"}
