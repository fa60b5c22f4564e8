"""Constant channels taken into the weights and biases of the layers that read them."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from spartan_planner.lowering.carriers import as_carrier
from spartan_planner.lowering.constant_channels import (
    ConstantChannels,
    carried,
    merged,
    silenced,
)
from spartan_planner.lowering.routes import Carrier
from spartan_planner.lowering.structure import zero_structure
from spartan_planner.lowering.weight_nodes import Shapes, WeightNode, as_weight_node
from spartan_planner.lowering.writing_weights import set_weight

Constant = dict[ir.Value, ConstantChannels]


def fold_constants(graph: ir.Graph, shapes: Shapes) -> int:
    """Take channels that never change into the layers that read them, in place.

    Nothing gets smaller by that: the channels have no reader then.

    Returns:
        How many layers took some in.
    """
    constant: Constant = {}
    num_folded = 0
    for node in list(graph):
        layer = as_weight_node(node, shapes)
        if layer is None:
            _carry(node, constant, shapes)
            continue
        source = constant.get(layer.source)
        if source is not None and source.axis == layer.channel_axis % len(layer.source_shape):
            num_folded += _fold(graph, layer, source)
            layer = as_weight_node(node, shapes) or layer
        found = _constant_outputs(layer)
        if found is not None:
            constant[layer.output] = found
    return num_folded


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


def _carry(node: ir.Node, constant: Constant, shapes: Shapes) -> None:
    # The addition of a bias is part of its layer, whose output is known already.
    if not node.inputs or not node.outputs or node.outputs[0] in constant:
        return
    carrier = _constant_carrier(node, constant, shapes)
    if carrier is not None:
        known = [_on_axis(constant, node.inputs[i], carrier.axis) for i in carrier.sources]
        results = carried(carrier, known)
        for outlet, result in zip(carrier.outlets, results, strict=True):
            if result is not None:
                constant[outlet.value] = result
    shape = shapes.get(str(node.inputs[0].name)) if node.inputs[0] is not None else None
    own = silenced(node, shape[1]) if shape is not None and len(shape) > 1 else None
    result = merged(constant.get(node.outputs[0]), own)
    if result is not None:
        constant[node.outputs[0]] = result


def _constant_carrier(
    node: ir.Node, constant: Mapping[ir.Value, ConstantChannels], shapes: Shapes
) -> Carrier | None:
    for index, value in enumerate(node.inputs):
        if value is not None and value in constant:
            carrier = as_carrier(node, index, constant[value].axis, shapes)
            if carrier is not None:
                return carrier
    return None


def _on_axis(constant: Constant, value: ir.Value | None, axis: int) -> ConstantChannels | None:
    found = constant.get(value) if value is not None else None
    return found if found is not None and found.axis == axis else None


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
