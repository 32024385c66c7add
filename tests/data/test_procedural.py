"""The population: reproducible, identity-disjoint, with the attributes that the table asks for."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from facegen.config import load_params
from facegen.data.attribute_copula import correlation_matrix, fit_copula
from facegen.data.face_parameters import FACE_ATTRIBUTES
from facegen.data.procedural import Population, draw_picture, sample_population

INDEX = {name: index for index, name in enumerate(FACE_ATTRIBUTES)}
RENDER = load_params(Path(__file__).parents[2] / "params.yaml").render
TABLE = {"prevalence": RENDER.prevalence, "persistence": RENDER.persistence, "correlations": RENDER.correlations}
SPLITS = {"val_fraction": RENDER.val_fraction, "test_fraction": RENDER.test_fraction}


def population(*, seed: int = 0, people: int = 480, pictures: int = 20) -> Population:
    return sample_population(seed=seed, num_identities=people, images_per_identity=pictures, **SPLITS, **TABLE)


@pytest.fixture(scope="module")
def default() -> Population:
    return population()


def test_the_same_seed_gives_the_same_people_and_another_seed_others() -> None:
    first, again, other = population(people=40), population(people=40), population(people=40, seed=1)
    assert np.array_equal(first.attributes, again.attributes)
    assert np.array_equal(first.person, again.person)
    assert not np.array_equal(first.attributes, other.attributes)
    pictures = [draw_picture(each, 3, resolution=32, supersample=1)[0] for each in (first, again, other)]
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_splits_share_no_person_and_have_their_shares(default: Population) -> None:
    people = [set(default.person[default.split == split].tolist()) for split in range(3)]
    assert not (people[0] & people[1] or people[0] & people[2] or people[1] & people[2])
    assert [len(each) for each in people] == [370, 38, 72]
    assert np.all(np.diff(default.split) >= 0)
    assert np.bincount(default.person).tolist() == [20] * 480


def test_prevalence_and_correlations_are_those_of_the_table(default: Population) -> None:
    table = correlation_matrix(default.attributes.astype(float))
    for name, wanted in RENDER.prevalence.items():
        assert default.attributes[:, INDEX[name]].mean() == pytest.approx(wanted, abs=0.04), name
    for first, second, wanted in RENDER.correlations:
        assert table[INDEX[first], INDEX[second]] == pytest.approx(wanted, abs=0.07), (first, second)


def test_a_fitted_copula_meets_the_table_closely() -> None:
    copula = fit_copula(**TABLE)
    drawn = copula.sample(np.random.default_rng(1), np.random.default_rng(2), shape=(40_000, 1))[:, 0].astype(float)
    table = correlation_matrix(drawn)
    assert np.allclose(drawn.mean(axis=0), [RENDER.prevalence[name] for name in FACE_ATTRIBUTES], atol=0.012)
    for first, second, wanted in RENDER.correlations:
        assert table[INDEX[first], INDEX[second]] == pytest.approx(wanted, abs=0.03), (first, second)


def test_logical_rules_are_never_broken(default: Population) -> None:
    has = {name: default.attributes[:, index] == 1 for name, index in INDEX.items()}
    female, colours = ~has["Male"], ("Black_Hair", "Blond_Hair", "Gray_Hair")
    assert not (female & (~has["No_Beard"] | has["Mustache"] | has["Bald"])).any()
    assert not (
        has["Bald"] & (has["Bangs"] | has["Wearing_Hat"] | np.any([has[name] for name in colours], axis=0))
    ).any()
    assert max(np.sum([has[name] for name in colours], axis=0)) == 1
    assert not (has["Gray_Hair"] & has["Young"]).any()
    assert not (has["Bangs"] & has["Wearing_Hat"]).any()


def test_what_belongs_to_a_person_stays_and_the_rest_varies(default: Population) -> None:
    order = np.argsort(default.person, kind="stable")
    people = default.attributes[order].reshape(480, 20, -1)
    share = people.mean(axis=1)
    varies = ((share > 0) & (share < 1)).mean(axis=0)
    for name in ("Male", "Bald", "Black_Hair", "Blond_Hair", "Gray_Hair"):
        assert varies[INDEX[name]] == 0, name
    assert 0 < varies[INDEX["Young"]] < 0.35
    assert varies[INDEX["Smiling"]] > 0.95
    assert varies[INDEX["Eyeglasses"]] > 0.4


def test_two_pictures_of_one_person_differ(default: Population) -> None:
    first = default.person[0]
    same = np.flatnonzero(default.person == first)[:2]
    one, two = (draw_picture(default, int(number), resolution=32, supersample=1)[0].astype(int) for number in same)
    assert np.abs(one - two).mean() > 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"correlations": [("Male", "No_Beard", 0.5)]},
            "no population has these figures.*Male, No_Beard 0.5 .nearest -",
        ),
        ({"correlations": [("Male", "Hat", 0.5)]}, "Hat"),
        ({"correlations": [("Male", "Young", 0.1), ("Young", "Male", 0.1)]}, "each pair once"),
        ({"prevalence": {**RENDER.prevalence, "Male": 1.0}}, "render.prevalence.Male is 1.0"),
        ({"persistence": {"Male": 1.0}}, "render.persistence must name each of"),
    ],
)
def test_a_table_that_cannot_be_met_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_copula(**{**TABLE, **change})


def test_a_split_without_people_is_refused() -> None:
    with pytest.raises(ValueError, match=r"4 people give .* 0 to val"):
        population(people=4)


def test_who_is_drawn_does_not_depend_on_the_blas_kernel() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_procedural import population; import hashlib\n"
        "print(hashlib.sha256(population(people=100).attributes.tobytes()).hexdigest())\n"
    )
    digests = set()
    for kernel in ("Nehalem", "Haswell", "SkylakeX"):  # OpenBLAS takes the nearest that the machine can run
        environment = {**os.environ, "OPENBLAS_CORETYPE": kernel, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code, str(Path(__file__).parent)]
        digests.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(digests) == 1
