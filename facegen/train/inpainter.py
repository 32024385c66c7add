"""Fine-tuning a LatentDiT into an inpainting model: it learns to fill what is greyed, told what is kept around it.

A row of a batch is one of three: nothing kept (what the generator knows must not be lost), a whole face with a mask, or
a square part of a face with a mask, enlarged to the model's size (for crop-and-zoom). Masks are parts of the face by its
landmarks, boxes, strokes and halves (facegen/data/mask_shapes.py). The error counts more inside the mask.

Shapes: S pictures in the split, B batch, H = W size in px, C h w latents, A attributes, E identity embedding. The data
order and every draw are functions of (seed, position); see `facegen.train.loop`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facegen.data.face_embedder import mirrored_landmarks
from facegen.data.mask_shapes import random_masks
from facegen.flow.loss import velocity_loss
from facegen.flow.path import interpolate, sample_times, velocity
from facegen.models.autoencoder import Autoencoder
from facegen.models.dit import WHOLE_FACE, LatentDiT, training_flops
from facegen.models.inpainting import context_of, normalized_latents
from facegen.rng import numpy_generator, torch_generator
from facegen.train.dit import drop_attributes
from facegen.train.ema import PowerEMA
from facegen.train.faces import FaceOrder, FaceSet
from facegen.train.loop import Logs, Phase, adamw, warmup_linear_decay
from facegen.train.partners import Partners

ZOOM_CANDIDATES = 3  # masks drawn for a row that is to be enlarged, of which the smallest is taken
ZOOM_MARGIN = (1.2, 2.5)  # side of a part that is shown, in sides of the mask's bounding square


@dataclass(frozen=True)
class InpainterRecipe:
    """How an inpainting model is trained; the meanings are in params.yaml."""

    seed: int
    dtype: torch.dtype  # of the autoencoder's passes
    path: str
    time_mean: float
    time_std: float
    laplacian_weight: float
    total_images: int
    learning_rate: float
    warmup_images: int
    decay_fraction: float
    betas: tuple[float, float]
    grad_clip: float
    drop_all: float
    drop_some: float
    drop_identity: float
    empty_share: float
    zoom_share: float
    zoom_side: float
    mask_weight: float
    ema_sigma_rel: float


@dataclass(frozen=True)
class InpaintBatch:
    """One training batch."""

    x_t: Tensor  # (B, C, h, w)
    t: Tensor  # (B,)
    attributes: Tensor  # (B, A) int8, after dropout
    target: Tensor  # (B, C, h, w)
    context: Tensor  # (B, 1 + C, h, w)
    crop: Tensor  # (B, 3)
    weight: Tensor  # (B, 1, h, w)
    identity: Tensor | None  # (B, E)
    identity_known: Tensor | None  # (B,) bool, after dropout


def bounding_squares(masks: np.ndarray) -> np.ndarray:  # (B, H, W) bool -> (B, 3)
    """Return centre x, centre y and side of the square around each mask, in shares of the picture's side.

    Raises:
        ValueError: if a mask is empty.
    """
    size = masks.shape[1]
    squares = np.empty((len(masks), 3))
    for row, mask in enumerate(masks):
        ys, xs = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        if not len(ys):
            raise ValueError(f"mask {row} is empty")
        squares[row] = (xs[0] + xs[-1] + 1) / 2, (ys[0] + ys[-1] + 1) / 2, max(xs[-1] - xs[0], ys[-1] - ys[0]) + 1
    return squares / size


def smallest(candidates: list[np.ndarray]) -> np.ndarray:  # K x (B, H, W) bool -> (B, H, W)
    """Return of each row's masks the one with the smallest bounding square."""
    sides = np.stack([bounding_squares(masks)[:, 2] for masks in candidates])  # (K, B)
    return np.stack(candidates)[sides.argmin(axis=0), np.arange(sides.shape[1])]


def shown_parts(squares: np.ndarray, *, least: float, rng: np.random.Generator) -> np.ndarray:
    """Return squares (B, 3) that hold the given ones with a random margin and position, and lie within the picture.

    Args:
        squares: (B, 3), centre x, centre y and side in shares of the picture's side.
        least: smallest side of the result.
    """
    low, high = ZOOM_MARGIN
    sides = np.clip(squares[:, 2] * rng.uniform(low, high, len(squares)), least, 1.0)
    slack = np.maximum(sides - squares[:, 2], 0.0)[:, None] / 2
    centres = squares[:, :2] + slack * rng.uniform(-1, 1, (len(squares), 2))
    return np.column_stack([np.clip(centres, sides[:, None] / 2, 1 - sides[:, None] / 2), sides])


def zoomed(images: Tensor, crop: Tensor) -> Tensor:
    """Return the squares `crop` (B, 3) of images (B, K, H, W), enlarged bilinearly to their size."""
    B = len(images)
    centre, side = 2 * crop[:, :2] - 1, crop[:, 2]
    theta = torch.zeros(B, 2, 3, dtype=images.dtype, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = centre
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


class InpainterLearner:
    """Flow matching of the greyed part, on pictures that live on the device (a `facegen.train.loop.Learner`)."""

    def __init__(
        self,
        model: LatentDiT,
        vae: Autoencoder,
        faces: FaceSet,
        recipe: InpainterRecipe,
        *,
        latents: np.ndarray,
        embedding: np.ndarray | None,
    ) -> None:
        """
        Args:
            model: of `inpainting_model`, on the device.
            vae: on the device; it is not trained.
            faces: the train split.
            latents: (S, 2, C, h, w), posterior means of the split's pictures and of their mirrors.
            embedding: (S, E) unit vectors of the split's pictures, or None.

        Raises:
            ValueError: if the latents or embeddings do not fit the split, or the model has no context.
        """
        if any(len(rows) != len(faces) for rows in (latents, embedding) if rows is not None):
            raise ValueError(f"latents and embeddings do not fit {len(faces)} pictures; run the latents stage again")
        if model.config.context_channels is None:
            raise ValueError("the model has no context; make one with facegen.models.dit.inpainting_model")
        self.vae, self.faces, self.recipe = vae.requires_grad_(False).eval(), faces, recipe
        self.config = model.config
        self.embedding = None if embedding is None else torch.from_numpy(np.array(embedding, np.float32))
        self.latents = torch.from_numpy(np.array(latents, np.float16)).to(faces.device)
        self.partners = Partners(torch.from_numpy(np.array(faces.faces.identity, np.int64)))
        self.order = FaceOrder(size=len(faces), seed=recipe.seed, purpose="inpainter")
        self.models: dict[str, nn.Module] = {"inpainter": model}
        optimizer = adamw(model, learning_rate=recipe.learning_rate, betas=recipe.betas, weight_decay=0.0)
        self.phases = [Phase("inpainter", model, optimizer, recipe.grad_clip, self.loss)]
        self.ema = PowerEMA(model, sigma_rels=[recipe.ema_sigma_rel])
        self.flops_per_image = training_flops(model)

    def learning_rate(self, images_seen: int) -> float:
        r = self.recipe
        return warmup_linear_decay(
            images_seen, peak=r.learning_rate, warmup_images=r.warmup_images, total_images=r.total_images,
            decay_fraction=r.decay_fraction,
        )  # fmt: skip

    def batch(self, images_seen: int, batch_size: int) -> InpaintBatch:
        r, device = self.recipe, self.faces.device
        indices, mirrored = self.order.draw(images_seen, batch_size)
        images = self.faces.images(indices, mirrored)  # (B, 3, H, W)
        masks, crop, empty = self.masks_and_crops(indices, mirrored, images_seen)
        generator = torch_generator(r.seed, "inpainter noise", images_seen, device=device)
        images, shown = self.show(images, torch.from_numpy(masks).to(device), crop.to(device))
        x0, context = self.encode(
            images, shown, self.latents[indices.to(device), mirrored.long().to(device)], crop, empty
        )
        eps = torch.randn(x0.shape, generator=generator, device=device)
        t = sample_times(batch_size, mean=r.time_mean, std=r.time_std, generator=generator, device=device)
        attributes = drop_attributes(
            self.faces.attributes[indices].to(device), drop_all=r.drop_all, drop_some=r.drop_some, generator=generator
        )
        identity, known = None, None
        if self.embedding is not None:
            of_person = torch_generator(r.seed, "inpainter partners", images_seen)
            identity = self.embedding[self.partners.draw(indices, of_person)].to(device)
            known = torch.rand(batch_size, generator=generator, device=device) >= r.drop_identity
        weight = 1 + (r.mask_weight - 1) * (1 - context[:, :1])
        return InpaintBatch(
            interpolate(x0, eps, t, path=r.path), t, attributes, velocity(x0, eps, t, path=r.path),
            context, crop.to(device), weight, identity, known,
        )  # fmt: skip

    def masks_and_crops(self, indices: Tensor, mirrored: Tensor, images_seen: int) -> tuple[np.ndarray, Tensor, Tensor]:
        """Return masks (B, H, W) bool on the whole pictures, crops (B, 3) and which rows keep nothing (B,)."""
        r, size = self.recipe, self.faces.faces.resolution
        rng = numpy_generator(r.seed, "inpainter masks", images_seen)
        landmarks = np.array(self.faces.faces.landmarks[indices.numpy()], dtype=np.float64)
        flip = mirrored.numpy()
        landmarks[flip] = mirrored_landmarks(landmarks[flip], width=size)
        kind = rng.uniform(size=len(landmarks))
        empty, zoom = kind < r.empty_share, (kind >= r.empty_share) & (kind < r.empty_share + r.zoom_share)
        masks = random_masks(landmarks, size=size, rng=rng)
        masks[zoom] = smallest(
            [masks[zoom], *(random_masks(landmarks[zoom], size=size, rng=rng) for _ in range(ZOOM_CANDIDATES - 1))]
        )
        crops = shown_parts(bounding_squares(masks), least=r.zoom_side, rng=rng)
        crops[~zoom] = WHOLE_FACE
        return masks, torch.from_numpy(crops).float(), torch.from_numpy(empty)

    def show(self, images: Tensor, masks: Tensor, crop: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parts (B, 3, H, W) that the crops show, and their masks (B, 1, H, W) bool."""
        shown = masks[:, None]
        rows = (crop[:, 2] < 1).nonzero()[:, 0]
        if len(rows):
            images, shown = images.clone(), shown.clone()
            images[rows] = zoomed(images[rows], crop[rows])
            shown[rows] = zoomed(shown[rows].float(), crop[rows]) > 0.5
        return images, shown

    @torch.no_grad()
    def encode(
        self, images: Tensor, masks: Tensor, cached: Tensor, crop: Tensor, empty: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return normalised latents (B, C, h, w) of what is shown, and contexts (B, 1 + C, h, w).

        Args:
            images: (B, 3, H, W), what the crops show.
            masks: (B, 1, H, W) bool.
            cached: (B, C, h, w), latents of the whole pictures: only parts of pictures are encoded here.
            crop: (B, 3); empty: (B,) bool, rows whose context is zero. Both on the host.
        """
        mean, std, dtype = self.config.latent_mean, self.config.latent_std, self.recipe.dtype
        parts, filled = (crop[:, 2] < 1).nonzero()[:, 0], (~empty).nonzero()[:, 0]
        shift, scale = (torch.tensor(v, device=images.device).view(1, -1, 1, 1) for v in (mean, std))
        x0 = (cached.float() - shift) / scale
        context = x0.new_zeros(len(x0), 1 + x0.shape[1], *x0.shape[2:])
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            if len(parts):
                x0[parts] = normalized_latents(self.vae, images[parts], mean=mean, std=std)
            if len(filled):
                context[filled] = context_of(self.vae, images[filled], masks[filled], mean=mean, std=std)
        return x0, context

    def loss(self, module: nn.Module, batch: InpaintBatch) -> tuple[Tensor, Logs]:
        predicted = module(
            batch.x_t, batch.t, batch.attributes, batch.identity, batch.identity_known, batch.context, batch.crop,
            return_dict=False,
        )[0]  # fmt: skip
        mse, rough = velocity_loss(predicted, batch.target, batch.weight)
        loss = mse.mean() + self.recipe.laplacian_weight * rough.mean()
        return loss, {"loss": loss.detach(), "mse": mse.mean().detach(), "laplacian": rough.mean().detach()}


@torch.no_grad()
def validation_mse(learner: InpainterLearner, model: nn.Module, *, batch_size: int, num_images: int) -> float:
    """Return the velocity error inside the masks over the first batches of a learner's set, mean over images.

    Args:
        learner: over the validation split; its batches are the same whenever it is asked.
        model: the network to measure.
    """
    errors: list[Tensor] = []
    for start in range(0, num_images, batch_size):
        b = learner.batch(start, batch_size)
        v = model(b.x_t, b.t, b.attributes, b.identity, b.identity_known, b.context, b.crop, return_dict=False)[0]
        mse, _ = velocity_loss(v, b.target, 1 - b.context[:, :1])
        errors.append(mse)
    return float(torch.cat(errors).double().mean())
