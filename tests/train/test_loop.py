"""Resume to the byte, guards before every update, and averages that follow their definition."""

import json
import threading

import numpy as np
import pytest
import torch
from torch import nn

from facegen.errors import DamagedArtifactError, NonFiniteError, StoppedError
from facegen.rng import torch_generator
from facegen.train.checkpoint import Checkpoints, optimizer_tensors
from facegen.train.ema import PowerEMA, sigma_rel_to_gamma
from facegen.train.loop import (
    Phase,
    adamw,
    epoch_indices,
    make_accelerator,
    positions_crossed,
    read_log,
    train,
    warmup_linear_decay,
)

CPU = torch.device("cpu")


class Regression:
    """A two-phase learner small enough to run hundreds of steps in a test."""

    flops_per_image = 0.0

    def __init__(self, poison_at=None, poison="loss"):
        self.models = {"net": nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), "other": nn.Linear(4, 1)}
        for i, parameter in enumerate(p for m in self.models.values() for p in m.parameters()):
            nn.init.normal_(parameter, std=0.5, generator=torch_generator(0, "weights", i))
        self.phases = [
            Phase(name, module, adamw(module, learning_rate=1e-2, betas=(0.9, 0.95), weight_decay=0.01), 1.0, self.loss)
            for name, module in self.models.items()
        ]
        self.ema = PowerEMA(self.models["net"], sigma_rels=(0.05, 0.1))
        self.poison_at, self.poison = poison_at, poison

    def batch(self, images_seen, batch_size):
        x = torch.randn(batch_size, 4, generator=torch_generator(0, "x", images_seen))
        return images_seen, x, x.prod(dim=1, keepdim=True)

    def learning_rate(self, images_seen):
        return 1e-2 if images_seen < 400 else 5e-3

    def loss(self, module, batch):
        position, x, y = batch
        loss = (module(x) - y).square().mean()
        if position == self.poison_at:
            loss = loss * float("nan") if self.poison == "loss" else loss + 0 * Overflow.apply(module(x)).sum()
        return loss, {"loss": loss.detach()}


class Overflow(torch.autograd.Function):
    """Finite forward, infinite gradient."""

    @staticmethod
    def forward(ctx, x):
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx, grad):
        return torch.full_like(grad, float("inf"))


def run(learner, scratch, total=800, **changes):
    options = dict(
        batch_size=8, identity={"config": "a"}, log_images=40, checkpoint_images=104, checkpoint_minutes=1e9,
        accelerator=make_accelerator(CPU, torch.float32), on_log=lambda record, timing: None, stop=threading.Event(),
    )  # fmt: skip
    train(learner, total_images=total, scratch=scratch, **{**options, **changes})
    return learner


def everything(learner, scratch):
    tensors = [t for m in learner.models.values() for t in m.state_dict().values()]
    tensors += [t for average in learner.ema.averages for t in average]
    tensors += [t for p in learner.phases for _, t in sorted(optimizer_tensors(p.optimizer).items())]
    return b"".join(t.numpy().tobytes() for t in tensors), json.dumps(read_log(scratch))


def test_stopped_and_resumed_runs_end_with_the_same_bytes(tmp_path):
    whole = everything(run(Regression(), tmp_path / "whole"), tmp_path / "whole")
    for seed in range(6):
        scratch, step = tmp_path / str(seed), int(np.random.default_rng(seed).integers(1, 99))
        stop = threading.Event()

        class Stopping(Regression):
            def batch(self, images_seen, batch_size, _step=step, _stop=stop):
                if images_seen >= 8 * _step:
                    _stop.set()
                return super().batch(images_seen, batch_size)

        with pytest.raises(StoppedError, match="goes on from there"):
            run(Stopping(), scratch, stop=stop)
        assert everything(run(Regression(), scratch), scratch) == whole


def test_a_killed_run_goes_back_to_its_checkpoint_and_rewrites_the_log(tmp_path):
    whole = everything(run(Regression(), tmp_path / "whole"), tmp_path / "whole")

    class Killed(Regression):
        def batch(self, images_seen, batch_size):
            if images_seen == 496:
                raise KeyboardInterrupt
            return super().batch(images_seen, batch_size)

    with pytest.raises(KeyboardInterrupt):
        run(Killed(), tmp_path / "s")
    with open(tmp_path / "s" / "log.jsonl", "a") as log:
        log.write('{"images": 4')  # torn by the kill
    assert everything(run(Regression(), tmp_path / "s"), tmp_path / "s") == whole


def test_a_run_killed_during_a_visit_comes_by_again(tmp_path):
    def kill(images_seen):
        raise KeyboardInterrupt

    places = range(208, 801, 208)
    with pytest.raises(KeyboardInterrupt):
        run(Regression(), tmp_path, visits=[(places, kill)])  # 208 is a checkpoint, too
    drawn = []
    run(Regression(), tmp_path, visits=[(places, drawn.append)])
    assert drawn == [208, 416, 624]


def test_each_visit_is_made_in_its_own_places_by_the_step_that_crosses_them(tmp_path):
    seen = []
    visits = [([1, 100, 101, 104, 800], lambda n: seen.append(("a", n))), ([104], lambda n: seen.append(("b", n)))]
    run(Regression(), tmp_path, visits=visits)  # steps of 8 images
    assert seen == [("a", 8), ("a", 104), ("b", 104), ("a", 800)]  # one call for the three that one step crosses
    assert positions_crossed([1, 100, 101, 104, 800], images_seen=104, num_images=8) == [100, 101, 104]
    assert positions_crossed([96, 105], images_seen=104, num_images=8) == []  # 96 belongs to the step before
    brute = [[p for p in range(7, 200, 7) if n - 8 < p <= n] for n in range(8, 200, 8)]
    steps = range(8, 200, 8)
    assert [list(positions_crossed(range(7, 200, 7), images_seen=n, num_images=8)) for n in steps] == brute


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_non_finite_stops_before_any_update(tmp_path, poison):
    clean = run(Regression(), tmp_path / "clean", total=160)
    poisoned = Regression(poison_at=160, poison=poison)
    with pytest.raises(NonFiniteError, match="160 images"):
        run(poisoned, tmp_path / "s")
    for a, b in zip(poisoned.models["net"].parameters(), clean.models["net"].parameters(), strict=True):
        assert torch.equal(a, b)
    assert json.loads((tmp_path / "s" / "post_mortem.json").read_text())["images_seen"] == 160
    assert Checkpoints(tmp_path / "s", identity={"config": "a", "batch_size": 8}).load_latest()[0] == 104


def test_the_on_device_guard_skips_updates_without_a_look(tmp_path):
    """What protects weights on a GPU: the fused optimizer does nothing once `found_inf` is set."""
    net = nn.Linear(4, 1)
    optimizer = adamw(net, learning_rate=1.0, betas=(0.9, 0.95), weight_decay=0.0)
    before = net.weight.clone()
    net(torch.ones(2, 4)).sum().backward()
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert torch.equal(net.weight, before)
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    assert not torch.equal(net.weight, before)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", ["truncated", "bit", "empty", "no record"])
def test_a_damaged_checkpoint_falls_back_with_a_warning(tmp_path, damage):
    run(Regression(), tmp_path, total=240)
    newest = sorted(tmp_path.glob("checkpoint-*.safetensors"))[-1]
    if damage == "truncated":
        newest.write_bytes(newest.read_bytes()[:-100])
    elif damage == "bit":
        flip(newest, -5)
    elif damage == "empty":
        newest.write_bytes(b"")
    else:
        newest.with_suffix(".json").unlink()
    checkpoints = Checkpoints(tmp_path, identity={"config": "a", "batch_size": 8})
    if damage == "no record":
        assert checkpoints.load_latest()[0] == 208
    else:
        with pytest.warns(UserWarning, match="falling back"):
            assert checkpoints.load_latest()[0] == 208
        for path in tmp_path.glob("checkpoint-*.safetensors"):
            flip(path, -9) if path.stat().st_size else None
        with pytest.warns(UserWarning), pytest.raises(DamagedArtifactError, match="no checkpoint"):
            checkpoints.load_latest()


def test_only_the_last_two_are_kept_and_leftovers_swept(tmp_path):
    run(Regression(), tmp_path, total=800)
    assert len(list(tmp_path.glob("checkpoint-*.safetensors"))) == 2
    (tmp_path / ".checkpoint-000000000900.safetensors.abc.tmp").write_bytes(b"half")
    Checkpoints(tmp_path, identity={})
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_checkpoint_of_another_run_is_refused_with_the_keys(tmp_path):
    run(Regression(), tmp_path, total=240)
    with pytest.raises(ValueError, match="config: 'a' there, 'b' here"):
        run(Regression(), tmp_path, identity={"config": "b"})


def test_ema_follows_the_power_function_profile():
    assert sigma_rel_to_gamma(0.05) == pytest.approx(16.97, abs=0.01)  # EDM2's values
    assert sigma_rel_to_gamma(0.10) == pytest.approx(6.94, abs=0.01)
    net = nn.Linear(1, 1, bias=False)
    ema = PowerEMA(net, sigma_rels=(0.10,))
    for step in range(1, 2001):
        net.weight.data.fill_(step / 2000)
        ema.update(images_seen=step, num_images=1)
    gamma = ema.gammas[0]  # the mean of t under t^gamma on [0, 1]
    assert float(ema.averages[0][0]) == pytest.approx((gamma + 1) / (gamma + 2), abs=1e-3)
    with pytest.raises(ValueError, match="sigma_rel"):
        sigma_rel_to_gamma(0.5)


def test_9_the_average_of_a_constant_is_what_its_decays_leave():
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(0.0)
    ema = PowerEMA(net, sigma_rels=(0.10,))
    net.weight.data.fill_(1.0)
    left = 1.0
    for step in range(101, 121):  # the first update would take the weights whole
        ema.update(images_seen=step, num_images=1)
        left *= (1 - 1 / step) ** (ema.gammas[0] + 1)
    assert float(ema.averages[0][0]) == pytest.approx(1 - left, abs=1e-6)
    assert 0.5 < 1 - left < 0.9


def test_learning_rate_and_order():
    rate = lambda n: warmup_linear_decay(n, peak=2.0, warmup_images=100, total_images=1000, decay_fraction=0.25)  # noqa: E731
    assert rate(49) == 1.0 and rate(100) == rate(750) == 2.0 and rate(875) == 1.0 and rate(1000) == 0.0
    order = epoch_indices(range(6, 14), size=8, permutation=lambda e: torch.arange(8) + 100 * e)
    assert order.tolist() == [6, 7, 100, 101, 102, 103, 104, 105]


def test_weight_decay_spares_norms_biases_and_embeddings():
    net = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    groups = adamw(net, learning_rate=1e-3, betas=(0.9, 0.95), weight_decay=0.1).param_groups
    decayed = [p for g in groups if g["weight_decay"] for p in g["params"]]
    assert len(decayed) == 1 and decayed[0] is net[1].weight
