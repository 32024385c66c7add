"""Training a face recogniser: telling the people of the train split apart, with a margin between them.

Half of the pictures are aligned by their own landmarks and half by the mean ones, since a generated picture has none of
its own: the recogniser has to serve both. `UnmarkedPictures` are those where none has its own. Shapes: S pictures of
known people, B batch, H W size, E embedding, P people.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facegen.data.align import recognizer_crops, recognizer_matrices
from facegen.models.msid import MSID
from facegen.models.recognizer import INPUT_SIZE, FaceRecognizer
from facegen.rng import torch_generator
from facegen.train.ema import PowerEMA
from facegen.train.faces import RESIDENT_BYTES, FaceOrder
from facegen.train.loop import Logs, Phase, adamw, warmup_linear_decay

Margin = Literal["arcface", "cosface"]
Recognizer = FaceRecognizer | MSID  # from (B, 3, 112, 112) to (B, embedding_size)

WARMUP_FRACTION = 0.05
DECAY_FRACTION = 0.6
GRAD_CLIP = 5.0
BETAS = (0.9, 0.99)
MAX_SHIFT_PX = 3.0  # of the crop's 112
MAX_ZOOM = 0.06
MAX_CONTRAST = 0.07  # relative change of all pixel values, about grey; more would blur what skin and hair tell
MAX_BRIGHTNESS = 0.05  # in units of half the range
_EPSILON = 1e-6


@dataclass(frozen=True)
class RecognizerRecipe:
    """How a recogniser is trained; the meanings are in params.yaml."""

    seed: int
    name: str
    margin: Margin
    margin_size: float
    scale: float
    total_images: int
    learning_rate: float
    weight_decay: float


class Labels(Protocol):
    """Whose pictures they are, and where the faces lie in them."""

    @property
    def identity(self) -> np.ndarray:
        """(S,) people, negative where unknown."""

    @property
    def landmarks(self) -> np.ndarray:
        """(S, 5, 2) px."""

    @property
    def resolution(self) -> int:
        """Side of the pictures, px."""


class TrainingPictures(Protocol):
    """What a recogniser learns from: `facegen.train.faces.FaceSet`, or `UnmarkedPictures`."""

    @property
    def faces(self) -> Labels:
        """The labels of all rows."""

    @property
    def device(self) -> torch.device:
        """Where the pictures are wanted."""

    def images(self, indices: Tensor, mirrored: Tensor) -> Tensor:
        """Return the rows of `indices` (B,), as float32 (B, 3, H, W) in [-1, 1]; which are mirrored, bool (B,)."""


class PicturesOfPeople(Protocol):
    """A split of faces (`facegen.data.shards.Faces`), or synthetic people (`facegen.data.people_set.PeopleSet`)."""

    @property
    def identity(self) -> np.ndarray:
        """(N,) people."""

    @property
    def resolution(self) -> int:
        """Side of the pictures, px."""

    def images(self, rows: Sequence[int] | np.ndarray, /, *, threads: int) -> np.ndarray:
        """Return pictures, uint8 (B, H, W, 3)."""


@dataclass(frozen=True)
class MeanLabels:
    """Labels (see `Labels`) of pictures that have no landmarks of their own: the mean ones stand in for all."""

    identity: np.ndarray
    landmarks: np.ndarray
    resolution: int


class UnmarkedPictures:
    """Pictures of people framed as the faces are, but without landmarks of their own: every one has the mean ones."""

    def __init__(
        self, source: PicturesOfPeople, rows: np.ndarray, *, mean: np.ndarray, device: torch.device, threads: int
    ) -> None:
        """
        Args:
            source: where the pictures are.
            rows: (S,) row numbers: those that are trained on.
            mean: (5, 2) landmarks, fractions of the side, as `mean_landmarks` returns them.
            device: where batches are wanted.
            threads: how many PNGs are decoded at once.
        """
        self.source, self.rows, self.device, self.threads = source, rows, device, threads
        landmarks = np.broadcast_to(mean * source.resolution - 0.5, (len(rows), 5, 2))
        self.faces = MeanLabels(source.identity[rows], landmarks, source.resolution)
        self.resident: Tensor | None = None
        if len(rows) * 3 * source.resolution**2 <= RESIDENT_BYTES:
            self.resident = torch.from_numpy(source.images(rows, threads=threads)).to(device)

    def images(self, indices: Tensor, mirrored: Tensor) -> Tensor:
        """As `TrainingPictures.images`."""
        if self.resident is None:
            pixels = torch.from_numpy(self.source.images(self.rows[indices.numpy()], threads=self.threads))
            pixels = pixels.to(self.device)
        else:
            pixels = self.resident[indices.to(self.device)]  # (B, H, W, 3)
        pixels = torch.where(mirrored.to(self.device)[:, None, None, None], pixels.flip(2), pixels)
        return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def arcface(cosines: Tensor, margin: float) -> Tensor:
    """Return cos(theta + margin) for cosines of theta, with its exact gradient.

    Where theta + margin would pass pi, and the cosine would rise again, it goes on as cos(theta) - (1 - cos(margin)):
    continuous there, and falling in theta everywhere.

    Source: Deng et al., ArcFace, equation 3.
    """
    sines = (1 - cosines.square()).clamp(min=_EPSILON).sqrt()  # the floor keeps the gradient finite at theta = 0
    moved = cosines * math.cos(margin) - sines * math.sin(margin)
    return torch.where(cosines > -math.cos(margin), moved, cosines - (1 - math.cos(margin)))


def cosface(cosines: Tensor, margin: float) -> Tensor:
    """Return cos(theta) - margin. Source: Wang et al., CosFace, equation 4."""
    return cosines - margin


class MarginClassifier(nn.Module):
    """The recogniser and, for training only, a direction for each person; its outputs are the logits of the softmax."""

    def __init__(
        self, recognizer: Recognizer, *, num_people: int, margin: Margin, margin_size: float, scale: float,
        generator: torch.Generator,
    ) -> None:  # fmt: skip
        super().__init__()
        self.recognizer = recognizer
        size = recognizer.embedding_size
        self.centres = nn.Parameter(torch.randn(num_people, size, generator=generator) / math.sqrt(size))
        self.with_margin = {"arcface": arcface, "cosface": cosface}[margin]
        self.margin_size, self.scale = margin_size, scale

    def forward(self, images: Tensor, people: Tensor) -> tuple[Tensor, Tensor]:
        """Return scaled cosines (B, P): with the margin for the person that it is (for the loss), and without.

        Args:
            images: (B, 3, 112, 112) in [-1, 1].
            people: int64 (B,) of 0 .. P-1.
        """
        embeddings = self.recognizer(images)
        with torch.autocast(images.device.type, enabled=False):  # cosines in bfloat16 would lose the third decimal
            cosines = F.normalize(embeddings.float()) @ F.normalize(self.centres).T
            own = F.one_hot(people, len(self.centres)).bool()
            logits = torch.where(own, self.with_margin(cosines, self.margin_size), cosines)
        return self.scale * logits, self.scale * cosines.detach()


class RecognizerLearner:
    """Classification of people with a margin (a `facegen.train.loop.Learner`)."""

    def __init__(self, recognizer: Recognizer, data: TrainingPictures, recipe: RecognizerRecipe) -> None:
        """
        Raises:
            ValueError: if the split knows fewer than two people, or a picture's landmarks coincide.
        """
        self.data, self.recipe = data, recipe
        self.rows, people = known_people(data.faces.identity)
        self.people = torch.from_numpy(people).to(data.device)
        landmarks, resolution = data.faces.landmarks[self.rows], data.faces.resolution
        self.mean_landmarks = mean_landmarks(landmarks, resolution=resolution)
        of_mean = recognizer_matrices((self.mean_landmarks * resolution - 0.5)[None], size=INPUT_SIZE)
        own = recognizer_matrices(landmarks, size=INPUT_SIZE)
        self.matrices = torch.from_numpy(np.stack([own, np.broadcast_to(of_mean, own.shape)]))  # (2, S, 2, 3)
        self.classifier = MarginClassifier(
            recognizer, num_people=int(people.max()) + 1, margin=recipe.margin, margin_size=recipe.margin_size,
            scale=recipe.scale, generator=torch_generator(recipe.seed, f"recognizer {recipe.name} centres"),
        ).to(data.device)  # fmt: skip
        self.models: dict[str, nn.Module] = {"classifier": self.classifier}
        optimizer = adamw(
            self.classifier, learning_rate=recipe.learning_rate, betas=BETAS, weight_decay=recipe.weight_decay
        )
        self.phases = [Phase("recognizer", self.classifier, optimizer, GRAD_CLIP, self.loss)]
        self.ema: PowerEMA | None = None
        self.flops_per_image = 0.0
        self.purpose = f"recognizer {recipe.name}"
        self.order = FaceOrder(size=len(self.rows), seed=recipe.seed, purpose=self.purpose)
        self.classifier.train()

    def learning_rate(self, images_seen: int) -> float:
        r = self.recipe
        return warmup_linear_decay(
            images_seen,
            peak=r.learning_rate,
            warmup_images=round(WARMUP_FRACTION * r.total_images),
            total_images=r.total_images,
            decay_fraction=DECAY_FRACTION,
        )

    def batch(self, images_seen: int, batch_size: int) -> tuple[Tensor, Tensor]:
        indices, mirrored = self.order.draw(images_seen, batch_size)
        generator = torch_generator(self.recipe.seed, f"{self.purpose} augmentation", images_seen)
        by_mean = torch.randint(2, (batch_size,), generator=generator)
        varied = vary(self.matrices[by_mean, indices], mirrored, generator)
        device = self.data.device
        images = self.data.images(torch.from_numpy(self.rows)[indices], torch.zeros(batch_size, dtype=torch.bool))
        crops = recognizer_crops(images, varied.to(device), size=INPUT_SIZE)
        contrast, brightness = (torch.rand(2, batch_size, 1, 1, 1, generator=generator) * 2 - 1).to(device)
        crops.mul_(1 + MAX_CONTRAST * contrast).add_(MAX_BRIGHTNESS * brightness).clamp_(-1, 1)
        crops = crops.contiguous(memory_format=torch.channels_last)
        return crops, self.people[indices.to(device)]

    def loss(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Logs]:
        images, people = batch
        logits, plain = module(images, people)
        loss = F.cross_entropy(logits.float(), people)
        return loss, {"loss": loss.detach(), "accuracy": (plain.argmax(dim=1) == people).float().mean()}


def known_people(identity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows whose person is known, and their people renumbered from 0 on: two int64 (S,).

    Raises:
        ValueError: if they are fewer than two people.
    """
    rows = np.flatnonzero(identity >= 0)
    names, people = np.unique(identity[rows], return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"the pictures name {len(names)} people; a recogniser needs at least 2 to tell apart")
    return rows, people.astype(np.int64)


def as_many_pictures(identity: np.ndarray, counts: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Return rows that hold as many pictures of as many people, drawn at random; rising.

    Where no person is left that has enough pictures, the one with most stands in; where no person is left at all, there
    are fewer people.

    Args:
        identity: (N,) people, negative where unknown (left out).
        counts: (K,) pictures of each of the people that are wanted.
    """
    order = np.argsort(identity, kind="stable")
    order = order[identity[order] >= 0]
    starts = np.unique(identity[order], return_index=True)[1]
    groups = np.split(order, starts[1:]) if len(order) else []
    rank = rng.permutation(len(groups)).tolist()
    by_size = sorted(range(len(groups)), key=lambda person: (-len(groups[person]), rank[person]))
    enough: list[tuple[int, int]] = []  # (rank, person), of all that have as many pictures as are now wanted
    taken, chosen = 0, [np.empty(0, dtype=np.int64)]
    for count in sorted(counts.tolist(), reverse=True):
        while taken < len(by_size) and (len(groups[by_size[taken]]) >= count or not enough):
            heapq.heappush(enough, (rank[by_size[taken]], by_size[taken]))
            taken += 1
        if not enough:
            break
        rows = groups[heapq.heappop(enough)[1]]
        chosen.append(rows[rng.permutation(len(rows))[:count]])
    return np.sort(np.concatenate(chosen))


def mean_landmarks(landmarks: np.ndarray, *, resolution: int) -> np.ndarray:  # (S, 5, 2) px -> (5, 2)
    """Return the mean positions as fractions of the side, from the upper left corner; rounded to what a file keeps."""
    return np.round((landmarks.astype(np.float64).mean(axis=0) + 0.5) / resolution, 6)


def vary(matrices: Tensor, mirrored: Tensor, generator: torch.Generator) -> Tensor:
    """Return the similarities followed by a small random zoom and shift of the crop and, where asked, a mirror.

    Args:
        matrices: float64 (B, 2, 3).
        mirrored: bool (B,).
    """
    count, centre = len(matrices), (INPUT_SIZE - 1) / 2
    draws = torch.rand(3, count, generator=generator, dtype=torch.float64) * 2 - 1
    zoom = 1 + MAX_ZOOM * draws[0]
    out = matrices.clone()
    out[:, :, 2] -= centre
    out *= zoom[:, None, None]
    out[:, :, 2] += centre + MAX_SHIFT_PX * draws[1:].T
    out[mirrored, 0] *= -1
    out[mirrored, 0, 2] += 2 * centre
    return out
