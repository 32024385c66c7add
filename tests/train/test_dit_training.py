"""Learning the right thing, dropping conditions at the stated rates, and a golden loss trace."""

import threading

import numpy as np
import pytest
import torch

from facegen.models.dit import LatentDiT
from facegen.rng import torch_generator
from facegen.train.dit import DiTLearner, DiTRecipe, LatentSet, drop_attributes, loss_by_time, validation_mse
from facegen.train.loop import make_accelerator, read_log, train
from facegen.train.preview import averaged_copy, sample_latents

CPU = torch.device("cpu")
NAMES = ["Left", "Bright"]


def latent_set(num=256, embedding=None, identity=None):
    """Latents whose attributes are visible: Bright shifts channel 0 by 2, Left lights the left half of channel 1."""
    g = np.random.default_rng(0)
    attributes = g.integers(0, 2, (num, 2)).astype(np.int8)
    mean = g.normal(0, 0.3, (num, 1, 2, 4, 4)).repeat(2, axis=1)
    mean[:, :, 0] += 2.0 * attributes[:, None, 1, None, None] - 1
    mean[:, :, 1, :, :2] += 2.0 * attributes[:, None, 0, None, None] - 1
    logvar = np.full_like(mean, -8.0)
    return LatentSet.from_arrays(
        mean, logvar, attributes, channel_mean=[0.0, 0.0], channel_std=[1.0, 1.0], device=CPU, embedding=embedding,
        identity=identity,
    )  # fmt: skip


def recipe(**changes):
    values = dict(
        seed=0, path="linear", time_mean=-0.5, time_std=1.0, laplacian_weight=0.1, total_images=12800,
        learning_rate=3e-3, warmup_images=640, decay_fraction=0.25, betas=(0.9, 0.95), weight_decay=0.0,
        grad_clip=1.0, drop_all=0.1, drop_some=0.3, drop_identity=0.5, drop_components=0.25,
            other_picture_share=0.5, other_mean_share=0.25, ema_sigma_rel=(0.05, 0.10),
    )  # fmt: skip
    return DiTRecipe(**{**values, **changes})


def learner(*, embedding=None, identity=None, identity_dim=None, **changes):
    model = LatentDiT(
        sample_size=4, in_channels=2, patch_size=2, hidden_size=32, depth=2, num_heads=2, mlp_ratio=2.0,
        attribute_names=NAMES, latent_mean=[0.0, 0.0], latent_std=[1.0, 1.0], identity_dim=identity_dim,
    )  # fmt: skip
    model.initialize_weights(torch_generator(0, "weights"))
    return DiTLearner(model, latent_set(embedding=embedding, identity=identity), recipe(**changes))


def embeddings(num=256, dim=6):
    vectors = np.random.default_rng(7).normal(size=(num, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def run(learner, scratch, total, **changes):
    options = dict(
        batch_size=64, identity={"test": 1}, log_images=640, checkpoint_images=10**9, checkpoint_minutes=1e9,
        accelerator=make_accelerator(CPU, torch.float32), on_log=lambda record, timing: None, stop=threading.Event(),
    )  # fmt: skip
    scratch.mkdir(exist_ok=True)
    train(learner, total_images=total, scratch=scratch, **{**options, **changes})


def test_it_learns_to_do_what_the_attributes_ask(tmp_path):
    trained = learner(total_images=19200)
    run(trained, tmp_path / "s", 19200)
    model = averaged_copy(trained.models["dit"], trained.ema, 0.10)
    states = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).repeat_interleave(16, dim=0)
    noise = torch.randn(64, 2, 4, 4, generator=torch_generator(5, "noise"))
    z = sample_latents(model, states, noise, num_steps=12, guidance_scale=1.0)
    bright, left = z[:, 0].mean((1, 2)), z[:, 1, :, :2].mean((1, 2))
    assert ((bright > 0) == (states[:, 1] == 1)).float().mean() > 0.95
    assert ((left > 0) == (states[:, 0] == 1)).float().mean() > 0.95
    assert z[:, 1, :, 2:].mean((1, 2)).abs().mean() < 0.3  # the right half is left alone
    records = read_log(tmp_path / "s")
    assert records[-1]["loss"] < 0.6 * records[0]["loss"]
    assert {"lr", "grad_norm", "mse", "laplacian", "mse_t5"} <= set(records[-1])


def test_golden_loss_trace(tmp_path):
    """Ten float32 steps; a change here is a change of the numerics and needs its reason."""
    traced = learner(warmup_images=64)
    run(traced, tmp_path / "s", 640, log_images=64)
    losses = [record["loss"] for record in read_log(tmp_path / "s")]
    assert losses == pytest.approx(GOLDEN, rel=1e-5)


GOLDEN = [
    1.9662743,
    1.9629124,
    1.8518488,
    1.9655629,
    1.8704884,
    1.7444882,
    1.8517528,
    1.7941176,
    1.7161607,
    1.5706035,
]


def test_dropout_rates():
    states = torch.ones(40000, 4, dtype=torch.int8)
    dropped = drop_attributes(states, drop_all=0.1, drop_some=0.3, generator=torch_generator(0, "drop")) == -1
    none, every = (~dropped).all(1).float().mean(), dropped.all(1).float().mean()
    # rate u ~ U(0,1): all of four dropped with E[u^4] = 1/5, none with E[(1-u)^4] = 1/5
    assert float(every) == pytest.approx(0.1 + 0.3 / 5, abs=0.01)
    assert float(none) == pytest.approx(0.6 + 0.3 / 5, abs=0.01)
    assert float(dropped.float().mean()) == pytest.approx(0.1 + 0.3 / 2, abs=0.01)
    kept = drop_attributes(states, drop_all=0.0, drop_some=0.0, generator=torch_generator(0, "drop"))
    assert torch.equal(kept, states)


def test_batches_depend_on_the_position_alone_and_cover_each_epoch():
    one, other = learner(), learner()
    one.batch(0, 64)
    a, b = one.batch(640, 64), other.batch(640, 64)
    assert torch.equal(a.x_t, b.x_t) and torch.equal(a.attributes, b.attributes)
    assert not torch.equal(a.x_t, one.batch(704, 64).x_t)
    marked = learner()
    object.__setattr__(marked.data, "mean", torch.arange(256).view(256, 1, 1, 1, 1).expand(256, 2, 2, 4, 4).half())
    object.__setattr__(marked.data, "logvar", torch.full((256, 2, 2, 4, 4), -30.0).half())
    marked_recipe = [marked.batch(i * 64, 64) for i in range(4)]
    seen = torch.cat([to_index(batch) for batch in marked_recipe])
    assert sorted(seen.tolist()) == list(range(256))


def to_index(batch):
    t = batch.t.view(-1, 1, 1, 1)
    return (batch.x_t - t * batch.target).mean((1, 2, 3)).round().long()  # x_0 = x_t - t v


def test_posterior_is_resampled_and_mirrors_are_drawn():
    data = latent_set()
    mirrored = LatentSet.from_arrays(
        np.stack([np.zeros((8, 2, 4, 4)), np.ones((8, 2, 4, 4))], axis=1), np.zeros((8, 2, 2, 4, 4)),
        np.zeros((8, 2)), channel_mean=[0.0, 0.0], channel_std=[1.0, 1.0], device=CPU,
    )  # fmt: skip
    z, _ = mirrored.draw(torch.zeros(2000, dtype=torch.long), torch_generator(0, "draw"))
    assert float(z.mean()) == pytest.approx(0.5, abs=0.05)  # half of them mirrors
    assert float(z.std(dim=0).mean()) == pytest.approx((1 + 0.25) ** 0.5, abs=0.05)
    with pytest.raises(ValueError, match="disagree"):
        LatentSet.from_arrays(np.zeros((2, 2, 1, 4, 4)), np.zeros((2, 2, 1, 4, 4)), np.zeros((3, 2)),
                              channel_mean=[0.0], channel_std=[1.0], device=CPU)  # fmt: skip
    with pytest.raises(ValueError, match="allowed"):
        LatentSet.from_arrays(np.zeros((1, 2, 1, 4, 4)), np.zeros((1, 2, 1, 4, 4)), np.full((1, 2), 3),
                              channel_mean=[0.0], channel_std=[1.0], device=CPU)  # fmt: skip
    assert len(data) == 256


def test_loss_by_time_and_validation():
    logs = loss_by_time(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0.05, 0.07, 1.0]))
    assert [float(v) for v in logs["mse_t0"]] == [4.0, 2.0]
    assert [float(v) for v in logs["mse_t9"]] == [5.0, 1.0]
    fresh = learner()
    first = validation_mse(fresh.models["dit"], fresh.data, fresh.recipe, batch_size=64)
    assert first == validation_mse(fresh.models["dit"], fresh.data, fresh.recipe, batch_size=64)
    assert 1.0 < first < 4.0  # zero velocity: E[(eps - x0)^2]


def test_with_embeddings_every_other_draw_is_the_same():
    plain, with_people = learner().batch(640, 64), learner(embedding=embeddings(), identity_dim=6).batch(640, 64)
    for name in ("x_t", "t", "attributes", "target"):
        assert torch.equal(getattr(plain, name), getattr(with_people, name))
    assert plain.identity is None and plain.identity_known is None
    assert with_people.identity.shape == (64, 6) and with_people.identity_known.dtype == torch.bool


def test_identities_are_those_of_the_pictures_and_are_dropped_by_themselves():
    marked = learner(
        embedding=embeddings(), identity_dim=6, drop_identity=0.3, drop_all=0.5, drop_some=0.0, other_picture_share=0.0,
        other_mean_share=0.0,
    )  # fmt: skip
    batches = [marked.batch(i * 256, 256) for i in range(40)]
    indices = marked._permutation(0)
    assert torch.equal(batches[0].identity, torch.from_numpy(embeddings())[indices])
    known = torch.cat([b.identity_known for b in batches])
    unknown = torch.cat([(b.attributes == -1).all(1) for b in batches])
    assert float(known.float().mean()) == pytest.approx(0.7, abs=0.02)
    assert float(known[unknown].float().mean()) == pytest.approx(0.7, abs=0.03)  # whatever the attributes are
    never = learner(embedding=embeddings(), identity_dim=6, drop_identity=0.0).batch(0, 256).identity_known
    always = learner(embedding=embeddings(), identity_dim=6, drop_identity=1.0).batch(0, 256).identity_known
    assert never.all() and not always.any()


def test_a_share_of_the_embeddings_is_of_another_picture_of_the_person():
    people = np.arange(256) // 4
    for share in (0.0, 0.3, 1.0):
        marked = learner(
            embedding=embeddings(), identity=people, identity_dim=6, other_picture_share=share, other_mean_share=0.0
        )
        rows = marked._permutation(0)
        told = marked.batch(0, 256).identity
        table = torch.from_numpy(embeddings())
        told_by = torch.cdist(told, table).argmin(dim=1)
        assert (told_by // 4 == rows // 4).all()  # of the same person
        assert float((told_by != rows).float().mean()) == pytest.approx(share, abs=0.09)


def test_a_share_of_the_embeddings_is_the_mean_of_the_persons_other_pictures():
    people = np.arange(256) // 4
    marked = learner(
        embedding=embeddings(), identity=people, identity_dim=6, other_picture_share=0.0, other_mean_share=0.6
    )
    rows = marked._permutation(0)
    own = torch.from_numpy(embeddings())
    sums = own.view(64, 4, 6).sum(dim=1).repeat_interleave(4, dim=0) - own
    others = sums / sums.norm(dim=1, keepdim=True)
    told = marked.batch(0, 256).identity
    by_mean = torch.isclose(told, others[rows], atol=1e-5).all(dim=1)
    assert (by_mean | torch.isclose(told, own[rows], atol=1e-6).all(dim=1)).all()
    assert float(by_mean.float().mean()) == pytest.approx(0.6, abs=0.09)


def test_both_shares_together_leave_no_picture_its_own_embedding():
    people = np.arange(256) // 4
    marked = learner(
        embedding=embeddings(), identity=people, identity_dim=6, other_picture_share=0.4, other_mean_share=0.6
    )
    told, table = marked.batch(0, 256).identity, torch.from_numpy(embeddings())
    same = (told[:, None] - table[None]).abs().amax(dim=2) < 1e-6  # (told, picture)
    assert not same[torch.arange(256), marked._permutation(0)].any()
    assert float(same.any(dim=1).float().mean()) == pytest.approx(0.4, abs=0.09)


def test_components_of_the_identity_are_dropped_in_training_only():
    marked = learner(embedding=embeddings(), identity_dim=6, drop_components=0.2)
    batch = marked.batch(0, 256)
    assert batch.identity_dropped.shape == (256, 32)
    assert float(batch.identity_dropped.float().mean()) == pytest.approx(0.2, abs=0.02)
    seen = []
    model = marked.models["dit"]
    handle = model.register_forward_pre_hook(
        lambda _, __, kw: seen.append(kw.get("identity_dropped")), with_kwargs=True
    )
    marked.loss(model, batch)
    validation_mse(model, marked.data, marked.recipe, batch_size=128, with_identity=True)
    handle.remove()
    assert torch.equal(seen[0], batch.identity_dropped)
    assert seen[1:] == [None, None]


def test_dropping_every_identity_is_training_without_identities(tmp_path):
    never = learner(identity_dim=6)
    dropped = learner(embedding=embeddings(), identity_dim=6, drop_identity=1.0)
    run(never, tmp_path / "never", 640)
    run(dropped, tmp_path / "dropped", 640)
    assert read_log(tmp_path / "never")[0]["loss"] == pytest.approx(read_log(tmp_path / "dropped")[0]["loss"], rel=1e-6)
    for (name, a), b in zip(never.models["dit"].named_parameters(), dropped.models["dit"].parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=name)
    assert never.models["dit"].identity_null.abs().max() > 0
    assert (dropped.models["dit"].identity_embedder.weight == 0).all()


def test_a_few_steps_reach_the_identity_condition(tmp_path):
    trained = learner(embedding=embeddings(), identity_dim=6, warmup_images=64)
    model = trained.models["dit"]
    x, t, y = torch.ones(2, 2, 4, 4), torch.full((2,), 0.5), torch.zeros(2, 2, dtype=torch.int8)
    people = torch.from_numpy(embeddings())[:2]

    def spread():
        with torch.no_grad():
            v = torch.cat([model(x, t, y, people).sample, model(x[:1], t[:1], y[:1]).sample])
        return min(float((v[i] - v[j]).abs().max()) for i, j in ((0, 1), (0, 2), (1, 2)))

    assert spread() == 0
    run(trained, tmp_path / "s", 640)
    loss, _ = trained.loss(model, trained.batch(640, 64))
    loss.backward()
    for parameter in (*model.identity_embedder.parameters(), model.identity_null):
        assert parameter.grad.abs().max() > 0
    assert spread() > 1e-4


def test_the_error_with_identities_is_lower_where_they_tell_the_picture(tmp_path):
    """The embedding holds what the attributes do not: the sign of each image's own mean."""
    plain = latent_set()
    shift = plain.mean[:, 0].float().mean((1, 2, 3)).numpy()
    telling = np.stack([np.sign(shift - np.median(shift)), np.zeros_like(shift)], axis=1).astype(np.float32)
    trained = learner(embedding=telling, identity_dim=2, drop_all=1.0)  # only the embedding tells anything
    run(trained, tmp_path / "s", 3840)
    model, data = trained.models["dit"], trained.data
    empty = validation_mse(model, data, trained.recipe, batch_size=64)
    assert empty == validation_mse(model, latent_set(), trained.recipe, batch_size=64)
    given = validation_mse(model, data, trained.recipe, batch_size=64, with_identity=True)
    assert given < empty
    wrong = LatentSet(
        data.mean, data.logvar, data.attributes, data.channel_mean, data.channel_std, -data.embedding,
        data.identity,
    )  # fmt: skip
    assert validation_mse(model, wrong, trained.recipe, batch_size=64, with_identity=True) > given
    with pytest.raises(ValueError, match="no embeddings"):
        validation_mse(model, latent_set(), trained.recipe, batch_size=64, with_identity=True)


@pytest.mark.parametrize("wrong", [np.zeros((255, 6)), np.zeros(256), np.full((256, 6), np.nan)])
def test_embeddings_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match="embedding"):
        latent_set(embedding=wrong)
