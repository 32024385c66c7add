"""`facegen score`: its figures on sets whose answer is known, what it prints, and its errors in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from facegen import set_scoring
from facegen.cli import app
from facegen.config import load_params
from facegen.data.images import encode_png
from facegen.metrics.features import RandomProjection
from facegen.metrics.frechet import frechet_interval
from facegen.metrics.manifold import NAMES
from facegen.set_scoring import FEATURE_DIM, compare_features, open_extractor

runner = CliRunner()
NUM = 110


def _scenes(n: int, *, seed: int, tint: float = 0.0) -> np.ndarray:
    """Coloured gradients with a disc, 24 px."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:24, :24] / 24
    out = np.empty((n, 24, 24, 3), np.uint8)
    for image in out:
        picture = rng.uniform(60, 180, 3) + (x * rng.uniform(-80, 80) + y * rng.uniform(-80, 80))[..., None]
        picture[(x - rng.uniform(0.3, 0.7)) ** 2 + (y - 0.5) ** 2 < rng.uniform(0.05, 0.3) ** 2] = rng.uniform(
            0, 255, 3
        )
        image[:] = np.clip(picture + np.array([tint, 0, 0]), 0, 255)
    return out


def _write(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir()
    for i, image in enumerate(images):
        (folder / f"{i:04d}.png").write_bytes(encode_png(image))
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    _write(root / "real", _scenes(NUM, seed=0))
    _write(root / "fake", _scenes(NUM + 20, seed=1, tint=40))
    _write(root / "train", _scenes(150, seed=2))
    return root


def run(*arguments: str | Path) -> Result:
    return runner.invoke(app, ["score", *map(str, arguments)])


def refused(result: Result) -> str:
    assert result.exit_code == 2 and result.stdout == "" and "Traceback" not in result.stderr
    assert result.stderr.startswith("facegen: ") and result.stderr.count("\n") == 1
    return result.stderr


def test_score_prints_the_figures_and_only_them(sets: Path, tmp_path: Path) -> None:
    result = run(sets / "fake", sets / "real", "--train", sets / "train", "-o", tmp_path / "figures.json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures == json.loads((tmp_path / "figures.json").read_text())
    assert (figures["n_generated"], figures["n_reference"], figures["n"]) == (NUM + 20, NUM, NUM)
    assert f"taken at {NUM} images of {NUM + 20} generated and {NUM} real" in result.stderr
    assert {"frechet", "frechet_infinity", "kernel", *NAMES, "duplicates", "memorisation", "versions"} < set(figures)
    assert "fid" not in figures  # the random projection is not Inception
    for name in ("frechet", "kernel", *NAMES):
        assert figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"] and figures[name]["n"] == NUM
    extractor = RandomProjection(FEATURE_DIM)
    assert figures["extractor"] == {"name": extractor.name, "digest": extractor.digest, "dim": FEATURE_DIM}
    assert figures["sets"]["generated"]["size"] == [24, 24] and figures["sets"]["train"]["images"] == 150
    assert figures["versions"]["torch-fidelity"] and figures["duplicates"]["exact"] == 0
    again = json.loads(run(sets / "fake", sets / "real", "--train", sets / "train").stdout)
    assert again == figures


def test_the_figures_are_those_of_the_metrics_on_the_features(sets: Path) -> None:
    figures = json.loads(run(sets / "real", sets / "train", "--num", 100, "--k", 3, "--seed", 4).stdout)
    extractor = RandomProjection(FEATURE_DIM)
    rows = [set_scoring._chosen(4, role, size, 100) for role, size in (("generated", NUM), ("reference", 150))]
    own, real = extractor(_scenes(NUM, seed=0)[rows[0]]), extractor(_scenes(150, seed=2)[rows[1]])
    interval, _ = frechet_interval(own, real, extractor="x")
    assert figures["frechet"]["value"] == pytest.approx(interval.value, rel=1e-6)
    assert figures["frechet"]["high"] == pytest.approx(interval.high, rel=1e-6)
    other = json.loads(run(sets / "real", sets / "train", "--num", 100, "--k", 3, "--seed", 5).stdout)
    assert other["frechet"]["value"] != figures["frechet"]["value"]


def test_a_set_against_itself_and_against_a_tinted_one(sets: Path) -> None:
    same = run(sets / "real", sets / "real")
    figures = json.loads(same.stdout)
    assert f"{NUM} images are in both sets" in same.stderr
    assert figures["frechet"]["value"] == pytest.approx(0, abs=1e-4) and figures["kernel"]["value"] < 0
    assert [figures[name]["value"] for name in NAMES] == [1, 1, pytest.approx(6 / 5), 1]
    assert figures["sets"]["generated"]["sha256"] == figures["sets"]["reference"]["sha256"]
    honest = json.loads(run(sets / "train", sets / "real").stdout)
    tinted = json.loads(run(sets / "fake", sets / "real").stdout)
    assert tinted["frechet"]["low"] > honest["frechet"]["high"] and tinted["kernel"]["low"] > honest["kernel"]["high"]


def test_first_the_generated_then_the_real(sets: Path, tmp_path: Path) -> None:
    """Nearly one picture over and over: precise, without recall; the other way round it is the reverse."""
    one = np.clip(_scenes(1, seed=3).astype(int) + np.random.default_rng(0).integers(-2, 3, (NUM, 24, 24, 3)), 0, 255)
    narrow = _write(tmp_path / "narrow", one.astype(np.uint8))
    figures = json.loads(run(narrow, sets / "real").stdout)
    turned = json.loads(run(sets / "real", narrow).stdout)
    assert figures["recall"]["value"] < 0.1 < 0.9 < turned["recall"]["value"]
    assert figures["precision"]["value"] > 0.9 > 0.1 > turned["precision"]["value"]
    help_text = " ".join(run("--help").stdout.split())
    assert "{GENERATED} {REAL}" in help_text and "First the images to judge" in help_text


def test_copies_of_the_training_set_are_named_by_their_rows(sets: Path, tmp_path: Path) -> None:
    copied = _write(tmp_path / "copied", np.concatenate([_scenes(90, seed=5), _scenes(150, seed=2)[30:70]]))
    figures = json.loads(run(copied, sets / "real", "--train", sets / "train").stdout)["memorisation"]
    assert figures["close"]["low"] > 0.1 and figures["closer"]["value"] > 0.5
    assert len(figures["closest_pairs"]) == 16
    for row, train_row, distance in figures["closest_pairs"]:
        assert distance == pytest.approx(0, abs=1e-4) and row - 90 == train_row - 30


def test_repeated_images_are_counted_by_their_pixels(sets: Path, tmp_path: Path) -> None:
    repeated = _write(tmp_path / "repeated", np.concatenate([_scenes(NUM - 11, seed=6), _scenes(11, seed=6)]))
    duplicates = json.loads(run(repeated, sets / "real").stdout)["duplicates"]
    assert duplicates["exact"] == pytest.approx(22 / NUM) and duplicates["near"] >= duplicates["exact"]


def test_inception_alone_is_called_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    class Features(set_scoring.InceptionFeatures):
        def __init__(self) -> None:
            self.digest, self.dim = "0", 4

    rng = np.random.default_rng(0)
    own, real = rng.standard_normal((2, 300, 4)).astype(np.float32)
    figures = compare_features(own, real, Features(), k=5, seed=0)
    assert figures["fid"] == figures["frechet"] and figures["frechet_infinity"]["value"] < figures["frechet"]["value"]
    with pytest.raises(ValueError, match="300 generated and 299 real"):
        compare_features(own, real[:299], Features(), k=5, seed=0)


def test_the_feature_space_is_chosen_once(tmp_path: Path) -> None:
    assert open_extractor(None, inception=None, device="cpu").name == f"random-projection-{FEATURE_DIM}"
    with pytest.raises(ValueError, match="needs its weights"):
        open_extractor("inception", inception=None, device="cpu")
    with pytest.raises(ValueError, match="leave one of them out"):
        open_extractor("random", inception="download", device="cpu")
    with pytest.raises(FileNotFoundError, match="no such file of InceptionV3 weights"):
        open_extractor(None, inception=str(tmp_path / "w.pth"), device="cpu")
    with pytest.raises(FileNotFoundError, match="no such folder of a judge"):
        open_extractor("rnadom", inception=None, device="cpu")


def test_the_feature_dimension_is_that_of_the_score_stage(root: Path) -> None:
    assert load_params(root / "params.yaml").score.feature_dim == FEATURE_DIM


def test_mistakes_are_one_line(sets: Path, tmp_path: Path) -> None:
    assert "does not exist" in refused(run(sets / "none", sets / "real"))
    (tmp_path / "empty").mkdir()
    assert "holds no picture" in refused(run(tmp_path / "empty", sets / "real"))
    message = run(sets / "fake", sets / "real", "--k", 60)
    assert message.exit_code == 2 and "k is 60 for 110 real and 110 generated rows; allowed: 1 to 54" in message.stderr
    assert run(sets / "fake").exit_code == 2
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes(encode_png(_scenes(1, seed=0)[0]))
    (tmp_path / "one" / "b.png").write_bytes(b"broken")
    assert "b.png: not a JPEG" in refused(run(tmp_path / "one", tmp_path / "one"))
    assert "at least 2 of each" in run(_write(tmp_path / "single", _scenes(1, seed=0)), sets / "real").stderr
