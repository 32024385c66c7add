"""The stage of the adapters on toy networks: what it writes, resuming, and where there is nothing to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facegen.artifacts import check_manifest, read_json, write_json
from facegen.config import load_params
from facegen.data.images import encode_png
from facegen.data.latents import STATS, channel_stats, write_shard
from facegen.data.samples import read_samples
from facegen.data.shards import FacesWriter
from facegen.errors import StoppedError
from facegen.personalize.dit_adapter import load_adapter
from facegen.personalize.dit_pictures import ABOUT, MAPPED, NONE, PLAIN, RECOGNIZER, People, scale_set
from pipelines import dit_mapper as stage_module
from pipelines.stage import Stage
from tests.made_editor import NAMES, SIDE, write_models
from tests.personalize.made_subjects import small_msid

POINTS = np.array([[10, 13], [21, 13], [16, 18], [11, 23], [20, 23]], np.float32)
TOY: dict[str, Any] = dict(
    hidden_size=16, total_images=32, batch_size=8, num_people=3, identity_scales=(1.0, 3.0), learning_rate=0.05
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_faces(folder: Path, split: str, identity: list[int]) -> None:
    rng = np.random.default_rng(len(identity))
    options = dict(resolution=SIDE, attribute_names=list(NAMES), sources={}, rows_per_shard=99)
    with FacesWriter(folder, split, **options) as writer:
        for number, person in enumerate(identity):
            image = encode_png(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
            writer.add(str(number), image, rng.integers(0, 2, len(NAMES)), person, POINTS)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    write_models(root / "data/models")
    small_msid().save_pretrained(root / "data/models/msid")
    train = np.repeat(range(4), 4).tolist()
    write_faces(root / "data/faces", "train", train)
    write_faces(root / "data/faces", "test", [20, 20, 21, 21, 22, 22, 23])
    mean = np.random.default_rng(0).normal(size=(len(train), 2, 4, 8, 8))
    write_shard(
        root / "data/latents/train-00000.parquet", ids=[str(i) for i in range(len(train))], mean=mean,
        logvar=np.full_like(mean, -6.0), attributes=np.zeros((len(train), len(NAMES)), np.int8),
        identity=np.array(train), attribute_names=NAMES,
    )  # fmt: skip
    write_json(root / "data/latents" / STATS, channel_stats(mean, np.full_like(mean, -6.0)))
    return root


def stage_of(root: Path, inputs: Path, *, linked: tuple[str, ...] = ("faces", "latents", "models")) -> Stage:
    """The real stage in a folder of its own, with the inputs of all tests."""
    (root / "scratch").mkdir(parents=True, exist_ok=True)
    (root / "data").mkdir(exist_ok=True)
    for name in linked:
        if name != "models" and not (root / "data" / name).exists():
            (root / "data" / name).symlink_to(inputs / "data" / name)
    if "models" in linked:
        (root / "data/models").mkdir(exist_ok=True)
        for model in (inputs / "data/models").iterdir():
            if not (root / "data/models" / model.name).exists():
                (root / "data/models" / model.name).symlink_to(model)
    params = load_params(Path(__file__).resolve().parents[2] / "params.yaml")
    changed = {
        "dit_mapper": params.dit_mapper.model_copy(update=TOY),
        "machine": params.machine.model_copy(update={"device": "cpu", "threads": 1}),
        "base": params.base.model_copy(update={"precision": "fp32"}),
        "sample": params.sample.model_copy(update={"num_steps": 2}),
    }
    return Stage(
        name="dit_mapper", params=params.model_copy(update=changed), root=root, home=root, key="k",
        scratch=root / "scratch", parameters={}, inputs={}, tracker=None,
    )  # fmt: skip


def contents(root: Path) -> dict[str, bytes]:
    folders = (root / "data/models/dit-mapper", root / "eval/personalize-dit")
    return {
        p.relative_to(root).as_posix(): p.read_bytes() for f in folders for p in sorted(f.rglob("*")) if p.is_file()
    }


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    stage_module.run(stage_of(root, inputs))
    return root


def test_it_writes_two_adapters_and_the_pictures_of_every_method(whole: Path) -> None:
    models, out = whole / "data/models/dit-mapper", whole / "eval/personalize-dit"
    check_manifest(models)
    check_manifest(out)
    features = torch.randn(3, small_msid().embedding_size)
    guided, plain = (load_adapter(models / name)(features) for name in (MAPPED, PLAIN))
    assert guided.shape == (3, 32) and guided.abs().max() > 0 and not torch.allclose(guided, plain)
    assert len((models / MAPPED / "log.csv").read_text().splitlines()) > 2
    about = read_json(models / "dit_mapper.json")
    assert about["mask"] == "head" and list(about["msid"]) == ["diffusion_pytorch_model.safetensors"]
    people, samples = People.from_json(read_json(out / ABOUT)), read_samples(out / "pictures.parquet")
    assert sorted(people.identity) == [20, 21, 22] and read_json(out / ABOUT)["methods"] == [RECOGNIZER, MAPPED, PLAIN]
    assert len(samples) == 3 * (1 + 2 * 2 + 1) + 1 * 2 * 5
    none, told = samples.of(NONE).images(), samples.of(scale_set(MAPPED, 3.0)).images()
    assert np.abs(none.astype(int) - told).max() > 1
    assert {p.name for p in out.glob("*.png")} == {"people.png", "pairs.png"}


def test_stopped_and_started_again_it_ends_with_the_same_bytes(whole: Path, inputs: Path, tmp_path: Path) -> None:
    stage = stage_of(tmp_path, inputs)
    stage.stop.set()
    with pytest.raises(StoppedError):
        stage_module.run(stage)
    assert not (tmp_path / "data/models/dit-mapper").exists()
    stage_module.run(stage_of(tmp_path, inputs))
    assert contents(tmp_path) == contents(whole)


def test_without_encoder_or_people_it_says_so(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    no_encoder, no_people = tmp_path / "a", tmp_path / "b"
    stage = stage_of(no_encoder, inputs, linked=("faces", "latents"))
    write_json(no_encoder / "data/models/msid/recognizer.json", {"absent": "the data name no people"})
    stage_module.run(stage)
    write_faces(no_people / "data/faces", "test", [-1, -1, 3, 4])
    stage_module.run(stage_of(no_people, inputs, linked=("latents", "models")))
    for root, reason in ((no_encoder, "name no people"), (no_people, "two such people are needed")):
        for path in ("data/models/dit-mapper/dit_mapper.json", "eval/personalize-dit/dit_identity.json"):
            assert reason in read_json(root / path)["absent"]
    assert capsys.readouterr().err.count("no adapter") == 2
