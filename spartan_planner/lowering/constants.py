"""Constants of a graph: read through the operators that only rearrange them, and added."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]
"""A constant of any element type."""

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is an initializer that no user can replace."""
    return value is not None and value.is_initializer() and not value.is_graph_input()


def constant_array(value: ir.Value | None) -> Array | None:
    """Return what a value always is, or ``None`` where it depends on inputs.

    Seen through: transposing, reshaping, (un)squeezing, identity.
    """
    if value is None:
        return None
    if value.const_value is not None and (is_constant(value) or value.producer() is not None):
        array: Array = value.const_value.numpy()
        return array
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Constant":
        tensor = node.attributes.get("value")
        return tensor.as_tensor().numpy() if tensor is not None else None
    return _computed(node)


def _computed(node: ir.Node) -> Array | None:
    compute = _REARRANGING.get(node.op_type)
    source = constant_array(node.inputs[0]) if compute and node.inputs else None
    if compute is None or source is None:
        return None
    further = [constant_array(value) for value in node.inputs[1:]]
    return compute(source, node, further)


def _transpose(source: Array, node: ir.Node, further: list[Array | None]) -> Array | None:
    permutation = node.attributes.get_ints("perm")
    return None if further else np.transpose(source, permutation)


def _reshape(source: Array, node: ir.Node, further: list[Array | None]) -> Array | None:
    target = further[0] if further else None
    if target is None or states_empty_sizes(node, target):
        return None
    sizes = [source.shape[axis] if size == 0 else size for axis, size in enumerate(target.tolist())]
    return source.reshape(sizes)


def states_empty_sizes(node: ir.Node, target: Array) -> bool:
    """Whether a zero in the shape that a reshape is to give means no elements, not a copied size.

    torch's exporter says so of every reshape, those without a zero included.
    """
    return bool(node.attributes.get_int("allowzero", 0)) and not target.all()


def _identity(source: Array, node: ir.Node, further: list[Array | None]) -> Array | None:
    return source if node.op_type == "Identity" and not further else None


_REARRANGING: dict[str, Callable[[Array, ir.Node, list[Array | None]], Array | None]] = {
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Identity": _identity,
}


def add_constant(graph: ir.Graph, array: Array, name: str) -> ir.Value:
    """Add an initializer; the name is made unique where it is taken."""
    unique, count = name, 1
    while unique in graph.initializers:
        unique, count = f"{name}.{count}", count + 1
    value = ir.Value(name=unique, const_value=ir.tensor(array, name=unique))
    value.shape = ir.Shape(array.shape)
    value.dtype = ir.tensor(array).dtype
    graph.register_initializer(value)
    return value


def per_channel(array: Array, num_channels: int, axis_from_end: int) -> Array | None:
    """Return the figures of a broadcast constant along one axis, ``[num_channels]``.

    Args:
        array: a constant that is broadcast to an activation.
        num_channels: size of the axis.
        axis_from_end: the axis, counted from the last: 1 is the last one.

    Returns:
        ``None`` where the constant varies along another axis too.
    """
    if array.size == 1:
        return np.full(num_channels, array.reshape(-1)[0])
    is_there = array.ndim >= axis_from_end and array.shape[-axis_from_end] == num_channels
    if not is_there or math.prod(array.shape) != num_channels:
        return None
    return array.reshape(-1)
