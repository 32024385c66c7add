"""The identities stage on toy networks: what it writes, resuming, processes that share the work, and no recogniser."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facegen.artifacts import check_manifest, load_tensors, read_json, write_json
from facegen.config import load_params
from facegen.data.face_embedder import FaceEmbedder
from facegen.data.images import encode_png
from facegen.data.latents import STATS, channel_stats, write_shard
from facegen.data.people import is_folder_per_person
from facegen.data.people_set import PeopleSet
from facegen.data.shards import FacesWriter
from facegen.errors import StoppedError
from facegen.identities import dataset
from facegen.identities.generation import generate, missing
from facegen.identities.sampler import METHODS
from pipelines import identities as stage_module
from pipelines.stage import Stage
from tests.made_editor import NAMES, SIDE, write_models
from tests.made_plan import draw, plan

DIM = 12
FEW: dict[str, Any] = {"sweep": (), "sweep_guidance": ()}
TOY: dict[str, Any] = dict(
    num_people=4, images_per_person=3, spare=0.5, max_context_cosine=1.0, max_centre_cosine=1.0, leakage_quantile=1.0,
    num_steps=6, calibration_runs=16, ablation_people=2, ablation_images=2, sweep=(0.5,), sweep_guidance=(1.0,),
    batch_size=4, early=0.9, late=0.4, target=0.6, fixed_time=0.6,
)  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of random weights, latents with embeddings, and val faces of people."""
    root = tmp_path_factory.mktemp("inputs")
    write_models(root / "data/models")
    g = np.random.default_rng(0)
    mean = g.normal(size=(24, 2, 4, 8, 8))
    vectors = np.abs(g.normal(size=(24, DIM))) + np.eye(DIM)[np.arange(24) // 3]
    write_shard(
        root / "data/latents/train-00000.parquet", ids=[str(i) for i in range(24)], mean=mean,
        logvar=np.full_like(mean, -6.0), attributes=g.integers(0, 2, (24, len(NAMES))), identity=np.arange(24) // 3,
        attribute_names=NAMES, embedding=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
    )  # fmt: skip
    write_json(root / "data/latents" / STATS, channel_stats(mean, np.full_like(mean, -6.0)))
    with FacesWriter(
        root / "data/faces", "val", resolution=SIDE, attribute_names=NAMES, sources={}, rows_per_shard=99
    ) as writer:
        for i in range(8):
            image = encode_png(g.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
            writer.add(str(i), image, np.zeros(len(NAMES)), i // 2, np.full((5, 2), 3) + np.arange(10).reshape(5, 2))
    return root


def stage_of(root: Path, inputs: Path, **changes: Any) -> Stage:
    """The real stage in a folder of its own, with the inputs of all tests."""
    (root / "scratch").mkdir(parents=True, exist_ok=True)
    if not (root / "data").exists():
        (root / "data").symlink_to(inputs / "data")
    params = load_params(Path(__file__).resolve().parents[2] / "params.yaml")
    toy = params.identities.model_copy(update={**TOY, **changes})
    machine = params.machine.model_copy(update={"device": "cpu", "threads": 1})
    base = params.base.model_copy(update={"precision": "fp32"})
    return Stage(
        name="identities", params=params.model_copy(update={"identities": toy, "machine": machine, "base": base}),
        root=root, home=root, key="k", scratch=root / "scratch", parameters={}, inputs={}, tracker=None,
    )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one undisturbed process writes."""
    root = tmp_path_factory.mktemp("whole")
    stage_module.run(stage_of(root, inputs))
    return root / "eval/identities"


def test_it_writes_the_set_the_ablation_and_the_manifest(whole: Path, inputs: Path) -> None:
    check_manifest(whole)
    people, about = PeopleSet.open(whole / "people.parquet"), read_json(whole / "people.json")
    assert people.identity.tolist() == np.repeat(range(4), 3).tolist() and people.resolution == SIDE
    assert about["counts"] == {"kept": 4, "training": 0, "twin": 0, "spare": 2} and about["people"] == 4
    assert about["candidates"]["identity"] == [0, 1, 2, 3, None, None]
    assert about["candidates"]["reason"] == ["", "", "", "", "spare", "spare"]
    assert about["thresholds"]["training_from"] == "val" and about["thresholds"]["strangers"] == 4
    assert sum(about["switch"]["pictures"]) == len(people) == about["pictures"]
    found = Counter(np.round(people.switch.astype(float), 6).tolist())
    assert dict(zip(about["switch"]["time"], about["switch"]["pictures"], strict=True)) == found
    assert (people.switch > 0.4 - 1 / 6).all() and (people.switch <= 0.9).all()
    assert about["calibration"] == read_json(whole / "calibration.json")
    compared = PeopleSet.open(whole / "ablation.parquet")
    assert compared.methods == [*METHODS, "fixed@0.5", "one_stage@1"]
    seeds = people.take(np.flatnonzero((people.identity < 2) & (people.number < 2))).seeds.tolist()
    for method in compared.methods:
        assert compared.of(method).seeds.tolist() == seeds
        assert compared.of(method).ids == ["000000/0000", "000000/0001", "000001/0000", "000001/0001"]
    assert set(compared.of("one_stage").switch.tolist()) == {1.0}
    assert set(compared.of("one_stage").evaluations.tolist()) == {12}
    assert set(np.round(compared.of("fixed@0.5").switch.astype(float), 6)) == {0.5}
    assert not np.array_equal(compared.of("one_stage").images(), compared.of("one_stage@1").images())
    for name in ("people", "stages"):
        assert Image.open(whole / f"{name}.png").width > 2 * SIDE


def test_centres_and_leakage_are_those_of_the_recogniser(whole: Path, inputs: Path) -> None:
    people, about = PeopleSet.open(whole / "people.parquet"), read_json(whole / "people.json")
    tensors, _ = load_tensors(whole / "contexts.safetensors")
    assert tensors["contexts"].shape == tensors["centres"].shape == (6, DIM)
    embedder = FaceEmbedder.load(inputs / "data/models/recognizer-condition", threads=1)
    vectors = embedder.embed(people.images(), None).reshape(4, 3, DIM).sum(axis=1)
    centres = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(tensors["centres"][:4], centres, atol=1e-5)
    real = dataset.real_people(inputs / "data", embedder, threads=1)
    assert np.allclose(about["candidates"]["nearest_training"][:4], (centres @ real.training.T).max(axis=1), atol=1e-5)
    assert about["thresholds"]["training"] == pytest.approx(real.nearest.max())


def test_the_folder_is_a_source_of_people(whole: Path) -> None:
    assert is_folder_per_person(whole / "images")
    assert len(list((whole / "images").rglob("*.png"))) == 12


def test_killed_in_the_middle_it_goes_on_and_ends_with_the_same_bytes(
    whole: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, calls = stage_of(tmp_path, inputs), 0
    decode = stage_module.FacePipeline._decode

    def dying(self: Any, x: torch.Tensor) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 9:  # in the data set, after the 7 chunks of the ablation
            raise KeyboardInterrupt
        return decode(self, x)

    monkeypatch.setattr(stage_module.FacePipeline, "_decode", dying)
    with pytest.raises(KeyboardInterrupt):
        stage_module.run(stage)
    assert (
        not (tmp_path / "eval/identities").exists() and len(list((tmp_path / "scratch/people").glob("*.parquet"))) == 1
    )
    calls = 100
    monkeypatch.setattr(dataset, "calibrated", None)  # is not found again
    stage_module.run(stage)
    assert calls == 100 + 4  # of the 5 chunks of the set
    assert contents(tmp_path / "eval/identities") == contents(whole)


def test_processes_share_the_work(whole: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ranks, the first one last, write what a single process would."""
    for rank in (2, 1, 0):
        monkeypatch.setattr(stage_module, "_place", lambda rank=rank: (rank, 3))
        stage = stage_of(tmp_path, inputs)
        stage.is_main = rank == 0
        stage_module.run(stage)
        assert (tmp_path / "eval/identities/people.json").is_file() == (rank == 0)
        left = len(list((tmp_path / "scratch/people").glob("*.parquet")))
        assert left == {2: 1, 1: 3, 0: 5}[rank]  # chunk 2; then 1 and 4; then 0 and 3
    assert contents(tmp_path / "eval/identities") == contents(whole)


def test_rank_0_waits_for_the_chunks_of_the_others(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_module, "_place", lambda: (0, 2))
    monkeypatch.setattr(stage_module, "POLL_S", 0.01)
    some, times = plan(), []
    generate(some, tmp_path / "chunks", draw, shard=0, num_shards=2)

    def other() -> None:
        times.append(time.monotonic())
        generate(some, tmp_path / "chunks", draw, shard=1, num_shards=2)

    timer = threading.Timer(0.2, other)
    timer.start()
    stage_module._wait_for_others(stage_of(tmp_path, inputs), [(some, tmp_path / "chunks")])
    assert times and missing(some, tmp_path / "chunks") == 0
    timer.join()
    (tmp_path / "chunks/chunk-000001.parquet").unlink()
    stage = stage_of(tmp_path, inputs)
    stage.stop.set()
    with pytest.raises(StoppedError):
        stage_module._wait_for_others(stage, [(some, tmp_path / "chunks")])


def test_ranks_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert stage_module._place() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert stage_module._place() == (2, 8)


def test_too_few_people_are_told_and_nobody_is_an_error(
    whole: Path, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    centres = load_tensors(whole / "contexts.safetensors")[0]["centres"].numpy()
    cosines = centres @ centres.T
    limit = float(np.sort(cosines[np.triu_indices(6, 1)])[0]) + 1e-6  # only the least alike pair passes
    stage_module.run(stage_of(tmp_path, inputs, max_centre_cosine=limit, **FEW))
    about = read_json(tmp_path / "eval/identities/people.json")
    assert about["people"] < 4 and about["counts"]["twin"] == 6 - about["people"]
    assert f"only {about['people']} of 4 people are kept" in capfd.readouterr().err
    shutil.rmtree(tmp_path / "scratch")
    strict = stage_of(tmp_path, inputs, leakage_quantile=1.0, **FEW)
    real = SimpleNamespace(training=np.eye(DIM, dtype=np.float32), nearest=np.array([-1.0]), nearest_from="val")
    real.threshold = lambda _: -1.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "real_people", lambda *_, **__: real)
        with pytest.raises(ValueError, match=r"of 6 people nobody is kept \(6 too near to a training person"):
            stage_module.run(strict)


def test_a_scratch_folder_of_another_set_is_refused(inputs: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_module, "write_json", None)  # fails at the end: what it drew is there
        with pytest.raises(TypeError):
            stage_module.run(stage_of(tmp_path, inputs, **FEW))
    with pytest.raises(ValueError, match=r"was prepared for another set \(target differ\)"):
        stage_module.run(stage_of(tmp_path, inputs, target=0.5, **FEW))
    with pytest.raises(ValueError, match=r"another plan \(about\.settings differ\)"):
        stage_module.run(stage_of(tmp_path, inputs, guidance_scale=3.0, **FEW))


def test_without_a_recogniser_the_folder_says_so(
    inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "data/models/recognizer-condition"
    models.mkdir(parents=True)
    write_json(models / "recognizer.json", {"absent": "the data name no people"})
    stage_module.run(stage_of(tmp_path, inputs))
    assert "absent" in read_json(tmp_path / "eval/identities/people.json")
    assert "no synthetic people: there is no recogniser" in capfd.readouterr().err


def test_strangers_are_training_people_where_val_has_nobody(inputs: Path, tmp_path: Path) -> None:
    shutil.copytree(inputs / "data/latents", tmp_path / "latents")
    with FacesWriter(tmp_path / "faces", "val", resolution=SIDE, attribute_names=NAMES, sources={}, rows_per_shard=9):
        pass
    embedder = FaceEmbedder.load(inputs / "data/models/recognizer-condition", threads=1)
    real = dataset.real_people(tmp_path, embedder, threads=1)
    cosines = real.training @ real.training.T - 2 * np.eye(8)
    assert real.nearest_from == "train" and np.allclose(real.nearest, cosines.max(axis=1), atol=1e-6)
    assert real.threshold(1.0) == pytest.approx(cosines.max(), abs=1e-6)
