"""Attributes that occur as often, and together, as a table says: a Gaussian copula over people and pictures.

Attribute a of picture i of person p is present where sqrt(s_a) z_pa + sqrt(1 - s_a) e_ia exceeds a threshold: z belongs
to the person, e to the picture, both normal with one correlation matrix; s_a is the attribute's persistence. Then
`apply_rules` removes what does not occur. Thresholds and correlations are fitted so that prevalences and correlations
after the rules are the ones asked for. Source: the Gaussian copula, Nelsen, An Introduction to Copulas (2006), 2.3; the
fit is a damped fixed-point iteration on a fixed sample.

Shape legend: P people, K pictures of one person, A attributes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from facegen.data.face_parameters import FACE_ATTRIBUTES
from facegen.rng import numpy_generator

_INDEX = {name: index for index, name in enumerate(FACE_ATTRIBUTES)}
_COLOURS = [_INDEX[name] for name in ("Black_Hair", "Blond_Hair", "Gray_Hair")]
_FIT_PEOPLE = 30_000
_FIT_ROUNDS = 30
_TOLERANCE = 0.03  # how far the fitted table may stay from the one asked for


@dataclass(frozen=True)
class Copula:
    """A fitted model: thresholds (A,), persistence (A,), and a factor (A, A) of the latent correlation matrix."""

    threshold: np.ndarray
    persistence: np.ndarray
    factor: np.ndarray

    def sample(
        self, people: np.random.Generator, pictures: np.random.Generator, *, shape: tuple[int, int]
    ) -> np.ndarray:
        """Draws attributes, int8 (P, K, A) of 0 and 1, for `shape` = (P, K)."""
        size = len(FACE_ATTRIBUTES)
        person = people.standard_normal((shape[0], 1, size))
        picture = pictures.standard_normal((*shape, size))
        return apply_rules(self._margins(person, picture))

    def _margins(self, person: np.ndarray, picture: np.ndarray) -> np.ndarray:
        latent = (np.sqrt(self.persistence) * (person @ self.factor.T)) + np.sqrt(1 - self.persistence) * (
            picture @ self.factor.T
        )
        return latent - self.threshold


def apply_rules(margins: np.ndarray) -> np.ndarray:
    """Present where the margin (..., A) is positive, less what does not occur in life; int8 (..., A).

    Only men have a beard, a moustache or are bald. The bald have neither bangs, hair colour nor a hat (which would hide
    that they are). At most one hair colour, the one with the largest margin. The grey-haired are not young. No bangs
    under a hat.
    """
    present = margins > 0
    male = present[..., _INDEX["Male"]]
    present[..., _INDEX["No_Beard"]] |= ~male
    present[..., _INDEX["Mustache"]] &= male
    present[..., _INDEX["Bald"]] &= male
    bald = present[..., _INDEX["Bald"]]
    best = np.argmax(margins[..., _COLOURS], axis=-1)
    for rank, index in enumerate(_COLOURS):
        present[..., index] &= (best == rank) & ~bald
    present[..., _INDEX["Young"]] &= ~present[..., _INDEX["Gray_Hair"]]
    present[..., _INDEX["Wearing_Hat"]] &= ~bald
    present[..., _INDEX["Bangs"]] &= ~bald & ~present[..., _INDEX["Wearing_Hat"]]
    return present.astype(np.int8)


def correlation_matrix(attributes: np.ndarray) -> np.ndarray:
    """Pearson correlations (A, A) of attributes (N, A); 0 where an attribute does not vary."""
    centred = attributes - attributes.mean(axis=0)
    scale = np.sqrt((centred**2).sum(axis=0))
    return (centred.T @ centred) / np.maximum(np.outer(scale, scale), 1e-9)


def fit_copula(
    prevalence: Mapping[Any, float], persistence: Mapping[Any, float], correlations: Sequence[tuple[str, str, float]]
) -> Copula:
    """Fits the copula to a table.

    Args:
        prevalence: share of pictures with each attribute, in (0, 1).
        persistence: share of each attribute that belongs to the person, in [0, 1].
        correlations: (attribute, attribute, Pearson correlation over pictures); other pairs are as the rules make them.

    Raises:
        ValueError: a name is unknown, missing or paired twice, or no population has these figures under the rules.
    """
    _check_table(prevalence, persistence, correlations)
    wanted = np.array([prevalence[name] for name in FACE_ATTRIBUTES])
    share = np.array([persistence[name] for name in FACE_ATTRIBUTES])
    rows = np.array([_INDEX[first] for first, _, _ in correlations], dtype=np.intp)
    columns = np.array([_INDEX[second] for _, second, _ in correlations], dtype=np.intp)
    target = np.array([value for _, _, value in correlations])
    normal = NormalDist()
    generator = numpy_generator(0, "attribute-copula")  # the fit is the same for every seed
    person = generator.standard_normal((_FIT_PEOPLE, 1, len(wanted)))
    picture = generator.standard_normal((_FIT_PEOPLE, 1, len(wanted)))

    threshold = np.array([-normal.inv_cdf(value) for value in wanted])
    latent = np.eye(len(wanted))
    latent[rows, columns] = latent[columns, rows] = target
    for _ in range(_FIT_ROUNDS):
        model = Copula(threshold, share, _factor(latent))
        drawn = apply_rules(model._margins(person, picture))[:, 0].astype(np.float64)
        found = np.clip(drawn.mean(axis=0), 1e-4, 1 - 1e-4)
        table = correlation_matrix(drawn)[rows, columns]
        if max(np.abs(found - wanted).max(), np.abs(table - target).max(initial=0.0)) < 0.004:
            return model
        threshold = threshold + 0.7 * np.array(
            [normal.inv_cdf(f) - normal.inv_cdf(w) for f, w in zip(found, wanted, strict=True)]
        )
        moved = np.clip(latent[rows, columns] + 1.2 * (target - table), -0.97, 0.97)
        latent[rows, columns] = latent[columns, rows] = moved
    faults = [
        f"prevalence {n} {w:g} (nearest {f:.3f})"
        for n, w, f in zip(FACE_ATTRIBUTES, wanted, found, strict=True)
        if abs(w - f) > _TOLERANCE
    ]
    faults += [
        f"correlation {a}, {b} {r:g} (nearest {t:.3f})"
        for (a, b, r), t in zip(correlations, table, strict=True)
        if abs(r - t) > _TOLERANCE
    ]
    if faults:
        raise ValueError(
            f"no population has these figures under the rules of render: {'; '.join(faults)}; move them to the nearest"
        )
    return model


def _check_table(
    prevalence: Mapping[Any, float], persistence: Mapping[Any, float], correlations: Sequence[tuple[str, str, float]]
) -> None:
    for title, table, low, high in (("prevalence", prevalence, 1e-3, 1 - 1e-3), ("persistence", persistence, 0.0, 1.0)):
        if set(table) != set(FACE_ATTRIBUTES):
            odd = sorted(set(table) ^ set(FACE_ATTRIBUTES))
            raise ValueError(
                f"render.{title} must name each of {', '.join(FACE_ATTRIBUTES)}, and no other: look at {', '.join(odd)}"
            )
        for name, value in table.items():
            if not low <= value <= high:
                raise ValueError(f"render.{title}.{name} is {value!r}, it must be in [{low:g}, {high:g}]")
    seen = set()
    for first, second, value in correlations:
        pair = frozenset((first, second))
        if not pair <= set(FACE_ATTRIBUTES) or len(pair) != 2 or pair in seen or not -1 < value < 1:
            raise ValueError(
                f"render.correlations has [{first}, {second}, {value}]: each entry names two different attributes of "
                f"{', '.join(FACE_ATTRIBUTES)}, each pair once, and a correlation between -1 and 1"
            )
        seen.add(pair)


def _factor(latent: np.ndarray) -> np.ndarray:
    """The symmetric square root (A, A) of the nearest correlation matrix, by clipping eigenvalues.

    The symmetric one is unique: the signs of eigenvectors, and a basis of equal eigenvalues, are the library's whim and
    differ with its threads. Rounding takes off the last digits, which do too.
    """
    values, vectors = np.linalg.eigh(latent)
    root = (vectors * np.sqrt(np.maximum(values, 1e-6))) @ vectors.T
    return np.round(root / np.sqrt((root**2).sum(axis=1, keepdims=True)), 9)
