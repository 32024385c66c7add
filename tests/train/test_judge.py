"""Training the judge: unknown states teach nothing, classes weigh the same, thresholds separate."""

import threading

import numpy as np
import pytest
import torch

from facegen.data.images import encode_png
from facegen.data.shards import Faces, FacesWriter
from facegen.models.initialize import draw_weights
from facegen.models.judge import AttributeJudge
from facegen.rng import numpy_generator, torch_generator
from facegen.train.faces import FaceSet
from facegen.train.judge import (
    JudgeLearner,
    JudgeRecipe,
    attribute_loss,
    balance_weights,
    balanced_accuracy,
    best_thresholds,
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


def test_it_learns_what_can_be_seen(tmp_path):
    learned, unseen = write_faces(tmp_path, "train", 128), write_faces(tmp_path, "test", 64)
    judge = AttributeJudge(attribute_names=NAMES, width=8)
    draw_weights(judge, torch_generator(0, "weights"))
    recipe = JudgeRecipe(seed=0, name="a", total_images=1280, learning_rate=3e-3, weight_decay=0.01)
    train(
        JudgeLearner(judge, learned, recipe), total_images=1280, batch_size=32, scratch=tmp_path / "scratch",
        identity={},
        log_images=320, checkpoint_images=640, checkpoint_minutes=60, accelerator=make_accelerator(CPU, torch.float32),
        on_log=lambda *_: None, stop=threading.Event(),
    )  # fmt: skip
    said = predict(judge.eval(), unseen, batch_size=50, dtype=torch.float32)
    assert said.shape == (64, 2)
    assert min(balanced_accuracy(said, unseen.attributes.numpy(), [0.5, 0.5])) > 0.9


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


def test_balanced_accuracy_by_hand():
    states = np.array([[1, 1], [1, 1], [0, 1], [0, -1], [-1, 1]])
    said = np.array([[0.9, 0.2], [0.4, 0.2], [0.1, 0.2], [0.2, 0.9], [0.0, 0.9]])
    assert balanced_accuracy(said, states, [0.5, 0.5]) == [0.75, None]


def test_thresholds_separate_what_half_does_not():
    states = np.array([[1], [1], [0], [0]])
    said = np.array([[0.45], [0.35], [0.2], [0.1]])
    (threshold,) = best_thresholds(said, states)
    assert 0.2 < threshold <= 0.35
    assert balanced_accuracy(said, states, [threshold]) == [1.0]
    assert best_thresholds(said, np.ones((4, 1))) == [0.5]


def test_an_empty_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no pictures"):
        write_faces(tmp_path, "val", 0)
