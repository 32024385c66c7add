"""Training a face finder: pictures and landmarks move together, anchors and losses counted by hand, exact resume."""

from __future__ import annotations

import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from facegen.errors import StoppedError
from facegen.models.face_finder import FaceFinder, anchors, face_boxes
from facegen.models.initialize import draw_weights
from facegen.rng import numpy_generator, torch_generator
from facegen.train import face_finder as module
from facegen.train.face_finder import (
    FaceFinderLearner,
    FaceFinderRecipe,
    SceneSet,
    assigned,
    black_beyond,
    finder_losses,
    in_view,
    moved,
    moved_boxes,
    placed,
    placements,
    recoloured,
    shuffled,
    visible,
)
from facegen.train.loop import make_accelerator, train

CPU = torch.device("cpu")
SIZE = (64, 96)
FACE = np.array([[-6, -7], [6, -7], [0, 0], [-4, 6], [4, 6]], dtype=np.float32)  # px about its middle


class Marked:
    """Grey pictures with faces of five white points; the person of every fifth one is not marked."""

    def __init__(self, count: int, size: tuple[int, int] = SIZE) -> None:
        self.size, self.segments = size, []
        self.pixels = np.full((count, *size, 3), 60, dtype=np.uint8)
        for row in range(count):
            rng = numpy_generator(0, "marked", row)
            points = FACE + rng.integers([20, 20], [size[1] - 20, size[0] - 20])
            for x, y in points.astype(int):
                self.pixels[row, y - 1 : y + 2, x - 1 : x + 2] = 255
            box = (*points.min(axis=0) - 8, *points.max(axis=0) + 8)
            self.segments.append((SimpleNamespace(bbox=box, landmarks=None if row % 5 == 4 else points),))

    def images(self, rows, *, threads):
        return self.pixels[rows]


def scenes(count: int = 10, **changes) -> SceneSet:
    return SceneSet(Marked(count, **changes), input_size=SIZE, device=CPU, threads=1)


def finder() -> FaceFinder:
    made = FaceFinder(width=8, input_size=SIZE)
    draw_weights(made, torch_generator(0, "weights"))
    made.start_at_usual_faces()
    return made


def learner(total_images: int = 64) -> FaceFinderLearner:
    return FaceFinderLearner(
        finder(), scenes(), FaceFinderRecipe(seed=0, total_images=total_images, learning_rate=3e-3)
    )


def face_at(x: float, y: float, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.from_numpy(FACE) + torch.tensor([x, y])


def test_points_move_with_the_picture():
    generator, spots = torch_generator(0, "places"), torch.tensor([[[[30.0, 20]]], [[[50.0, 40]]]]).repeat(4, 1, 1, 1)
    pixels = torch.zeros(8, 3, *SIZE)
    for row, spot in enumerate(spots[:, 0, 0].long().tolist()):
        pixels[row, :, spot[1] - 1 : spot[1] + 2, spot[0] - 1 : spot[0] + 2] = 1
    mirrored = torch.arange(8) >= 4
    matrices = placements(mirrored, size=SIZE, input_size=SIZE, generator=generator)
    out, expected = placed(pixels, matrices, input_size=SIZE)[:, 0], moved(spots, matrices)[:, 0, 0]
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    centre = torch.stack([(out * x).sum((1, 2)), (out * y).sum((1, 2))], dim=1) / out.sum((1, 2))[:, None]
    assert (centre - expected).abs().max() < 0.15
    area = torch.linalg.det(matrices[:, :, :2])
    assert ((area < 0) == mirrored).all() and (area.abs().sqrt() >= 0.749).all() and (area.abs().sqrt() <= 1.401).all()
    assert (area.abs().diff().abs() > 1e-3).all()  # each by its own


def test_a_box_goes_around_its_moved_corners():
    turn = torch.tensor([[[0.0, -1, 10], [1, 0, 0]]])  # a quarter turn: (x, y) to (10 - y, x)
    assert moved_boxes(torch.tensor([[[1.0, 2, 4, 8]]]), turn).tolist() == [[[2, 1, 8, 4]]]


def test_eyes_stay_in_their_order_and_the_pictures_show_them():
    own = learner()
    images, landmarks, _ = own.batch(0, 64)
    known = landmarks[:, 0].isfinite().all(dim=(1, 2))
    assert 20 <= int(known.sum()) < 64 and images.shape == (64, 3, *SIZE) and images.abs().max() <= 1
    points = landmarks[known, 0]
    assert (points[:, 0, 0] < points[:, 1, 0]).all() and (points[:, 3, 0] < points[:, 4, 0]).all()
    x, y = points.round().long().unbind(-1)
    shown = images[known].mean(dim=1)[torch.arange(len(points))[:, None], y, x]
    assert (shown > images[known].mean(dim=(1, 2, 3))[:, None]).float().mean() > 0.95


def test_batches_depend_on_the_position_alone():
    first, second = learner().batch(32, 16), learner().batch(32, 16)
    assert all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], learner().batch(48, 16)[0])


def test_pictures_of_another_size_are_fitted_in():
    data = scenes(3, size=(128, 192))
    raw = Marked(3, size=(128, 192))
    images = data.images(torch.tensor([2, 0]))
    assert tuple(images.shape) == (2, 3, *SIZE) and images.dtype == torch.uint8
    expected = (raw.segments[0][0].landmarks + 0.5) / 2 - 0.5
    assert np.allclose(data.landmarks[0, 0].numpy(), expected)
    assert images[1, 0, int(expected[2, 1].round()), int(expected[2, 0].round())] > 150


def test_pictures_that_do_not_fit_in_memory_are_decoded_as_they_are_drawn(monkeypatch):
    whole = learner().batch(16, 8)
    monkeypatch.setattr(module, "RESIDENT_BYTES", 100)
    own = learner()
    assert own.data.resident is None
    assert all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in zip(whole, own.batch(16, 8), strict=True))


def test_no_marked_face_is_refused():
    marked = Marked(3)
    marked.segments = [(SimpleNamespace(bbox=(0, 0, 9, 9), landmarks=None),)] * 3
    with pytest.raises(ValueError, match="no face is marked"):
        SceneSet(marked, input_size=SIZE, device=CPU, threads=1)


def test_what_is_cut_off_asks_nothing():
    landmarks = torch.stack([face_at(30, 30), face_at(90, 30)])[None]
    faces, ignored = in_view(landmarks, torch.tensor([[[1.0, 2, 3, 4]]]), torch.tensor([[92, 64]]))
    assert torch.equal(faces[0, 0], landmarks[0, 0]) and faces[0, 1].isnan().all()
    assert ignored[0, 0].isnan().all() and torch.equal(ignored[0, 1], face_boxes(landmarks[0, 1]))
    assert ignored[0, 2].tolist() == [1, 2, 3, 4]


def test_black_follows_on_the_right_or_below():
    shown = visible(400, input_size=SIZE, generator=torch_generator(0, "shown"))
    right, below = shown[:, 0] < 96, shown[:, 1] < 64
    assert not (right & below).any() and 0.13 < right.float().mean() < 0.25 and 0.03 < below.float().mean() < 0.1
    assert shown[:, 0].min() >= 48 and shown[:, 1].min() >= 32
    out = black_beyond(torch.ones(2, 3, *SIZE), torch.tensor([[50, 64], [96, 40]]))
    assert out[0].sum() == 3 * 64 * 50 and out[0, :, :, :50].all() and out[1].sum() == 3 * 40 * 96


def test_shuffled_squares_are_the_same_squares():
    pixels = torch.rand(2, 3, *SIZE, generator=torch_generator(0, "pixels"))
    out = shuffled(pixels, torch_generator(0, "order"))
    squares = [x.unfold(2, 16, 16).unfold(3, 16, 16)[0, 0].reshape(24, -1).sum(1).sort().values for x in (pixels, out)]
    assert torch.allclose(*squares, atol=1e-4) and not torch.equal(pixels, out)


def test_colours_stay_in_range_and_pictures_differ():
    pixels = torch.full((16, 3, *SIZE), 128.0)
    out = recoloured(pixels, torch_generator(0, "colours"))
    assert out.min() >= 0 and out.max() <= 255
    assert out.mean(dim=(1, 2, 3)).std() > 5 and out.std(dim=(2, 3)).max() > 5


def test_the_anchors_near_a_face_of_their_size_answer_for_it():
    corners, strides, sizes = anchors(SIZE)
    landmarks = torch.stack([face_at(24, 28, scale=1.3), torch.full((5, 2), math.nan)])[None]
    box = face_boxes(landmarks[0, 0])
    middle, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).prod().sqrt())
    owner, asked = assigned(landmarks, torch.full((1, 1, 4), math.nan), corners, strides, sizes)
    for n in range(len(corners)):
        offset = float((corners[n] - middle).abs().max() / strides[n])
        octaves = abs(math.log2(side / float(sizes[n])))
        mine = offset <= 0.75 and octaves <= 0.5
        assert int(owner[0, n]) == (0 if mine else -1)
        assert bool(asked[0, n]) == (mine or not (offset <= 1.25 and octaves <= 0.7))
    assert 2 <= int((owner >= 0).sum()) <= 12 and int((~asked).sum()) >= 2
    far = face_boxes(face_at(80, 28))[None, None]
    asked_far = assigned(landmarks, far, corners, strides, sizes)[1]
    inside = ((corners >= far[0, 0, :2]) & (corners <= far[0, 0, 2:])).all(dim=1)
    assert inside.any() and not asked_far[0, inside].any() and torch.equal(asked_far[0, ~inside], asked[0, ~inside])


def test_of_two_faces_the_nearer_is_answered_for():
    grid = anchors(SIZE)
    landmarks = torch.stack([face_at(20, 30, 1.3), face_at(60, 30, 1.3), face_at(62, 30, 1.3)])[None]
    owner, _ = assigned(landmarks, torch.empty(1, 0, 4), *grid)
    for n in (owner[0] >= 0).nonzero()[:, 0].tolist():
        gaps = [float((grid[0][n] - face_boxes(f).view(2, 2).mean(dim=0)).abs().max()) for f in landmarks[0]]
        assert gaps[int(owner[0, n])] == min(gaps)
    assert {0, 1, 2} >= set(owner[0].tolist()) - {-1} >= {0, 2}


def test_what_is_right_costs_nothing_and_what_is_off_its_share():
    corners, strides, sizes = anchors(SIZE)
    landmarks = torch.stack([face_at(24, 28, 1.3), face_at(66, 30, 1.5)])[None]
    owner, asked = assigned(landmarks, torch.empty(1, 0, 4), corners, strides, sizes)
    said = torch.zeros(1, len(corners), 15)
    said[0, :, 0] = torch.where(owner[0] >= 0, 20.0, -20.0)
    for n in (owner[0] >= 0).nonzero()[:, 0].tolist():
        own, corner, stride = landmarks[0, owner[0, n]], corners[n], strides[n]
        box = face_boxes(own)
        said[0, n, 1:5] = torch.stack([corner[0] - box[0], corner[1] - box[1], box[2] - corner[0], box[3] - corner[1]])
        said[0, n, 1:5] /= stride
        said[0, n, 5:] = ((own - corner) / stride).flatten()
    right = finder_losses(said, landmarks, owner, asked, corners, strides, sizes)
    assert all(float(value) < 1e-6 for value in right)
    said[..., 1] += 0.1 * sizes / strides  # one side of four a tenth of the size off
    said[..., 6] -= 0.2 * sizes / strides  # one of ten numbers
    _, box, points = finder_losses(said, landmarks, owner, asked, corners, strides, sizes)
    assert float(box) == pytest.approx(0.1 / 4, rel=1e-4) and float(points) == pytest.approx(0.2 / 10, rel=1e-4)


def test_the_score_is_focal_and_counts_what_is_asked():
    corners, strides, sizes = anchors(SIZE)
    landmarks = face_at(24, 28, 1.3)[None, None]
    owner, asked = assigned(landmarks, torch.empty(1, 0, 4), corners, strides, sizes)
    said = torch.zeros(1, len(corners), 15)  # every score is one half: cross-entropy log 2, one minus probability 1/2
    score = finder_losses(said, landmarks, owner, asked, corners, strides, sizes)[0]
    assert float(score) == pytest.approx(float(asked.sum() / (owner >= 0).sum()) * math.log(2) / 4, rel=1e-5)


def test_a_picture_without_faces_teaches_scores_alone():
    corners, strides, sizes = anchors(SIZE)
    nothing = torch.full((1, 2, 5, 2), math.nan)
    owner, asked = assigned(nothing, torch.full((1, 4, 4), math.nan), corners, strides, sizes)
    said = torch.zeros(1, len(corners), 15, requires_grad=True)
    score, box, points = finder_losses(said, nothing, owner, asked, corners, strides, sizes)
    (score + box + points).backward()
    assert asked.all() and (owner < 0).all() and float(box.detach()) == float(points.detach()) == 0
    assert said.grad[..., 0].all() and not said.grad[..., 1:].any() and said.grad.isfinite().all()


def train_on(own: FaceFinderLearner, scratch, *, stop_at: int | None = None) -> list[dict[str, float]]:
    stop, lines = threading.Event(), []

    def on_log(record, _):
        lines.append(record)
        if stop_at is not None and record["images"] >= stop_at:
            stop.set()

    train(
        own, total_images=own.recipe.total_images, batch_size=8, scratch=scratch, identity={}, log_images=8,
        checkpoint_images=10**6, checkpoint_minutes=60, accelerator=make_accelerator(CPU, torch.float32),
        on_log=on_log, stop=stop,
    )  # fmt: skip
    return lines


def test_a_killed_training_ends_with_the_same_weights(tmp_path):
    whole, before, after = (learner(40) for _ in range(3))
    lines = train_on(whole, tmp_path / "whole")
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
    with pytest.raises(StoppedError, match="stopped at"):
        train_on(before, tmp_path / "cut", stop_at=16)
    train_on(after, tmp_path / "cut")
    states = [own.models["finder"].state_dict() for own in (whole, after)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
