"""An adapter's training: who tells whom, where heads are, what the loss is, and that nothing but the adapter moves."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from facegen.flow.loss import laplacian
from facegen.models.dit import LatentDiT
from facegen.personalize.dit_adapter import DiTAdapter
from facegen.personalize.dit_learner import DiTMapperLearner, DiTMapperRecipe
from facegen.personalize.dit_references import References, part_masks
from facegen.rng import numpy_generator, torch_generator
from facegen.train.dit import LatentSet
from facegen.train.loop import make_accelerator, train

NAMES = ["Male", "Smiling", "Young"]
N, WIDTH, D, SIZE = 24, 6, 32, 32
IDENTITY = np.array([*np.repeat(range(5), 4), -1, -1, 9, 9])
POINTS = np.array([[12, 14], [20, 14], [16, 19], [13, 23], [19, 23]], dtype=np.float32)
LANDMARKS = POINTS + numpy_generator(0, "shift").uniform(-3, 3, (N, 1, 2)).astype(np.float32)
RECIPE = DiTMapperRecipe(
    seed=0, dtype=torch.float32, path="linear", time_mean=-0.5, time_std=1.0, laplacian_weight=0.1, class_guided=True,
    background_weight=0.5, part="face", other_picture_share=0.8, drop_all=0.1, drop_some=0.3, total_images=64,
    learning_rate=1e-2, weight_decay=0.01, betas=(0.9, 0.95), grad_clip=1.0,
)  # fmt: skip


def dit():
    made = LatentDiT(
        sample_size=8, in_channels=4, patch_size=2, hidden_size=D, depth=2, num_heads=2, mlp_ratio=2.0,
        attribute_names=NAMES, identity_dim=5,
    )  # fmt: skip
    for i, parameter in enumerate(made.parameters()):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch_generator(0, "weights", i))
    return made


def learner(awake=True, adapter=None, **changes):
    rng = numpy_generator(0, "latents")
    people = rng.normal(size=(20, 4, 8, 8))
    mean = people[IDENTITY][:, None] + 0.1 * rng.normal(size=(N, 2, 4, 8, 8))
    data = LatentSet.from_arrays(
        mean, np.full_like(mean, -6.0), rng.integers(-1, 2, (N, 3)), channel_mean=[0.1] * 4, channel_std=[0.9] * 4,
        device=torch.device("cpu"), identity=IDENTITY,
    )  # fmt: skip
    adapter = DiTAdapter(WIDTH, 16, D, 0.0) if adapter is None else adapter
    adapter.initialize(torch_generator(1, "adapter"))
    if awake:
        torch.nn.init.normal_(adapter.mlp.fc_out.weight, generator=torch_generator(2, "wake"))
    references = References.chosen(IDENTITY, most=2, seed=0)
    features = torch.randn(20, WIDTH, generator=torch_generator(3, "features"))[IDENTITY[references.rows]]
    return DiTMapperLearner(
        adapter, dit(), data, replace(RECIPE, **changes), references=references, features=features, landmarks=LANDMARKS,
        size_px=SIZE,
    )  # fmt: skip


def adapter_of(made):
    return made.phases[0].module


def test_references_are_the_person_s_own_and_few():
    references = References.chosen(IDENTITY, most=2, seed=0)
    rows = references.rows.numpy()
    assert len(rows) == 5 * 2 + 2 + 2 == len(set(rows.tolist())) and len(references) == N
    generator = torch_generator(0, "draws")
    indices = torch.arange(N).repeat(200)
    told = rows[references.draw(indices, other_share=1.0, generator=generator)].reshape(200, N)
    known = IDENTITY >= 0
    assert (IDENTITY[told][:, known] == IDENTITY[known]).all()
    assert (told != np.arange(N))[:, known].all()  # there is always another one
    assert (told[:, ~known] == np.arange(N)[~known]).all()  # nobody else can tell of these
    for person in (0, 4):
        outside = next(i for i in np.flatnonzero(person == IDENTITY) if i not in rows)
        assert set(told[:, outside]) == set(rows[IDENTITY[rows] == person])
    assert not np.array_equal(rows, References.chosen(IDENTITY, most=2, seed=1).rows.numpy())


def test_the_share_told_by_another_picture_is_kept():
    references = References.chosen(IDENTITY, most=3, seed=0)
    rows, generator = references.rows, torch_generator(0, "draws")
    kept = rows[torch.from_numpy((IDENTITY >= 0)[rows])].repeat(400)
    told = rows[references.draw(kept, other_share=0.3, generator=generator)]
    assert float((told != kept).float().mean()) == pytest.approx(0.3, abs=0.02)


def test_a_single_picture_tells_of_itself():
    references = References.chosen(np.array([7, 8, 8]), most=1, seed=0)
    found = references.draw(torch.tensor([0, 0]), other_share=1.0, generator=torch_generator(0, "draws"))
    assert references.rows[found].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("part", "middle", "radius_u", "radius_v"), [("face", 0.35, 2.45, 1.5), ("head", -0.2, 3.3, 2.1)]
)
def test_masks_are_ellipses_in_the_frame_of_the_face(part, middle, radius_u, radius_v):
    angle = 0.3
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = (POINTS - 16) @ turn + 16
    mask = part_masks(torch.from_numpy(points[None]), size_px=SIZE, grid=8, part=part)[0, 0].numpy()
    half, down = 4.0, 9.0  # px: half the distance of the eyes, eyes to mouth
    wanted = np.zeros((8, 8))
    for row in range(32):
        for column in range(32):
            x, y = (np.array([column, row]) - (np.array([16, 14.0]) - 16) @ turn - 16) @ turn.T
            wanted[row // 4, column // 4] += (
                (x / half / radius_u) ** 2 + (y / down - middle) ** 2 / radius_v**2 <= 1
            ) / 16
    np.testing.assert_allclose(mask, wanted, atol=0.07)  # a point or so at the edge
    assert abs(mask - wanted).mean() < 5e-3 and 0.1 < mask.mean() < 0.95


def test_masks_of_mirrored_pictures_are_mirrored():
    made = learner()
    torch.testing.assert_close(made.masks[:, 1].float(), made.masks[:, 0].float().flip(-1), atol=0.07, rtol=0)


def test_a_batch_is_a_function_of_its_position():
    first, again, later = learner().batch(8, 8), learner().batch(8, 8), learner().batch(16, 8)
    for name, value in vars(first).items():
        same = getattr(again, name)
        assert value == same if isinstance(value, int) else torch.equal(value, same), name
    assert not torch.equal(first.x_t, later.x_t)
    assert first.seed != later.seed
    plain = learner(class_guided=False).batch(8, 8)
    assert (plain.mask == 1).all() and torch.equal(plain.x_t, first.x_t) and (first.mask < 1).any()


def test_the_loss_is_that_of_the_formula():
    made = learner()
    batch = made.batch(0, 8)
    loss, logs = made.loss(adapter_of(made), batch)
    with torch.no_grad():
        told = made.model(batch.x_t, batch.t, batch.attributes, identity_mapped=adapter_of(made)(batch.features)).sample
        base = made.model(batch.x_t, batch.t, batch.attributes).sample
    inside = batch.mask * (told - batch.target).square()
    # w (v_id - M v - (1 - M) v_base)^2 with the target mixed where a latent is part inside
    mixed = batch.mask * batch.target + (1 - batch.mask) * base
    weight = batch.mask + 0.5 * (1 - batch.mask)
    rough = (batch.mask * laplacian(told - batch.target).square()).mean()
    wanted = (weight * (told - mixed).square()).mean() + 0.1 * rough
    torch.testing.assert_close(loss.detach(), wanted, atol=1e-5, rtol=1e-4)
    assert float(inside.mean()) > 0.1 and float(logs["laplacian"]) == pytest.approx(float(rough), rel=1e-3)


def test_without_class_guidance_it_is_the_loss_of_the_model():
    made = learner(class_guided=False, laplacian_weight=0.0)
    batch = made.batch(0, 8)
    loss, logs = made.loss(adapter_of(made), batch)
    torch.testing.assert_close(loss.detach(), logs["mse"], atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        told = made.model(batch.x_t, batch.t, batch.attributes, identity_mapped=adapter_of(made)(batch.features)).sample
    torch.testing.assert_close(loss.detach(), (told - batch.target).square().mean(), atol=1e-5, rtol=1e-4)


def test_outside_the_mask_an_adapter_that_says_nothing_has_nothing_to_learn():
    made = learner(awake=False)
    batch = made.batch(0, 8)
    nowhere = replace(batch, mask=torch.zeros_like(batch.mask))
    loss, _ = made.loss(adapter_of(made), nowhere)
    loss.backward()
    assert float(loss.detach()) < 1e-10 and adapter_of(made).mlp.fc_out.weight.grad.abs().max() < 1e-6
    made = learner()
    loss, _ = made.loss(adapter_of(made), nowhere)
    loss.backward()
    assert adapter_of(made).mlp.fc_out.weight.grad.abs().max() > 1e-4  # what it says changes the background


def test_nothing_but_the_adapter_is_trained(tmp_path):
    made = learner(awake=False, total_images=400, drop_all=1.0)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    fixed = [made.batch(start, 8) for start in range(10_000, 10_032, 8)]

    def error():
        return float(torch.stack([made.loss(adapter_of(made), batch)[1]["guided"] for batch in fixed]).mean())

    first = error()
    train(
        made, total_images=400, batch_size=8, scratch=tmp_path, identity={}, log_images=200, checkpoint_images=200,
        checkpoint_minutes=5, accelerator=make_accelerator(torch.device("cpu"), torch.float32),
        on_log=lambda record, timing: None, stop=threading.Event(),
    )  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    assert not any(p.requires_grad for p in made.model.parameters())
    assert set(made.models) == {"adapter"} and error() < 0.97 * first


def test_the_rate_warms_up_and_falls_to_zero():
    made = learner(total_images=1000)
    assert made.learning_rate(0) == pytest.approx(1e-2 / 50)
    assert made.learning_rate(200) == pytest.approx(1e-2)
    assert made.learning_rate(700) == pytest.approx(1e-2 * 0.5) and made.learning_rate(1000) == 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="the adapter gives 8 values"):
        learner(adapter=DiTAdapter(WIDTH, 16, 8, 0.0), awake=False)
    made = learner()
    with pytest.raises(ValueError, match="do not fit"):
        DiTMapperLearner(
            adapter_of(made), made.model, made.data, RECIPE, references=made.references, features=made.features[:-1],
            landmarks=LANDMARKS, size_px=SIZE,
        )  # fmt: skip


def test_dropout_is_drawn_by_the_batch_and_not_by_global_state():
    made = learner(adapter=DiTAdapter(WIDTH, 16, D, 0.5))
    batch = made.batch(0, 8)

    def loss(of):
        return float(made.loss(adapter_of(made), of)[0].detach())

    torch.manual_seed(1)
    first = loss(batch)
    torch.manual_seed(2)
    assert loss(batch) == first
    assert loss(replace(batch, seed=batch.seed + 1)) != first
