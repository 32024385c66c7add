"""The whole evaluation on features, probabilities and embeddings: what eval/metrics.json and eval/plots are made of.

Shapes: N images of each set, T training images, D features, A attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from facegen.data.samples import FLIP, NULL, PRIOR, at_guidance, at_images, at_steps
from facegen.judging import Answers
from facegen.metrics.control import natural_differences
from facegen.metrics.intervals import mean_interval
from facegen.metrics.manifold import Memorisation
from facegen.rng import numpy_generator
from facegen.score_control import (
    JudgeRates,
    control_figures,
    guidance_point,
    intervention_matrix,
    share_identical,
)
from facegen.score_distances import compare_with_training, extrapolated, memorisation_figures, set_figures
from facegen.scoring import RealSet, Reconstructed, Spaces, describe, frechet_figures

JUDGED = "frechet"  # the space whose distances lead: judge b's features
CONDITIONAL = ("dit", "gan")
NOTES = {
    "frechet": "penultimate layer of judge b, trained on the training split: not Inception, so these distances are no FID",
    "frechet_random": "a fixed random network, not Inception: these distances are no FID",
    "fid": "InceptionV3 of torch-fidelity: these distances are FID",
}


@dataclass(frozen=True)
class Settings:
    """What the samples were drawn with."""

    guidance_scale: float
    num_steps: int
    images_seen: int
    num_neighbors: int
    seed: int


@dataclass(frozen=True)
class Real:
    """Real images in every feature space, N of each split, and the whole training set in that of judge b."""

    test: dict[str, RealSet]
    train: dict[str, RealSet]
    train_reconstructions: dict[str, np.ndarray]
    whole_train: np.ndarray  # (T, D)
    train_states: np.ndarray  # (T, A)


@dataclass(frozen=True)
class Evaluation:
    """The figures, and the tables and pairs that the pictures are drawn from."""

    figures: dict[str, Any]
    matrices: dict[str, np.ndarray]  # M of each conditional generator, and N of the data, (A, A)
    guidance: list[dict[str, float | None]]
    by_images: list[dict[str, float]]
    by_steps: list[dict[str, float]]
    closest: Memorisation | None  # of the DiT


def evaluate(
    answers: Mapping[str, Answers],
    prior: Mapping[str, Mapping[str, np.ndarray]],
    real: Real,
    reconstructed: Reconstructed,
    *,
    people: np.ndarray,
    spaces: Spaces,
    rates: JudgeRates,
    same_person: float | None,
    settings: Settings,
) -> Evaluation:
    """Measure everything.

    Args:
        answers: each generator's pictures, judged.
        prior: features (N, D) of each generator's first prior pictures, by space.
        real: what they are compared with.
        reconstructed: test images and what the autoencoder makes of them; people: who is on them.
        spaces: the feature spaces; the one called frechet leads.
        rates: of judge b on real pictures.
        same_person: the judging recogniser's cosine from which two pictures show one person; None: there is none.
        settings: of the samples.
    """
    k, test = settings.num_neighbors, real.test[JUDGED]
    n = len(test.features)

    def drawn(purpose: str) -> np.random.Generator:
        return numpy_generator(settings.seed, f"score {purpose}")

    train_people = real.train[JUDGED].people
    floor = {name: rows.features for name, rows in real.train.items()}
    figures: dict[str, Any] = {
        "reconstruction": {
            "psnr_db": mean_interval(reconstructed.psnr_db, groups=people).to_json(),
            "ssim": mean_interval(reconstructed.ssim, groups=people).to_json(),
            **frechet_figures(real.train_reconstructions, real.test, spaces, people=train_people),
        },
        "floor": frechet_figures(floor, real.test, spaces, people=train_people)
        | set_figures(floor[JUDGED], test, k=k, generator=drawn("floor"), people=train_people),
    }
    closest = None
    for name, found in answers.items():
        features = prior[name][JUDGED]
        keys = [found.samples.pngs[row] for row in found.rows(PRIOR)[:n]]
        copies = compare_with_training(features, test, real.whole_train, generator=drawn(f"{name} memorisation"))
        closest = copies if name == "dit" else closest
        figures[name] = (
            frechet_figures(prior[name], real.test, spaces)
            | {"frechet_infinity": extrapolated(features, test, extractor=spaces[JUDGED].digest, generator=drawn(name))}
            | set_figures(features, test, k=k, generator=drawn(name), keys=keys)
            | memorisation_figures(copies)
        )
    natural = natural_differences(real.train_states)
    names = answers["dit"].samples.attribute_names
    figures["control"], matrices = {}, {}
    for name in CONDITIONAL:
        found, judged = answers[name], answers[name].judged()
        figures["control"][name] = control_figures(
            judged, names, rates=rates, natural=natural, same_person=same_person,
            null_identical=share_identical(found.samples.of(NULL).images()),
        )  # fmt: skip
        matrices[name] = intervention_matrix([judged[f"{FLIP}{attribute}"] for attribute in names])
    figures["extractors"] = describe(spaces, NOTES)
    return Evaluation(
        figures,
        {**matrices, "data": natural},
        guidance_curve(answers["dit"], natural, rates=rates, same_person=same_person, settings=settings),
        distance_curve(answers["dit"], test, spaces, own=settings.images_seen, name_of=at_images),
        distance_curve(answers["dit"], test, spaces, own=settings.num_steps, name_of=at_steps),
        closest,
    )


def guidance_curve(
    found: Answers, natural: np.ndarray, *, rates: JudgeRates, same_person: float | None, settings: Settings
) -> list[dict[str, float | None]]:
    """Return the figures of control and identity at each guidance scale, over the same pairs of every attribute."""
    names, judged = found.samples.attribute_names, found.judged()
    first = f"{FLIP}{names[0]}"
    others = {_number(name): at_guidance(_number(name)) for name in judged if name.startswith("guidance=")}
    sizes = [len(judged[rename(first)].states) // 2 for rename in others.values()]
    num_pairs = min(sizes, default=len(judged[first].states) // 2)
    table = []
    for scale in sorted({settings.guidance_scale, *others}):
        rename = others.get(scale, str)
        sets = {f"{FLIP}{name}": judged[rename(f"{FLIP}{name}")] for name in names}
        point = guidance_point(sets, names, rates=rates, natural=natural, same_person=same_person, num_pairs=num_pairs)
        table.append({"guidance": scale, **point})
    return table


def distance_curve(found: Answers, test: RealSet, spaces: Spaces, *, own: int, name_of: Any) -> list[dict[str, float]]:
    """Return the leading Fréchet distance at each setting of one kind, all at the N of the smallest set.

    Args:
        found: the DiT's pictures.
        test: the reference.
        spaces: the feature spaces.
        own: the setting of prior itself.
        name_of: what the prior is called at another setting.
    """
    kind = name_of(0)("").partition("=")[0] + "="
    values = {_number(name): name for name in found.samples.set_names if name.startswith(kind)} | {float(own): PRIOR}
    n = min(len(test.features), *(len(found.rows(name)) for name in values.values()))
    reference = {JUDGED: RealSet(test.features[:n], test.people[:n])}
    table = []
    for value, name in sorted(values.items()):
        rows = {JUDGED: found.features[found.rows(name)[:n]]}
        figure = frechet_figures(rows, reference, {JUDGED: spaces[JUDGED]})[JUDGED]
        table.append({kind[:-1]: value, **figure})
    return table


def _number(name: str) -> float:
    """Return the number in a set's name, `guidance=1.5/flip/Male` or `steps=8`."""
    return float(name.partition("=")[2].partition("/")[0])
