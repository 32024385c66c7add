"""Pictures of people by the LatentDiT: who is chosen, what each set is, and the grids."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from facegen.models.person_condition import MappedIdentity
from facegen.personalize import dit_pictures as pictures
from facegen.personalize.dit_pictures import MAPPED, NONE, PLAIN, RECOGNIZER, SHARES, scale_set, share_set
from facegen.rng import torch_generator
from tests.test_pipeline import make_pipe

IDENTITY = np.array([4, 4, 7, 7, 7, 2, -1, -1, 9, 9, 5, 5, 5, 5])
SCALES = (0.0, 3.0)
DRAWING = pictures.Drawing(
    seed=0, num_steps=3, guidance_scale=2.0, identity_scales=SCALES, batch_size=3, dtype=torch.float32
)
STATES = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 1, 0]], dtype=np.int8)


@pytest.fixture(scope="module")
def pipe():
    pipe = make_pipe(identity_dim=5)
    pipe.register_to_config(num_inference_steps=3, guidance_scale=2.0, guidance_interval=[0.0, 1.0])
    return pipe


@pytest.fixture(scope="module")
def told():
    embeddings = torch.nn.functional.normalize(torch.randn(4, 5, generator=torch_generator(0, "e")), dim=1)
    vectors = torch.randn(4, 32, generator=torch_generator(0, "v"))
    return {RECOGNIZER: embeddings, MAPPED: MappedIdentity(vectors), PLAIN: MappedIdentity(torch.zeros(4, 32))}


def people():
    return pictures.chosen_people(IDENTITY, 9, seed=0)


@pytest.fixture(scope="module")
def sets(pipe, told):
    return pictures.drawn(pipe, people(), STATES, told, DRAWING, on_images=lambda num: None)


def test_people_have_two_pictures_and_are_asked_for_another_than_they_are_told_by():
    found = people()
    assert sorted(found.identity) == [4, 5, 7, 9]
    assert (IDENTITY[found.references] == found.identity).all() and (IDENTITY[found.asked] == found.identity).all()
    assert (found.references != found.asked).all()
    assert sorted(found.pairs.ravel()) == [0, 1, 2, 3] and found.pairs.shape == (2, 2)
    assert len(pictures.chosen_people(IDENTITY, 3, seed=0).pairs) == 1
    again = pictures.People.from_json(found.to_json())
    assert all(np.array_equal(getattr(again, name), value) for name, value in vars(found).items())
    with pytest.raises(ValueError, match="1 people of the split have two pictures"):
        pictures.chosen_people(np.array([1, 1, 2, -1, -1]), 4, seed=0)


def test_the_middle_scale_is_the_larger_of_two():
    assert pictures.middle_scale([4.0, 1.0, 2.0]) == 2.0 and pictures.middle_scale([3.0, 1.0]) == 3.0


def test_every_set_is_there_with_the_same_seeds(sets, told):
    by_scale = [scale_set(method, s) for method in (RECOGNIZER, MAPPED) for s in SCALES] + [scale_set(PLAIN, 3.0)]
    assert list(sets) == [NONE, *by_scale, *(share_set(m, share) for m in (RECOGNIZER, MAPPED) for share in SHARES)]
    for name, (seeds, states, images) in sets.items():
        pairs = name.startswith("pair/")
        assert np.array_equal(seeds, sets[NONE][0][people().pairs[:, 0]] if pairs else sets[NONE][0]), name
        assert (states == (-1 if pairs else STATES)).all() and images.dtype == np.uint8, name
    assert sum(len(images) for _, _, images in sets.values()) == pictures.num_pictures(people(), list(told), SCALES)
    assert len(set(sets[NONE][0].tolist())) == 4


def test_no_identity_is_no_strength_and_no_word_from_the_adapter(sets):
    none = sets[NONE][2].astype(int)
    for name in (scale_set(RECOGNIZER, 0.0), scale_set(MAPPED, 0.0), scale_set(PLAIN, 3.0)):
        assert abs(sets[name][2] - none).max() <= 1, name
    for method in (RECOGNIZER, MAPPED):
        assert abs(sets[scale_set(method, 3.0)][2] - none).mean() > 0.3, method


@pytest.mark.parametrize("method", [RECOGNIZER, MAPPED])
def test_the_ends_of_the_share_are_the_two_people_alone(pipe, told, sets, method):
    seeds = sets[NONE][0][people().pairs[:, 0]].tolist()
    for share, column in ((1.0, 0), (0.0, 1)):
        identity = pictures.some(told[method], people().pairs[:, column])
        options = dict(num_inference_steps=3, guidance_scale=2.0, identity_scale=3.0, output_type="np")
        alone = pipe(np.full((2, 3), -1), seeds=seeds, identity=identity, **options).images
        found = sets[share_set(method, share)][2]
        assert abs(found.astype(int) - alone).max() <= 1
    ends = [sets[share_set(method, share)][2].astype(int) for share in (0.0, 0.5, 1.0)]
    assert abs(ends[0] - ends[2]).mean() > 0.2
    assert abs(ends[1] - ends[0]).mean() > 0.05 and abs(ends[1] - ends[2]).mean() > 0.05


def test_pictures_do_not_depend_on_their_batch(pipe, told, sets):
    one = {MAPPED: told[MAPPED]}
    seen = []
    again = pictures.drawn(pipe, people(), STATES, one, replace(DRAWING, batch_size=50), on_images=seen.append)
    assert list(again) == [name for name in sets if RECOGNIZER not in name and PLAIN not in name]
    assert all(abs(images.astype(int) - sets[name][2]).max() <= 1 for name, (_, _, images) in again.items())
    assert sum(seen) == pictures.num_pictures(people(), [MAPPED], SCALES) == 4 * 3 + 2 * 5


def test_grids_show_people_and_pairs(sets):
    images = {name: found for name, (_, _, found) in sets.items()}
    references = np.full((4, 16, 16, 3), 200, np.uint8)
    found = pictures.grids(images, references, people().pairs, SCALES)
    assert set(found) == {"people", "pairs"}
    columns = (found["people"].width - 2 * 11) // 96  # the photograph, none, two methods at two scales, one at one
    assert columns == 7 and found["people"].height > 4 * 96
    assert found["pairs"].width > 7 * 96 and found["pairs"].height > 4 * 96
    without = {name: image for name, image in images.items() if "pair/" not in name}
    assert set(pictures.grids(without, references, people().pairs, SCALES)) == {"people"}
