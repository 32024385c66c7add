"""The embedded data set: a population of drawn people, and their pictures.

Every picture is a function of (seed, its number) alone, so it does not depend on how the work is split over processes.

Shape legend: P people, K pictures of one person, N = P * K pictures, A attributes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from facegen.data.attribute_copula import Copula, correlation_matrix, fit_copula
from facegen.data.face_drawing import draw_face
from facegen.data.face_parameters import FACE_ATTRIBUTES, Identity, sample_identity, sample_shot
from facegen.rng import numpy_generator

SPLITS = ("train", "val", "test")
_CANDIDATES = 48  # populations drawn, of which the one nearest to the table is kept


@dataclass(frozen=True)
class Population:
    """Who is in the data set, and which picture shows whom; pictures are numbered in the order of the files.

    Attributes:
        seed: of every draw.
        person: int32 (N,), 0-based.
        split: int8 (N,), 0 train, 1 val, 2 test: one value per person; the pictures of a split follow each other.
        attributes: int8 (N, A) of 0 and 1, in the order of FACE_ATTRIBUTES.
    """

    seed: int
    person: np.ndarray
    split: np.ndarray
    attributes: np.ndarray

    def __len__(self) -> int:
        return len(self.person)


def sample_population(
    *,
    seed: int,
    num_identities: int,
    images_per_identity: int,
    val_fraction: float,
    test_fraction: float,
    prevalence: Mapping[Any, float],
    persistence: Mapping[Any, float],
    correlations: Sequence[tuple[str, str, float]],
) -> Population:
    """Draws the people, their attributes in each picture, and the splits.

    Raises:
        ValueError: the table of attributes cannot be met, or a split would have no people.
    """
    num_val, num_test = round(val_fraction * num_identities), round(test_fraction * num_identities)
    if min(num_val, num_test, num_identities - num_val - num_test) < 1:
        num_train = num_identities - num_val - num_test
        raise ValueError(
            f"render: {num_identities} people give {num_train} to train, {num_val} to val and {num_test} to test; each "
            "needs one at least: raise render.num_identities or the fractions"
        )
    copula = fit_copula(prevalence, persistence, correlations)
    shape = (num_identities, images_per_identity)
    people = _nearest_population(copula, seed, shape, prevalence, correlations)
    split_of = np.zeros(num_identities, dtype=np.int8)
    order = numpy_generator(seed, "render-split").permutation(num_identities)
    split_of[order[:num_val]] = 1
    split_of[order[num_val : num_val + num_test]] = 2

    person = np.repeat(np.arange(num_identities, dtype=np.int32), images_per_identity)
    attributes = people.reshape(-1, len(FACE_ATTRIBUTES))
    shuffled = numpy_generator(seed, "render-order").permutation(len(person))
    shuffled = shuffled[np.argsort(split_of[person[shuffled]], kind="stable")]
    return Population(seed, person[shuffled], split_of[person[shuffled]], attributes[shuffled])


def _nearest_population(
    copula: Copula,
    seed: int,
    shape: tuple[int, int],
    prevalence: Mapping[Any, float],
    correlations: Sequence[tuple[str, str, float]],
) -> np.ndarray:
    """Of several draws (P, K, A) the one nearest to the table: a few hundred people stray from it by chance."""
    names = {name: index for index, name in enumerate(FACE_ATTRIBUTES)}
    wanted = np.array([prevalence[name] for name in FACE_ATTRIBUTES])
    rows, columns = [names[pair[0]] for pair in correlations], [names[pair[1]] for pair in correlations]
    target = np.array([pair[2] for pair in correlations])
    best, nearest = np.inf, np.empty(0)
    for index in range(_CANDIDATES):
        people, pictures = (
            numpy_generator(seed, "render-people", index),
            numpy_generator(seed, "render-pictures", index),
        )
        drawn = copula.sample(people, pictures, shape=shape)
        flat = drawn.reshape(-1, drawn.shape[-1]).astype(np.float64)
        miss = ((flat.mean(axis=0) - wanted) ** 2).sum() + (
            (correlation_matrix(flat)[rows, columns] - target) ** 2
        ).sum()
        if miss < best:
            best, nearest = miss, drawn
    return nearest


def person_of(population: Population, number: int) -> Identity:
    """Who is to be seen in picture `number` (0-based) of the data set."""
    identity = sample_identity(numpy_generator(population.seed, "render-identity", int(population.person[number])))
    if population.attributes[number, FACE_ATTRIBUTES.index("Blond_Hair")]:
        identity = replace(identity, skin_tone=0.55 * identity.skin_tone - 0.45)  # blond people are fair
    return identity


def draw_picture(
    population: Population, number: int, *, resolution: int, supersample: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws picture `number` (0-based) of the data set.

    Returns:
        uint8 (resolution, resolution, 3) and landmarks, float64 (5, 2) in px.
    """
    identity = person_of(population, number)
    shot = sample_shot(numpy_generator(population.seed, "render-shot", number))
    states = population.attributes[number].tolist()
    attributes = dict(zip(FACE_ATTRIBUTES, states, strict=True))
    return draw_face(identity, shot, attributes, resolution=resolution, supersample=supersample)
