"""Channels that are dead between layers, taken out of all layers at once.

Forward: an output whose weights are all zero is constant; what elementwise operations and
normalisations make of it is too, and the layers that read it can take it into their biases.  Behind
a padded convolution that would be wrong at the border, where zeros stand instead; there all
constant channels are gathered into one of them, which is exact.

Backward: channels that no layer reads are removed from every layer that writes them and from all
that stands between.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from spartan_planner.lowering.channels import Carrier, ConstantChannels, as_carrier, carried
from spartan_planner.lowering.constants import Array, add_constant, constant_array, is_constant
from spartan_planner.lowering.forms import GROUP_SIZES
from spartan_planner.lowering.structure import Indices, zero_structure
from spartan_planner.lowering.weight_nodes import (
    Shapes,
    WeightNode,
    as_weight_node,
    find_weight_nodes,
)

Price = Callable[[WeightNode, tuple[int, ...]], float]
"""The cost of a layer with an output of that shape."""


@dataclass
class RemovedChannels:
    """What was taken out.

    Attributes:
        num_channels: channels that no longer exist, by the weight that wrote them.
        num_folded: layers whose weights took constant inputs in.
        shapes: of the values that are narrower now.
    """

    num_channels: dict[str, int] = field(default_factory=dict)
    num_folded: int = 0
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def shapes_after(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all values as they are now."""
        return {**shapes, **self.shapes}


def remove_dead_channels(graph: ir.Graph, shapes: Shapes, price: Price) -> RemovedChannels:
    """Take dead channels out of a graph, in place; its outputs stay the same within rounding.

    Args:
        graph: the graph.
        shapes: of its values.
        price: what a layer with an output of a certain shape costs in its best form; channels
            are removed where that makes the layers that share them cheaper together.
    """
    removed = RemovedChannels()
    _fold_constants(graph, shapes, removed)
    while _remove_unread(graph, removed.shapes_after(shapes), removed, price):
        pass
    return removed


def _fold_constants(graph: ir.Graph, shapes: Shapes, removed: RemovedChannels) -> None:
    constant: dict[ir.Value, ConstantChannels] = {}
    for node in list(graph):
        layer = as_weight_node(node, shapes)
        if layer is not None:
            source = constant.get(layer.source)
            if source is not None and source.axis == layer.channel_axis % len(layer.source_shape):
                removed.num_folded += _fold(graph, layer, source)
                layer = as_weight_node(node, shapes) or layer
            found = _constant_outputs(layer)
            if found is not None:
                constant[layer.output] = found
            continue
        result = _carried(node, constant, shapes)
        # The addition of a bias is part of its layer, whose output is known already.
        if result is not None and node.outputs[0] not in constant:
            constant[node.outputs[0]] = result


def _constant_outputs(layer: WeightNode) -> ConstantChannels | None:
    alive = zero_structure(layer.weight).outputs
    num_outputs = len(layer.weight)
    if len(alive) == num_outputs:
        return None
    mask = np.ones(num_outputs, np.bool_)
    mask[alive] = False
    bias = layer.bias if layer.bias is not None else np.zeros(num_outputs, layer.weight.dtype)
    axis = layer.channel_axis % len(layer.source_shape)
    return ConstantChannels(axis, mask, np.where(mask, bias, np.zeros_like(bias)))


def _carried(
    node: ir.Node, constant: Mapping[ir.Value, ConstantChannels], shapes: Shapes
) -> ConstantChannels | None:
    index = next((i for i, v in enumerate(node.inputs) if v is not None and v in constant), None)
    if index is None:
        return None
    first = node.inputs[index]
    assert first is not None
    carrier = as_carrier(node, index, constant[first].axis, shapes)
    if carrier is None:
        return None
    sources = [constant.get(value) for i in carrier.sources if (value := node.inputs[i])]
    known = [item for item in sources if item is not None and item.axis == carrier.axis]
    return carried(carrier, known) if len(known) == len(carrier.sources) else None


def _fold(graph: ir.Graph, layer: WeightNode, source: ConstantChannels) -> bool:
    """Take constant inputs into the bias, or into one of them; return whether anything changed."""
    weight = layer.weight.astype(np.float64)
    read = source.mask & weight.reshape(*weight.shape[:2], -1).any(axis=(0, 2))
    figures = source.figures.astype(np.float64)
    bias = None if layer.bias is None else layer.bias.astype(np.float64)
    if _is_padded(layer):
        nonzero = np.flatnonzero(read & (figures != 0))
        keeper = nonzero[np.argmax(np.abs(figures[nonzero]))] if len(nonzero) else -1
        if read.sum() == len(nonzero) == 1:
            return False
        joined = np.einsum("oc...,c->o...", weight[:, nonzero], figures[nonzero])
        weight[:, read] = 0
        if keeper >= 0:
            weight[:, keeper] = joined / figures[keeper]
    else:
        added = weight.reshape(*weight.shape[:2], -1)[:, read].sum(axis=2) @ figures[read]
        weight[:, read] = 0
        if added.any() or bias is not None:
            bias = added + (bias if bias is not None else 0)
    if not read.any():
        return False
    kind = layer.weight.dtype
    set_weight(graph, layer, weight.astype(kind), None if bias is None else bias.astype(kind))
    return True


def _is_padded(layer: WeightNode) -> bool:
    attributes = layer.node.attributes
    mode = attributes.get_string("auto_pad", "NOTSET")
    return layer.kind == "conv" and (
        mode.startswith("SAME") or any(attributes.get_ints("pads") or ())
    )


def set_weight(graph: ir.Graph, layer: WeightNode, weight: Array, bias: Array | None) -> None:
    """Give a layer another weight ``[out, in, *kernel]`` and bias ``[out]``, in place."""
    node = layer.node
    oriented = weight.T if node.op_type == "MatMul" else weight
    before = node.inputs[1]
    value = add_constant(graph, np.ascontiguousarray(oriented), f"{layer.name}.alive")
    node.replace_input_with(1, value)
    _take_name(graph, before, value)
    if node.op_type == "Gemm":
        for name, figure in (("alpha", 1.0), ("beta", 1.0)):
            node.attributes[name] = ir.AttrFloat32(name, figure)
        node.attributes["transB"] = ir.AttrInt64("transB", 1)
    if bias is None:
        return
    added = add_constant(graph, bias, f"{layer.name}.alive_bias")
    if layer.bias_node is not None:
        is_first = layer.bias_node.inputs[1] is node.outputs[0]
        layer.bias_node.replace_input_with(0 if is_first else 1, added)
    elif node.op_type == "MatMul":
        _add_bias(graph, node, added)
    else:
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        node.replace_input_with(2, added)


def _take_name(graph: ir.Graph, before: ir.Value | None, value: ir.Value) -> None:
    """Call a constant as the one that it replaces, where nobody else reads that."""
    if before is None or not is_constant(before) or before.uses() or before.is_graph_output():
        return
    name = str(before.name)
    graph.initializers.pop(name)
    value.name = name


def _add_bias(graph: ir.Graph, node: ir.Node, bias: ir.Value) -> None:
    output = node.outputs[0]
    addition = ir.node("Add", [output, bias], name=f"{output.name}.bias")
    result = addition.outputs[0]
    result.type, result.shape = output.type, output.shape
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    addition.replace_input_with(0, output)
    result.name, output.name = output.name, f"{output.name}.unbiased"
    graph.insert_after(node, addition)


@dataclass
class _Space:
    """Activations that share their channels, and all that reads or writes them.

    Attributes:
        values: the activations and the axis of the channels in each.
        writers, readers: layers.
        carriers: what stands between.
        is_closed: whether nothing else reads or writes them.
    """

    values: dict[ir.Value, int] = field(default_factory=dict)
    writers: list[WeightNode] = field(default_factory=list)
    readers: list[WeightNode] = field(default_factory=list)
    carriers: list[Carrier] = field(default_factory=list)
    is_closed: bool = True

    def join(self, other: "_Space") -> None:
        self.values |= other.values
        self.writers += other.writers
        self.readers += other.readers
        self.carriers += other.carriers
        self.is_closed &= other.is_closed


def _remove_unread(graph: ir.Graph, shapes: Shapes, removed: RemovedChannels, price: Price) -> bool:
    """Narrow the spaces that have unread channels; return whether there was one."""
    touched: set[ir.Node] = set()
    for space in _spaces(graph, shapes):
        nodes = {layer.node for layer in (*space.writers, *space.readers)}
        kept = None if nodes & touched else _worthwhile(space, shapes, price)
        if kept is not None:
            # Layers hold what their nodes were: a node is changed once before all are read anew.
            touched |= nodes
            _keep(graph, space, kept, shapes, removed)
    return bool(touched)


def _worthwhile(space: _Space, shapes: Shapes, price: Price) -> Indices | None:
    """The channels to keep so that the layers of a space cost least; ``None`` for all of them.

    Single channels may go, or only whole aligned runs of them: a group of outputs that read the
    same inputs is worth more whole than narrower.
    """
    read = _read_channels(space)
    if read is None or read.all():
        return None
    best, least = None, _price(space, None, shapes, price)
    for run in (1, *GROUP_SIZES):
        starts = np.arange(0, len(read), run)
        whole = np.repeat(np.logical_or.reduceat(read, starts), run)[: len(read)]
        kept = np.flatnonzero(whole) if whole.any() else np.array([0])
        cost = _price(space, kept, shapes, price) if len(kept) < len(read) else least
        # Equal cost counts as gain: what is not there need not be stored.
        if len(kept) < len(read) and (cost < least or (best is None and cost <= least)):
            best, least = kept, cost
    return best


def _price(space: _Space, kept: Indices | None, shapes: Shapes, price: Price) -> float:
    total = 0.0
    for layer, is_writer, is_reader in _layers(space):
        shape = shapes.get(str(layer.output.name))
        if shape is None:
            continue
        narrowed = layer if kept is None else _narrowed(layer, is_writer, is_reader, kept)
        axis = layer.channel_axis % len(shape)
        total += price(narrowed, (*shape[:axis], len(narrowed.weight), *shape[axis + 1 :]))
    return total


def _layers(space: _Space) -> list[tuple[WeightNode, bool, bool]]:
    """Each layer of a space, whether it writes its channels, and whether it reads them."""
    writers, readers = ({item.node for item in part} for part in (space.writers, space.readers))
    both = {layer.node: layer for layer in (*space.writers, *space.readers)}
    return [(layer, node in writers, node in readers) for node, layer in both.items()]


def _narrowed(layer: WeightNode, is_writer: bool, is_reader: bool, kept: Indices) -> WeightNode:
    """A layer without the outputs, or inputs, that are not kept."""
    weight, bias, shape = layer.weight, layer.bias, list(layer.source_shape)
    if is_writer:
        weight, bias = weight[kept], None if bias is None else bias[kept]
    if is_reader:
        weight = weight[:, kept]
        shape[layer.channel_axis] = len(kept)
    return replace(layer, weight=weight, bias=bias, source_shape=tuple(shape))


def _read_channels(space: _Space) -> NDArray[np.bool_] | None:
    if not space.is_closed or not space.readers:
        return None
    masks: list[NDArray[np.bool_]] = [
        np.any(reader.weight.reshape(*reader.weight.shape[:2], -1) != 0, axis=(0, 2))
        for reader in space.readers
    ]
    # A width of its own is that of a layer that reads something else: a broken file.
    if len({len(mask) for mask in masks}) > 1:
        return None
    read: NDArray[np.bool_] = np.any(np.stack(masks), axis=0)
    return read


def _spaces(graph: ir.Graph, shapes: Shapes) -> Iterator[_Space]:
    layers = {layer.node: layer for layer in find_weight_nodes(graph, shapes)}
    biases = {layer.bias_node for layer in layers.values() if layer.bias_node}
    space_of: dict[ir.Value, _Space] = {}
    for node in graph:
        layer = layers.get(node)
        if layer is not None:
            _read_by(layer, space_of)
            axis = layer.channel_axis % len(layer.source_shape)
            space_of[layer.output] = _Space({layer.output: axis}, [layer])
        elif node not in biases:
            _pass_through(node, space_of, shapes)
    spaces = {id(space): space for space in space_of.values()}
    own = set(graph)
    for space in spaces.values():
        readers = {reader for value in space.values for reader in value.consumers()}
        if not readers <= own or any(value.is_graph_output() for value in space.values):
            space.is_closed = False
    yield from spaces.values()


def _read_by(layer: WeightNode, space_of: Mapping[ir.Value, _Space]) -> None:
    space = space_of.get(layer.source)
    if space is None:
        return
    if space.values[layer.source] == layer.channel_axis % len(layer.source_shape):
        space.readers.append(layer)
    else:
        space.is_closed = False


def _pass_through(node: ir.Node, space_of: dict[ir.Value, _Space], shapes: Shapes) -> None:
    """Join the spaces that a node carries on; close off those that it reads otherwise."""
    tracked = [i for i, value in enumerate(node.inputs) if value is not None and value in space_of]
    if not tracked:
        return
    spaces = [space_of[node.inputs[i]] for i in tracked]  # type: ignore[index]
    axes = [space.values[node.inputs[i]] for i, space in zip(tracked, spaces, strict=True)]  # type: ignore[index]
    carrier = as_carrier(node, tracked[0], axes[0], shapes)
    if carrier is None or set(carrier.sources) != set(tracked) or len(set(axes)) > 1:
        for space in spaces:
            space.is_closed = False
        return
    joined = spaces[0]
    for other in spaces[1:]:
        if other is not joined:
            joined.join(other)
            for value in other.values:
                space_of[value] = joined
    joined.carriers.append(carrier)
    joined.values[node.outputs[0]] = carrier.output_axis
    space_of[node.outputs[0]] = joined


def _keep(
    graph: ir.Graph, space: _Space, kept: Indices, shapes: Shapes, removed: RemovedChannels
) -> None:
    for layer, is_writer, is_reader in _layers(space):
        narrowed = _narrowed(layer, is_writer, is_reader, kept)
        num_gone = len(layer.weight) - len(narrowed.weight)
        if num_gone:
            known = removed.num_channels.get(layer.name, 0)
            removed.num_channels[layer.name] = known + num_gone
        set_weight(graph, layer, narrowed.weight, narrowed.bias)
    for carrier in space.carriers:
        _narrow(graph, carrier, kept)
    for value, axis in space.values.items():
        for each in (value, *_before_bias(value, space)):
            _set_size(each, axis, len(kept), shapes, removed)


def _before_bias(value: ir.Value, space: _Space) -> list[ir.Value]:
    return [
        layer.node.outputs[0]
        for layer in space.writers
        if layer.output is value and layer.bias_node is not None
    ]


def _set_size(
    value: ir.Value, axis: int, size: int, shapes: Shapes, removed: RemovedChannels
) -> None:
    name = str(value.name)
    if name in shapes:
        known = shapes[name]
        removed.shapes[name] = (*known[:axis], size, *known[axis + 1 :])
    if value.shape is not None:
        value.shape = ir.Shape([size if i == axis else dim for i, dim in enumerate(value.shape)])


def _narrow(graph: ir.Graph, carrier: Carrier, kept: Indices) -> None:
    """Leave out a carrier's figures of channels that are gone."""
    node = carrier.node
    for index, axis in carrier.parameters:
        array = constant_array(node.inputs[index])
        assert array is not None
        if array.shape[axis] > 1:
            name = f"{node.outputs[0].name}.alive{index}"
            value = add_constant(graph, np.take(array, kept, axis), name)
            node.replace_input_with(index, value)
    if node.op_type == "Conv":
        node.attributes["group"] = ir.AttrInt64("group", len(kept))
