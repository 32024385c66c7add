"""Figures of people told to the LatentDiT, against values that are counted by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from facegen.artifacts import write_json
from facegen.data.images import encode_png
from facegen.data.samples import write_samples
from facegen.data.shards import Faces, FacesWriter
from facegen.personalize.dit_pictures import ABOUT, MAPPED, NONE, PICTURES, PLAIN, SHARES, People, scale_set, share_set
from facegen.score_dit_identity import dit_identity_figures, share_of

SIDE, NAMES = 16, ["Male", "Smiling"]
POINTS = np.array([[5, 6], [10, 6], [7.5, 9], [5.5, 11], [9.5, 11]], np.float32)
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)  # people are told apart by them
PEOPLE = People(np.array([10, 11, 12]), np.array([0, 3, 6]), np.array([1, 4, 7]), np.array([[0, 1]]))


class Embedder:
    """The direction of the mean colour."""

    name = "colour"

    def embed(self, images, landmarks):
        self.aligned = landmarks is not None
        mean = images.reshape(len(images), -1, 3).astype(np.float64).mean(axis=1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)


class Judge:
    """Present is what the first two pixels of the first row are: bright."""

    name, judge = "pixels", SimpleNamespace(config=SimpleNamespace(thresholds=[0.5, 0.9]))

    def both(self, images):
        return np.zeros((len(images), 1)), images[:, 0, :2, 0] / 255


class Bar:
    def update(self, num):
        pass

    def close(self):
        pass


def plain(colour):
    return np.broadcast_to(np.asarray(colour, np.uint8), (SIDE, SIDE, 3)).copy()


@pytest.fixture
def faces(tmp_path):
    with FacesWriter(
        tmp_path / "faces", "test", resolution=SIDE, attribute_names=NAMES, sources={}, rows_per_shard=99
    ) as writer:
        for person in range(3):
            for number in range(3):
                image = plain(COLOURS[person] if number != 2 else [255, 255, 255])
                writer.add(f"{person}/{number}", encode_png(image), np.zeros(2), 10 + person, POINTS)
    return Faces.open(tmp_path / "faces", "test")


def figures(folder, faces, embedder=None):
    return dit_identity_figures(
        folder, faces, Judge(), Embedder() if embedder is None else embedder, seed=0, threads=1,
        progress=lambda total, text: Bar(),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """none: grey. dit_mapped at 1: the person's colour, and the attribute judged at 0.9 not quite; at 2: the next one's."""
    states = np.array([[1, 1], [1, -1], [0, 0]], np.int8)
    grey = np.stack([plain([60, 60, 60])] * 3)
    own, other = (np.stack([plain(c) for c in COLOURS[order]]) for order in ([0, 1, 2], [1, 2, 0]))
    own[:, 0, 0], own[:, 0, 1] = 200, 200  # 0.78: present by the first threshold, not by the second
    pairs = [plain((COLOURS[0] * share + COLOURS[1] * (1 - share)).round()) for share in SHARES]
    sets = {NONE: grey, scale_set(MAPPED, 1.0): own, scale_set(MAPPED, 2.0): other}
    sets |= {scale_set(PLAIN, 2.0): grey}
    sets |= {share_set(MAPPED, share): picture[None] for share, picture in zip(SHARES, pairs, strict=True)}
    write_samples(
        tmp_path / "out" / PICTURES, seeds=np.arange(sum(map(len, sets.values()))),
        attributes=np.concatenate([states if len(x) == 3 else np.full((1, 2), -1) for x in sets.values()]),
        images_uint8=np.concatenate(list(sets.values())), sets=[name for name, x in sets.items() for _ in x],
        attribute_names=NAMES,
    )  # fmt: skip
    about = {"methods": [MAPPED, PLAIN], "identity_scales": [1.0, 2.0], "guidance_scale": 2.0, "num_steps": 3}
    write_json(tmp_path / "out" / ABOUT, PEOPLE.to_json() | about)
    return tmp_path / "out"


def test_identity_is_the_cosine_with_the_photograph_and_with_the_others(folder, faces):
    found = figures(folder, faces)
    first, second = found[MAPPED]
    assert (first["scale"], second["scale"]) == (1.0, 2.0)
    assert first["identity"]["value"] == pytest.approx(1, abs=1e-3) and first["identity"]["n"] == 3
    assert second["identity"]["value"] == pytest.approx(0, abs=1e-6)
    assert found[NONE]["identity"]["value"] == pytest.approx(3**-0.5, abs=1e-6)
    others = np.array([1.0, 0, 0]) + 3**-0.5  # the person's colour, and white
    others /= np.linalg.norm(others)
    assert first["identity_others"]["value"] == pytest.approx(others[0], abs=1e-2)
    assert found["real"]["identity_others"]["value"] == pytest.approx(others[0], abs=1e-6)
    assert found["real"]["strangers"]["value"] == pytest.approx(0, abs=1e-6)


def test_attributes_are_counted_where_they_are_asked_for_at_the_judge_s_thresholds(folder, faces):
    found = figures(folder, faces)
    # own: Male seen, Smiling not. Asked: both present, Male present, both absent -> 1/2, 1, 1/2.
    assert found[MAPPED][0]["attributes"]["value"] == pytest.approx(2 / 3)
    assert found[NONE]["attributes"]["value"] == pytest.approx((0 + 0 + 1) / 3)


def test_change_is_counted_beside_the_picture_without_identity(folder, faces):
    found = figures(folder, faces)
    change = ((255 - 60) + 60 + 60) / 3 / 255
    assert found[MAPPED][1]["outside"]["value"] == pytest.approx(change)
    assert found[MAPPED][1]["inside"]["value"] == pytest.approx(change)
    assert found[NONE]["outside"]["value"] == found[PLAIN][0]["inside"]["value"] == 0
    changes, weight = np.arange(8.0).reshape(2, 2, 2), np.array([[1.0, 0.0], [0.0, 0.5]])
    np.testing.assert_allclose(share_of(changes, weight), [(0 + 1.5) / 1.5, (4 + 3.5) / 1.5])
    assert np.isnan(share_of(changes, np.zeros((2, 2)))).all()


def test_methods_are_compared_at_the_middle_scale_person_by_person(folder, faces):
    found = figures(folder, faces)
    assert [(d["method"], d["baseline"], d["scale"]) for d in found["difference"]] == [
        (MAPPED, NONE, 2.0), (MAPPED, PLAIN, 2.0),
    ]  # fmt: skip
    assert found["difference"][0]["identity"]["value"] == pytest.approx(-(3**-0.5))
    assert found["difference"][0]["identity"]["high"] < 0
    assert found["about"]["scale"] == 2.0 and found["about"]["people"] == 3


def test_two_people_change_places_over_the_share(folder, faces):
    points = figures(folder, faces)["pairs"][MAPPED]
    assert [p["share"] for p in points] == list(SHARES)
    assert points[0]["first"] is None  # one pair gives no interval


def test_two_pairs_have_figures(folder, faces, tmp_path):
    two = People(PEOPLE.identity, PEOPLE.references, PEOPLE.asked, np.array([[0, 1], [0, 1]]))
    from facegen.score_dit_identity import pair_figures

    mixes = np.array([[s, 1 - s, 0] for s in SHARES])
    shares = {share_set(MAPPED, s): np.stack([m / np.linalg.norm(m)] * 2) for s, m in zip(SHARES, mixes, strict=True)}
    found = pair_figures(two.pairs, shares, [MAPPED, PLAIN], np.eye(3), seed=0)
    assert list(found) == [MAPPED]
    firsts, seconds = ([p[k]["value"] for p in found[MAPPED]] for k in ("first", "second"))
    assert firsts == pytest.approx([0, 0.25 / 0.625**0.5, 0.5**0.5, 0.75 / 0.625**0.5, 1])
    assert seconds == pytest.approx(firsts[::-1])


def test_what_is_not_there_is_said(folder, faces, tmp_path):
    assert dit_identity_figures(folder, faces, Judge(), None, seed=0, threads=1, progress=lambda *_: Bar()) == {
        "absent": "there is no judging recogniser"
    }
    write_json(tmp_path / "none" / ABOUT, {"absent": "nobody is named"})
    assert figures(tmp_path / "none", faces) == {"absent": "nobody is named"}
