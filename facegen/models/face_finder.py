"""The face finder: a small anchor-free detector of faces and their five landmarks; written as ONNX as SCRFD is.

    images (B, 3, H, W) -> 3x3 convolution, norm, ReLU: (B, w, H/2, W/2)
    -> 4 residual blocks, each halving the side: (B, 2w, H/4, W/4), then (B, 4w, .., ..) at strides 8, 16 and 32
    -> 1x1 convolutions, each level added to the next finer one, enlarged; a 3x3 convolution, norm, ReLU each
    -> one head for all three levels: two anchors a cell, each a score, a box and five points

An anchor is the upper left corner of a cell and a usual size of face. A box is told as the distances of its four sides
from that corner (left, above, right, below), points as offsets from it, both in units of the level's stride.
Shapes: B batch, w width, N anchors of all levels (level by level, row by row, the two of a cell in turn).
Source: Guo et al., Sample and Computation Redistribution for Efficient Face Detection (SCRFD), section 3; its outputs
are as insightface decodes them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from facegen.models.onnx_graph import OnnxGraph, Shape

STRIDES = (8, 16, 32)
ANCHORS_PER_CELL = 2
ANCHOR_SCALES = (4.0, 4.0 * math.sqrt(2.0))  # side of the faces that an anchor is for, in strides
PIXEL_MEAN, PIXEL_STD = 127.5, 128.0  # of insightface: a pixel p enters as (p - mean) / std
FEATURES = {"score": 1, "box": 4, "points": 10}  # what an anchor says, in the order of the head and of the file
MAX_SHORT_SIDE = 256  # px of the input: larger pictures are fitted in
FIRST_SCORE = 0.05  # before training: most anchors have no face
# The box of a face whose eyes and mouth are a unit apart (the larger of the two distances), in that unit.
BOX_HALF_WIDTH, BOX_ABOVE_EYES, BOX_BELOW_EYES = 1.05, 1.0, 1.7


class FaceFinderBlock(nn.Module):
    """Convolution (halving the side), norm, ReLU, convolution, norm; around a skip; ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(h + self.skip(F.avg_pool2d(x, 2)))


class FaceFinder(ModelMixin, ConfigMixin):
    """The network of the module's docstring."""

    @register_to_config
    def __init__(self, width: int, input_size: Sequence[int]) -> None:
        """
        Args:
            width: channels of the first level.
            input_size: height and width of the pictures, px; multiples of 32.

        Raises:
            ValueError: for another input size.
        """
        super().__init__()
        if len(input_size) != 2 or any(side < 1 or side % STRIDES[-1] for side in input_size):
            raise ValueError(f"input_size is {list(input_size)}; expected (H, W), multiples of {STRIDES[-1]}")
        levels, wide = len(STRIDES), 4 * width
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        channels = [width, 2 * width, *[wide] * levels]
        self.blocks = nn.ModuleList(FaceFinderBlock(*pair) for pair in itertools.pairwise(channels))
        self.lateral = nn.ModuleList(nn.Conv2d(wide, wide, 1) for _ in range(levels))
        self.smooth = nn.ModuleList(nn.Conv2d(wide, wide, 3, padding=1, bias=False) for _ in range(levels))
        self.smooth_norm = nn.ModuleList(nn.BatchNorm2d(wide) for _ in range(levels))
        self.head = nn.Conv2d(wide, ANCHORS_PER_CELL * sum(FEATURES.values()), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return what each anchor says, (B, N, 15): the score's logit, the box and the points.

        Args:
            images: (B, 3, H, W) RGB, pixels as `normalized` makes them.

        Raises:
            ValueError: for another shape.
        """
        expected = (3, *self.config.input_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (B, {', '.join(map(str, expected))})")
        x, found = F.relu(self.stem_norm(self.stem(images))), []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        coarser, rows = None, []
        for level in reversed(range(len(STRIDES))):
            x = self.lateral[level](found[level - len(STRIDES)])
            coarser = x if coarser is None else x + F.interpolate(coarser, scale_factor=2.0, mode="nearest")
            said = self.head(F.relu(self.smooth_norm[level](self.smooth[level](coarser))))
            rows.append(said.permute(0, 2, 3, 1).reshape(len(said), -1, sum(FEATURES.values())))
        return torch.cat(rows[::-1], dim=1)

    @torch.no_grad()
    def start_at_usual_faces(self) -> None:
        """Let every anchor begin with a low score, a box of its own size and points near the middle of it."""
        assert self.head.bias is not None
        for row, scale in zip(self.head.bias.view(ANCHORS_PER_CELL, -1), ANCHOR_SCALES, strict=True):
            row.zero_()
            row[0], row[1:5] = math.log(FIRST_SCORE / (1 - FIRST_SCORE)), scale / 2
        self.head.weight.mul_(0.1)


def normalized(pixels: Tensor) -> Tensor:
    """Return pixel values 0 to 255 as the network takes them."""
    return (pixels.float() - PIXEL_MEAN) / PIXEL_STD


def fitting_input_size(size: Sequence[int]) -> tuple[int, int]:
    """Return the input's height and width, px, for pictures of this height and width: theirs, rounded up, if not large."""
    scale = min(1.0, MAX_SHORT_SIDE / min(size))
    height, width = (math.ceil(scale * side / STRIDES[-1]) * STRIDES[-1] for side in size)
    return height, width


def anchors(input_size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the anchors' corners (N, 2) as x and y in px, their strides (N,) and their sizes of face (N,) in px."""
    corners, strides, sizes = [], [], []
    for stride in STRIDES:
        rows, columns = torch.arange(input_size[0] // stride), torch.arange(input_size[1] // stride)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        cells = (torch.stack([x, y], dim=-1).reshape(-1, 2) * stride).float()
        corners.append(cells.repeat_interleave(ANCHORS_PER_CELL, dim=0))
        strides.append(torch.full((len(corners[-1]),), float(stride)))
        sizes.append(torch.tensor(ANCHOR_SCALES).repeat(len(cells)) * stride)
    return torch.cat(corners), torch.cat(strides), torch.cat(sizes)


def face_boxes(landmarks: Tensor) -> Tensor:
    """Return the boxes (..., 4), x0 y0 x1 y1, of faces with these landmarks (..., 5, 2): forehead to chin."""
    eyes = (landmarks[..., 0, :] + landmarks[..., 1, :]) / 2
    mouth = (landmarks[..., 3, :] + landmarks[..., 4, :]) / 2
    apart = (landmarks[..., 1, :] - landmarks[..., 0, :]).norm(dim=-1)
    unit = torch.maximum(apart, (mouth - eyes).norm(dim=-1))[..., None]
    centre = eyes + (mouth - eyes) * ((BOX_BELOW_EYES - BOX_ABOVE_EYES) / 2)
    half = torch.tensor([BOX_HALF_WIDTH, (BOX_BELOW_EYES + BOX_ABOVE_EYES) / 2], device=landmarks.device)
    return torch.cat([centre - unit * half, centre + unit * half], dim=-1)


def onnx_bytes(model: FaceFinder) -> bytes:
    """Return the network, as it is in evaluation, as an ONNX file; equal weights give equal bytes.

    By SCRFD's rules: input (1, 3, H, W) of fixed size, nine outputs (the scores, then the boxes, then the points of
    strides 8, 16 and 32), each (anchors of that stride, values of an anchor); scores are probabilities.
    """
    graph, coarser = OnnxGraph(), ""
    x = graph.add("Relu", [graph.norm(graph.conv("data", model.stem), model.stem_norm)])
    found = []
    for block in model.blocks:
        assert isinstance(block, FaceFinderBlock)
        h = graph.add("Relu", [graph.norm(graph.conv(x, block.conv1), block.norm1)])
        h = graph.norm(graph.conv(h, block.conv2), block.norm2)
        skip = graph.conv(graph.add("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2]), block.skip)
        x = graph.add("Relu", [graph.add("Add", [h, skip])])
        found.append(x)
    twice = graph.constant([1.0, 1.0, 2.0, 2.0])
    shapes: dict[str, Shape] = {f"{name}_{stride}": () for name in FEATURES for stride in STRIDES}
    for level in reversed(range(len(STRIDES))):
        lateral, smooth, norm = model.lateral[level], model.smooth[level], model.smooth_norm[level]
        assert isinstance(lateral, nn.Conv2d) and isinstance(smooth, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        x = graph.conv(found[level - len(STRIDES)], lateral)
        if coarser:
            x = graph.add("Add", [x, _enlarged(graph, coarser, twice)])
        coarser = x
        said = graph.conv(graph.add("Relu", [graph.norm(graph.conv(x, smooth), norm)]), model.head)
        shapes |= _write_level(graph, said, level, input_size=model.config.input_size)
    return graph.serialized("face_finder", inputs={"data": (1, 3, *model.config.input_size)}, outputs=shapes)


def _enlarged(graph: OnnxGraph, x: str, twice: str) -> str:
    """Add torch's nearest-neighbour enlargement by two."""
    return graph.add(
        "Resize", [x, "", twice], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )


def _write_level(graph: OnnxGraph, said: str, level: int, *, input_size: Sequence[int]) -> dict[str, Shape]:
    """Add the three outputs of a level to the graph, from what its head says; return their shapes by name."""
    stride, values = STRIDES[level], sum(FEATURES.values())
    count = ANCHORS_PER_CELL * (input_size[0] // stride) * (input_size[1] // stride)
    rows = graph.add("Transpose", [said], perm=[0, 2, 3, 1])
    rows = graph.add("Reshape", [rows, graph.constant([count, values])])
    shapes: dict[str, Shape] = {}
    start = 0
    for name, size in FEATURES.items():
        bounds = [graph.constant([value]) for value in (start, start + size, 1)]
        output = f"{name}_{stride}"
        if name == "score":
            graph.add("Sigmoid", [graph.add("Slice", [rows, *bounds[:2], bounds[2]])], output=output)
        else:
            graph.add("Slice", [rows, *bounds[:2], bounds[2]], output=output)
        shapes[output] = (count, size)
        start += size
    return shapes
