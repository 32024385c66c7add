"""Identity conditions: the sources, the greedy filter against its definition, and draws that do not depend on K."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from facegen.identities.contexts import REFUSED_IN_A_ROW, draw_contexts, people_means, read_contexts

DIM = 8


def _people(num: int = 4000) -> np.ndarray:
    """Unit vectors around one direction, spread mostly along two others."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(num, DIM)) * np.array([0.05, 0.6, 0.3, 0.02, 0.02, 0.02, 0.02, 0.02]) + np.eye(DIM)[0]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("source", ["gaussian", "whitened"])
def test_contexts_are_unit_far_apart_and_greedy(source: str) -> None:
    free = draw_contexts(source, num=2000, dim=DIM, people_means=_people(), max_cosine=1.0, seed=3)
    drawn = draw_contexts(source, num=30, dim=DIM, people_means=_people(), max_cosine=0.98, seed=3)
    assert free.drawn == 2000 and drawn.vectors.dtype == np.float32 and drawn.vectors.shape == (30, DIM)
    assert np.allclose(np.linalg.norm(drawn.vectors, axis=1), 1, atol=1e-6)
    cosines = drawn.vectors @ drawn.vectors.T - 2 * np.eye(30)
    assert cosines.max() <= 0.98 + 1e-6
    kept: list[np.ndarray] = []  # the definition, on the candidates that the unfiltered draw shows
    for candidate in free.vectors:
        if all(candidate @ other <= 0.98 for other in kept):
            kept.append(candidate)
        if len(kept) == 30:
            break
    assert np.array_equal(drawn.vectors, np.stack(kept[:30]))
    assert drawn.drawn == 1 + int(np.flatnonzero((free.vectors == kept[29]).all(axis=1))[0])


@pytest.mark.parametrize("source", ["gaussian", "whitened"])
def test_a_smaller_draw_is_the_beginning_of_a_larger_one(source: str) -> None:
    draws = {
        num: draw_contexts(source, num=num, dim=DIM, people_means=_people(), max_cosine=0.99, seed=1)
        for num in (1, 7, 40)
    }
    assert np.array_equal(draws[7].vectors, draws[40].vectors[:7])
    assert np.array_equal(draws[1].vectors, draws[40].vectors[:1])
    other = draw_contexts(source, num=7, dim=DIM, people_means=_people(), max_cosine=0.99, seed=2)
    assert not np.isclose(other.vectors, draws[7].vectors).any(axis=1).any()


def test_whitened_has_the_moments_of_the_people_and_gaussian_has_not() -> None:
    people = _people()
    cov, mean = np.cov(people.T), people.mean(axis=0)

    def off(source: str) -> tuple[float, float]:
        found = draw_contexts(source, num=4000, dim=DIM, people_means=people, max_cosine=1.0, seed=0).vectors
        return float(np.abs(np.cov(found.T) - cov).max()), float(np.abs(found.mean(axis=0) - mean).max())

    assert max(off("whitened")) < 0.06  # not 0: the draws are scaled to unit length
    assert min(off("gaussian")) > 0.1


def test_two_directions_fill_a_line() -> None:
    assert draw_contexts("gaussian", num=2, dim=1, max_cosine=0.5, seed=0).vectors.sum() == 0  # 1 and -1
    with pytest.raises(
        ValueError, match=r"2 of 3 people found .* raise max_context_cosine .--max-cosine. or ask for fewer"
    ) as told:
        draw_contexts("gaussian", num=3, dim=1, max_cosine=0.5, seed=0)
    drawn = int(str(told.value).split("among ")[1].split()[0])
    second = draw_contexts("gaussian", num=2, dim=1, max_cosine=0.5, seed=0).drawn
    assert drawn == second + REFUSED_IN_A_ROW


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_a_file_is_taken_in_order(tmp_path: Path, suffix: str) -> None:
    rows = np.array([[3, 0, 0], [0, 2, 0], [2.9, 0.1, 0], [0, 0, 5]], np.float32)
    path = tmp_path / f"people{suffix}"
    np.save(path, rows) if suffix == ".npy" else save_file({"anything": rows}, path)
    found = draw_contexts("file", num=3, dim=3, path=path, max_cosine=0.9, seed=0)
    assert np.array_equal(found.vectors, np.eye(3, dtype=np.float32)) and found.drawn == 4
    with pytest.raises(ValueError, match=r"3 of 4 people found among 4 candidates .* give a file with more rows"):
        draw_contexts("file", num=4, dim=3, path=path, max_cosine=0.9, seed=0)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.npy"):
        read_contexts(tmp_path / "none.npy", dim=3)
    for rows, message in (
        (np.ones((2, 4)), r"float64 \(2, 4\); expected floats \(K, 3\)"),
        (np.ones((2, 3), int), "int64"),
        (np.array([[1.0, 0, 0], [0, 0, 0]]), "row 1 is zero or not finite"),
        (np.array([[np.inf, 0, 0]]), "row 0 is zero or not finite"),
        (np.array([{"a": 1}], dtype=object), "not a .npy file of numbers"),
    ):
        np.save(tmp_path / "bad.npy", rows, allow_pickle=True)
        with pytest.raises(ValueError, match=message):
            read_contexts(tmp_path / "bad.npy", dim=3)
    save_file({"a": np.ones((1, 3)), "b": np.ones((1, 3))}, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match=r"2 tensors \(a, b\)"):
        read_contexts(tmp_path / "two.safetensors", dim=3)
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_contexts(tmp_path / "bad.safetensors", dim=3)
    (tmp_path / "people.csv").write_text("1,2,3")
    with pytest.raises(ValueError, match="come as"):
        read_contexts(tmp_path / "people.csv", dim=3)


def test_sources_that_do_not_fit_are_refused() -> None:
    for arguments, message in (
        ({"source": "real"}, "allowed: gaussian, whitened, file"),
        ({"source": "whitened"}, "take gaussian"),
        ({"source": "whitened", "people_means": np.ones((1, DIM))}, "2 people or more"),
        ({"source": "file"}, "needs a path"),
        ({"source": "gaussian", "num": 0}, "0 people"),
        ({"source": "gaussian", "max_cosine": 1.5}, "1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            draw_contexts(**{"num": 2, "dim": DIM, "max_cosine": 0.9, "seed": 0, **arguments})


def test_people_means_in_closed_form() -> None:
    embedding = np.array([[1, 0], [0, 1], [0.6, 0.8], [1, 0], [0, -1]], np.float32)
    means = people_means(embedding, np.array([7, 7, -1, 2, 9]))
    assert np.allclose(means, [[1, 0], [0.5**0.5, 0.5**0.5], [0, -1]]) and means.dtype == np.float32
    with pytest.raises(ValueError, match="nothing is known"):
        people_means(embedding, np.full(5, -1))
    with pytest.raises(ValueError, match="centre of person 0 is zero"):
        people_means(np.array([[1.0, 0], [-1, 0]]), np.zeros(2, int))
