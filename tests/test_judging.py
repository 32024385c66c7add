"""Every picture is judged once, in its place, and only flips are embedded."""

import numpy as np

from facegen.data.images import encode_png
from facegen.data.samples import Samples
from facegen.judging import judge_samples
from facegen.score_control import share_identical


class Looks:
    """Sees the red value as feature and probability, and counts what it is shown."""

    def __init__(self):
        self.seen = 0

    def both(self, images):
        self.seen += len(images)
        red = images[:, 0, 0, :1].astype(np.float32)
        return red, red / 255

    def embed(self, images, landmarks):
        assert landmarks is None
        self.seen += len(images)
        angle = images[:, 0, 0, 0] / 100
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def samples(num=600):
    images = np.zeros((num, 4, 4, 3), np.uint8)
    images[..., 0] = (np.arange(num) % 251)[:, None, None]
    sets = ["prior" if i % 3 else ("flip/A" if i % 2 else "guidance=4/flip/A") for i in range(num)]
    states = (np.arange(num) % 2).astype(np.int8)[:, None]
    return Samples(np.arange(num), states, [encode_png(i) for i in images], sets, ("A",), 4)


def test_answers_stand_in_the_order_of_the_samples():
    judge, embedder, counted = Looks(), Looks(), []
    answers = judge_samples(samples(), judge, embedder, on_images=counted.append)
    assert sum(counted) == judge.seen == 600 and embedder.seen == 200
    assert (answers.features[:, 0] == np.arange(600) % 251).all()
    judged = answers.judged()
    rows = [i for i in range(600) if i % 3 == 0 and i % 2]
    assert (judged["flip/A"].states[:, 0] == 1).all() and answers.rows("flip/A").tolist() == rows
    assert np.allclose(judged["flip/A"].embeddings[:, 0], np.cos(np.array(rows) % 251 / 100))
    assert judged["prior"].embeddings is None
    assert judge_samples(samples(5), judge, None, on_images=counted.append).embeddings is None


def test_identical_means_every_pixel():
    images = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3)).astype(np.uint8)
    twice = np.concatenate([images, images])
    assert share_identical(twice) == 1
    twice[5, 3, 3, 1] += 1
    assert share_identical(twice) == 0.75
