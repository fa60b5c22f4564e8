"""Operations that treat each channel on its own: what they make of a constant, and of fewer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx import helper

from spartan_planner.lowering.constants import Array, constant_array, per_channel
from spartan_planner.lowering.transposes import COMBINING, ELEMENTWISE
from spartan_planner.lowering.weight_nodes import Shapes
from spartan_planner.onnx_sessions import open_session

_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"})


@dataclass(frozen=True)
class Carrier:
    """How a node carries channels from its activations to its first output.

    Attributes:
        node: the node.
        sources: indices of the activations that it reads.
        axis: of the channels in those.
        output_axis: of the channels in the output.
        parameters: index of each constant with one figure per channel, and the axis of those.
    """

    node: ir.Node
    sources: tuple[int, ...]
    axis: int
    output_axis: int
    parameters: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class _Place:
    """Where channels stand in the activation that a node reads first."""

    axis: int
    shape: Sequence[int]
    shapes: Shapes


def as_carrier(node: ir.Node, index: int, axis: int, shapes: Shapes) -> Carrier | None:
    """Return how a node carries the channels of one of its inputs; ``None`` if it mixes them.

    Args:
        node: the node.
        index: of the input.
        axis: of the channels in that input.
        shapes: of all values.
    """
    if node.domain not in ("", "ai.onnx") or len(node.outputs) != 1:
        return None
    shape = shapes.get(str(node.inputs[index].name)) if node.inputs[index] is not None else None  # type: ignore[union-attr]
    if shape is None:
        return None
    if node.op_type in COMBINING:
        return _combining(node, index, axis, shape, shapes)
    reader = _READERS.get(node.op_type)
    return reader(node, _Place(axis, shape, shapes)) if reader and index == 0 else None


def _elementwise(node: ir.Node, place: _Place) -> Carrier | None:
    further = [constant_array(value) for value in node.inputs[1:] if value is not None]
    scalar = all(array is not None and array.size == 1 for array in further)
    return Carrier(node, (0,), place.axis, place.axis) if scalar else None


def _combining(
    node: ir.Node, index: int, axis: int, shape: Sequence[int], shapes: Shapes
) -> Carrier | None:
    if len(node.inputs) != 2 or None in node.inputs:
        return None
    other = node.inputs[1 - index]
    array = constant_array(other)
    if array is None:
        same = other is not None and shapes.get(str(other.name)) == tuple(shape)
        return Carrier(node, (0, 1), axis, axis) if same else None
    if array.size == 1 and array.ndim <= len(shape):
        return Carrier(node, (index,), axis, axis)
    from_end = len(shape) - axis
    if array.ndim > len(shape) or per_channel(array, shape[axis], from_end) is None:
        return None
    return Carrier(node, (index,), axis, axis, ((1 - index, array.ndim - from_end),))


def _normalisation(node: ir.Node, place: _Place) -> Carrier | None:
    known = all(constant_array(value) is not None for value in node.inputs[1:])
    if place.axis != 1 or not known or node.attributes.get_int("training_mode"):
        return None
    return Carrier(node, (0,), 1, 1, tuple((index, 0) for index in range(1, 5)))


def _pooling(node: ir.Node, place: _Place) -> Carrier | None:
    return Carrier(node, (0,), 1, 1) if place.axis == 1 else None


def _depthwise(node: ir.Node, place: _Place) -> Carrier | None:
    weight = constant_array(node.inputs[1])
    groups = node.attributes.get_int("group", 1)
    known = all(constant_array(value) is not None for value in node.inputs[1:])
    if place.axis != 1 or weight is None or not known:
        return None
    if not groups == place.shape[1] == len(weight) > 1:
        return None
    return Carrier(node, (0,), 1, 1, tuple((index, 0) for index in range(1, len(node.inputs))))


def _flattening(node: ir.Node, place: _Place) -> Carrier | None:
    """One place per channel: ``[batch, channels, 1, 1]`` becomes ``[batch, channels]``."""
    result = place.shapes.get(str(node.outputs[0].name))
    is_flat = result == tuple(place.shape[:2]) and int(np.prod(place.shape[2:])) == 1
    if place.axis != 1 or not is_flat or node.attributes.get_int("axis", 1) != 1:
        return None
    if node.op_type == "Flatten":
        return Carrier(node, (0,), 1, 1)
    target = constant_array(node.inputs[1])
    # The number of channels must be left open, so that there may be fewer.
    return Carrier(node, (0,), 1, 1) if target is not None and target[1] in (0, -1) else None


def _transposing(node: ir.Node, place: _Place) -> Carrier | None:
    order = list(node.attributes.get_ints("perm") or range(len(place.shape))[::-1])
    return Carrier(node, (0,), place.axis, order.index(place.axis)) if place.axis in order else None


def _averaging(node: ir.Node, place: _Place) -> Carrier | None:
    axes = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None:
        return None
    reduced = {int(item) % len(place.shape) for item in axes.reshape(-1).tolist()}
    if place.axis in reduced:
        return None
    kept = node.attributes.get_int("keepdims", 1)
    lost = 0 if kept else sum(item < place.axis for item in reduced)
    return Carrier(node, (0,), place.axis, place.axis - lost)


_Reader = Callable[[ir.Node, _Place], Carrier | None]
_READERS: dict[str, _Reader] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(_POOLS, _pooling),
    "BatchNormalization": _normalisation,
    "Conv": _depthwise,
    "Flatten": _flattening,
    "Reshape": _flattening,
    "ReduceMax": _averaging,
    "ReduceMean": _averaging,
    "Transpose": _transposing,
}


@dataclass(frozen=True)
class ConstantChannels:
    """Channels of an activation that are the same figure everywhere, whatever the input.

    Attributes:
        axis: of the channels.
        mask: ``[channels]``, true where constant.
        figures: ``[channels]``; 0 where not constant.
    """

    axis: int
    mask: np.ndarray
    figures: np.ndarray


def carried(carrier: Carrier, sources: Sequence[ConstantChannels]) -> ConstantChannels | None:
    """Return which channels of a carrier's output are constant; ``None`` if none is.

    Args:
        carrier: of the node.
        sources: of each of its activations, in the order of ``carrier.sources``.
    """
    node, mask = carrier.node, np.logical_and.reduce([item.mask for item in sources])
    if node.op_type in ("AveragePool", "Conv"):
        # At the border zeros of the padding mix with the figure: only zero stays what it is.
        mask = mask & (sources[0].figures == 0)
    figures = _figures(carrier, sources)
    if figures is None:
        return None
    mask = mask & np.isfinite(figures)
    if not mask.any():
        return None
    return ConstantChannels(carrier.output_axis, mask, np.where(mask, figures, 0))


def _figures(carrier: Carrier, sources: Sequence[ConstantChannels]) -> Array | None:
    node, first = carrier.node, sources[0].figures
    if node.op_type in ELEMENTWISE | COMBINING:
        operands: list[Array | None] = [constant_array(value) for value in node.inputs]
        for index, _ in carrier.parameters:
            operands[index] = operands[index].reshape(-1)  # type: ignore[union-attr]
        for index, source in zip(carrier.sources, sources, strict=True):
            operands[index] = source.figures
        return _evaluate(node, operands)
    if node.op_type == "BatchNormalization":
        operands = [first[None], *(constant_array(value) for value in node.inputs[1:])]
        result = _evaluate(node, operands)
        return result[0] if result is not None else None
    if node.op_type == "Conv":
        bias = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
        return bias if bias is not None else np.zeros_like(first)
    return first


def _evaluate(node: ir.Node, operands: Sequence[Array | None]) -> Array | None:
    """Run one node on constants, in the runtime itself so that its rounding is the runtime's."""
    names = [f"x{index}" if item is not None else "" for index, item in enumerate(operands)]
    feed = {name: item for name, item in zip(names, operands, strict=True) if item is not None}
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.append("y")
    values = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(np.asarray(item).dtype), np.shape(item)
        )
        for name, item in feed.items()
    ]
    kind = helper.np_dtype_to_tensor_dtype(next(iter(feed.values())).dtype)
    graph = helper.make_graph(
        [proto], "node", values, [helper.make_tensor_value_info("y", kind, None)]
    )
    version = node.version or (node.graph.opset_imports.get("") if node.graph else None) or 20
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", version)], ir_version=10
    )
    with np.errstate(all="ignore"):
        return np.asarray(open_session(model.SerializeToString(), feed).run()[0])
