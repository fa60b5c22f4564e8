"""Transposes that cancel: lowered linear layers stay features-major between one another.

A transpose of the last two axes commutes with every operation that works on each element alone, so
it is moved behind those that follow it until it meets the next transpose of that kind.
"""

import numpy as np
import onnx_ir as ir

from spartan_planner.lowering.constants import add_constant, constant_array

ELEMENTWISE = frozenset(
    {
        *("Abs", "Ceil", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu"),
        *("HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal"),
        *("Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt"),
        *("Swish", "Tan", "Tanh", "ThresholdedRelu"),
    }
)
"""Operations of one activation, each element on its own; further operands are scalars."""

COMBINING = frozenset({"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"})
"""Operations of two broadcast activations or constants, each element on its own."""


def cancel_transposes(graph: ir.Graph) -> int:
    """Move swaps of the last two axes behind elementwise operations and cancel pairs, in place.

    Returns:
        How many transposes were left out.
    """
    before = _num_transposes(graph)
    _share(graph)
    for node in list(graph):
        if node.op_type == "Transpose":
            _cancel(node)
        elif _can_turn(node):
            _turn(graph, node)
    _remove_unread(graph)
    return before - _num_transposes(graph)


def _num_transposes(graph: ir.Graph) -> int:
    return sum(node.op_type == "Transpose" for node in graph)


def _swapped(value: ir.Value | None) -> ir.Value | None:
    """The activation of which a value is the swap of the last two axes."""
    node = value.producer() if value is not None else None
    return node.inputs[0] if node is not None and _is_swap(node) else None


def _is_swap(node: ir.Node) -> bool:
    order = _order(node) or []
    rank = len(order)
    return rank >= 2 and order == [*range(rank - 2), rank - 1, rank - 2]


def _rank(value: ir.Value) -> int:
    """The rank of a swapped value, which its transpose states."""
    node = value.producer()
    assert node is not None
    return len(list(node.attributes.get_ints("perm") or ()))


def _share(graph: ir.Graph) -> None:
    """Let all readers of the same swap of a value read one transpose."""
    first: dict[tuple[int, int], ir.Value] = {}
    for node in graph:
        if not _is_swap(node) or node.outputs[0].is_graph_output():
            continue
        key = (id(node.inputs[0]), _rank(node.outputs[0]))
        kept = first.setdefault(key, node.outputs[0])
        if kept is not node.outputs[0]:
            node.outputs[0].replace_all_uses_with(kept)


def _cancel(node: ir.Node) -> None:
    """Make one transpose of two in a row, or none where they undo each other."""
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    orders = [_order(item) for item in (before, node)]
    if before is None or None in orders or len(orders[0] or ()) != len(orders[1] or ()):
        return
    first, second = (order or [] for order in orders)
    joined = [first[axis] for axis in second]
    source, output = before.inputs[0], node.outputs[0]
    if joined != list(range(len(joined))):
        node.replace_input_with(0, source)
        node.attributes["perm"] = ir.AttrInt64s("perm", joined)
    elif source is not None and not output.is_graph_output():
        output.replace_all_uses_with(source)


def _order(node: ir.Node | None) -> list[int] | None:
    """The order of axes that a transpose states; ``None`` for anything else."""
    if node is None or node.op_type != "Transpose" or node.domain not in ("", "ai.onnx"):
        return None
    return list(node.attributes.get_ints("perm") or ()) or None


def _can_turn(node: ir.Node) -> bool:
    """Whether all activations that a node reads are swaps of one rank, and it may work on them."""
    if node.domain not in ("", "ai.onnx") or not node.inputs or len(node.outputs) != 1:
        return False
    if node.op_type in ELEMENTWISE:
        return _swapped(node.inputs[0]) is not None and _are_scalars(node.inputs[1:])
    if node.op_type not in COMBINING or len(node.inputs) != 2:
        return False
    swaps = [value for value in node.inputs if _swapped(value) is not None]
    ranks = {_rank(value) for value in swaps if value is not None}
    others = [constant_array(value) for value in node.inputs if _swapped(value) is None]
    fits = all(array is not None and array.ndim <= max(ranks, default=0) for array in others)
    return bool(swaps) and len(ranks) == 1 and fits


def _are_scalars(values: object) -> bool:
    arrays = [constant_array(value) for value in values if value is not None]  # type: ignore[attr-defined]
    return all(array is not None and array.size == 1 for array in arrays)


def _turn(graph: ir.Graph, node: ir.Node) -> None:
    """Let a node work on swapped activations, and swap its output instead."""
    rank = next(_rank(value) for value in node.inputs if _swapped(value) is not None and value)
    for index, value in enumerate(node.inputs):
        source = _swapped(value)
        array = constant_array(value)
        if source is not None:
            node.replace_input_with(index, source)
        elif array is not None and array.ndim >= 1 and array.size > 1:
            turned = np.swapaxes(array.reshape((1,) * (rank - array.ndim) + array.shape), -1, -2)
            name = f"{node.outputs[0].name}.operand{index}"
            node.replace_input_with(index, add_constant(graph, np.ascontiguousarray(turned), name))
    output = node.outputs[0]
    swap = ir.node(
        "Transpose",
        [output],
        {"perm": [*range(rank - 2), rank - 1, rank - 2]},
        name=f"{output.name}.transpose",
    )
    result = swap.outputs[0]
    result.type, result.shape = output.type, output.shape
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    swap.replace_input_with(0, output)
    result.name, output.name = output.name, f"{output.name}.swapped"
    output.shape = None
    graph.insert_after(node, swap)


def _remove_unread(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        output = node.outputs[0] if node.op_type == "Transpose" else None
        if output is not None and not output.uses() and not output.is_graph_output():
            graph.remove(node, safe=True)
