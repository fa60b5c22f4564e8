"""Reading convolutions."""

import math
from dataclasses import dataclass

from onnx import NodeProto

from cost_models import LayerShape
from cost_models.workload import Op
from spartan_planner.onnx_workload.attributes import integer, integers, operand
from spartan_planner.onnx_workload.shapes import Shape
from spartan_planner.onnx_workload.tracing import ShapedGraph
from spartan_planner.onnx_workload.uses import Reading, WeightUse

_OPS: dict[tuple[int, bool], Op] = {
    (1, False): "conv1d",
    (2, False): "conv2d",
    (3, False): "conv3d",
    (1, True): "conv_transpose1d",
    (2, True): "conv_transpose2d",
    (3, True): "conv_transpose3d",
}


_COMPUTED = "the weight in use is computed from it in every run"


@dataclass(frozen=True)
class _Window:
    """How a kernel slides along one dimension."""

    kernel: int
    stride: int
    dilation: int

    @property
    def reach(self) -> int:
        return self.dilation * (self.kernel - 1) + 1

    def output(self, size: int, padding: int) -> int:
        return (size + 2 * padding - self.reach) // self.stride + 1

    def output_transposed(self, size: int, padding: int) -> int:
        return (size - 1) * self.stride - 2 * padding + self.reach


def read_convolution(
    node: NodeProto, graph: ShapedGraph, source: int = 0, kernel: int = 1, bias: int = 2
) -> Reading:
    """Read a convolution whose input, weight and bias stand at the given operands."""
    weight = graph.weight_behind(operand(node, kernel))
    reason = ""
    if weight is None:
        weight, reason = graph.weight_computed_from(operand(node, kernel)), _COMPUTED
    weight_shape = graph.shapes[operand(node, kernel)]
    input_shape, output_shape = graph.shapes[operand(node, source)], graph.shapes[node.output[0]]
    is_transposed = node.op_type == "ConvTranspose"
    op = _OPS.get((len(weight_shape) - 2, is_transposed))
    if weight is None or op is None:
        return ()
    _require_channels(node, weight_shape, input_shape)
    stride, dilation, padding = _sliding(node, weight_shape, input_shape, output_shape)
    shape = LayerShape(
        op=op,
        weight_shape=weight_shape,
        input_shape=input_shape,
        groups=integer(node, "group", 1),
        stride=stride,
        padding=padding,
        dilation=dilation,
        has_bias=bool(operand(node, bias)),
        dtype=weight.dtype,
    )
    places = input_shape if is_transposed else output_shape
    num_rows = places[0] * math.prod(places[2:])
    name = node.name or node.output[0]
    return (WeightUse(name, weight, shape, num_rows, not_prunable_because=reason),)


def _require_channels(node: NodeProto, weight_shape: Shape, input_shape: Shape) -> None:
    """Refuse what shape inference lets pass."""
    groups = integer(node, "group", 1)
    is_transposed = node.op_type == "ConvTranspose"
    num_inputs = weight_shape[0] if is_transposed else weight_shape[1] * groups
    if input_shape[1] != num_inputs:
        raise ValueError(
            f"convolution {node.name or node.output[0]!r} takes {num_inputs} channels, found "
            f"{input_shape[1]}"
        )


def _sliding(
    node: NodeProto, weight_shape: Shape, input_shape: Shape, output_shape: Shape
) -> tuple[Shape, Shape, Shape]:
    """Stride, dilation and padding, one figure per spatial dimension."""
    ones = (1,) * (len(weight_shape) - 2)
    stride = integers(node, "strides") or ones
    dilation = integers(node, "dilations") or ones
    windows = map(_Window, weight_shape[2:], stride, dilation)
    pads = integers(node, "pads") or (0,) * 2 * len(ones)
    padding = tuple(
        _padding(window, size, result, pads[axis], pads[axis + len(ones)], node.op_type)
        for axis, (window, size, result) in enumerate(
            zip(windows, input_shape[2:], output_shape[2:], strict=True)
        )
    )
    return stride, dilation, padding


def _padding(window: _Window, size: int, result: int, before: int, after: int, op_type: str) -> int:
    """Return one figure for both sides: the smallest that gives the output its size.

    Where both sides are padded alike that is what the node says.  Where they are not (or the
    node leaves the padding to the runtime) it is the layer of equal work.
    """
    is_transposed = op_type == "ConvTranspose"
    output = window.output_transposed if is_transposed else window.output
    if before == after and before > 0:
        return before
    most = max(before, after, window.reach)
    fitting = [padding for padding in range(most + 1) if output(size, padding) == result]
    return fitting[0] if fitting else max(before, after, 0)
