"""Putting the lowered forms of planned layers into an ONNX graph."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from cost_models import Layout
from spartan_planner.errors import ExportError
from spartan_planner.lowering.convolution import PackedConvolution, pack_convolution
from spartan_planner.lowering.emitting import emit
from spartan_planner.lowering.forms import STEP, Form
from spartan_planner.lowering.structure import padded_width
from spartan_planner.lowering.transposes import cancel_transposes
from spartan_planner.lowering.weight_nodes import WeightNode, find_weight_nodes

_Node = TypeVar("_Node", ir.Node, WeightNode)


@dataclass(frozen=True)
class LoweredLayer:
    """What became of one layer.

    Attributes:
        name: name of its weight.
        num_groups: groups of outputs that read inputs of their own.
        num_inputs_per_group: inputs that each group reads.
        num_inputs: inputs of the original layer.
    """

    name: str
    num_groups: int
    num_inputs_per_group: int
    num_inputs: int


def lower_graph(model: ir.Model, layouts: Mapping[str, Layout]) -> tuple[LoweredLayer, ...]:
    """Lower, in place, the layers whose weights ``layouts`` names.

    A layer whose groups need all inputs stays as it is, since gathering would only cost.

    Args:
        model: the graph; its named weights hold zeros where blocks were pruned.
        layouts: weight name to the tile layout it was pruned in.

    Returns:
        One entry per lowered layer: convolutions, then linear layers, in graph order.

    Raises:
        ExportError: a named weight is not the constant weight of a plain convolution or of a linear
            layer.
    """
    convolutions = _convolutions_by_weight(model.graph)
    products = _products_by_weight(model, set(layouts) - set(convolutions))
    missing = sorted(set(layouts) - set(convolutions) - set(products))
    if missing:
        found = sorted({*convolutions, *products})
        raise ExportError(
            f"the exported graph has no plain convolution or linear layer with the weight "
            f"{missing[0]!r} (found: {', '.join(found) or 'none'}); keep that layer dense in the "
            "plan"
        )
    lowered = [
        _lower_node(model.graph, node, layouts[name], label)
        for name, sharing in convolutions.items()
        if name in layouts
        for node, label in _labelled(name, sharing)
    ]
    lowered += [
        _lower_product(model.graph, node, layouts[name], label)
        for name, sharing in products.items()
        for node, label in _labelled(name, sharing)
    ]
    if products:
        cancel_transposes(model.graph)
        passes.RemoveUnusedNodesPass()(model)
    return tuple(layer for layer in lowered if layer is not None)


def _labelled(name: str, sharing: Sequence[_Node]) -> Iterator[tuple[_Node, str]]:
    """The uses of one weight, and what is added to the graph for each is named after."""
    for use, node in enumerate(sharing):
        yield node, f"{name}.use{use}" if use else name


def _products_by_weight(model: ir.Model, names: Collection[str]) -> dict[str, list[WeightNode]]:
    """The linear layers with these weights; several may share one."""
    if not names:
        return {}
    if any(value.shape is None for node in model.graph for value in node.inputs if value):
        passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    found: dict[str, list[WeightNode]] = {}
    for layer in find_weight_nodes(model.graph, _shapes(model.graph)):
        if layer.kind == "linear" and layer.name in names:
            found.setdefault(layer.name, []).append(layer)
    return found


def _shapes(graph: ir.Graph) -> dict[str, tuple[int, ...]]:
    """The shape of every value whose rank is known, open dimensions as one."""
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    return {
        str(value.name): tuple(size if isinstance(size, int) else 1 for size in value.shape)
        for value in values
        if value.shape is not None
    }


def _lower_product(
    graph: ir.Graph, layer: WeightNode, layout: Layout, label: str
) -> LoweredLayer | None:
    width = padded_width(layer.weight, layout.tile_outputs, STEP)
    num_outputs, num_inputs = layer.weight.shape
    if width >= num_inputs:
        return None
    emit(graph, layer, Form(group_size=layout.tile_outputs), label)
    num_groups = math.ceil(num_outputs / layout.tile_outputs)
    return LoweredLayer(layer.name, num_groups, width, num_inputs)


def _convolutions_by_weight(graph: ir.Graph) -> dict[str, list[ir.Node]]:
    """The plain convolutions with a constant weight; several may share one."""
    found: dict[str, list[ir.Node]] = {}
    for node in graph:
        if node.op_type != "Conv" or node.domain != "":
            continue
        weight = node.inputs[1]
        groups = node.attributes.get_int("group", 1)
        if groups == 1 and weight is not None and _is_constant(weight):
            found.setdefault(str(weight.name), []).append(node)
    return found


def _is_constant(value: ir.Value) -> bool:
    return value.is_initializer() and not value.is_graph_input()


def _lower_node(graph: ir.Graph, node: ir.Node, layout: Layout, label: str) -> LoweredLayer | None:
    """Lower one convolution; what is added to the graph is named after ``label``."""
    weight, source = node.inputs[1], node.inputs[0]
    assert weight is not None
    assert weight.const_value is not None
    assert source is not None
    name = str(weight.name)
    dense = weight.const_value.numpy()
    packed = pack_convolution(dense, layout.tile_outputs, max(1, layout.balanced_step))
    if packed.num_inputs_per_group == dense.shape[1]:
        return None
    gather = ir.node(
        "Gather",
        [source, _constant(graph, packed.inputs, f"{label}.inputs")],
        {"axis": 1},
        name=f"{label}.gather",
    )
    graph.insert_before(node, gather)
    node.replace_input_with(0, gather.outputs[0])
    node.replace_input_with(1, _constant(graph, packed.weight, f"{label}.packed"))
    node.attributes["group"] = ir.AttrInt64("group", packed.num_groups)
    if packed.has_padded_outputs:
        _cut_padded_outputs(graph, node, packed, label)
    if not weight.uses() and not weight.is_graph_output():
        graph.initializers.pop(name)
    return LoweredLayer(name, packed.num_groups, packed.num_inputs_per_group, dense.shape[1])


def _cut_padded_outputs(
    graph: ir.Graph, node: ir.Node, packed: PackedConvolution, name: str
) -> None:
    """Fill the bias of the last group with zeros and slice the added outputs off again."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        if not _is_constant(bias) or bias.const_value is None:
            raise ExportError(f"the bias of layer {name!r} is not constant; keep it dense")
        values = bias.const_value.numpy()
        filled = np.zeros(packed.weight.shape[0], values.dtype)
        filled[: packed.num_outputs] = values
        node.replace_input_with(2, _constant(graph, filled, f"{name}.bias"))
        if not bias.uses() and not bias.is_graph_output():
            graph.initializers.pop(str(bias.name))
    output = node.outputs[0]
    bounds = [
        _constant(graph, np.array([figure], np.int64), f"{name}.slice_{part}")
        for part, figure in (("start", 0), ("end", packed.num_outputs), ("axis", 1))
    ]
    cut = ir.node("Slice", [output, *bounds], name=f"{name}.slice")
    cut.outputs[0].type, cut.outputs[0].shape = output.type, output.shape
    output.replace_all_uses_with(cut.outputs[0], replace_graph_outputs=True)
    cut.replace_input_with(0, output)
    # The graph's value keeps the outer name, since a user may read a graph output by it.
    output.name, cut.outputs[0].name = f"{name}.padded", output.name
    output.shape = None
    graph.insert_after(node, cut)


def _constant(graph: ir.Graph, array: np.ndarray, name: str) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape = ir.Shape(array.shape)
    value.dtype = ir.tensor(array).dtype
    graph.register_initializer(value)
    return value
