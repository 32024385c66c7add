"""Training the face finder: pictures with marked faces, moved, blurred and recoloured; and which anchor answers for which.

What it must also find is softer and blotchier than what is drawn: a generated face. And insightface fits a picture into
the network's input from the upper left, so black may follow on the right or below. Shapes: S pictures, B batch, H W the
network's input, K marked subjects of a picture (the most of any; rows beyond are NaN), N anchors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facegen.models.face_finder import FaceFinder, anchors, face_boxes, normalized
from facegen.rng import torch_generator
from facegen.train.ema import PowerEMA
from facegen.train.faces import RESIDENT_BYTES, FaceOrder
from facegen.train.loop import Logs, Phase, adamw, warmup_linear_decay

WARMUP_FRACTION = 0.05
DECAY_FRACTION = 0.6
GRAD_CLIP = 5.0
BETAS = (0.9, 0.99)
WEIGHT_DECAY = 0.02
FOCUS = 2.0  # of the focal loss
SCORE_WEIGHT, BOX_WEIGHT, POINT_WEIGHT = 1.0, 2.0, 10.0
# An anchor answers for a face whose middle is this near to it (in strides, along both axes) and whose size is this near
# to its own (in octaves); up to the wider bounds it is asked nothing.
NEAR, WIDELY_NEAR = 0.75, 1.25
ALIKE, WIDELY_ALIKE = 0.5, 0.7
MIRRORED_LANDMARKS = [1, 0, 2, 4, 3]  # left and right change places

ZOOM = (0.75, 1.4)  # of the whole picture fitted in; drawn evenly in its logarithm
MAX_ROTATION = 8.0  # degrees
CUT_SHARE = 0.25  # of the pictures: black from some column on, or from some row on (a quarter of them)
SCRAMBLED_SHARE = 0.08  # cut into squares and put together at random: no face is left
SQUARE = 16  # px of those
MAX_CONTRAST, MAX_BRIGHTNESS, MAX_TINT = 0.35, 0.25, 0.12  # relative, and in units of half the range
GREY_SHARE = 0.08
BLURRED_SHARE, MAX_BLUR = 0.4, 0.9  # share of a picture of a half or a quarter of the density that is mixed in
MAX_NOISE, MAX_BLOTCHES = 0.06, 0.1  # standard deviations, pixel by pixel and of patches of 8 px


@dataclass(frozen=True)
class FaceFinderRecipe:
    """How a face finder is trained; the meanings are in params.yaml."""

    seed: int
    total_images: int
    learning_rate: float


class MarkedSubject(Protocol):
    """A person in a picture."""

    @property
    def bbox(self) -> Sequence[float]:
        """Where the person is, x0 y0 x1 y1 in px."""

    @property
    def landmarks(self) -> np.ndarray | None:
        """(5, 2) px, or None where they are not known."""


class MarkedPictures(Protocol):
    """Pictures of one size with the people in them: `facegen.data.scenes.Scenes`."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, px."""

    @property
    def segments(self) -> Sequence[Sequence[MarkedSubject]]:
        """Who is in each picture."""

    def images(self, rows: Sequence[int] | np.ndarray, /, *, threads: int) -> np.ndarray:
        """Return pictures, uint8 (B, height, width, 3)."""


class SceneSet:
    """Marked pictures as training sees them: fitted into the network's input, with their landmarks."""

    def __init__(
        self, scenes: MarkedPictures, *, input_size: Sequence[int], device: torch.device, threads: int
    ) -> None:
        """
        Args:
            scenes: the train split.
            input_size: height and width of the network's input, px.
            device: where batches are wanted.
            threads: how many pictures are decoded at once.

        Raises:
            ValueError: if no face is marked.
        """
        self.scenes, self.device, self.threads = scenes, device, threads
        count, (height, width) = len(scenes.segments), scenes.size
        scale = min(input_size[0] / height, input_size[1] / width)
        self.size = (max(1, round(scale * height)), max(1, round(scale * width)))  # px of the pictures here
        self.resident: Tensor | None = None
        if count * 3 * self.size[0] * self.size[1] <= RESIDENT_BYTES:
            parts = [self._decoded(np.arange(start, min(start + 256, count))) for start in range(0, count, 256)]
            self.resident = torch.cat([torch.empty((0, 3, *self.size), dtype=torch.uint8), *parts]).to(device)
        most = max([1, *(len(subjects) for subjects in scenes.segments)])
        self.landmarks = torch.full((count, most, 5, 2), math.nan)  # px in the pictures here
        self.unmarked = torch.full((count, most, 4), math.nan)  # boxes of people whose landmarks are not known
        for row, subjects in enumerate(scenes.segments):
            for column, subject in enumerate(subjects):
                if subject.landmarks is None:
                    self.unmarked[row, column] = torch.tensor(list(subject.bbox)) * scale
                else:
                    self.landmarks[row, column] = (torch.from_numpy(subject.landmarks) + 0.5) * scale - 0.5
        if not bool(self.landmarks.isfinite().any()):
            raise ValueError("no face is marked in the pictures: nothing to learn from")

    def __len__(self) -> int:
        return len(self.scenes.segments)

    def images(self, indices: Tensor) -> Tensor:
        """Return pictures of row numbers (B,), on the host: uint8 (B, 3, h, w) of `size`, on the device."""
        if self.resident is None:
            return self._decoded(indices.numpy()).to(self.device)
        return self.resident[indices.to(self.device)]

    def _decoded(self, rows: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(self.scenes.images(rows, threads=self.threads)).permute(0, 3, 1, 2)
        if tuple(pixels.shape[2:]) == self.size:
            return pixels
        return F.interpolate(pixels, size=self.size, mode="bilinear", antialias=True)


class FaceFinderLearner:
    """Scores, boxes and points of the anchors (a `facegen.train.loop.Learner`)."""

    def __init__(self, finder: FaceFinder, data: SceneSet, recipe: FaceFinderRecipe) -> None:
        self.data, self.recipe = data, recipe
        self.models: dict[str, nn.Module] = {"finder": finder}
        optimizer = adamw(finder, learning_rate=recipe.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY)
        self.phases = [Phase("finder", finder, optimizer, GRAD_CLIP, self.loss)]
        self.ema: PowerEMA | None = None
        self.flops_per_image = 0.0
        self.order = FaceOrder(size=len(data), seed=recipe.seed, purpose="face finder")
        self.input_size = (int(finder.config.input_size[0]), int(finder.config.input_size[1]))
        self.anchors = tuple(values.to(data.device) for values in anchors(self.input_size))
        finder.train()

    def learning_rate(self, images_seen: int) -> float:
        r = self.recipe
        return warmup_linear_decay(
            images_seen,
            peak=r.learning_rate,
            warmup_images=round(WARMUP_FRACTION * r.total_images),
            total_images=r.total_images,
            decay_fraction=DECAY_FRACTION,
        )

    def batch(self, images_seen: int, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return pictures as the network takes them, the landmarks of faces in full view, boxes that ask nothing."""
        data = self.data
        indices, mirrored = self.order.draw(images_seen, batch_size)
        generator = torch_generator(self.recipe.seed, "face finder augmentation", images_seen)
        matrices = placements(mirrored, size=data.size, input_size=self.input_size, generator=generator)
        pixels = placed(data.images(indices).float(), matrices, input_size=self.input_size)
        landmarks = moved(data.landmarks[indices], matrices)
        landmarks[mirrored] = landmarks[mirrored][:, :, MIRRORED_LANDMARKS]
        unmarked = moved_boxes(data.unmarked[indices], matrices)
        shown = visible(batch_size, input_size=self.input_size, generator=generator)
        landmarks, ignored = in_view(landmarks, unmarked, shown)
        pixels = recoloured(pixels, generator)
        scrambled = torch.rand(batch_size, generator=generator) < SCRAMBLED_SHARE
        pixels[scrambled.to(data.device)] = shuffled(pixels[scrambled.to(data.device)], generator)
        landmarks[scrambled], ignored[scrambled] = math.nan, math.nan
        pixels = black_beyond(pixels, shown.to(data.device))
        images = normalized(pixels).contiguous(memory_format=torch.channels_last)
        return images, landmarks.to(data.device), ignored.to(data.device)

    def loss(self, module: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Logs]:
        images, landmarks, ignored = batch
        said = module(images).float()
        owner, asked = assigned(landmarks, ignored, *self.anchors)
        score, box, points = finder_losses(said, landmarks, owner, asked, *self.anchors)
        loss = SCORE_WEIGHT * score + BOX_WEIGHT * box + POINT_WEIGHT * points
        return loss, {"loss": loss.detach(), "score": score.detach(), "box": box.detach(), "points": points.detach()}


def placements(
    mirrored: Tensor, *, size: tuple[int, int], input_size: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Return similarities (B, 2, 3) from px in the pictures to px in the input: zoom, rotation, mirror and shift.

    A zoomed picture fills the input as far as it can; a smaller one lies within it.

    Args:
        mirrored: bool (B,).
        size: height and width of the pictures, px.
        input_size: of the input, px.
    """
    zoom, angle, across, down = torch.rand(4, len(mirrored), generator=generator)
    zoom = torch.exp(math.log(ZOOM[0]) + zoom * math.log(ZOOM[1] / ZOOM[0]))
    angle = (2 * angle - 1) * math.radians(MAX_ROTATION)
    flip = torch.where(mirrored, -1.0, 1.0)
    turn = torch.stack([flip * angle.cos(), -angle.sin(), flip * angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    linear = zoom[:, None, None] * turn
    shape, room = torch.tensor([size[1], size[0]]).float(), torch.tensor([input_size[1], input_size[0]]).float()
    spare = (room - zoom[:, None] * shape) * (torch.stack([across, down], dim=1) - 0.5)
    target, source = (room - 1) / 2 + spare, (shape - 1) / 2
    return torch.cat([linear, (target - (linear @ source))[:, :, None]], dim=2)


def placed(pixels: Tensor, matrices: Tensor, *, input_size: tuple[int, int]) -> Tensor:
    """Return the pictures (B, 3, h, w) moved by the matrices (B, 2, 3), (B, 3, H, W); edges repeated outwards."""
    height, width = pixels.shape[2:]
    inverse = torch.linalg.inv(matrices[:, :, :2])
    shift = -(inverse @ matrices[:, :, 2:])
    y, x = torch.meshgrid(torch.arange(input_size[0]), torch.arange(input_size[1]), indexing="ij")
    places = torch.stack([x, y], dim=-1).float().view(1, -1, 2) @ inverse.mT + shift.mT  # (B, H W, 2)
    grid = (2 * places + 1) / torch.tensor([width, height]) - 1
    grid = grid.view(-1, *input_size, 2).to(pixels.device)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def moved(points: Tensor, matrices: Tensor) -> Tensor:
    """Return points (B, K, P, 2) px moved by matrices (B, 2, 3)."""
    return torch.einsum("bij,bkpj->bkpi", matrices[:, :, :2], points) + matrices[:, None, None, :, 2]


def moved_boxes(boxes: Tensor, matrices: Tensor) -> Tensor:
    """Return the upright boxes (B, K, 4) around boxes moved by matrices (B, 2, 3)."""
    corners = moved(boxes[..., [0, 1, 2, 1, 0, 3, 2, 3]].unflatten(-1, (4, 2)), matrices)
    return torch.cat([corners.amin(dim=2), corners.amax(dim=2)], dim=-1)


def visible(count: int, *, input_size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return how much of each input is picture, (B, 2) columns and rows; the rest is black."""
    draws = torch.rand(3, count, generator=generator)
    height, width = input_size
    columns = torch.full((count,), width)
    rows = torch.full((count,), height)
    part = 0.5 + 0.5 * draws[2]
    cut, below = draws[0] < CUT_SHARE, draws[1] < 0.25
    columns = torch.where(cut & ~below, (part * width).round().long(), columns)
    rows = torch.where(cut & below, (part * height).round().long(), rows)
    return torch.stack([columns, rows], dim=1)


def in_view(landmarks: Tensor, unmarked: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """Return the landmarks (B, K, 5, 2) of faces in full view, NaN for others; and boxes (B, 2 K, 4) that ask nothing.

    Args:
        landmarks: (B, K, 5, 2) px.
        unmarked: (B, K, 4) boxes of people whose face is not marked.
        shown: (B, 2) columns and rows of the input that are picture.
    """
    inside = ((landmarks >= 0) & (landmarks <= shown[:, None, None] - 1)).all(dim=(2, 3))
    cut_off = torch.where(inside[..., None], math.nan, face_boxes(landmarks))
    faces = torch.where(inside[..., None, None], landmarks, math.nan)
    return faces, torch.cat([cut_off, unmarked], dim=1)


def recoloured(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures (B, 3, H, W) of 0 to 255 in another light, softer, noisier; not beyond that range."""
    count, device = len(pixels), pixels.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator).to(device)

    soft = [F.interpolate(F.avg_pool2d(pixels, f), scale_factor=f, mode="bilinear") for f in (2, 4)]
    blurred = torch.where(draw(1, 1, 1) < 0.5, soft[0], soft[1])
    amount = MAX_BLUR * draw(1, 1, 1) * (draw(1, 1, 1) < BLURRED_SHARE)
    out = torch.lerp(pixels, blurred, amount) / 127.5 - 1
    grey = draw(1, 1, 1) < GREY_SHARE
    out = torch.where(grey, out.mean(dim=1, keepdim=True), out)
    out = out * (1 + MAX_CONTRAST * (2 * draw(1, 1, 1) - 1)) * (1 + MAX_TINT * (2 * draw(3, 1, 1) - 1))
    out = out + MAX_BRIGHTNESS * (2 * draw(1, 1, 1) - 1)
    height, width = pixels.shape[2:]
    patches = torch.randn(count, 3, height // 8, width // 8, generator=generator).to(device)
    patches = F.interpolate(patches, size=(height, width), mode="bilinear")
    noise = torch.randn(count, 1, height, width, generator=generator).to(device)
    out = out + MAX_BLOTCHES * draw(1, 1, 1).square() * patches + MAX_NOISE * draw(1, 1, 1).square() * noise
    return (out.clamp(-1, 1) + 1) * 127.5


def shuffled(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures (B, 3, H, W) whose squares are in another order, the same for all."""
    rows, columns = pixels.shape[2] // SQUARE, pixels.shape[3] // SQUARE
    squares = F.unfold(pixels, SQUARE, stride=SQUARE)  # (B, 3 SQUARE^2, squares)
    order = torch.randperm(rows * columns, generator=generator).to(pixels.device)
    return F.fold(squares[:, :, order], pixels.shape[2:], SQUARE, stride=SQUARE)


def black_beyond(pixels: Tensor, shown: Tensor) -> Tensor:
    """Return pictures (B, 3, H, W) that are black from column shown[:, 0] and from row shown[:, 1] on."""
    columns = torch.arange(pixels.shape[3], device=pixels.device) < shown[:, 0, None]
    rows = torch.arange(pixels.shape[2], device=pixels.device) < shown[:, 1, None]
    return pixels * (rows[:, None, :, None] & columns[:, None, None, :])


def assigned(
    landmarks: Tensor, ignored: Tensor, corners: Tensor, strides: Tensor, sizes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return which face each anchor answers for, int64 (B, N), -1 for none; and whether its score counts, bool (B, N).

    Args:
        landmarks: (B, K, 5, 2) px, NaN where there is no face.
        ignored: (B, J, 4) boxes in which a face may be, NaN where there is none.
        corners, strides, sizes: of `anchors`.
    """
    boxes = face_boxes(landmarks)
    middle, side = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1).sqrt()
    side = side.clamp(float(sizes.min()), float(sizes.max()))
    offset = (middle[:, :, None] - corners).abs().amax(dim=-1) / strides  # (B, K, N), strides; NaN compares false
    octaves = (side[:, :, None] / sizes).log2().abs()
    answers = (offset <= NEAR) & (octaves <= ALIKE)
    widely = (offset <= WIDELY_NEAR) & (octaves <= WIDELY_ALIKE)
    nearest = torch.where(answers, offset, math.inf).min(dim=1)
    owner = torch.where(nearest.values.isfinite(), nearest.indices, -1)
    within = (ignored[:, :, None, :2] <= corners) & (corners <= ignored[:, :, None, 2:])  # (B, J, N, 2)
    unasked = (widely.any(dim=1) | within.all(dim=-1).any(dim=1)) & (owner < 0)
    return owner, ~unasked


def finder_losses(
    said: Tensor, landmarks: Tensor, owner: Tensor, asked: Tensor, corners: Tensor, strides: Tensor, sizes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses of scores, boxes and points.

    Scores: focal cross-entropy summed over the anchors that count, by the number of those with a face. Boxes and points:
    mean absolute error of the latter, as a share of the anchor's size.

    Args:
        said: (B, N, 15) of the network.
        landmarks: (B, K, 5, 2) px.
        owner, asked: of `assigned`.
        corners, strides, sizes: of `anchors`.

    Source: Lin et al., Focal Loss for Dense Object Detection, equation 4 (without its class weights).
    """
    has_face = owner >= 0
    count = has_face.sum().clamp(min=1)
    losses = F.binary_cross_entropy_with_logits(said[..., 0], has_face.float(), reduction="none")
    score = (losses * (1 - torch.exp(-losses)).pow(FOCUS) * asked).sum() / count
    picture, anchor = has_face.nonzero(as_tuple=True)
    own = landmarks[picture, owner[picture, anchor]]  # (M, 5, 2)
    corner, unit = corners[anchor], (strides / sizes)[anchor, None]
    boxes = face_boxes(own)
    distances = torch.cat([corner - boxes[:, :2], boxes[:, 2:] - corner], dim=1) / strides[anchor, None]
    offsets = ((own - corner[:, None]) / strides[anchor, None, None]).flatten(1)
    found = said[picture, anchor]
    box = ((found[:, 1:5] - distances) * unit).abs().sum() / (4 * count)
    points = ((found[:, 5:] - offsets) * unit).abs().sum() / (10 * count)
    return score, box, points
