"""Operations that pass channels on whole: where each channel of their output comes from.

A carrier computes each channel of its outputs from the same channel of its inputs alone
(elementwise operations, normalisation by constants, pooling, depthwise convolution), or only puts
channels elsewhere (:mod:`spartan_planner.lowering.routes`).
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from spartan_planner.lowering import routes
from spartan_planner.lowering.constants import constant_array
from spartan_planner.lowering.routes import Carrier, Outlet, Place
from spartan_planner.lowering.transposes import COMBINING, ELEMENTWISE
from spartan_planner.lowering.weight_nodes import Shapes

_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"})


def as_carrier(node: ir.Node, index: int, axis: int, shapes: Shapes) -> Carrier | None:
    """Return how a node carries the channels of one of its inputs; ``None`` if it mixes them.

    Args:
        node: the node.
        index: of the input.
        axis: of the channels in that input.
        shapes: of all values.
    """
    reader = _READERS.get(node.op_type)
    source = node.inputs[index]
    shape = shapes.get(str(source.name)) if source is not None else None
    if node.domain not in ("", "ai.onnx") or reader is None or shape is None:
        return None
    if len(node.outputs) != 1 and node.op_type != "Split":
        return None
    return reader(node, Place(index, axis, tuple(shape), shapes))


def _same(
    node: ir.Node,
    place: Place,
    output_axis: int | None = None,
    parameters: tuple[tuple[int, int], ...] = (),
    sources: Sequence[int] = (),
) -> Carrier:
    """Each channel stays what it is, in the same order."""
    sources = tuple(sources) or (place.index,)
    every = np.arange(place.num_channels)
    axis = place.axis if output_axis is None else output_axis
    outlet = Outlet(node.outputs[0], axis, (every,) * len(sources))
    return Carrier(node, sources, place.axis, (outlet,), parameters)


def _elementwise(node: ir.Node, place: Place) -> Carrier | None:
    further = [constant_array(value) for value in node.inputs[1:] if value is not None]
    scalar = all(array is not None and array.size == 1 for array in further)
    return _same(node, place) if scalar and place.index == 0 else None


def _combining(node: ir.Node, place: Place) -> Carrier | None:
    """Broadcast along other axes is fine, such as that of a squeeze-and-excitation's scale."""
    if len(node.inputs) != 2 or None in node.inputs:
        return None
    other = node.inputs[1 - place.index]
    array = constant_array(other)
    shape = array.shape if array is not None else place.shapes.get(str(other.name))  # type: ignore[union-attr]
    if shape is None or len(shape) > len(place.shape):
        return None
    from_end = len(place.shape) - place.axis
    size = shape[-from_end] if len(shape) >= from_end else 1
    if size not in (1, place.num_channels):
        return None
    if array is not None:
        parameters = ((1 - place.index, len(shape) - from_end),) if size > 1 else ()
        return _same(node, place, parameters=parameters)
    if len(shape) != len(place.shape):
        return None
    return _same(node, place, sources=(0, 1) if size == place.num_channels else ())


def _normalisation(node: ir.Node, place: Place) -> Carrier | None:
    known = all(constant_array(value) is not None for value in node.inputs[1:])
    if place.axis != 1 or not known or place.index or node.attributes.get_int("training_mode", 0):
        return None
    return _same(node, place, parameters=tuple((index, 0) for index in range(1, 5)))


def _pooling(node: ir.Node, place: Place) -> Carrier | None:
    return _same(node, place) if place.axis == 1 else None


def _depthwise(node: ir.Node, place: Place) -> Carrier | None:
    if place.axis != 1 or place.index or not is_depthwise(node, place.num_channels):
        return None
    return _same(node, place, parameters=tuple((i, 0) for i in range(1, len(node.inputs))))


def is_depthwise(node: ir.Node, num_channels: int) -> bool:
    """Whether a convolution has constant weights and computes each channel from its like."""
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
        return False
    arrays = [constant_array(value) for value in node.inputs[1:]]
    if not arrays or any(array is None for array in arrays):
        return False
    weight = arrays[0]
    assert weight is not None
    return node.attributes.get_int("group", 1) == num_channels == len(weight) > 1


def _transposing(node: ir.Node, place: Place) -> Carrier | None:
    order = list(node.attributes.get_ints("perm") or range(len(place.shape))[::-1])
    return _same(node, place, order.index(place.axis)) if place.axis in order else None


def _reducing(node: ir.Node, place: Place) -> Carrier | None:
    stated = node.attributes.get_ints("axes", None)
    axes = constant_array(node.inputs[1]) if stated is None and len(node.inputs) > 1 else stated
    if axes is None or place.index:
        return None
    reduced = {int(item) % len(place.shape) for item in np.ravel(axes)}
    if place.axis in reduced:
        return None
    kept = node.attributes.get_int("keepdims", 1)
    return _same(
        node, place, place.axis - (0 if kept else sum(item < place.axis for item in reduced))
    )


_Reader = Callable[[ir.Node, Place], Carrier | None]
_READERS: dict[str, _Reader] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(COMBINING, _combining),
    **dict.fromkeys(_POOLS, _pooling),
    "BatchNormalization": _normalisation,
    "Conv": _depthwise,
    "ReduceMax": _reducing,
    "ReduceMean": _reducing,
    "Transpose": _transposing,
    **routes.READERS,
}
