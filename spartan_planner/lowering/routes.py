"""Operations that only put channels elsewhere: concatenation, split, shuffle, reshape."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from spartan_planner.lowering.constants import constant_array, states_empty_sizes
from spartan_planner.lowering.structure import Indices
from spartan_planner.lowering.weight_nodes import Shapes


@dataclass(frozen=True)
class Outlet:
    """An activation that a carrier writes.

    Attributes:
        value: the activation.
        axis: of its channels.
        origins: for each source of the carrier, the channel of it that each channel of ``value``
            comes from, ``[channels]``; -1 where it does not.
    """

    value: ir.Value
    axis: int
    origins: tuple[Indices, ...]


@dataclass(frozen=True)
class Carrier:
    """How a node carries channels from the activations that it reads to those that it writes.

    Attributes:
        node: the node; of a shuffle the first of three.
        sources: indices of the activations that it reads.
        axis: of the channels in those.
        outlets: what it writes; of a shuffle what the last of three nodes writes.
        parameters: index of each constant with figures of its own per channel, and the axis of
            those.
    """

    node: ir.Node
    sources: tuple[int, ...]
    axis: int
    outlets: tuple[Outlet, ...]
    parameters: tuple[tuple[int, int], ...] = ()

    @property
    def is_shuffle(self) -> bool:
        """Whether three nodes together put channels in another order."""
        return self.outlets[0].value not in self.node.outputs


@dataclass(frozen=True)
class Place:
    """Where channels stand in an activation that a node reads.

    Attributes:
        index: of the activation among the node's inputs.
        axis: of the channels.
        shape: of the activation.
        shapes: of all values.
    """

    index: int
    axis: int
    shape: tuple[int, ...]
    shapes: Shapes

    @property
    def num_channels(self) -> int:
        """Channels of the activation."""
        return self.shape[self.axis]

    def shape_of(self, value: ir.Value) -> tuple[int, ...]:
        """Return the shape of another value; empty where it is not known."""
        return tuple(self.shapes.get(str(value.name), ()))


def _concatenation(node: ir.Node, place: Place) -> Carrier | None:
    axis = node.attributes.get_int("axis", 0) % len(place.shape)
    shapes = [place.shape_of(value) if value is not None else () for value in node.inputs]
    if axis != place.axis or any(len(shape) != len(place.shape) for shape in shapes):
        return None
    # The same activation twice would be one source of two places.
    if len(set(node.inputs)) < len(node.inputs):
        return None
    sizes = [shape[axis] for shape in shapes]
    ends = np.cumsum(sizes)
    origins = []
    for size, end in zip(sizes, ends, strict=True):
        origin = np.full(int(ends[-1]), -1, np.int64)
        origin[end - size : end] = np.arange(size)
        origins.append(origin)
    outlet = Outlet(node.outputs[0], axis, tuple(origins))
    return Carrier(node, tuple(range(len(node.inputs))), axis, (outlet,))


def _split(node: ir.Node, place: Place) -> Carrier | None:
    if node.attributes.get_int("axis", 0) % len(place.shape) != place.axis or place.index:
        return None
    shapes = [place.shape_of(value) for value in node.outputs]
    if any(len(shape) != len(place.shape) for shape in shapes):
        return None
    sizes = [shape[place.axis] for shape in shapes]
    if sum(sizes) != place.num_channels or 0 in sizes:
        return None
    starts = np.cumsum([0, *sizes[:-1]])
    outlets = tuple(
        Outlet(value, place.axis, (np.arange(start, start + size),))
        for value, start, size in zip(node.outputs, starts, sizes, strict=True)
    )
    return Carrier(node, (0,), place.axis, outlets)


def _reshape(node: ir.Node, place: Place) -> Carrier | None:
    """Channels keep an axis of their own, or each fills its places along the last axis.

    The samples stand first before and after.
    """
    result = place.shape_of(node.outputs[0])
    if place.index or place.num_channels < 2 or not place.axis or not _is_open(node):
        return None
    before, behind = math.prod(place.shape[: place.axis]), math.prod(place.shape[place.axis + 1 :])
    for axis in range(1, len(result)):
        if math.prod(result[:axis]) != before:
            continue
        if result[axis] == place.num_channels and _can_narrow(node, place, axis):
            return _rearranged(node, place, axis, 1)
        is_last = axis == len(result) - 1
        if is_last and result[axis] == place.num_channels * behind and _can_narrow(node, place):
            return _rearranged(node, place, axis, behind)
    return _shuffle(node, place)


def _is_open(node: ir.Node) -> bool:
    """Whether the shape that a node is to give is known and can be changed."""
    if node.op_type != "Reshape":
        return True
    target = constant_array(node.inputs[1])
    return target is not None and not states_empty_sizes(node, target)


def _can_narrow(node: ir.Node, place: Place, axis: int | None = None) -> bool:
    """Whether no size that a reshape copies from its input is the channels', but at their axis."""
    if node.op_type != "Reshape":
        return True
    target = constant_array(node.inputs[1])
    assert target is not None
    copied = np.flatnonzero(target == 0).tolist()
    return place.axis not in copied or axis == place.axis


def _rearranged(node: ir.Node, place: Place, axis: int, num_places: int) -> Carrier:
    origin = np.repeat(np.arange(place.num_channels), num_places)
    return Carrier(node, (0,), place.axis, (Outlet(node.outputs[0], axis, (origin,)),))


def _shuffle(node: ir.Node, place: Place) -> Carrier | None:
    """Reshape to groups, transpose, reshape back: channels in another order."""
    chain = _followers(node, ("Reshape", "Transpose", "Reshape"))
    if chain is None or place.axis != 1:
        return None
    apart, back = place.shape_of(chain[0].outputs[0]), place.shape_of(chain[2].outputs[0])
    rest = place.shape[2:]
    order = [0, 2, 1, *range(3, 3 + len(rest))]
    swaps = list(chain[1].attributes.get_ints("perm") or ()) == order
    if not swaps or back != place.shape or len(apart) != len(order) or apart[3:] != rest:
        return None
    if apart[0] != place.shape[0] or apart[1] * apart[2] != place.num_channels:
        return None
    origin = np.arange(place.num_channels).reshape(apart[1:3]).T.reshape(-1)
    return Carrier(node, (0,), 1, (Outlet(chain[2].outputs[0], 1, (origin,)),))


def _followers(node: ir.Node, kinds: tuple[str, ...]) -> list[ir.Node] | None:
    """A node and those behind it, each the only reader of the one before."""
    chain = [node]
    for _ in kinds[1:]:
        output = chain[-1].outputs[0]
        readers = list(output.consumers())
        if len(readers) != 1 or output.is_graph_output() or readers[0].inputs[0] is not output:
            return None
        chain.append(readers[0])
    return chain if tuple(item.op_type for item in chain) == kinds else None


READERS: dict[str, Callable[[ir.Node, Place], Carrier | None]] = {
    "Concat": _concatenation,
    "Split": _split,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
}
"""The operations of this module, by name."""
