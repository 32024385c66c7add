"""Whom a batch of scenes tells by a face, by which face, in which words and where."""

from collections import Counter

import numpy as np
import pytest
import torch

from facegen.data.align import face_crops
from facegen.models.msid import embed_subjects
from facegen.personalize.subjects import SubjectScenes, bare_prompt, person_masks
from tests.personalize.made_subjects import (
    LATENT,
    SIZE,
    rule,
    small_msid,
    subject_scenes,
    write_faces,
    write_scenes,
)

PEOPLE = [[0, 1], [2], [3, 4], [5], [1, 2]]
FACES = [0, 0, 1, 1, 1, 2, 2, 3, 4, 4, -1, 7]  # person 5 has no other picture, person 7 is in no scene


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), PEOPLE)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("faces"), FACES)


@pytest.fixture(scope="module")
def others(scenes, faces) -> SubjectScenes:
    return subject_scenes(scenes, faces, rule())


def drawn(data: SubjectScenes, num: int = 200, *, max_subjects: int = 2, at: int = 0):
    return data.draw(data.order("test", max_subjects=max_subjects), at, num, max_subjects=max_subjects)


def person_of(data: SubjectScenes, row: int) -> int:
    """Whose face a row of the features is."""
    own = {row: place for place, row in data.references.own.items()}
    if row in own:
        scene, segment = own[row]
        return PEOPLE[scene][segment]
    return FACES[data.references.picture[row - len(data.references.scene)]]


def test_references_are_of_the_person_that_they_stand_for(others):
    told = drawn(others)
    at = 0
    for slot, row in enumerate(told.rows.tolist()):
        chosen = [k for k in told.segments[slot].tolist() if k >= 0]
        assert sorted(chosen) == list(range(len(PEOPLE[row])))
        for k in chosen:
            assert told.owners[at] == slot
            assert person_of(others, int(told.references[at])) == PEOPLE[row][k]
            at += 1
    assert at == len(told.references) == len(told.owners)


def test_another_picture_unless_there_is_none(others):
    assert set(others.references.own) == {(3, 0)}  # person 5, of whom the faces hold none
    assert {person: len(rows) for person, rows in others.references.others.items()} == {0: 2, 1: 3, 2: 2, 3: 1, 4: 2}
    told = drawn(others, 400)
    seen = Counter(told.references.tolist())
    assert set(seen) == set(range(len(others.features)))  # every picture takes its turn


def test_no_more_pictures_of_a_person_than_wanted(scenes, faces):
    data = subject_scenes(scenes, faces, rule(), most_pictures=2)
    assert {len(rows) for rows in data.references.others.values()} == {1, 2}
    assert len(data.features) == len(data.references) == 1 + 2 + 2 + 2 + 1 + 2


def test_own_faces_where_no_others_are_wanted_or_there(scenes, faces):
    places = {(n, k) for n, members in enumerate(PEOPLE) for k in range(len(members))}
    for data in (
        subject_scenes(scenes, faces, rule(other_picture_share=0.0)),
        subject_scenes(scenes, None, rule(other_picture_share=1.0)),
    ):
        assert set(data.references.own) == places
    told = drawn(data)
    for slot, k, reference in zip(told.owners, told.segments[told.segments >= 0], told.references, strict=True):
        assert reference == data.references.own[(int(told.rows[slot]), int(k))]


def test_the_share_of_own_faces_is_drawn_once_per_face(tmp_path, faces):
    many = write_scenes(tmp_path, [[0, 1]] * 300)
    data = subject_scenes(many, faces, rule(other_picture_share=0.75))
    assert 0.19 < len(data.references.own) / 600 < 0.31
    again = subject_scenes(many, faces, rule(other_picture_share=0.75))
    assert again.references.own == data.references.own
    other = subject_scenes(many, faces, rule(other_picture_share=0.75), seed=1)
    assert other.references.own != data.references.own


def test_features_are_those_of_the_aligned_faces(scenes, faces):
    data, msid = subject_scenes(scenes, faces, rule(other_picture_share=0.5)), small_msid()
    places = list(data.references.own)
    assert places and len(data.references.picture)
    for row, (n, k) in enumerate(places):
        points = scenes.segments[n][k].landmarks
        crop = face_crops(scenes.images([n], threads=1), points[None], size=112)
        assert torch.allclose(data.features[row], embed_subjects(msid, crop)[0], atol=1e-5)
    for row, picture in enumerate(data.references.picture, start=len(places)):
        crop = face_crops(faces.images([picture], threads=1), faces.landmarks[[picture]], size=112)
        assert torch.allclose(data.features[row], embed_subjects(msid, crop)[0], atol=1e-5)


class Brightness:
    """An expression that can be checked: the mean of the crop's channels."""

    name = "brightness"

    def __call__(self, crops):
        return crops.mean(dim=(2, 3))


class Blind(Brightness):
    def __call__(self, crops):
        return None


def test_expressions_belong_to_the_same_rows(scenes, faces):
    data = subject_scenes(scenes, faces, rule(), expression=Brightness())
    assert data.expressions.shape == (len(data.features), 3)
    picture = data.references.picture[-1]
    crop = face_crops(faces.images([picture], threads=1), faces.landmarks[[picture]], size=112)
    assert torch.allclose(data.expressions[-1], crop.mean(dim=(2, 3))[0], atol=1e-5)
    assert subject_scenes(scenes, faces, rule(), expression=Blind()).expressions is None
    assert subject_scenes(scenes, faces, rule()).expressions is None


def test_captions_hold_markers_for_the_told_and_the_class_word_for_the_others(others):
    assert others.prompt(0, [0, 1]) == "<id:0> smiling and <id:1>"
    assert others.prompt(0, [1, 0]) == "<id:1> smiling and <id:0>"
    assert others.prompt(0, [1]) == "a person smiling and <id:0>"
    assert others.prompt(1, [0]) == "<id:0> smiling"


def test_prompts_and_segments_tell_the_same_order(others):
    told = drawn(others)
    for row, prompt, chosen in zip(told.rows, told.prompts, told.segments, strict=True):
        assert prompt == others.prompt(int(row), [k for k in chosen.tolist() if k >= 0])
    both = [tuple(chosen) for chosen in told.segments.tolist() if -1 not in chosen]
    assert 0.4 < np.mean([chosen == (0, 1) for chosen in both]) < 0.6  # in random order


def test_one_person_is_learned_from_scenes_of_one(others):
    told = drawn(others, max_subjects=1)
    assert told.segments.shape == (200, 1) and (told.segments == 0).all()
    assert set(told.rows.tolist()) == {row for row, members in enumerate(PEOPLE) if len(members) == 1}


def test_one_of_several_where_no_scene_shows_one(tmp_path, faces):
    pairs = subject_scenes(write_scenes(tmp_path, [[0, 1], [3, 4]]), faces, rule())
    told = drawn(pairs, max_subjects=1)
    assert len(told.references) == 200
    assert 0.35 < np.mean(told.segments) < 0.65


def test_people_are_left_out_at_their_rate_but_never_all(scenes, faces):
    data = subject_scenes(scenes, faces, rule(object_share=0.7))
    told = drawn(data, 1000)
    counts = Counter(
        len([k for k in chosen if k >= 0])
        for row, chosen in zip(told.rows, told.segments.tolist(), strict=True)
        if len(PEOPLE[row]) == 2
    )
    assert counts[0] == 0
    assert abs(counts[2] / counts.total() - 0.49) < 0.07
    assert any("a person" in prompt for prompt in told.prompts)
    never = drawn(subject_scenes(scenes, faces, rule(object_share=0.0)))
    assert len(never.references) == len(never.rows)


def test_captions_are_dropped_at_their_rate(scenes, faces):
    told = drawn(subject_scenes(scenes, faces, rule(drop_caption=0.25)), 1000)
    bare = [prompt in ("<id:0>", "<id:0> and <id:1>") for prompt in told.prompts]
    assert 0.2 < np.mean(bare) < 0.3
    assert bare_prompt(3) == "<id:0> and <id:1> and <id:2>"


def test_a_batch_is_a_function_of_its_position(others):
    first, again, later = drawn(others, 32, at=64), drawn(others, 32, at=64), drawn(others, 32, at=96)
    assert first.prompts == again.prompts and np.array_equal(first.references, again.references)
    assert first.prompts != later.prompts


def test_people_without_a_face_are_told_by_the_class_word(tmp_path, faces):
    scenes = write_scenes(tmp_path, [[0, 1], [2], []], faceless=frozenset({(0, 0), (1, 0)}))
    data = subject_scenes(scenes, faces, rule(other_picture_share=0.0))
    told = drawn(data, 8)
    assert set(told.rows) == {0} and set(told.prompts) == {"a person smiling and <id:0>"}
    assert told.segments.tolist() == [[1, -1]] * 8


def test_scenes_without_any_face_are_refused(tmp_path, faces):
    scenes = write_scenes(tmp_path, [[0]], faceless=frozenset({(0, 0)}))
    with pytest.raises(ValueError, match="no scene has a person with a known face"):
        subject_scenes(scenes, faces, rule())


@pytest.mark.parametrize("kind", ["face", "head", "segment"])
def test_masks_lie_on_their_people(scenes, kind):
    masks = person_masks(scenes, kind=kind, most=3, latent_size=LATENT, threads=1)
    assert masks.shape == (len(PEOPLE), 3, *LATENT)
    for n, members in enumerate(PEOPLE):
        for k in range(3):
            mask = masks[n, k]
            if k >= len(members):
                assert not mask.any()
                continue
            left = (2 + 12 * k) * LATENT[1] / SIZE[1]  # of the person, in latent pixels
            columns = torch.arange(LATENT[1]) + 0.5
            assert float((mask.sum(0) * columns).sum() / mask.sum()) == pytest.approx(left + 2, abs=0.6)


def test_a_segment_s_mask_is_its_area(scenes):
    masks = person_masks(scenes, kind="segment", most=2, latent_size=LATENT, threads=1)
    expected = torch.zeros(LATENT)
    expected[2:6, 1:5] = 1  # 4 to 12 px high, 2 to 10 px wide, two px a latent pixel
    assert torch.equal(masks[0, 0], expected)
    coarse = person_masks(scenes, kind="segment", most=2, latent_size=(4, 6), threads=1)
    assert float(coarse[0, 0].sum()) == pytest.approx(64 / 16)  # parts of pixels count in part
