"""The recogniser: an iresnet that maps an aligned face to a vector whose direction says who it is; written as ONNX.

    images (B, 3, 112, 112) -> 3x3 convolution, norm, PReLU: (B, w, S, S), S = 112 / stem_stride
    -> 4 stages, each halving the side: (B, w, S/2, S/2), (B, 2w, S/4, S/4), (B, 4w, ..), (B, 8w, S/16, S/16)
    -> norm -> flatten -> linear -> norm without gain: (B, E)

Shapes: B batch, w width, E embedding. Source: Deng et al., ArcFace (the improved residual unit, section 3.1, and the
output "BN-FC-BN"); iresnet50 is width 64, depths (3, 4, 14, 3), stem_stride 1, E 512.
"""

from __future__ import annotations

from collections.abc import Sequence

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from facegen.models.onnx_graph import OnnxGraph

INPUT_SIZE = 112  # px; the crop that every recogniser of insightface sees
WIDTHS = (1, 2, 4, 8)  # channels of the four stages, in units of the width


class PReLU(nn.PReLU):
    """x where positive, else a slope times x: torch's, composed of two ReLUs (many times as fast in bfloat16 on CPU)."""

    def forward(self, x: Tensor) -> Tensor:
        slopes = self.weight.to(x.dtype).view(-1, 1, 1)
        return F.relu(x) - slopes * F.relu(-x)


class RecognizerBlock(nn.Module):
    """Norm, convolution, norm, PReLU, convolution (with the stride), norm; around a skip."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.act = PReLU(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.skip = nn.Sequential()
        if stride > 1 or in_channels != out_channels:
            self.skip.append(nn.Conv2d(in_channels, out_channels, 1, bias=False))
            self.skip.append(nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.norm2(self.conv1(self.norm1(x))))
        # Rows and columns are left out here and not by the convolution: the gradient of a strided 1x1 convolution of 8
        # channels ends torch 2.14 on the CPU with a segmentation fault (float32, channels last).
        return self.skip(x[:, :, :: self.stride, :: self.stride]) + self.norm3(self.conv2(h))


class FaceRecognizer(ModelMixin, ConfigMixin):
    """The network of the module's docstring; its output is not normalised."""

    @register_to_config
    def __init__(self, width: int, depths: Sequence[int], stem_stride: int, embedding_size: int) -> None:
        """
        Args:
            width: channels of the first stage.
            depths: blocks of each of the four stages.
            stem_stride: 1 as published; 2 for small pictures, a quarter of the work.
            embedding_size: E.

        Raises:
            ValueError: if there are not four stages of at least one block.
        """
        super().__init__()
        self.embedding_size = embedding_size
        if len(depths) != len(WIDTHS) or min(depths) < 1:
            raise ValueError(f"depths are {list(depths)}; expected {len(WIDTHS)} numbers of blocks, each at least 1")
        self.stem = nn.Conv2d(3, width, 3, stride=stem_stride, padding=1, bias=False)
        self.stem_norm, self.stem_act = nn.BatchNorm2d(width), PReLU(width)
        blocks, channels, side = [], width, _halved(INPUT_SIZE, stem_stride)
        for factor, depth in zip(WIDTHS, depths, strict=True):
            for position in range(depth):
                blocks.append(RecognizerBlock(channels, width * factor, stride=1 if position else 2))
                channels = width * factor
            side = _halved(side, 2)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.embed = nn.Linear(channels * side * side, embedding_size)
        self.embed_norm = nn.BatchNorm1d(embedding_size)
        self.embed_norm.weight.requires_grad_(False)  # stays 1: a gain would only rescale the axes of a direction

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (B, E), not normalised.

        Args:
            images: (B, 3, 112, 112) RGB in [-1, 1], aligned to the template of `facegen.data.align`.

        Raises:
            ValueError: for another shape.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, INPUT_SIZE, INPUT_SIZE):
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (B, 3, {INPUT_SIZE}, {INPUT_SIZE})")
        x = self.stem_act(self.stem_norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        return self.embed_norm(self.embed(self.norm(x).flatten(1)))


def onnx_bytes(model: FaceRecognizer) -> bytes:
    """Return the network, as it is in evaluation, as an ONNX file; equal weights give equal bytes.

    By the rules of insightface's model zoo: no normalisation of pixels in the graph, input (N, 3, 112, 112) with N
    free, exactly one output (N, E). The graph is written node by node: what torch's exporters add to a file (names of
    their own, source positions, versions) differs from release to release.
    """
    graph = OnnxGraph()
    x = graph.prelu(graph.norm(graph.conv("data", model.stem), model.stem_norm), model.stem_act)
    for block in model.blocks:
        assert isinstance(block, RecognizerBlock)
        h = graph.conv(graph.norm(x, block.norm1), block.conv1)
        h = graph.conv(graph.prelu(graph.norm(h, block.norm2), block.act), block.conv2)
        skip = x
        if len(block.skip):
            skip = graph.norm(graph.conv(x, block.skip[0], stride=block.stride), block.skip[1])
        x = graph.add("Add", [skip, graph.norm(h, block.norm3)])
    x = graph.add("Flatten", [graph.norm(x, model.norm)])
    weights = [graph.constant(model.embed.weight), graph.constant(model.embed.bias)]
    x = graph.norm(graph.add("Gemm", [x, *weights], transB=1), model.embed_norm)
    return recognizer_file(graph, x, input_size=INPUT_SIZE, embedding_size=model.embedding_size)


def recognizer_file(graph: OnnxGraph, embedding: str, *, input_size: int, embedding_size: int) -> bytes:
    """Return the file of a recognition network: from `data` (N, 3, S, S), N free, to the value `embedding` (N, E)."""
    graph.add("Identity", [embedding], output="embedding")
    inputs, outputs = {"data": ("N", 3, input_size, input_size)}, {"embedding": ("N", embedding_size)}
    return graph.serialized("recognizer", inputs=inputs, outputs=outputs)


def _halved(side: int, stride: int) -> int:
    """Return the side after a 3x3 convolution with padding 1."""
    return (side - 1) // stride + 1
