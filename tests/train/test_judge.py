"""Training the judge: unknown states teach nothing, classes weigh the same, thresholds separate."""

import threading

import numpy as np
import pytest
import torch

from facegen.data.images import encode_png
from facegen.data.shards import Faces, FacesWriter
from facegen.metrics.classification import auroc
from facegen.models.initialize import draw_weights
from facegen.models.judges import build_judge
from facegen.rng import numpy_generator, torch_generator
from facegen.train.faces import FaceSet
from facegen.train.judge import (
    JudgeLearner,
    JudgeRecipe,
    attribute_loss,
    balance_weights,
    best_thresholds,
    fit_temperatures,
    predict,
)
from facegen.train.loop import make_accelerator, train

CPU = torch.device("cpu")
NAMES = ["Bright", "Red"]


def write_faces(folder, split: str, count: int) -> FaceSet:
    """Noise pictures, bright or dark, red or blue; every fifth label unknown."""
    with FacesWriter(folder, split, resolution=32, attribute_names=NAMES, sources={}, rows_per_shard=64) as writer:
        for number in range(count):
            generator = numpy_generator(0, split, number)
            bright, red = generator.integers(0, 2, 2)
            image = generator.integers(0, 120, (32, 32, 3)) + 60 * bright
            image[..., 0 if red else 2] += 75
            states = np.array([bright, red])
            states[generator.random(2) < 0.2] = -1
            writer.add(f"{number}", encode_png(image.astype(np.uint8)), states, -1, np.zeros((5, 2)))
    return FaceSet(Faces.open(folder, split), device=CPU, threads=1)


@pytest.mark.parametrize("architecture", ["residual", "convnext"])
def test_it_learns_what_can_be_seen(tmp_path, architecture):
    learned, unseen = write_faces(tmp_path, "train", 128), write_faces(tmp_path, "test", 64)
    judge = build_judge(architecture, attribute_names=NAMES, width=8)
    draw_weights(judge, torch_generator(0, "weights"))
    recipe = JudgeRecipe(seed=0, name="a", total_images=1280, learning_rate=3e-3, weight_decay=0.01)
    train(
        JudgeLearner(judge, learned, recipe), total_images=1280, batch_size=32, scratch=tmp_path / "scratch",
        identity={},
        log_images=320, checkpoint_images=640, checkpoint_minutes=60, accelerator=make_accelerator(CPU, torch.float32),
        on_log=lambda *_: None, stop=threading.Event(),
    )  # fmt: skip
    logits, states = predict(judge.eval(), unseen, batch_size=50), unseen.attributes.numpy()
    assert logits.shape == (64, 2) and logits.dtype == np.float32
    assert min(auroc(logits[:, k], states[:, k]) for k in range(2)) > 0.95
    with torch.no_grad():
        everyone = unseen.images(torch.arange(64), torch.zeros(64, dtype=torch.bool))
        np.testing.assert_allclose(logits, judge(everyone).numpy(), atol=1e-4)


def test_unknown_states_have_no_gradient():
    logits = torch.zeros(4, 2, requires_grad=True)
    states = torch.tensor([[1, -1], [0, -1], [-1, -1], [1, 0]])
    attribute_loss(logits, states, torch.ones(2, 2)).backward()
    assert torch.equal(logits.grad == 0, states == -1)
    assert attribute_loss(logits, torch.full((4, 2), -1), torch.ones(2, 2)).item() == 0


def test_both_classes_weigh_the_same_over_the_set():
    states = torch.tensor([[1, 1], [0, 1], [0, 0], [0, -1]], dtype=torch.int8)
    weights = balance_weights(states)
    for column in range(2):
        counts = torch.tensor([(states[:, column] == s).sum() for s in (0, 1)])
        total = counts * weights[:, column]
        assert torch.allclose(total[0], total[1])
        assert torch.allclose(total.sum(), counts.sum().float())


def test_temperature_is_the_closed_form_of_symmetric_errors():
    # Logits of one size L, right for n - k and wrong for k of each class: the best L / T is the logit of the share of
    # right targets, which Platt's targets move from (n - k) / n to ((n - k) t + k (1 - t)) / n, t = (n + 1) / (n + 2).
    n, k, size = 50, 5, 3.0
    right = np.repeat([True, False, True, False], [n - k, k, n - k, k])
    states = np.repeat([1, 0], n)
    logits = size * np.where(right == (states == 1), 1.0, -1.0)
    target = (n + 1) / (n + 2)
    share = ((n - k) * target + k * (1 - target)) / n
    expected = size / np.log(share / (1 - share))
    unknown = np.full(30, -1)
    column = np.concatenate([states, unknown])[:, None]
    scores = np.concatenate([logits, np.full(30, 99.0)])[:, None]
    both = np.column_stack([column, column])
    found = fit_temperatures(np.hstack([scores, 2 * scores]), both)
    assert found == pytest.approx([expected, 2 * expected], rel=1e-4)


def test_a_temperature_is_finite_without_errors_and_one_where_a_class_is_missing():
    states = np.array([[1, 1], [1, 1], [0, -1], [0, -1]])
    logits = np.array([[2.0, 5.0], [1.5, 5.0], [-2.0, 0.0], [-1.8, 0.0]])
    found = fit_temperatures(logits, states)
    assert 0.5 < found[0] < 3 and found[1] == 1.0


def test_thresholds_separate_what_half_does_not():
    states = np.array([[1, 1], [1, 1], [0, 1], [0, -1], [-1, -1]])
    said = np.array([[0.45, 0.9], [0.35, 0.9], [0.2, 0.9], [0.1, 0.1], [0.22, 0.1]])
    threshold, missing = best_thresholds(said, states)
    assert 0.2 < threshold <= 0.35
    assert threshold == pytest.approx((0.21 + 0.35) / 2, abs=0.011)  # the middle of what is as good
    assert missing == 0.5


def test_thresholds_are_the_best_of_the_grid():
    rng = np.random.default_rng(0)
    states = rng.integers(-1, 2, (300, 1))
    said = np.clip(0.4 * (states == 1) + rng.normal(0.3, 0.2, (300, 1)), 0, 1)

    def balanced(threshold):
        return (said[states == 1] >= threshold).mean() + (said[states == 0] < threshold).mean()

    assert balanced(best_thresholds(said, states)[0]) == max(balanced(t / 100) for t in range(1, 100))


def test_an_empty_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no pictures"):
        write_faces(tmp_path, "val", 0)
