"""What the score stage measures, with an extractor whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facegen.artifacts import canonical_json
from facegen.charts import read_csv
from facegen.score_plots import write_plots
from facegen.scoring import (
    RealSet,
    chosen_rows,
    common_count,
    count_parameters,
    error_by_time,
    features_before_and_after,
    measure_reconstruction,
    person_labels,
    score_figures,
)


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


def test_figures_of_a_known_shift(tmp_path: Path) -> None:
    test, train = _images(40, seed=0), _images(30, seed=1)
    extractor = MeanColour()

    def reconstruct(images: np.ndarray) -> np.ndarray:
        return images + np.uint8(10)

    measured = measure_reconstruction(iter([test[:7], test[7:]]), reconstruct, extractor, num_shown=9)
    assert measured.psnr_db == pytest.approx(np.full(40, 10 * np.log10(255**2 / 100)))
    assert np.array_equal(measured.shown, np.stack([test[:9], test[:9] + 10]))
    before, after = features_before_and_after(iter([train[:11], train[11:]]), reconstruct, extractor)
    assert np.array_equal(before, extractor(train)) and np.array_equal(after, extractor(train + np.uint8(10)))
    figures = score_figures(
        measured,
        test_people=np.arange(40),
        train=RealSet(before, np.arange(30)),
        train_reconstructions=after,
        samples=extractor(test[:30] + np.uint8(5)),
        extractor=extractor,
    )
    assert figures["dit"]["frechet"]["value"] == pytest.approx(3 * 25, rel=1e-5)  # equal covariances, means 5 apart
    assert figures["dit"]["frechet"]["n"] == figures["floor"]["frechet"]["n"] == 30
    assert figures["reconstruction"]["psnr_db"]["n"] == 40
    assert figures["reconstruction"]["frechet"]["value"] != figures["floor"]["frechet"]["value"]
    assert figures["extractors"]["frechet"]["digest"] == "d1" and "not Inception" in canonical_json(figures)
    assert "fid" not in canonical_json({k: v for k, v in figures.items() if k != "extractors"}).lower()
    _check_plots(tmp_path, figures, measured.shown)


def test_people_are_labels_and_the_unknown_are_each_their_own() -> None:
    labels = person_labels(np.array([3, -1, 3, 0, -1]))
    assert labels[0] == labels[2] and len(set(labels.tolist())) == 4


def _check_plots(folder: Path, figures: dict, shown: np.ndarray) -> None:
    (folder / "models/dit").mkdir(parents=True)
    log = "images,loss,mse,mse_t0,mse_t1\n" + "".join(f"{i * 100},{2 / i},{1 / i},{i},\n" for i in range(1, 21))
    (folder / "models/dit/log.csv").write_text(log)
    for name in ("a", "b"):
        (folder / name).mkdir()
        write_plots(folder / name, figures, models=folder / "models", shown=shown)
    names = sorted(path.name for path in (folder / "a").iterdir())
    assert names == ["dit_loss.csv", "dit_loss.png", "dit_loss_by_time.csv", "dit_loss_by_time.png", "frechet.csv",
                     "frechet.png", "reconstruction_pairs.png", "reconstructions.png"]  # fmt: skip
    assert all((folder / "a" / name).read_bytes() == (folder / "b" / name).read_bytes() for name in names)
    assert list(read_csv(folder / "a/dit_loss.csv")) == ["images", "loss", "mse"]
    table = read_csv(folder / "a/frechet.csv")
    assert table["value"].tolist() == [figures[k]["frechet"]["value"] for k in ("floor", "reconstruction", "dit")]


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
