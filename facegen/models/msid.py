"""MSID, the multi-scale identity encoder of Face2Diffusion: a vision transformer read at several depths.

    crops (B, 3, 112, 112) -> patches, class token, learned positions: (B, 1 + N, D), N = (112 / patch_size)^2
    -> depth blocks of attention and MLP; after each block named in `depths`, the class token: (B, D)
    -> batch norm, layer norm (a pair of its own at each depth) -> joined: (B, len(depths) * D)

Trained by ArcFace on the joined vector, so that what is read early, too, has to say who it is. The names of the weights
are those of the published file (width 384, depth 12, 12 heads, patches of 8 px, depths 2, 5, 8, 11).
Shapes: B batch, N patches, D width. Source: Shiohara and Yamasaki, Face2Diffusion, section 3.2; Dosovitskiy et al.,
An Image is Worth 16x16 Words (the network).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from facegen.artifacts import atomic_path
from facegen.errors import DamagedArtifactError
from facegen.models.initialize import draw_weights
from facegen.models.loading import first_line, load_checked
from facegen.models.onnx_graph import OnnxGraph
from facegen.models.positions import sincos_positions
from facegen.models.recognizer import INPUT_SIZE, recognizer_file

HEAD_DIM = 32  # channels of a head, as published: the one size that the weights do not show
NORM_EPS = 1e-6
BATCH = 256  # crops that are embedded at once
POSITION_SCALE = 0.5  # of the sinusoids that the learned positions start as
_CLASS_STD = 0.02  # of the class token's start
_WRAPPED = "module."  # what data-parallel training puts before the names


class Attention(nn.Module):
    """Multi-head self-attention of (B, N, D)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, N, D / heads)
        shares = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(dim=3)  # written out: torch's is slower on CPU
        return self.proj((shares @ v).transpose(1, 2).reshape(B, N, D))


class MLP(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class MSIDBlock(nn.Module):
    """Attention and MLP, each behind a layer norm and around a skip."""

    def __init__(self, width: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """A linear map of every square of pixels: (B, 3, S, S) -> (B, N, D), row by row."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class MSID(ModelMixin, ConfigMixin):
    """The network of the module's docstring; its output is not normalised to unit length."""

    @register_to_config
    def __init__(
        self, patch_size: int, width: int, depth: int, num_heads: int, depths: Sequence[int],
        mlp_ratio: float = 4.0, image_size: int = INPUT_SIZE,
    ) -> None:  # fmt: skip
        """
        Args:
            patch_size: side of a patch, px; divides image_size.
            width: D, a multiple of 4 and of num_heads.
            depth: number of blocks.
            num_heads: heads of attention.
            depths: blocks, counted from 0 and rising, after which the class token is read.
            mlp_ratio: hidden channels of the MLP, in widths.
            image_size: side of the crop, px.

        Raises:
            ValueError: if the sizes do not fit each other.
        """
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"crops of {image_size} px are no whole number of patches of {patch_size} px")
        if width % num_heads or width % 4:
            raise ValueError(f"width is {width}; expected a multiple of 4 and of the {num_heads} heads")
        depths = [int(d) for d in depths]
        if not depths or depths != sorted(set(depths)) or depths[0] < 0 or depths[-1] >= depth:
            raise ValueError(f"depths are {depths}; expected rising numbers of blocks from 0 to {depth - 1}")
        self.image_size, self.width, self.depths = image_size, width, tuple(depths)
        self.grid = image_size // patch_size
        self.patch_embed = PatchEmbed(patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        self.blocks = nn.ModuleList(MSIDBlock(width, num_heads, round(mlp_ratio * width)) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS).requires_grad_(False)  # of the published file; nothing reads it
        self.norms = nn.ModuleDict(
            {f"layer_{d}": nn.Sequential(nn.BatchNorm1d(width), nn.LayerNorm(width)) for d in depths}
        )

    @property
    def embedding_size(self) -> int:
        """Length of the joined vector."""
        return len(self.depths) * self.width

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Draw the weights; the positions start as sinusoids."""
        draw_weights(self, generator)
        self.cls_token.normal_(std=_CLASS_STD, generator=generator)
        self.pos_embed[0, 1:] = POSITION_SCALE * sincos_positions(self.grid, self.width)

    def forward(self, crops: Tensor) -> Tensor:
        """Return the joined vectors (B, len(depths) * D).

        Args:
            crops: (B, 3, 112, 112) RGB in [-1, 1], aligned to the template of `facegen.data.align`.

        Raises:
            ValueError: for another shape.
        """
        return self.per_depth(crops).flatten(1)

    def per_depth(self, crops: Tensor) -> Tensor:
        """Return what is read at each depth, (B, len(depths), D); arguments and errors as `forward`."""
        tokens = self.class_tokens(crops, self.depths).unbind(1)
        return torch.stack([norm(x) for norm, x in zip(self.norms.values(), tokens, strict=True)], dim=1)

    def class_tokens(self, crops: Tensor, depths: Sequence[int]) -> Tensor:
        """Return the class token after each of these blocks, before any norm, (B, len(depths), D)."""
        size = self.image_size
        if crops.ndim != 4 or tuple(crops.shape[1:]) != (3, size, size):
            raise ValueError(f"crops have shape {tuple(crops.shape)}; expected (B, 3, {size}, {size})")
        patches = self.patch_embed(crops)
        x = torch.cat([self.cls_token.expand(len(crops), -1, -1).to(patches.dtype), patches], dim=1) + self.pos_embed
        found = []
        for number, block in enumerate(self.blocks[: max(depths) + 1]):
            x = block(x)
            if number in depths:
                found.append(x[:, 0])
        return torch.stack(found, dim=1)


@torch.no_grad()
def embed_subjects(model: MSID, crops: Tensor) -> Tensor:
    """Return the joined vectors (K, len(depths) * D) of K crops, float32, a few crops at a time.

    Args:
        model: in evaluation mode: batch norm of a batch would let crops speak of each other.
        crops: as `MSID.forward` takes them.

    Raises:
        ValueError: for another shape, or a network in training mode.
    """
    if model.training:
        raise ValueError("MSID is in training mode; expected model.eval()")
    if not len(crops):
        return torch.empty(0, model.embedding_size, device=model.device)
    return torch.cat([model(part.to(model.device, model.dtype)).float() for part in crops.split(BATCH)])


def onnx_bytes(model: MSID) -> bytes:
    """Return the network, as it is in evaluation, as an ONNX file by the rules of `recognizer_file`."""
    graph, width = OnnxGraph(), model.width
    patches = graph.conv("data", model.patch_embed.proj)
    x = graph.add("Reshape", [patches, graph.constant([0, width, -1])])
    x = graph.add("Transpose", [x], perm=[0, 2, 1])
    x = graph.add("Pad", [x, graph.constant([0, 1, 0, 0, 0, 0])])  # room for the class token, which is added
    start = model.pos_embed.detach().clone()
    start[:, :1] += model.cls_token.detach()
    x = graph.add("Add", [x, graph.constant(start)])
    read, first = [], graph.constant([0])
    for number, block in enumerate(model.blocks[: model.depths[-1] + 1]):
        assert isinstance(block, MSIDBlock)
        x = graph.add("Add", [x, _attention(graph, graph.layer_norm(x, block.norm1), block.attn)])
        h = _gelu(graph, graph.linear(graph.layer_norm(x, block.norm2), block.mlp.fc1))
        x = graph.add("Add", [x, graph.linear(h, block.mlp.fc2)])
        if number in model.depths:
            token = graph.add("Reshape", [graph.add("Gather", [x, first], axis=1), graph.constant([0, width])])
            pair = model.norms[f"layer_{number}"]
            assert isinstance(pair, nn.Sequential)
            read.append(graph.layer_norm(graph.norm(token, pair[0]), pair[1]))
    joined = graph.add("Concat", read, axis=1)
    return recognizer_file(graph, joined, input_size=model.image_size, embedding_size=model.embedding_size)


def _attention(graph: OnnxGraph, x: str, layer: Attention) -> str:
    """Add what `Attention` does."""
    width, heads = layer.proj.in_features, layer.num_heads
    qkv = graph.add("Reshape", [graph.linear(x, layer.qkv), graph.constant([0, 0, 3, heads, width // heads])])
    qkv = graph.add("Transpose", [qkv], perm=[2, 0, 3, 1, 4])
    q, k, v = (graph.add("Gather", [qkv, graph.constant([i])], axis=0) for i in range(3))  # (1, B, ..)
    scaled = graph.add("Mul", [q, graph.constant(torch.tensor((width // heads) ** -0.5))])
    shares = graph.add("MatMul", [scaled, graph.add("Transpose", [k], perm=[0, 1, 2, 4, 3])])
    seen = graph.add("MatMul", [graph.add("Softmax", [shares], axis=-1), v])
    seen = graph.add("Transpose", [seen], perm=[1, 3, 2, 4, 0])
    return graph.linear(graph.add("Reshape", [seen, graph.constant([0, 0, width])]), layer.proj)


def _gelu(graph: OnnxGraph, x: str) -> str:
    """Add x (1 + erf(x / sqrt 2)) / 2; an operator of its own came only with opset 20."""
    half, one, root = (graph.constant(torch.tensor(value)) for value in (0.5, 1.0, 0.5**0.5))
    risen = graph.add("Add", [graph.add("Erf", [graph.add("Mul", [x, root])]), one])
    return graph.add("Mul", [graph.add("Mul", [x, half]), risen])


def load_msid(source: str | Path, *, num_heads: int | None = None) -> MSID:
    """Return an encoder, float32, in evaluation mode, without gradients.

    Args:
        source: a folder that diffusers wrote, a `.pt` file of tensors under the published names, or a hub id.
        num_heads: of a `.pt` file, whose tensors do not show it; None: heads of HEAD_DIM channels.

    Raises:
        FileNotFoundError: if a `.pt` file is missing.
        ValueError: if num_heads does not divide the width.
        DamagedArtifactError: if the weights do not load, are not those of such a network, or are not finite.
    """
    if Path(source).suffix == ".pt":
        model = _from_tensors(_tensors(Path(source)), source=source, num_heads=num_heads)
    else:
        model = load_checked(MSID, source)
    return model.eval().requires_grad_(False)


def save_msid_pt(model: MSID, path: str | Path) -> None:
    """Write the weights as a `.pt` file under the published names."""
    with atomic_path(path) as temporary:
        torch.save({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, temporary)


def _tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a `.pt` file by name, without the prefix of data-parallel training."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected the weights of MSID as .pt")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DamagedArtifactError(f"{path}: no file of tensors alone ({first_line(error)})") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DamagedArtifactError(f"{path}: holds {type(found).__name__}; expected tensors by name")
    return {str(name).removeprefix(_WRAPPED): value for name, value in found.items()}


def _from_tensors(tensors: dict[str, Tensor], *, source: str | Path, num_heads: int | None) -> MSID:
    """Return the network whose sizes the tensors show.

    Raises:
        DamagedArtifactError: if a tensor is missing, unknown, of another shape, or not finite.
    """
    sizes = _sizes(tensors, source=source)
    model = MSID(**sizes, num_heads=num_heads or max(1, sizes["width"] // HEAD_DIM))
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    counters = [name for name in expected if name.endswith("num_batches_tracked")]  # says nothing in evaluation
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    faults = [f"{name} is missing" for name in expected if name not in found and name not in counters]
    faults += [f"{name} is unknown" for name in found if name not in expected]
    faults += [
        f"{name} has shape {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    faults += [f"{name} holds NaN or infinity" for name, value in tensors.items() if not bool(value.isfinite().all())]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise DamagedArtifactError(f"{source}: {'; '.join(faults[:3])}{more}")
    model.load_state_dict(tensors, strict=False)
    return model


def _sizes(tensors: Mapping[str, Tensor], *, source: str | Path) -> dict[str, Any]:
    """Return the arguments of `MSID` that tensors show, all but the number of heads."""
    needed = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight")
    if missing := [name for name in needed if name not in tensors]:
        raise DamagedArtifactError(f"{source}: {missing[0]} is missing; these are not the weights of MSID")
    kernel, positions, hidden = (tensors[name] for name in needed)
    grid = round(max(positions.shape[1] - 1, 0) ** 0.5) if positions.ndim == 3 else 0
    if kernel.ndim != 4 or grid < 1 or 1 + grid**2 != positions.shape[1] or hidden.ndim != 2:
        shapes = ", ".join(f"{name} {list(tensors[name].shape)}" for name in needed)
        raise DamagedArtifactError(f"{source}: {shapes} do not fit a square of patches")
    width, patch_size = int(kernel.shape[0]), int(kernel.shape[2])
    depth = 1 + max(int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name)))
    depths = sorted({int(found[1]) for name in tensors if (found := re.match(r"norms\.layer_(\d+)\.", name))})
    if not depths or depths[-1] >= depth:
        raise DamagedArtifactError(f"{source}: norms after the blocks {depths} of {depth}: no depth to read")
    return {
        "patch_size": patch_size, "width": width, "depth": depth, "depths": depths,
        "mlp_ratio": hidden.shape[0] / width, "image_size": grid * patch_size,
    }  # fmt: skip
