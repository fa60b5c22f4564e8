"""Reading recurrent operations: each of their weights is a stack of matrices, one per direction."""

from onnx import NodeProto

from cost_models import LayerShape
from spartan_planner.onnx_workload.attributes import integer, operand
from spartan_planner.onnx_workload.tracing import ShapedGraph
from spartan_planner.onnx_workload.uses import Reading, WeightUse

_RECURRENT = "it belongs to a recurrent operation, which runs whole"


def read_recurrent(node: NodeProto, graph: ShapedGraph) -> Reading:
    """Read RNN, GRU or LSTM: two linear layers ``[gates * hidden, in]`` for each direction.

    All steps meet the weight of the inputs in one product; that of the hidden state is met by one
    step after the other.
    """
    first, second, _ = graph.shapes[operand(node, 0)]
    is_batch_first = bool(integer(node, "layout", 0))
    batch, length = (first, second) if is_batch_first else (second, first)
    found = (
        _use(node, graph, slot=1, num_rows=length * batch, num_steps=1),
        _use(node, graph, slot=2, num_rows=batch, num_steps=length),
    )
    return tuple(use for use in found if use is not None)


def _use(
    node: NodeProto, graph: ShapedGraph, slot: int, num_rows: int, num_steps: int
) -> WeightUse | None:
    weight = graph.weight_behind(operand(node, slot))
    if weight is None:
        return None
    num_directions, outputs, inputs = graph.shapes[operand(node, slot)]
    shape = LayerShape(
        op="linear",
        weight_shape=(outputs, inputs),
        input_shape=(num_rows, inputs),
        has_bias=bool(operand(node, 3)),
        dtype=weight.dtype,
    )
    return WeightUse(
        node.name or node.output[0],
        weight,
        shape,
        num_rows,
        num_repeats=num_directions * num_steps,
        not_prunable_because=_RECURRENT,
    )
