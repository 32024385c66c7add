"""The judge stage: what it writes, from which split each figure comes, and data without attributes."""

import json
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from facegen.data.images import encode_png
from facegen.data.shards import Faces, FacesWriter
from facegen.metrics.judge_features import load_judge_features
from facegen.models.judges import load_judge
from facegen.train.faces import FaceSet
from facegen.train.judge import best_thresholds, fit_temperatures, predict
from pipelines.judge import mean_of, run

NAMES = ("Bright", "Red", "Always")
COUNTS = {"train": 96, "val": 48, "test": 64}


class FakeStage:
    """What the judge stage uses of a stage."""

    device, dtype, key, item, is_main = torch.device("cpu"), torch.float32, "key", "b", True

    def __init__(self, root, architecture="convnext"):
        self.root, self.scratch, self.stop = root, root / "scratch", threading.Event()
        self.scratch.mkdir()
        self.figures = {}
        p = dict(
            architecture=architecture, width=8, total_images=640, batch_size=32, learning_rate=3e-3, weight_decay=0.01
        )
        self.params = SimpleNamespace(
            judge=SimpleNamespace(b=SimpleNamespace(**p)), base=SimpleNamespace(seed=0),
            machine=SimpleNamespace(threads=1),
        )  # fmt: skip

    @contextmanager
    def output(self, path):
        (self.root / path).mkdir(parents=True)
        yield self.root / path

    def log(self, figures, *, step):
        pass

    def metrics(self, figures):
        self.figures = dict(figures)

    def model(self, folder):
        pass


def write_faces(root, names=NAMES):
    """Noise pictures, bright or dark, red or blue, by their first two labels; the third is always present."""
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        with FacesWriter(
            root / "data/faces", split, resolution=32, attribute_names=names, sources={}, rows_per_shard=64
        ) as writer:
            for number in range(count):
                bright, red = rng.integers(0, 2, 2)
                image = rng.integers(0, 120, (32, 32, 3)) + 60 * bright
                image[..., 0 if red else 2] += 75
                states = np.array([bright, red, 1])[: len(names)]
                states[:2][rng.random(len(states[:2])) < 0.1] = -1
                writer.add(f"{number}", encode_png(image.astype(np.uint8)), states, -1, np.zeros((5, 2)))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    root = tmp_path_factory.mktemp("judge")
    write_faces(root)
    stage = FakeStage(root)
    run(stage)
    return stage, root / "data/models/judge-b"


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_accuracy_is_what_the_saved_judge_says_of_test(done):
    stage, folder = done
    found, judge = read(folder, "accuracy.json"), load_judge(folder)
    test = Faces.open(stage.root / "data/faces", "test")
    _, said = load_judge_features(folder, torch.device("cpu")).both(test.images(range(64), threads=1))
    for k, name in enumerate(NAMES[:2]):
        row, states = found["attributes"][name], test.attributes[:, k]
        called = said[:, k] >= judge.config.thresholds[k]
        rates = called[states == 1].mean(), (~called[states == 0]).mean()
        assert (row["sensitivity"]["value"], row["specificity"]["value"]) == pytest.approx(rates)
        assert row["balanced_accuracy"]["value"] == pytest.approx(np.mean(rates)) and np.mean(rates) > 0.9
        assert row["majority_accuracy"] < 0.7 and row["auroc"] > 0.95
        assert (row["present"], row["absent"]) == ((states == 1).sum(), (states == 0).sum())
        assert (row["threshold"], row["temperature"]) == (judge.config.thresholds[k], judge.config.temperatures[k])
    assert found["images"] == 64 and judge.config.resolution == 32


def test_an_attribute_that_all_have_is_null_and_stays_out_of_the_mean(done):
    stage, folder = done
    found, curves = read(folder, "accuracy.json"), read(folder, "curves.json")
    row = found["attributes"]["Always"]
    assert row["balanced_accuracy"] is row["auroc"] is row["specificity"] is row["calibration_error"] is None
    assert (row["threshold"], row["temperature"], row["majority_accuracy"]) == (0.5, 1.0, 1.0)
    assert curves["Always"] == {"roc": None, "reliability": None}
    rows = [found["attributes"][name]["auroc"] for name in NAMES[:2]]
    assert found["mean"]["auroc"] == pytest.approx(np.mean(rows))
    assert stage.figures == {k: v for k, v in found["mean"].items() if v is not None} and len(stage.figures) == 4
    assert mean_of({"Always": row}, "auroc") is None


def test_temperatures_and_thresholds_are_those_of_val(done):
    stage, folder = done
    judge, val = load_judge(folder), Faces.open(stage.root / "data/faces", "val")
    logits = predict(judge, FaceSet(val, device=stage.device, threads=1), batch_size=32)
    assert list(judge.config.temperatures) == pytest.approx(fit_temperatures(logits, val.attributes), abs=1e-3)
    said = judge.probabilities(torch.from_numpy(logits)).numpy()
    assert list(judge.config.thresholds) == pytest.approx(best_thresholds(said, val.attributes), abs=0.011)


def test_temperatures_lower_the_calibration_error(done):
    mean = read(done[1], "accuracy.json")["mean"]
    assert mean["calibration_error"] < mean["calibration_error_uncalibrated"]


def test_curves_and_log_are_written(done):
    _, folder = done
    curves = read(folder, "curves.json")
    for name in NAMES[:2]:
        false, true = curves[name]["roc"].values()
        assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1) and len(false) == len(true) <= 60
        assert len(set(map(len, curves[name]["reliability"].values()))) == 1
    assert (folder / "log.csv").read_text().startswith("images,")


def test_data_without_attributes_have_no_judge(tmp_path):
    write_faces(tmp_path, names=())
    run(FakeStage(tmp_path))
    folder = tmp_path / "data/models/judge-b"
    assert read(folder, "accuracy.json") == {"absent": "the data name no attributes"}
    assert [p.name for p in folder.iterdir()] == ["accuracy.json"]
    with pytest.raises(ValueError, match="holds no judge"):
        load_judge(folder)
