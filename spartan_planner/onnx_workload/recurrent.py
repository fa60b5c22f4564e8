"""Reading recurrent operations: each of their weights is a stack of matrices, one per direction."""

import math

from onnx import NodeProto

from cost_models import LayerShape
from spartan_planner.onnx_workload.attributes import integer, operand
from spartan_planner.onnx_workload.tracing import Part, ShapedGraph
from spartan_planner.onnx_workload.uses import Product, Reading, WeightUse

_RECURRENT = "it belongs to a recurrent operation, which runs whole"


def read_recurrent(node: NodeProto, graph: ShapedGraph) -> Reading:
    """Read RNN, GRU or LSTM: two linear layers ``[gates * hidden, in]`` for each direction.

    All steps meet the weight of the inputs in one product; that of the hidden state is met by one
    step after the other.  A weight that is joined from several (one per direction or gate) is as
    many layers; one that no weight can be found for is a product.
    """
    first, second, _ = graph.shapes[operand(node, 0)]
    is_batch_first = bool(integer(node, "layout", 0))
    batch, length = (first, second) if is_batch_first else (second, first)
    return (
        *_readings(node, graph, slot=1, num_rows=length * batch, num_steps=1),
        *_readings(node, graph, slot=2, num_rows=batch, num_steps=length),
    )


def _readings(
    node: NodeProto, graph: ShapedGraph, slot: int, num_rows: int, num_steps: int
) -> Reading:
    value = operand(node, slot)
    num_directions, num_outputs, num_inputs = graph.shapes[value]
    parts = graph.parts_behind(value)
    if not parts or any(part.row_length != num_inputs for part in parts):
        whole = graph.weight_computed_from(value)
        parts = (Part(whole, math.prod(graph.shapes[value]), num_inputs),) if whole else ()
    if not parts:
        macs = num_rows * num_steps * math.prod(graph.shapes[value])
        left, right = (num_rows, num_inputs), (num_inputs, num_directions * num_outputs)
        return (Product(node.op_type, left, right, macs),)
    return tuple(_use(node, part, (num_outputs, num_inputs), num_rows, num_steps) for part in parts)


def _use(
    node: NodeProto, part: Part, matrix: tuple[int, int], num_rows: int, num_steps: int
) -> WeightUse:
    """One part: the matrices of whole directions, or else some rows of them."""
    num_outputs, num_inputs = matrix
    rows = part.num_elements // num_inputs
    num_matrices, left_over = divmod(rows, num_outputs)
    if left_over:
        num_matrices, num_outputs = 1, rows
    shape = LayerShape(
        op="linear",
        weight_shape=(num_outputs, num_inputs),
        input_shape=(num_rows, num_inputs),
        has_bias=bool(operand(node, 3)),
        dtype=part.weight.dtype,
    )
    return WeightUse(
        node.name or node.output[0],
        part.weight,
        shape,
        num_rows,
        num_repeats=num_matrices * num_steps,
        not_prunable_because=_RECURRENT,
    )
