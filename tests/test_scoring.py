"""What the score stage measures, with an extractor whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facegen.charts import read_csv
from facegen.score_plots import write_plots
from facegen.scoring import (
    RealSet,
    chosen_rows,
    common_count,
    count_parameters,
    describe,
    error_by_time,
    features_before_and_after,
    features_of,
    frechet_figures,
    measure_reconstruction,
    person_labels,
)
from tests.made_evaluation import made_evaluation, write_models


class MeanColour:
    """Three features: the mean of each channel."""

    name, digest, dim = "mean-colour", "d1", 3

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return images.mean((1, 2)).astype(np.float32)


def _images(n: int, *, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(30, 200, (n, 1, 1, 3)).repeat(16, 1).repeat(16, 2).astype(np.uint8)


def test_every_distance_is_taken_at_the_smallest_sets_n() -> None:
    assert common_count(2000, {"train": 5000, "test": 1152, "prior": 2000}) == 1152
    assert common_count(100, {"train": 5000, "test": 1152}) == 100
    with pytest.raises(ValueError, match="test holds 1 images"):
        common_count(100, {"train": 5000, "test": 1})


def test_rows_are_seeded_different_and_nested() -> None:
    rows = chosen_rows(0, "test", size=50, num=20)
    assert len(set(rows.tolist())) == 20 and rows.max() < 50
    assert rows.tolist() == chosen_rows(0, "test", size=50, num=30)[:20].tolist()
    assert rows.tolist() != chosen_rows(0, "train", size=50, num=20).tolist()
    assert rows.tolist() != chosen_rows(1, "test", size=50, num=20).tolist()


def test_reconstructions_and_their_features_are_measured_in_every_space() -> None:
    test, train = _images(40, seed=0), _images(30, seed=1)
    extractor = MeanColour()
    spaces = {"frechet": extractor, "other": extractor}

    def reconstruct(images: np.ndarray) -> np.ndarray:
        return images + np.uint8(10)

    measured = measure_reconstruction(iter([test[:7], test[7:]]), reconstruct, spaces, num_shown=9)
    assert measured.psnr_db == pytest.approx(np.full(40, 10 * np.log10(255**2 / 100)))
    assert np.array_equal(measured.shown, np.stack([test[:9], test[:9] + 10]))
    assert np.array_equal(measured.features["frechet"], extractor(test))
    before, after = features_before_and_after(iter([train[:11], train[11:]]), reconstruct, spaces)
    assert np.array_equal(before["other"], extractor(train))
    assert np.array_equal(after["frechet"], extractor(train + np.uint8(10)))
    reference = {name: RealSet(rows[:30], np.arange(30)) for name, rows in measured.features.items()}
    figures = frechet_figures(features_of(test[:30] + np.uint8(5), spaces), reference, spaces)
    assert figures["frechet"]["value"] == pytest.approx(3 * 25, rel=1e-5)  # equal covariances, means 5 apart
    assert figures["other"] == figures["frechet"] and figures["frechet"]["n"] == 30
    assert describe(spaces, {"frechet": "no FID", "other": ""})["frechet"]["digest"] == "d1"


def test_people_are_labels_and_the_unknown_are_each_their_own() -> None:
    labels = person_labels(np.array([3, -1, 3, 0, -1]))
    assert labels[0] == labels[2] and len(set(labels.tolist())) == 4


def test_plots_are_whole_and_the_same_twice(tmp_path: Path) -> None:
    found, samples = made_evaluation()
    write_models(tmp_path / "models")
    train = _images(300, seed=3)[:, :12, :12]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_plots(
            tmp_path / name, found, models=tmp_path / "models", samples=samples, test=train[:24],
            shown=np.stack([train[:5], train[5:10]]), train=Pictures(train),
        )  # fmt: skip
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    both = ["dit_loss", "dit_loss_by_time", "frechet", "frechet_by_images", "frechet_by_steps", "gan_loss", "guidance",
            "interventions", "reliability", "roc"]  # fmt: skip
    pictures = ["closest.png", "generators.png", "reconstruction_pairs.png", "reconstructions.png"]
    assert names == sorted([f"{name}.{end}" for name in both for end in ("csv", "png")] + pictures)
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    assert list(read_csv(tmp_path / "a/dit_loss.csv")) == ["images", "loss", "mse"]
    table = read_csv(tmp_path / "a/frechet.csv")
    kinds = ("floor", "reconstruction", "dit", "gan", "gan_unconditional")
    assert table["value"].tolist() == [found.figures[k]["frechet"]["value"] for k in kinds]
    table = read_csv(tmp_path / "a/interventions.csv")
    row = (table["of"] == "gan") & (table["flipped"] == "Male") & (table["measured"] == "No_Beard")
    assert table["change"][row] == pytest.approx([0.2])
    assert read_csv(tmp_path / "a/guidance.csv")["guidance"].tolist() == [1, 2]


class Pictures:
    """A training set in memory."""

    def __init__(self, images: np.ndarray) -> None:
        self.pixels = images

    def images(self, rows: np.ndarray, *, threads: int) -> np.ndarray:
        return self.pixels[rows]


def test_error_by_time_is_of_the_first_and_the_last_tenth_in_order_of_t() -> None:
    log = {f"mse_t{i}": np.r_[np.full(2, 10.0 + i), np.zeros(16), [np.nan, 1.0 + i]] for i in (10, 2, 0)}
    early, late = error_by_time({"loss": np.zeros(20), **log}).values()
    assert early.tolist() == [10, 12, 20] and late.tolist() == [1, 3, 11]
    assert error_by_time({"loss": np.zeros(20)}) == {}


def test_parameters_are_counted_in_the_folder_itself(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    (tmp_path / "ema").mkdir()
    save_file({"a": np.zeros((3, 4)), "b": np.zeros(())}, tmp_path / "x.safetensors")
    save_file({"a": np.zeros(100)}, tmp_path / "ema/x.safetensors")
    assert count_parameters(tmp_path) == 13
    with pytest.raises(FileNotFoundError, match="holds no"):
        count_parameters(tmp_path / "none")
