"""Nodes that multiply activations with a constant weight, in one form whatever they are called."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from cost_models import LayerShape
from spartan_planner.lowering.constants import FLOATS, Array, constant_array

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of every value, by name, at one batch size."""

_CONVOLUTIONS = {3: "conv1d", 4: "conv2d", 5: "conv3d"}


@dataclass(frozen=True)
class WeightNode:
    """A convolution without groups, or a product of activations with a matrix.

    Attributes:
        kind: which of the two.
        node: the ``Conv``, ``Gemm`` or ``MatMul``.
        bias_node: the ``Add`` after a ``MatMul`` that adds its bias, where there is one.
        name: of the weight in the file.
        weight: ``[out, in, *kernel]``.
        bias: ``[out]``, if any.
        source: the activation.
        output: the result, bias included.
        source_shape: of ``source``, at the batch size of the shapes that were given.
    """

    kind: Literal["conv", "linear"]
    node: ir.Node
    bias_node: ir.Node | None
    name: str
    weight: Array
    bias: Array | None
    source: ir.Value
    output: ir.Value
    source_shape: tuple[int, ...]

    @property
    def channel_axis(self) -> int:
        """Axis of features in source and output: 1 of a convolution, else the last."""
        return 1 if self.kind == "conv" else -1

    @property
    def last_node(self) -> ir.Node:
        """The node that writes the output."""
        return self.bias_node or self.node

    def shape(self) -> LayerShape:
        """Return the layer's shape, by which a profile knows it."""
        dtype = str(self.weight.dtype)
        if self.kind == "linear":
            return LayerShape(
                "linear",
                self.weight.shape,
                self.source_shape,
                has_bias=self.bias is not None,
                dtype=dtype,
            )
        return _convolution_shape(self, dtype)


def find_weight_nodes(graph: ir.Graph, shapes: Shapes) -> list[WeightNode]:
    """Return all such nodes of a graph, in its order; those in subgraphs are left out."""
    found = (as_weight_node(node, shapes) for node in graph)
    return [item for item in found if item is not None]


def as_weight_node(node: ir.Node, shapes: Shapes) -> WeightNode | None:
    """Return a node in this form; ``None`` for anything else, or of unknown shape."""
    if node.domain not in ("", "ai.onnx") or not node.inputs:
        return None
    reader = {"Conv": _convolution, "MatMul": _matmul, "Gemm": _gemm}.get(node.op_type)
    source = node.inputs[0]
    if reader is None or source is None or not shapes.get(str(source.name)):
        return None
    return reader(node, source, shapes[str(source.name)])


def _convolution(node: ir.Node, source: ir.Value, shape: tuple[int, ...]) -> WeightNode | None:
    weight = _weight(node, 1)
    biased = len(node.inputs) > 2 and node.inputs[2] is not None
    bias = constant_array(node.inputs[2]) if biased else None
    if weight is None or (biased and bias is None) or weight.ndim not in _CONVOLUTIONS:
        return None
    if node.attributes.get_int("group", 1) != 1 or len(shape) != weight.ndim:
        return None
    return WeightNode(
        "conv", node, None, _name(node, 1), weight, bias, source, node.outputs[0], shape
    )


def _gemm(node: ir.Node, source: ir.Value, shape: tuple[int, ...]) -> WeightNode | None:
    weight = _weight(node, 1)
    if weight is None or weight.ndim != 2 or len(shape) != 2 or node.attributes.get_int("transA"):
        return None
    oriented = weight if node.attributes.get_int("transB", 0) else weight.T
    scale = node.attributes.get_float("alpha", 1.0)
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = _vector(constant_array(node.inputs[2]), len(oriented))
        if bias is None:
            return None
        bias = bias * bias.dtype.type(node.attributes.get_float("beta", 1.0))
    scaled = oriented if scale == 1 else oriented * oriented.dtype.type(scale)
    return WeightNode(
        "linear", node, None, _name(node, 1), scaled, bias, source, node.outputs[0], shape
    )


def _matmul(node: ir.Node, source: ir.Value, shape: tuple[int, ...]) -> WeightNode | None:
    weight = _weight(node, 1)
    if weight is None or weight.ndim != 2 or len(shape) < 2:
        return None
    bias_node, bias = _added_bias(node, weight.shape[1])
    output = (bias_node or node).outputs[0]
    return WeightNode(
        "linear", node, bias_node, _name(node, 1), weight.T, bias, source, output, shape
    )


def _added_bias(node: ir.Node, num_outputs: int) -> tuple[ir.Node | None, Array | None]:
    """The only reader of a product, if it adds one constant figure to each output."""
    output = node.outputs[0]
    readers = list(output.consumers())
    if output.is_graph_output() or len(readers) != 1 or readers[0].op_type != "Add":
        return None, None
    others = [value for value in readers[0].inputs if value is not output]
    bias = constant_array(others[0]) if len(others) == 1 else None
    flat = bias is not None and bias.ndim <= 1
    vector = _vector(bias, num_outputs) if flat else None
    return (readers[0], vector) if vector is not None else (None, None)


def _weight(node: ir.Node, index: int) -> Array | None:
    value = node.inputs[index] if len(node.inputs) > index else None
    array = constant_array(value)
    if array is None or ir.DataType.from_numpy(array.dtype) not in FLOATS or not array.size:
        return None
    return array


def _vector(array: Array | None, length: int) -> Array | None:
    """A bias as ``[length]``; ``None`` where it varies along rows."""
    if array is None or array.size not in (1, length) or (array.ndim > 1 and array.shape[0] != 1):
        return None
    return np.broadcast_to(array.reshape(-1), (length,)).copy()


def _name(node: ir.Node, index: int) -> str:
    """The name of the initializer behind an operand."""
    value = node.inputs[index]
    while value is not None and (producer := value.producer()) is not None and producer.inputs:
        value = producer.inputs[0]
    return str(value.name) if value is not None else ""


def _convolution_shape(layer: WeightNode, dtype: str) -> LayerShape:
    attributes, num_dimensions = layer.node.attributes, layer.weight.ndim - 2
    pads = attributes.get_ints("pads") or [0] * 2 * num_dimensions
    return LayerShape(
        op=_CONVOLUTIONS[layer.weight.ndim],  # type: ignore[arg-type]
        weight_shape=layer.weight.shape,
        input_shape=layer.source_shape,
        stride=tuple(attributes.get_ints("strides") or [1] * num_dimensions),
        # Of uneven padding the layer's time is that of the even one below it.
        padding=tuple(pads[:num_dimensions]),
        dilation=tuple(attributes.get_ints("dilations") or [1] * num_dimensions),
        has_bias=layer.bias is not None,
        dtype=dtype,
    )
