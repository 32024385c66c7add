"""The dit stage: snapshots along the way, the identity condition, and equal bytes after a kill."""

import csv
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from facegen.artifacts import write_json
from facegen.data.latents import STATS, channel_stats, write_shard
from facegen.models.autoencoder import build_autoencoder
from facegen.models.dit import LatentDiT
from facegen.models.initialize import draw_weights
from facegen.rng import torch_generator
from facegen.train.loop import positions_crossed
from pipelines import dit as stage_module
from pipelines.dit import snapshot_positions


class FakeStage:
    """What the dit stage uses of a stage."""

    device, dtype, key, is_main = torch.device("cpu"), torch.float32, "key", True

    def __init__(self, root, **dit):
        self.root, self.scratch, self.stop = root, root / "scratch", threading.Event()
        self.scratch.mkdir(exist_ok=True)
        self.logged = []
        p = dict(
            patch_size=2, hidden_size=16, depth=1, num_heads=2, mlp_ratio=2.0, total_images=200, batch_size=16,
            learning_rate=3e-3, warmup_images=32, decay_fraction=0.25, betas=(0.9, 0.95), weight_decay=0.0,
            grad_clip=1.0, drop_all=0.1, drop_some=0.3, drop_identity=0.5, drop_components=0.25,
            other_picture_share=0.5, other_mean_share=0.25, ema_sigma_rel=(0.05, 0.10),
            ema_release=0.10, log_images=48, checkpoint_images=64, checkpoint_minutes=1e9, grid_images=80,
            grid_steps=2, num_snapshots=4,
        )  # fmt: skip
        flow = dict(path="linear", time_mean=-0.5, time_std=1.0, laplacian_weight=0.1)
        self.params = SimpleNamespace(
            dit=SimpleNamespace(**{**p, **dit}), flow=SimpleNamespace(**flow), base=SimpleNamespace(seed=0)
        )

    @contextmanager
    def output(self, path):
        (self.root / path).mkdir(parents=True, exist_ok=True)
        yield self.root / path

    def log(self, figures, *, step):
        self.logged.append((step, figures))

    def picture(self, path):
        pass

    def model(self, folder):
        pass


def make_inputs(root, *, embedding_dim=None, names=("Male", "Smiling")):
    root.mkdir(exist_ok=True)
    g = np.random.default_rng(0)
    for split, num in (("train", 40), ("val", 12)):
        mean = g.normal(size=(num, 2, 3, 4, 4))
        vectors = None if embedding_dim is None else g.normal(size=(num, embedding_dim))
        write_shard(
            root / f"data/latents/{split}-00000.parquet", ids=[str(i) for i in range(num)], mean=mean,
            logvar=np.full_like(mean, -6.0), attributes=g.integers(0, 2, (num, len(names))),
            identity=np.arange(num), attribute_names=names, embedding=vectors,
        )  # fmt: skip
        if split == "train":
            write_json(root / "data/latents" / STATS, channel_stats(mean, np.full_like(mean, -6.0)))
    vae = build_autoencoder(architecture="tiny", channels=[8, 8], layers_per_block=1, latent_channels=3)
    draw_weights(vae, torch_generator(0, "weights"))
    vae.save_pretrained(root / "data/models/autoencoder")
    return root


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def log_of(folder):
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


SNAPSHOTS = ["snapshot-000000000050", "snapshot-000000000100", "snapshot-000000000150"]


def test_positions_are_evenly_spaced_and_leave_out_the_end():
    assert snapshot_positions(140_000, 4) == [35_000, 70_000, 105_000]
    assert snapshot_positions(100, 3) == [33, 67]
    assert snapshot_positions(140_000, 1) == snapshot_positions(140_000, 0) == []
    assert snapshot_positions(3, 8) == [1, 2]  # more than there are images: none at 0, none at the end, none twice


def test_snapshots_are_the_averages_at_their_positions(tmp_path, monkeypatch):
    kept = {}

    class Watching(stage_module.DiTLearner):
        """Keeps a copy of the released average after each step."""

        def learning_rate(self, images_seen):
            kept[images_seen] = {k: v.clone() for k, v in self.ema.state_dict(0.10).items()}
            return super().learning_rate(images_seen)

    monkeypatch.setattr(stage_module, "DiTLearner", Watching)
    stage_module.run(FakeStage(make_inputs(tmp_path)))
    folder = tmp_path / "data/models/dit"
    assert sorted(p.name for p in folder.glob("snapshot-*")) == SNAPSHOTS
    for name, seen in zip(SNAPSHOTS, (64, 112, 160), strict=True):  # the first whole batches of 16 that reach them
        position = int(name.partition("-")[2])
        assert positions_crossed([position], images_seen=seen, num_images=16) == [position]
        weights = LatentDiT.from_pretrained(folder / name).state_dict()
        assert all(torch.equal(weights[k], v) for k, v in kept[seen].items())
    final = LatentDiT.from_pretrained(folder).state_dict()
    assert all(torch.equal(final[k], v) for k, v in kept[208].items())
    assert not torch.equal(final["final_linear.weight"], weights["final_linear.weight"])


@pytest.mark.parametrize("place", ["snapshot", "grid", "checkpoint"])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path, monkeypatch, place):
    whole = make_inputs(tmp_path / "whole", embedding_dim=5)
    stage_module.run(FakeStage(whole))

    class KilledError(BaseException):
        """As good as a signal: nothing handles it."""

    killed, calls = make_inputs(tmp_path / "killed", embedding_dim=5), []
    where = {"snapshot": "save_tensors", "grid": "note_validation"}.get(place)
    with monkeypatch.context() as patched:
        if where is None:
            from facegen.train.checkpoint import Checkpoints

            owner, where = Checkpoints, "save"
        else:
            owner = stage_module
        real = getattr(owner, where)

        def dies_the_second_time(*args):
            calls.append(1)
            if len(calls) == 2:
                raise KilledError
            real(*args)

        patched.setattr(owner, where, dies_the_second_time)
        with pytest.raises(KilledError):
            stage_module.run(FakeStage(killed))
    assert not (killed / "data/models/dit").exists()
    stage_module.run(FakeStage(killed))
    assert contents(killed / "data/models/dit") == contents(whole / "data/models/dit")


def test_embeddings_make_an_identity_condition_and_are_validated_both_ways(tmp_path):
    stage = FakeStage(make_inputs(tmp_path, embedding_dim=5))
    stage_module.run(stage)
    folder = tmp_path / "data/models/dit"
    model = LatentDiT.from_pretrained(folder)
    assert model.config.identity_dim == 5 and model.identity_embedder.weight.abs().max() > 0
    assert LatentDiT.from_pretrained(folder / SNAPSHOTS[0]).config.identity_dim == 5
    errors = [r for r in log_of(folder) if r["val_mse"]]
    assert errors and all(float(r["val_mse_identity"]) > 0 for r in errors)
    assert {step for step, figures in stage.logged if "val_mse_identity" in figures} == {80, 160}


def test_without_embeddings_nothing_is_said_of_identities(tmp_path):
    stage_module.run(FakeStage(make_inputs(tmp_path), num_snapshots=0))
    folder = tmp_path / "data/models/dit"
    assert LatentDiT.from_pretrained(folder).config.identity_dim is None
    assert "val_mse_identity" not in log_of(folder)[0] and any(r["val_mse"] for r in log_of(folder))
    assert not list(folder.glob("snapshot-*"))


def test_latents_without_attributes_train_on_identities_alone(tmp_path):
    stage_module.run(FakeStage(make_inputs(tmp_path, embedding_dim=5, names=())))
    model = LatentDiT.from_pretrained(tmp_path / "data/models/dit")
    assert list(model.config.attribute_names) == []
    assert float(log_of(tmp_path / "data/models/dit")[-1]["loss"]) > 0
