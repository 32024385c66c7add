"""What the score stage measures on: the autoencoder's round trip, the prior in every space, and what judges state."""

from __future__ import annotations

import numpy as np
import torch

from facegen.data.images import to_uint8, to_unit
from facegen.judging import Answers
from facegen.models.autoencoder import build_autoencoder, decode, encode_moments
from facegen.models.initialize import draw_weights
from facegen.rng import torch_generator
from facegen.score_inputs import (
    judge_figures,
    prior_features,
    recognizer_figures,
    round_trip,
    same_person_cosine,
)
from tests.made_evaluation import made_answers, made_samples


class MeanColour:
    """Three features: the mean of each channel."""

    name, digest, dim = "mean-colour", "d1", 3

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return images.mean((1, 2)).astype(np.float32)


class Known:
    """A recogniser that states its thresholds."""

    def __init__(self, **thresholds: float) -> None:
        self.thresholds = thresholds


def test_the_round_trip_encodes_to_the_mean_and_decodes() -> None:
    vae = build_autoencoder(architecture="tiny", channels=[8, 8, 8], layers_per_block=1, latent_channels=4)
    draw_weights(vae, torch_generator(0, "autoencoder"))
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = to_uint8(decode(vae, encode_moments(vae, to_unit(images))[0]))
    found = round_trip(vae, dtype=torch.float32)(images)
    assert np.array_equal(found, expected) and found.dtype == np.uint8 and not np.array_equal(found, images)
    rounded = round_trip(vae, dtype=torch.bfloat16)(images).astype(int)
    assert 0 < np.abs(rounded - found).max() < 20


def test_the_prior_has_its_first_rows_in_every_space_and_judge_b_is_not_asked_again() -> None:
    answers: Answers = made_answers("dit", made_samples("dit"))
    found = prior_features(answers, {"frechet": None, "other": MeanColour()}, 50)
    rows = answers.rows("prior")[:50]
    assert np.array_equal(found["frechet"], answers.features[rows]) and set(found) == {"frechet", "other"}
    assert np.array_equal(found["other"], MeanColour()(answers.samples.images(rows.tolist())))


def test_a_person_is_the_same_from_the_cosine_of_one_false_accept_in_a_thousand() -> None:
    assert same_person_cosine(Known(**{"1e-2": 0.3, "1e-3": 0.5})) == 0.5
    assert same_person_cosine(Known(**{"1e-2": 0.3})) is None and same_person_cosine(None) is None


def test_judges_state_their_figures_means_first_and_not_how_they_were_set() -> None:
    row = {"balanced_accuracy": 0.9, "auroc": 0.95, "calibration_error": 0.02, "majority_accuracy": 0.6}
    accuracy = {"attributes": {"Male": row | {"threshold": 0.4}}, "mean": {"auroc": 0.95}, "images": 7}
    assert judge_figures(accuracy) == {"auroc": 0.95, "images": 7, "attributes": {"Male": row}}
    assert recognizer_figures({"auc": 0.9, "aligned_by_landmarks": {}, "threshold_from": {}}) == {"auc": 0.9}
    assert recognizer_figures({"absent": "nobody is named"}) == {"absent": "nobody is named"}
