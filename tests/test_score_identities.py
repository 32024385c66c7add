"""Figures of synthetic people from folders to eval/metrics.json, on pictures that say themselves whom they show.

A person is a code of eight numbers, which stands in the first pixels of every picture of them and which the recogniser of
these tests reads back. All else in a picture is noise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from facegen.artifacts import save_tensors, write_json
from facegen.data.images import encode_png
from facegen.data.people_set import PeopleRows, people_writer, write_people
from facegen.data.shards import Faces, FacesWriter
from facegen.identities.sampler import METHODS
from facegen.metrics.judge_features import JudgeFeatures
from facegen.metrics.manifold import manifold_scores
from facegen.metrics.people import by_person, own_centre
from facegen.metrics.perceptual import perceptual_distances
from facegen.metrics.pose import luminance
from facegen.models.initialize import draw_weights
from facegen.models.judges import build_judge
from facegen.rng import torch_generator
from facegen.score_identities import (
    Witnesses,
    call_witnesses,
    chosen_people,
    error_rates,
    identity_figures,
    possible_times,
    reach,
    screening_figures,
    split_test,
    switch_histogram,
)
from facegen.score_leakage import CENTRE_PICTURES, first_rows

SIDE, DIM = 32, 8
CALIBRATION = {"num_steps": 50, "shift": 1.0, "early": 0.98, "late": 0.775, "patience": 1, "threshold": 0.1}
CANDIDATES = [0, 2, 3, 4, 6, 7]  # who became persons 0 .. 5 of the data set
TRAIN, VAL, TEST = range(100, 112), range(200, 208), range(300, 310)
PER_PERSON = 3


class Codes:
    """A recogniser that reads a picture's code."""

    dim, thresholds = DIM, {}

    def __init__(self, name: str) -> None:
        self.name = name

    def embed(self, images: np.ndarray, landmarks: np.ndarray | None, *, flip: bool = False) -> np.ndarray:
        codes = images[:, 0, :DIM, 0].astype(np.float64) - 128
        return (codes / np.linalg.norm(codes, axis=1, keepdims=True)).astype(np.float32)


def code(person: int) -> np.ndarray:
    rows = np.random.default_rng(person).standard_normal(DIM)
    return rows / np.linalg.norm(rows)


def picture(person: int, seed: int, *, noise: float = 0.1) -> np.ndarray:
    """The code of a person, a little off, among noise."""
    rng = np.random.default_rng((person, seed))
    pixels = rng.integers(0, rng.integers(60, 256), (SIDE, SIDE, 3), dtype=np.uint8)
    pixels[0, :DIM, 0] = np.clip(np.round(128 + 110 * (code(person) + rng.normal(0, noise, DIM))), 0, 255)
    return pixels


def judge() -> JudgeFeatures:
    model = build_judge("convnext", attribute_names=["Male"], width=8)
    draw_weights(model, torch_generator(0, "judge"))
    model.register_to_config(thresholds=[0.5], temperatures=[1.0], resolution=SIDE)
    return JudgeFeatures(model.eval(), name="b", digest="0", resolution=SIDE, device=torch.device("cpu"))


def write_faces(
    folder: Path, split: str, people: range, *, named: bool = True, marked: bool = True, per_person: int = 4
) -> Faces:
    """Pictures of people in turn, so that a person's are apart."""
    rng = np.random.default_rng(len(split))
    face = np.array([[10.0, 12], [22, 12], [16, 18], [12, 24], [20, 24]])
    with FacesWriter(folder, split, resolution=SIDE, attribute_names=[], sources={}, rows_per_shard=99) as writer:
        for number in range(per_person):
            for person in people:
                points = face + rng.normal(0, 0.5, (5, 2)) if marked else face
                png = encode_png(picture(person, number))
                writer.add(f"{person}/{number}.png", png, np.empty(0), person if named else -1, points)
    return Faces.open(folder, split)


def rows_of(
    people: list[int], show: Callable[[int, int], np.ndarray], *, method: str = "", switch: float = 0.88
) -> PeopleRows:
    """PER_PERSON pictures of each candidate."""
    candidate, number = np.repeat(people, PER_PERSON), np.tile(np.arange(PER_PERSON), len(people))
    images = [show(*pair) for pair in zip(candidate.tolist(), number.tolist(), strict=True)]
    times = np.linspace(switch, switch - 0.04, len(images)).astype(np.float32)
    return PeopleRows(
        np.repeat(np.arange(len(people)), PER_PERSON), number, candidate, np.arange(len(images)), times,
        np.full(len(images), 90) + number, [encode_png(image) for image in images],
        [method] * len(images) if method else None,
    )  # fmt: skip


def write_identities(folder: Path) -> Path:
    """Methods in another order than that of the figures; one_stage repeats a picture; the data set holds a copy."""
    folder.mkdir()
    shown: dict[str, Callable[[int, int], np.ndarray]] = {
        name: lambda c, n, k=k: picture(c, 10 + n, noise=0.05 * k) for k, name in enumerate(METHODS)
    }
    shown["one_stage"] = lambda c, n: picture(c, 0, noise=0)
    with people_writer(folder / "ablation.parquet", resolution=SIDE, methods=True) as writer:
        for name in ["fixed@0.9", *reversed(METHODS)]:
            writer.add(rows_of([0, 1, 2, 3], shown.get(name, shown["fixed"]), method=name))

    def one_is_a_training_person(candidate: int, number: int) -> np.ndarray:
        return picture(TRAIN[3] if candidate == 4 else candidate, 50 + number, noise=0.02)

    write_people(folder / "people.parquet", rows_of(CANDIDATES, one_is_a_training_person, switch=0.96), resolution=SIDE)
    write_json(folder / "calibration.json", CALIBRATION)
    contexts = np.stack([code(candidate) for candidate in range(8)]).astype(np.float32)
    save_tensors(folder / "contexts.safetensors", {"contexts": torch.from_numpy(contexts)}, {})
    write_json(folder / "people.json", MANIFEST)
    return folder


MANIFEST: dict[str, Any] = {
    "counts": {"kept": 6, "training": 1, "twin": 1, "spare": 0},
    "thresholds": {"training": 0.8, "each_other": 0.9},
    "candidates": {
        "reason": ["", "training", "", "", "", "twin", "", ""],
        "nearest_training": [0.1, 0.9, 0.2, 0.3, 0.8, 0.99, 0.5, 0.4],
    },
}


def progress(_: Any, label: str) -> Any:
    assert label
    return SimpleNamespace(update=lambda count: None, close=lambda: None)


GIVEN: dict[str, Any] = {
    "condition": Codes("recognizer-condition"), "method": "adaptive_injection", "quantile": 1.0, "seed": 0,
    "threads": 1, "progress": progress,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Faces, Faces, Faces]:
    root = tmp_path_factory.mktemp("data")
    splits = {"train": TRAIN, "val": VAL, "test": TEST}
    faces = [write_faces(root / "faces", split, people) for split, people in splits.items()]
    return write_identities(root / "identities"), faces[0], faces[1], faces[2]


@pytest.fixture(scope="module")
def figures(data: tuple[Path, Faces, Faces, Faces]) -> dict[str, Any]:
    return identity_figures(*data, judge(), Codes("recognizer-judge"), **GIVEN)


def test_what_is_told_and_in_which_order(figures: dict[str, Any]) -> None:
    rest = [
        "sweep",
        "real",
        "dataset",
        "difference",
        "equal_diversity",
        "leakage",
        "crowd",
        "screening",
        "switch_histogram",
        "calibration",
    ]
    assert list(figures) == [*METHODS, *rest, "pose_regression", "about"]
    assert [row["method"] for row in figures["sweep"]] == ["fixed@0.9"]
    assert figures["sweep"][0] == {"method": "fixed@0.9"} | figures["fixed"]
    for name in (*METHODS, "real", "dataset"):
        assert (figures[name]["people"], figures[name]["pictures"]) == (4, 12), name
    assert figures["dataset"]["total_people"] == 6 and figures["dataset"]["total_pictures"] == 18
    assert "evaluations" not in figures["real"] and figures["fixed"]["evaluations"] == 91.0
    assert figures["fixed"]["switch"]["0.5"] == pytest.approx(0.86)
    assert figures["calibration"] == CALIBRATION
    assert figures["about"]["people"] == 4 and figures["about"]["images_per_person"] == PER_PERSON


def test_a_picture_repeated_is_consistent_and_has_no_diversity(figures: dict[str, Any]) -> None:
    repeated = figures["one_stage"]
    assert repeated["diversity"]["value"] == 0 == repeated["diversity"]["high"]
    for name in ("yaw_spread", "pitch_spread", "pose_spread", "brightness_spread"):
        assert repeated[name]["value"] == pytest.approx(0, abs=1e-6)
    assert repeated["brightness_entropy"]["value"] == 0 and repeated["eer"]["value"] == 0
    for name in ("consistency", "consistency_left_out", "condition_cosine"):
        assert repeated[name]["value"] == pytest.approx(1, abs=1e-3)
    falling = [figures[name]["consistency"]["value"] for name in METHODS]
    assert falling == sorted(falling, reverse=True) and falling[-1] < 0.95
    assert all(figures[name]["diversity"]["value"] > 0.01 for name in (*METHODS[1:], "real"))


def test_the_figures_of_a_method_are_those_of_its_pictures(figures: dict[str, Any]) -> None:
    found, noise = figures["adaptive_injection"], 0.05 * 4
    images = np.stack([picture(c, 10 + n, noise=noise) for c in range(4) for n in range(PER_PERSON)])
    identity, embeddings = np.repeat(np.arange(4), PER_PERSON), Codes("").embed(images, None)
    expected = by_person(own_centre(embeddings, identity), identity)
    assert found["consistency"]["value"] == pytest.approx(expected.mean(), abs=1e-9) and found["consistency"]["n"] == 4
    assert expected.min() - 1e-9 <= found["consistency"]["low"] < found["consistency"]["high"] <= expected.max() + 1e-9
    first, second = (np.array(rows) for rows in ([0, 0, 1], [1, 2, 2]))
    of_each = [perceptual_distances(judge(), images[k + first], images[k + second]).mean() for k in (0, 3, 6, 9)]
    assert found["diversity"]["value"] == pytest.approx(np.mean(of_each), rel=1e-5)
    light = luminance(images).reshape(4, PER_PERSON).std(axis=1, ddof=1)
    assert found["brightness_spread"]["value"] == pytest.approx(light.mean())
    told = [float(embeddings[i].astype(np.float64) @ code(int(identity[i]))) for i in range(12)]
    assert found["condition_cosine"]["value"] == pytest.approx(np.mean(told), abs=1e-5)


def test_people_of_the_data_set_are_compared_with_their_own_contexts(figures: dict[str, Any]) -> None:
    assert figures["dataset"]["condition_cosine"]["value"] > 0.6  # one of them shows somebody else


def test_differences_are_taken_person_by_person(figures: dict[str, Any]) -> None:
    found = figures["difference"]
    assert (found["method"], found["baseline"]) == ("adaptive_injection", "one_stage")
    for name in ("consistency", "consistency_left_out", "diversity"):
        expected = figures["adaptive_injection"][name]["value"] - figures["one_stage"][name]["value"]
        assert found[name]["value"] == pytest.approx(expected) and found[name]["n"] == 4
    assert found["diversity"]["low"] > 0 > found["consistency"]["high"]


def test_a_copy_of_a_training_person_is_found(figures: dict[str, Any]) -> None:
    found = figures["leakage"]
    assert found["threshold_from"] == "val" and found["threshold_people"] == len(VAL)
    assert found["training_people"] == len(TRAIN) and found["pictures_per_centre"] == CENTRE_PICTURES
    assert found["synthetic"]["above"]["value"] == pytest.approx(1 / 6)  # candidate 4 shows a training person
    assert found["synthetic"]["quantiles"]["1"] > 0.95 > found["threshold"] > found["synthetic"]["quantiles"]["0.5"]
    assert found["copies"]["above"]["value"] == 1 and found["copies"]["people"] == len(TRAIN)
    assert found["copies"]["mean"]["value"] < 0.9999  # other pictures of them, not the same ones
    assert found["real"]["people"] == len(TEST) and found["real"]["above"]["value"] <= 0.2
    assert figures["crowd"]["people"] == 6


def test_the_threshold_is_the_nearest_of_the_strangers(
    data: tuple[Path, Faces, Faces, Faces], figures: dict[str, Any]
) -> None:
    _, train, val, _ = data

    def centre(faces: Faces, person: int) -> np.ndarray:
        rows = np.flatnonzero(faces.identity == person)[:CENTRE_PICTURES]
        total = Codes("").embed(faces.images(rows, threads=1), None).sum(0)
        return total / np.linalg.norm(total)

    cosines = [max(float(centre(val, p) @ centre(train, q)) for q in TRAIN) for p in VAL]
    assert figures["leakage"]["threshold"] == pytest.approx(max(cosines), abs=1e-6)


def test_shuffled_people_cannot_be_told_apart() -> None:
    identity = np.repeat(np.arange(40), 5)
    rng = np.random.default_rng(0)
    rows = np.stack([code(int(person)) for person in identity]) + rng.normal(0, 0.15, (200, DIM))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    told = error_rates(rows, identity, generator=np.random.default_rng(0))
    assert told["eer"]["value"] < 0.15 and told["auc"]["value"] > 0.93 and told["fnmr_at_fmr_1e-3"]["value"] < 0.9
    rate = told["fnmr_at_fmr_1e-3"]
    assert rate["low"] <= rate["value"] <= rate["high"]
    mixed = error_rates(rows, rng.permutation(identity), generator=np.random.default_rng(0))
    assert mixed["eer"]["value"] == pytest.approx(0.5, abs=0.06)
    assert mixed["fnmr_at_fmr_1e-3"]["value"] > 0.95
    alone = error_rates(rows[::5], identity[::5], generator=np.random.default_rng(0))
    assert alone == {"eer": None, "auc": None, "fnmr_at_fmr_1e-3": None}


def test_recall_is_the_share_of_real_pictures_within_a_ball() -> None:
    rng = np.random.default_rng(1)
    real, fake = rng.standard_normal((40, 3)), rng.standard_normal((24, 3)) * 0.7
    witnesses = Witnesses(judge(), Codes(""), None, None, real, np.repeat(np.arange(10), 4))  # type: ignore[arg-type]
    found = reach(fake, np.repeat(np.arange(6), 4), witnesses, generator=np.random.default_rng(0))
    radius = [np.sort([np.linalg.norm(f - g) for g in fake])[3] for f in fake]  # the first is itself
    inside = [any(np.linalg.norm(r - f) <= radius[i] for i, f in enumerate(fake)) for r in real]
    assert found["recall"]["value"] == pytest.approx(np.mean(inside)) and 0 < np.mean(inside) < 1
    halves = manifold_scores(
        real=real, fake=fake, k=3, generator=np.random.default_rng(0), real_groups=witnesses.reference_people,
        fake_groups=np.repeat(np.arange(6), 4),
    )  # fmt: skip
    assert found == {"recall": halves.recall.to_json(), "precision": halves.precision.to_json()}
    few = reach(fake[:4], np.repeat([0, 1], 2), witnesses, generator=np.random.default_rng(0))
    assert few == {"recall": None, "precision": None}


@pytest.mark.parametrize(
    ("changed", "first", "last"),
    [({}, 0.96, 0.76), ({"early": 0.9}, 0.88, 0.76), ({"patience": 3}, 0.92, 0.76), ({"late": 0.8}, 0.96, 0.8)],
)
def test_the_ends_of_the_switch_are_those_of_the_sampler(changed: dict[str, Any], first: float, last: float) -> None:
    assert possible_times(CALIBRATION | changed) == pytest.approx((first, last))


def test_the_histogram_counts_every_picture() -> None:
    switch = np.array([0.96, 0.9, 0.9, 0.76, 0.88], np.float32)
    found = switch_histogram(switch, CALIBRATION)
    assert found["times"] == pytest.approx([0.96, 0.9, 0.88, 0.76])
    assert found["shares"] == [0.2, 0.4, 0.2, 0.2] and found["n"] == 5
    assert (found["at_early"], found["at_late"]) == (0.2, 0.2) and found["median"] == pytest.approx(0.9)


def test_screening_says_whether_it_held() -> None:
    found = screening_figures(MANIFEST)
    assert found["above"] == 0 and found["nearest_training"]["1"] == 0.8 and found["counts"]["kept"] == 6
    lower = MANIFEST | {"thresholds": {"training": 0.45}}
    assert screening_figures(lower)["above"] == 2
    unknown = MANIFEST | {
        "candidates": MANIFEST["candidates"] | {"nearest_training": None},
        "thresholds": {"training": None},
    }
    assert screening_figures(unknown)["nearest_training"] is None and screening_figures(unknown)["above"] is None


def test_rows_of_people() -> None:
    identity = np.array([2, -1, 1, 2, 1, 2, 3])
    assert first_rows(identity, 2).tolist() == [2, 4, 0, 3, 6]
    assert first_rows(identity, 1, skip=1).tolist() == [4, 3]
    assert first_rows(identity, 5, people=np.array([2, 3])).tolist() == [0, 3, 5, 6]
    assert {tuple(chosen_people(identity, 2, 2, seed=s).tolist()) for s in range(9)} == {(2, 4, 0, 3)}  # not person 3
    assert {len(chosen_people(identity, 3, 2, seed=s)) for s in range(9)} == {5}  # who comes where there is nobody else


def test_nobody_is_the_yardstick_and_asked_for_too() -> None:
    identity = np.repeat(np.arange(11), 4)
    yardstick, others = split_test(identity, 60, 3, seed=0)
    assert len(yardstick) == 5 * 3 and len(others) == 6 * 3
    assert not set(identity[yardstick]) & set(identity[others])
    assert split_test(identity, 2, 3, seed=0)[0].size == 6
    assert [len(rows) for rows in split_test(np.full(9, -1), 5, 3, seed=0)] == [0, 0]


def test_without_names_or_landmarks_there_is_less_to_tell(
    tmp_path: Path, data: tuple[Path, Faces, Faces, Faces]
) -> None:
    folder, train, *_ = data
    val, test = (write_faces(tmp_path, split, range(6), named=False, marked=False) for split in ("val", "test"))
    found = identity_figures(folder, train, val, test, judge(), Codes(""), **GIVEN | {"condition": None})  # type: ignore[arg-type]
    assert found["real"] is None and found["crowd"] is None and found["pose_regression"] is None
    assert found["leakage"]["real"] is None and found["leakage"]["threshold_from"] == "train"
    assert found["fixed"]["recall"] is None and found["fixed"]["condition_cosine"] is None
    assert "yaw_spread" not in found["fixed"] and found["fixed"]["consistency"]["n"] == 4
    plain = write_faces(tmp_path, "train", range(6), marked=False)
    told = call_witnesses(plain, data[3], np.arange(8), judge(), Codes(""), None, seed=0, threads=1)  # type: ignore[arg-type]
    assert told[1] is None and told[0].landmarks is None and len(told[0].reference) == 8


def test_equal_runs_tell_the_same(data: tuple[Path, Faces, Faces, Faces], figures: dict[str, Any]) -> None:
    assert identity_figures(*data, judge(), Codes("recognizer-judge"), **GIVEN) == figures


def test_where_nobody_was_drawn_the_reason_stands(tmp_path: Path, data: tuple[Path, Faces, Faces, Faces]) -> None:
    write_json(tmp_path / "people.json", {"absent": "there is no recogniser"})
    found = identity_figures(tmp_path, *data[1:], judge(), Codes(""), **GIVEN)  # type: ignore[arg-type]
    assert found == {"absent": "there is no recogniser"}
    assert identity_figures(*data, judge(), None, **GIVEN) == {"absent": "there is no judging recogniser"}
