"""Channels taken out of a region's layers and of all that stands between them, in place."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from spartan_planner.lowering.channel_regions import Region
from spartan_planner.lowering.constants import add_constant, constant_array
from spartan_planner.lowering.kept_channels import Alive, narrowed
from spartan_planner.lowering.routes import Carrier
from spartan_planner.lowering.structure import Indices
from spartan_planner.lowering.weight_nodes import Shapes
from spartan_planner.lowering.writing_weights import set_weight, take_name

NarrowShapes = dict[str, tuple[int, ...]]


def narrow_region(
    graph: ir.Graph, region: Region, alive: Alive, shapes: Shapes
) -> tuple[dict[str, int], NarrowShapes]:
    """Leave out the channels of a region that are not alive.

    Returns:
        How many outputs went, by weight; and the shapes of the values that are narrower now.
    """
    gone: dict[str, int] = {}
    for layer, written, read in region.layers():
        rest = narrowed(layer, written, read, alive)
        num_gone = len(layer.weight) - len(rest.weight)
        if rest.weight.shape != layer.weight.shape:
            set_weight(graph, layer, rest.weight, rest.bias)
        if num_gone:
            gone[layer.name] = gone.get(layer.name, 0) + num_gone
    changed = _narrow_values(region, alive, shapes)
    # A carrier that is replaced writes another value: what the next one reads is looked up before.
    sources = [_source_alive(carrier, region, alive) for carrier in region.carriers]
    for carrier, source in zip(region.carriers, sources, strict=True):
        channels = [region.activations[outlet.value].channels for outlet in carrier.outlets]
        if not all(alive[item].all() for item in channels):
            _narrow_carrier(graph, carrier, [alive[item] for item in channels], source)
    return gone, changed


def _narrow_values(region: Region, alive: Alive, shapes: Shapes) -> NarrowShapes:
    unbiased = {
        layer.output: layer.node.outputs[0]
        for layer in region.writers
        if layer.bias_node is not None
    }
    changed = {}
    for value, activation in region.activations.items():
        axis, size = activation.axis, int(alive[activation.channels].sum())
        for each in (value, unbiased.get(value)):
            if each is None:
                continue
            if (known := shapes.get(str(each.name))) is not None:
                changed[str(each.name)] = (*known[:axis], size, *known[axis + 1 :])
            if each.shape is not None:
                each.shape = ir.Shape(
                    [size if place == axis else dim for place, dim in enumerate(each.shape)]
                )
    return changed


def _narrow_carrier(
    graph: ir.Graph, carrier: Carrier, outlets: Sequence[Alive], source: Alive | None
) -> None:
    """Leave out a carrier's figures of channels that are gone, and state its sizes anew."""
    node, kept = carrier.node, np.flatnonzero(outlets[0])
    for index, axis in carrier.parameters:
        array = constant_array(node.inputs[index])
        assert array is not None
        _replace(graph, node, index, np.take(array, kept, axis))
    if node.op_type == "Conv":
        node.attributes["group"] = ir.AttrInt64("group", len(kept))
    elif node.op_type == "Split":
        _state_sizes(graph, node, [int(alive.sum()) for alive in outlets])
    elif carrier.is_shuffle:
        assert source is not None
        _gather_instead(graph, carrier, kept, source)
    elif node.op_type == "Reshape":
        _state_width(graph, carrier, len(kept))


def _replace(graph: ir.Graph, node: ir.Node, index: int, array: np.ndarray) -> None:
    before = node.inputs[index]
    name = f"{node.outputs[0].name}.alive{index}"
    value = add_constant(graph, np.ascontiguousarray(array), name)
    node.replace_input_with(index, value)
    take_name(graph, before, value)


def _state_sizes(graph: ir.Graph, node: ir.Node, sizes: list[int]) -> None:
    """Sizes of a split: an attribute before operator set 13, an operand since."""
    if "split" in node.attributes:
        node.attributes["split"] = ir.AttrInt64s("split", sizes)
        return
    node.attributes.pop("num_outputs", None)
    if len(node.inputs) < 2:
        node.resize_inputs(2)
    _replace(graph, node, 1, np.array(sizes, np.int64))


def _state_width(graph: ir.Graph, carrier: Carrier, width: int) -> None:
    node, axis = carrier.node, carrier.outlets[0].axis
    target = constant_array(node.inputs[1])
    assert target is not None
    if target[axis] > 0:
        changed = target.copy()
        changed[axis] = width
        _replace(graph, node, 1, changed)


def _source_alive(carrier: Carrier, region: Region, alive: Alive) -> Alive | None:
    """Which channels of a carrier's first source are kept; ``None`` if no layer wrote that."""
    source = carrier.node.inputs[carrier.sources[0]]
    activation = region.activations.get(source) if source is not None else None
    return alive[activation.channels] if activation is not None else None


def _gather_instead(graph: ir.Graph, carrier: Carrier, kept: Indices, source: Alive) -> None:
    """Put the channels that are left in their order by a gather: groups are uneven now."""
    outlet = carrier.outlets[0]
    places = (np.cumsum(source) - 1)[outlet.origins[0][kept]]
    name = str(outlet.value.name)
    indices = add_constant(graph, places, f"{name}.order")
    gather = ir.node(
        "Gather",
        [carrier.node.inputs[0], indices],
        {"axis": outlet.axis},
        name=f"{name}.shuffle",
    )
    last = outlet.value.producer()
    assert last is not None
    graph.insert_before(last, gather)
    result = gather.outputs[0]
    result.type, result.shape = outlet.value.type, outlet.value.shape
    outlet.value.replace_all_uses_with(result, replace_graph_outputs=True)
    outlet.value.name, result.name = f"{name}.before", name
