"""`facegen identities` on toy networks: shards that end with one set, resuming, and mistakes in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from ruamel.yaml import YAML
from typer.testing import CliRunner

from facegen import cli_identities
from facegen.artifacts import read_json
from facegen.cli import OneLineErrors
from facegen.data.images import encode_png
from facegen.data.latents import STATS, channel_stats, write_shard
from facegen.data.people_set import PeopleSet
from facegen.data.shards import FacesWriter
from facegen.identities import dataset
from tests.made_editor import NAMES, SIDE, write_models

app = typer.Typer(cls=OneLineErrors)
app.callback()(lambda: None)
for command in cli_identities.COMMANDS:
    app.command()(command)
DIM = 12


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A model's folder, data of real people and a parameter file with small numbers."""
    folder = tmp_path_factory.mktemp("inputs")
    write_models(folder / "models")
    g = np.random.default_rng(0)
    mean = g.normal(size=(12, 2, 4, 8, 8))
    vectors = np.abs(g.normal(size=(12, DIM))) + np.eye(DIM)
    write_shard(
        folder / "data/latents/train-00000.parquet", ids=[str(i) for i in range(12)], mean=mean,
        logvar=np.full_like(mean, -6.0), attributes=g.integers(0, 2, (12, len(NAMES))), identity=np.arange(12) // 2,
        attribute_names=NAMES, embedding=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
    )  # fmt: skip
    write_shard_stats(folder, mean)
    with FacesWriter(
        folder / "data/faces", "val", resolution=SIDE, attribute_names=NAMES, sources={}, rows_per_shard=99
    ) as writer:
        for i in range(4):
            image = encode_png(g.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
            writer.add(str(i), image, np.zeros(len(NAMES)), i // 2, np.full((5, 2), 3) + np.arange(10).reshape(5, 2))
    yaml = YAML()
    values = yaml.load(root / "params.yaml")
    values["identities"] |= {
        "spare": 0.5, "max_context_cosine": 1.0, "max_centre_cosine": 1.0, "leakage_quantile": 1.0, "num_steps": 6,
        "calibration_runs": 16, "batch_size": 3, "early": 0.9, "late": 0.4, "target": 0.6,
    }  # fmt: skip
    values["machine"]["threads"] = 1
    values["base"]["precision"] = "fp32"
    yaml.dump(values, folder / "params.yaml")
    return folder


def write_shard_stats(folder: Path, mean: np.ndarray) -> None:
    from facegen.artifacts import write_json

    write_json(folder / "data/latents" / STATS, channel_stats(mean, np.full_like(mean, -6.0)))


def facegen(inputs: Path, out: Path, *arguments: object, code: int = 0) -> str:
    common = [
        "--model",
        inputs / "models",
        "--params",
        inputs / "params.yaml",
        "--data",
        inputs / "data",
        "-k",
        4,
        "-m",
        2,
    ]
    result = CliRunner().invoke(
        app, ["identities", str(out), *(str(a) for a in [*common, *arguments, "--device", "cpu"])]
    )
    assert result.exit_code == code, result.output
    return result.output


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files if cli_identities.WORK not in p.parts}


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "people"
    said = facegen(inputs, out)
    assert "4 people, 8 pictures (4 kept, 0 training, 0 twin, 2 spare)" in said
    return out


def test_one_process_writes_the_set(inputs: Path, whole: Path) -> None:
    people = PeopleSet.open(whole / "people.parquet")
    assert people.identity.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(list((whole / "images").rglob("*.png"))) == 8
    assert read_json(whole / "people.json")["plan"]["method"] == "adaptive_injection"
    assert not (whole / cli_identities.WORK / "chunks").exists()
    assert "is complete" in facegen(inputs, whole)


def test_shards_end_with_the_same_set_and_go_on(
    inputs: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "3 of 4 chunks are left to other shards" in facegen(inputs, tmp_path / "out", "--shard", "2/3")
    calls: list[int] = []
    generate = dataset.PeopleSampler.draw

    def counted(self, identity, seeds, **more):  # type: ignore[no-untyped-def]
        calls.append(len(seeds))
        return generate(self, identity, seeds, **more)

    monkeypatch.setattr(dataset.PeopleSampler, "draw", counted)
    assert "2 of 4 chunks" in facegen(inputs, tmp_path / "out", "--shard", "3/3")
    assert "4 people" in facegen(inputs, tmp_path / "out", "--shard", "1/3")
    assert calls == [3, 3, 3]  # chunk 2; then 0 and 3
    assert contents(tmp_path / "out") == contents(whole)
    assert "is complete" in facegen(inputs, tmp_path / "out", "--shard", "3/3")


def test_options_reach_the_sampler(inputs: Path, tmp_path: Path) -> None:
    rows = np.abs(np.random.default_rng(1).normal(size=(9, DIM)))
    np.save(tmp_path / "who.npy", rows)
    out = tmp_path / "out"
    said = facegen(
        inputs, out, "--source", tmp_path / "who.npy", "--attributes", "Male=1,Smiling=0", "--method", "one_stage",
        "--steps", 4, "--guidance", 3, "--seed", 5, "--spare", 0, "--no-folder", "--unscreened", "-k", 2,
    )  # fmt: skip
    assert "nobody was compared with training people" in said and not (out / "images").exists()
    about = read_json(out / "people.json")
    plan = about["plan"]
    assert plan["people"] == [2, DIM] and plan["seed"] == 5 and plan["about"]["num_steps"] == 4
    assert plan["about"]["states"] == [1, 0, -1, -1, -1, -1] and plan["about"]["settings"]["guidance_scale"] == 3
    assert about["thresholds"]["training"] is None and about["candidates"]["nearest_training"] is None
    people = PeopleSet.open(out / "people.parquet")
    assert set(people.switch.tolist()) == {1.0} and set(people.evaluations.tolist()) == {8}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "4/3"], "write I/N with I from 1 to N"),
        (["--shard", "half"], "write I/N"),
        (["--method", "magic"], "unknown method 'magic'; allowed: one_stage"),
        (["--attributes", "Mael=1"], "Mael"),
        (["--source", "nowhere.npy"], "nowhere.npy does not exist"),
        (["--data", "nowhere"], "nowhere"),
        (["--unscreened"], "take gaussian"),
        (["--max-cosine", "-0.99"], "raise max_context_cosine"),
    ],
)
def test_mistakes_are_one_line(inputs: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    said = facegen(inputs, tmp_path / "out", *arguments, code=2)
    assert message in said and "Traceback" not in said


def test_a_folder_with_another_set_is_refused(inputs: Path, whole: Path) -> None:
    before = contents(whole)
    assert "was prepared for another set (num differ)" in facegen(inputs, whole, "-k", 3, code=2)
    assert "holds another set of people; name a new folder" in facegen(inputs, whole, "-m", 3, code=2)
    assert contents(whole) == before


def test_without_a_recogniser_it_says_so(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for name in ("dit", "autoencoder"):
        (tmp_path / "models" / name).symlink_to(inputs / "models" / name)
    assert "holds no recognizer-condition" in facegen(inputs, tmp_path / "o", "--model", tmp_path / "models", code=2)
