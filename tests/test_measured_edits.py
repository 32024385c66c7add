"""Edits in numbers: against answers put together by hand, from a faces folder and an edits file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from facegen.data.edits import EditRows, Edits, write_edits
from facegen.data.images import encode_png
from facegen.data.shards import Faces, FacesWriter
from facegen.measured_edits import FIGURES, identity_references, judged_values, measure_edits
from facegen.metrics.editing import outside_psnr_db, seam_ratio
from facegen.metrics.judge_features import JudgeFeatures
from facegen.metrics.perceptual import perceptual_distances
from facegen.models.initialize import draw_weights
from facegen.models.judges import build_judge
from facegen.rng import torch_generator
from facegen.scoring import person_labels

NAMES, SIDE, NUM = ("Bald", "Hat", "Smiling"), 32, 12


class Colour:
    """A recogniser that knows people by their mean colour."""

    def embed(self, images: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
        assert landmarks is None
        colour = images.mean((1, 2)) - 128.0
        return (colour / np.linalg.norm(colour, axis=1, keepdims=True)).astype(np.float32)


def judge() -> JudgeFeatures:
    model = build_judge("convnext", attribute_names=list(NAMES), width=8)
    draw_weights(model, torch_generator(0, "judge"))
    model.register_to_config(thresholds=[0.5] * 3, temperatures=[0.02] * 3, resolution=SIDE)
    return JudgeFeatures(model.eval(), name="b", digest="0", resolution=SIDE, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Faces:
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("faces")
    with FacesWriter(folder, "test", resolution=SIDE, attribute_names=NAMES, sources={}, rows_per_shard=100) as writer:
        for i in range(NUM):
            colour = np.random.default_rng(i // 2).uniform(40, 210, 3)  # two pictures of each person
            pixels = np.clip(rng.normal(colour, 20, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
            writer.add(f"{i}.png", encode_png(pixels), rng.integers(0, 2, 3), i // 2, rng.uniform(8, 24, (5, 2)))
    return Faces.open(folder, "test")


def made_rows(faces: Faces) -> EditRows:
    """70 edits (more than one batch) that turn the label around; of every third the mask is the whole picture."""
    rng, num = np.random.default_rng(1), 70
    row = rng.integers(0, NUM, num)
    asked = rng.integers(0, 3, num)
    known = faces.attributes[row]
    states = known.copy()
    states[np.arange(num), asked] = 1 - states[np.arange(num), asked]
    masks = np.zeros((num, SIDE, SIDE), bool)
    masks[:, 8:20, 4:28] = True
    masks[::3] = True
    raws = rng.integers(0, 256, (num, SIDE, SIDE, 3), dtype=np.uint8)
    images = np.where(masks[..., None], raws, faces.images(row, threads=1))
    return EditRows(
        [faces.ids[i] for i in row], [NAMES[k] for k in asked], states[np.arange(num), asked],
        ["" if i % 3 == 0 else "mouth" for i in range(num)], ["invert" if i % 3 == 0 else "blend" for i in range(num)],
        np.arange(num), states, known, np.arange(num) + 10, images, raws, masks, NAMES,
    )  # fmt: skip


def test_success_counts_changes_beyond_one_half_on_the_asked_side() -> None:
    before = np.array([[0.9, 0.2, 0.5], [0.4, 0.2, 0.5], [0.9, 0.2, 0.5], [0.1, 0.2, 0.5]])
    after = np.array([[0.3, 0.6, 0.5], [0.5, 0.2, 0.5], [0.2, 0.2, 0.9], [0.1, 0.2, 0.5]])
    known = np.array([[1, 0, 0], [0, 0, 0], [-1, 0, 0], [0, 1, -1]], np.int8)
    states = np.array([[0, 0, -1], [1, 0, 0], [0, 0, 1], [0, 1, 1]], np.int8)
    found = judged_values(before, after, states=states, known=known, asked=np.array([0, 0, 0, 1]))
    assert found["success"][:2].tolist() == [1, 0]  # 0.5 itself is no answer
    assert found["judge_accuracy"][:2].tolist() == [1, 1]
    assert np.isnan(found["success"][2:]).all()  # the label was not known; nothing was to change
    assert np.isnan(found["judge_accuracy"][2:]).all()
    # of the third, Smiling was asked for too; of the fourth as well, and Hat is what the edit is about
    assert found["other_change"] == pytest.approx([(0.4 + 0) / 2, 0, 0, 0])
    moved = judged_values(before, after + 0.1, states=states, known=known, asked=np.array([0, 0, 0, 1]))
    assert moved["other_change"] == pytest.approx([(0.5 + 0.1) / 2, 0.1, 0.1, 0.1])
    alone = judged_values(
        before[:1, :1], after[:1, :1], states=states[:1, :1], known=known[:1, :1], asked=np.array([0])
    )
    assert np.isnan(alone["other_change"]).all()


def test_every_edit_is_measured_against_its_own_photograph(faces: Faces, tmp_path: Path) -> None:
    rows, witness, embedder = made_rows(faces), judge(), Colour()
    write_edits(tmp_path / "edits.parquet", rows)
    edits = Edits.open(tmp_path / "edits.parquet")
    embedded = embedder.embed(faces.images(np.arange(NUM), threads=1), None)
    counted: list[int] = []
    found = measure_edits(
        edits, faces, witness, embedder, embedded=embedded, people=person_labels(faces.identity), same_person=0.9,
        threads=1, on_images=counted.append,
    )  # fmt: skip
    assert counted == [64, 6] and len(found) == 70 and set(found.values) == set(FIGURES)
    photo = np.array([faces.ids.index(name) for name in rows.photo])
    assert found.photo.tolist() == photo.tolist() and found.people.tolist() == (photo // 2).tolist()
    photographs = faces.images(photo, threads=1)
    v = found.values
    assert v["perceptual"] == pytest.approx(perceptual_distances(witness, photographs, rows.images), rel=1e-4)
    np.testing.assert_array_equal(v["seam"], seam_ratio(photographs, rows.images, rows.masks))
    np.testing.assert_array_equal(v["outside_psnr_db_raw"], outside_psnr_db(photographs, rows.raws, rows.masks))
    masked = found.region != ""
    assert (v["outside_identical"][masked] == 1).all() and np.isnan(v["outside_identical"][~masked]).all()
    assert v["changed_share"][masked] == pytest.approx(np.full(masked.sum(), 12 * 24 / SIDE**2), rel=0.02)
    assert found.area[masked] == pytest.approx(np.full(masked.sum(), 12 * 24 / SIDE**2))
    assert v["evaluations"].tolist() == list(range(10, 80))
    cosine = (embedded[photo].astype(np.float64) * embedder.embed(rows.images, None)).sum(1)
    assert v["identity_cosine"] == pytest.approx(np.clip(cosine, -1, 1), abs=1e-6)
    assert v["same_person"].tolist() == (v["identity_cosine"] >= 0.9).astype(float).tolist()
    after, before = witness.both(rows.images)[1], witness.both(photographs)[1]
    asked = np.array([NAMES.index(name) for name in rows.attribute])
    p = after[np.arange(70), asked]
    assert v["success"].tolist() == np.where(rows.state == 1, p > 0.5, p < 0.5).astype(float).tolist()
    assert 0 < v["success"].mean() < 1
    others = np.ones((70, 3), bool)
    others[np.arange(70), asked] = False
    expected = np.abs(after - before)[others].reshape(70, 2).mean(1)
    assert v["other_change"] == pytest.approx(expected, abs=1e-5)


def test_without_a_recogniser_identity_is_not_known(faces: Faces, tmp_path: Path) -> None:
    write_edits(tmp_path / "edits.parquet", made_rows(faces))
    found = measure_edits(
        Edits.open(tmp_path / "edits.parquet"), faces, judge(), None, embedded=None,
        people=person_labels(faces.identity), same_person=None, threads=1, on_images=lambda _: None,
    )  # fmt: skip
    assert np.isnan(found.values["identity_cosine"]).all() and np.isnan(found.values["same_person"]).all()
    assert not np.isnan(found.values["other_change"]).any()


def test_edits_of_other_photographs_or_attributes_are_refused(faces: Faces, tmp_path: Path) -> None:
    rows = made_rows(faces)
    rows.photo[3] = "elsewhere.png"
    write_edits(tmp_path / "edits.parquet", rows)
    given = {"embedded": None, "people": np.arange(NUM), "same_person": None, "threads": 1, "on_images": print}
    with pytest.raises(ValueError, match=r"elsewhere\.png and 0 more"):
        measure_edits(Edits.open(tmp_path / "edits.parquet"), faces, judge(), None, **given)
    renamed = {"attribute_names": ("Bald", "Hat", "Smiling "), "attribute": ["Hat"] * 70, "state": rows.states[:, 1]}
    other = EditRows(**vars(made_rows(faces)) | renamed)
    write_edits(tmp_path / "other.parquet", other)
    with pytest.raises(ValueError, match="run the edit stage"):
        measure_edits(Edits.open(tmp_path / "other.parquet"), faces, judge(), None, **given)


def test_identity_has_a_floor_of_people_and_a_ceiling_of_the_round_trip(faces: Faces) -> None:
    embedder, people = Colour(), person_labels(faces.identity)
    embedded = embedder.embed(faces.images(np.arange(NUM), threads=1), None)

    def darker(images: np.ndarray) -> np.ndarray:
        return (images * 0.9).astype(np.uint8)

    found = identity_references(
        embedder, embedded, faces, np.array([3, 3, 5, 7]), darker, people=people, threads=1,
        generator=np.random.default_rng(0),
    )  # fmt: skip
    rows = np.array([3, 5, 7])
    again = embedder.embed(darker(faces.images(rows, threads=1)), None)
    assert found["round_trip_cosine"]["value"] == pytest.approx(float((embedded[rows] * again).sum(1).mean()), abs=1e-6)
    assert found["round_trip_cosine"]["n"] == 3
    same = np.mean([embedded[i] @ embedded[i + 1] for i in range(0, NUM, 2)])
    assert found["same_person_cosine"]["value"] == pytest.approx(same, abs=1e-5)
    assert found["other_people_cosine"]["value"] < found["same_person_cosine"]["value"] - 0.1
    nobody = Faces.__new__(Faces)
    nobody.__dict__.update(vars(faces) | {"identity": np.full(NUM, -1)})
    found = identity_references(
        embedder, embedded, nobody, rows, darker, people=np.arange(NUM), threads=1, generator=np.random.default_rng(0)
    )
    assert found["same_person_cosine"] is None and found["round_trip_cosine"]["n"] == 3
