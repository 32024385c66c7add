"""An ONNX file written node by node: what torch's exporters add to a file differs from release to release.

Equal weights give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 18, 9  # of the file

Shape = Sequence[str | int]


class OnnxGraph:
    """Nodes and constants of an ONNX graph, in the order in which they are added; values are named by their number."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: Sequence[str], *, output: str | None = None, **attributes: Any) -> str:
        """Add a node of one output, and return that value's name."""
        from onnx import helper

        name = output or f"x{len(self.nodes)}"
        # insightface takes names that begin with Sub and Mul for a normalisation of pixels.
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"node{len(self.nodes)}", **attributes))
        return name

    def constant(self, values: Tensor | Sequence[int] | Sequence[float]) -> str:
        """Add a constant, float32 for a tensor or floats and int64 for integers, and return its name."""
        from onnx import numpy_helper

        array = values.detach().float().cpu().contiguous().numpy() if isinstance(values, Tensor) else np.array(values)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = f"w{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, x: str, layer: nn.Module, *, stride: int = 1) -> str:
        """Add a convolution of one group, without dilation and with zeros around; with a further stride."""
        assert isinstance(layer, nn.Conv2d)
        weights = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
        pads, strides = [int(p) for p in layer.padding] * 2, [stride * int(s) for s in layer.stride]
        return self.add(
            "Conv", [x, *(self.constant(w) for w in weights)],
            kernel_shape=list(layer.kernel_size), strides=strides, pads=pads,
        )  # fmt: skip

    def linear(self, x: str, layer: nn.Linear) -> str:
        """Add a linear layer with a bias, of the last axis."""
        return self.add("Add", [self.add("MatMul", [x, self.constant(layer.weight.T)]), self.constant(layer.bias)])

    def prelu(self, x: str, layer: nn.PReLU) -> str:
        """Add a PReLU of the channels of a map."""
        return self.add("PRelu", [x, self.constant(layer.weight.view(-1, 1, 1))])

    def layer_norm(self, x: str, layer: nn.Module) -> str:
        """Add a layer norm of the last axis."""
        assert isinstance(layer, nn.LayerNorm)
        tensors = [self.constant(layer.weight), self.constant(layer.bias)]
        return self.add("LayerNormalization", [x, *tensors], axis=-1, epsilon=layer.eps)

    def norm(self, x: str, layer: nn.Module) -> str:
        """Add a batch norm as it is in evaluation."""
        assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
        assert layer.running_mean is not None and layer.running_var is not None
        tensors = [layer.weight, layer.bias, layer.running_mean, layer.running_var]
        return self.add("BatchNormalization", [x, *(self.constant(t) for t in tensors)], epsilon=layer.eps)

    def serialized(self, name: str, *, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> bytes:
        """Return the file, checked. Inputs and outputs are float32, by name with their shapes."""
        from onnx import TensorProto, checker, helper

        before, after = (
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, list(shape)) for key, shape in values.items()]
            for values in (inputs, outputs)
        )
        graph = helper.make_graph(self.nodes, name, before, after, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)
