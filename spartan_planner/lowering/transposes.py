"""Transposes that cancel: lowered linear layers stay features-major between one another.

A transpose that puts features last again commutes with every operation that works on each element
alone, so it is moved behind those that follow it until it meets the next one, which puts features
in front.
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
    """Move transposes of features behind elementwise operations and cancel pairs, in place.

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


def _turned(value: ir.Value | None) -> tuple[ir.Value, tuple[int, ...]] | None:
    """The activation that a value is with features put last, and the order of axes that does it."""
    node = value.producer() if value is not None else None
    order = tuple(_order(node) or ())
    if node is None or not order or order not in (_swap(len(order)), _features_last(len(order))):
        return None
    return (node.inputs[0], order) if node.inputs[0] is not None else None


def _swap(rank: int) -> tuple[int, ...]:
    """The order in which the last two axes change places."""
    return (*range(rank - 2), rank - 1, rank - 2)


def _features_last(rank: int) -> tuple[int, ...]:
    """The order in which the second axis becomes the last."""
    return (0, *range(2, rank), 1)


def _share(graph: ir.Graph) -> None:
    """Let all readers of the same transpose of a value read one."""
    first: dict[tuple[int, tuple[int, ...]], ir.Value] = {}
    for node in graph:
        order = tuple(_order(node) or ())
        if not order or node.outputs[0].is_graph_output():
            continue
        kept = first.setdefault((id(node.inputs[0]), order), node.outputs[0])
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
    """Whether all activations that a node reads are turned alike, so that it may come first."""
    if node.domain not in ("", "ai.onnx") or not node.inputs or len(node.outputs) != 1:
        return False
    if node.op_type in ELEMENTWISE:
        return _turned(node.inputs[0]) is not None and _are_scalars(node.inputs[1:])
    if node.op_type not in COMBINING or len(node.inputs) != 2:
        return False
    turned = [_turned(value) for value in node.inputs]
    orders = {item[1] for item in turned if item is not None}
    rank = max(map(len, orders), default=0)
    others = [
        constant_array(value)
        for value, item in zip(node.inputs, turned, strict=True)
        if item is None
    ]
    fits = all(array is not None and array.ndim <= rank for array in others)
    return len(orders) == 1 and fits


def _are_scalars(values: object) -> bool:
    arrays = [constant_array(value) for value in values if value is not None]  # type: ignore[attr-defined]
    return all(array is not None and array.size == 1 for array in arrays)


def _turn(graph: ir.Graph, node: ir.Node) -> None:
    """Let a node work on activations as they were, and turn its output instead."""
    turned = [_turned(value) for value in node.inputs]
    order = next(item[1] for item in turned if item is not None)
    rank, back = len(order), np.argsort(order).tolist()
    for index, (value, item) in enumerate(zip(node.inputs, turned, strict=True)):
        array = constant_array(value)
        if item is not None:
            node.replace_input_with(index, item[0])
        elif array is not None and array.ndim >= 1 and array.size > 1:
            full = array.reshape((1,) * (rank - array.ndim) + array.shape)
            operand = np.ascontiguousarray(np.transpose(full, back))
            name = f"{node.outputs[0].name}.operand{index}"
            node.replace_input_with(index, add_constant(graph, operand, name))
    output = node.outputs[0]
    turn = ir.node("Transpose", [output], {"perm": order}, name=f"{output.name}.transpose")
    result = turn.outputs[0]
    result.type, result.shape = output.type, output.shape
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    turn.replace_input_with(0, output)
    result.name, output.name = output.name, f"{output.name}.turned"
    output.shape = None
    graph.insert_after(node, turn)


def _remove_unread(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        output = node.outputs[0] if node.op_type == "Transpose" else None
        if output is not None and not output.uses() and not output.is_graph_output():
            graph.remove(node, safe=True)
