"""A layer written in one of its forms, in place of the node that it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from spartan_planner.lowering.constants import Array, add_constant
from spartan_planner.lowering.convolution import PackedConvolution, pack_convolution
from spartan_planner.lowering.forms import STEP, Form, needs_transposes
from spartan_planner.lowering.linear import PackedLinear, pack_linear
from spartan_planner.lowering.structure import Indices, zero_structure
from spartan_planner.lowering.weight_nodes import WeightNode


@dataclass
class _Writer:
    """Adds nodes one after the other behind a given place, and constants, named after a layer."""

    graph: ir.Graph
    place: ir.Node
    label: str

    def constant(self, array: Array, part: str) -> ir.Value:
        return add_constant(self.graph, array, f"{self.label}.{part}")

    def ints(self, figures: Sequence[int], part: str) -> ir.Value:
        return self.constant(np.array(figures, np.int64), part)

    def add(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        part: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        node = ir.node(op, inputs, attributes or {}, name=f"{self.label}.{part}")
        self.graph.insert_after(self.place, node)
        self.place = node
        output = node.outputs[0]
        output.name = f"{self.label}.{part}.output"
        return output


def emit(graph: ir.Graph, layer: WeightNode, form: Form, label: str) -> None:
    """Replace a layer by one of its forms; names of graph outputs stay.

    Args:
        graph: that holds the layer.
        layer: the layer.
        form: any but the dense one.
        label: by which added nodes and constants are named; unique in the graph.
    """
    writer = _Writer(graph, layer.last_node, label)
    alive = zero_structure(layer.weight)
    weight, bias = layer.weight, layer.bias
    if form.drops_outputs:
        weight = weight[alive.outputs]
        bias = bias[alive.outputs] if bias is not None else None
    # Not the layer's own word: the node before may have been replaced since it was read.
    source = layer.node.inputs[0]
    assert source is not None
    if form.drops_inputs:
        axis = layer.channel_axis % len(layer.source_shape)
        source = writer.add(
            "Gather", [source, writer.constant(alive.inputs, "inputs")], "gather", {"axis": axis}
        )
        weight = weight[:, alive.inputs]
    write = _write_convolution if layer.kind == "conv" else _write_linear
    result = write(writer, layer, source, weight, bias, form.group_size)
    if form.drops_outputs:
        result = _fill_in(writer, layer, result, alive.outputs)
    _take_over(graph, layer, result)


def _write_convolution(
    writer: _Writer,
    layer: WeightNode,
    source: ir.Value,
    weight: Array,
    bias: Array | None,
    group_size: int,
) -> ir.Value:
    attributes = {name: item for name, item in layer.node.attributes.items() if name != "group"}
    num_groups, num_outputs = 1, len(weight)
    if group_size:
        packed: PackedConvolution = pack_convolution(weight, group_size, STEP)
        source = writer.add(
            "Gather", [source, writer.constant(packed.inputs, "inputs")], "gather", {"axis": 1}
        )
        weight, num_groups = packed.weight, packed.num_groups
        bias = _filled(bias, len(weight)) if bias is not None else None
    operands = [source, writer.constant(np.ascontiguousarray(weight), "packed")]
    if bias is not None:
        operands.append(writer.constant(bias, "bias"))
    result = writer.add("Conv", operands, "conv", {**attributes, "group": num_groups})
    return _cut(writer, result, len(weight), num_outputs, 1)


def _write_linear(
    writer: _Writer,
    layer: WeightNode,
    source: ir.Value,
    weight: Array,
    bias: Array | None,
    group_size: int,
) -> ir.Value:
    if not group_size:
        factor = writer.constant(np.ascontiguousarray(weight.T), "packed")
        if len(layer.source_shape) == 2 and bias is not None:
            return writer.add("Gemm", [source, factor, writer.constant(bias, "bias")], "gemm")
        result = writer.add("MatMul", [source, factor], "product")
        return _add_bias(writer, result, bias)
    packed = pack_linear(weight, group_size, STEP)
    if needs_transposes(layer):
        return _write_features_major(writer, layer, source, packed, bias)
    return _write_rows(writer, layer, source, packed, bias)


def _write_features_major(
    writer: _Writer, layer: WeightNode, source: ir.Value, packed: PackedLinear, bias: Array | None
) -> ir.Value:
    """Features in the place of channels: the groups are those of a convolution over the rows."""
    rank = len(layer.source_shape)
    turn = _features_second(layer.source_shape)
    if rank == 2:
        source = writer.add("Unsqueeze", [source, writer.ints([0], "first")], "unsqueeze")
    turned = writer.add("Transpose", [source], "transpose_in", {"perm": turn})
    indices = writer.constant(packed.inputs.reshape(-1), "inputs")
    gathered = writer.add("Gather", [turned, indices], "gather", {"axis": 1})
    num_filled = packed.num_groups * packed.group_size
    operands = [
        gathered,
        writer.constant(
            packed.weight.reshape(num_filled, packed.width, *[1] * (len(turn) - 2)), "packed"
        ),
    ]
    if bias is not None:
        operands.append(writer.constant(_filled(bias, num_filled), "bias"))
    result = writer.add("Conv", operands, "product", {"group": packed.num_groups})
    result = _cut(writer, result, num_filled, packed.num_outputs, 1)
    back = np.argsort(turn).tolist()
    result = writer.add("Transpose", [result], "transpose_out", {"perm": back})
    if rank == 2:
        result = writer.add("Squeeze", [result, writer.ints([0], "axes")], "squeeze")
    return result


def _features_second(shape: Sequence[int]) -> list[int]:
    """The order of axes in which features stand behind samples and in front of rows."""
    rank = len(shape)
    if rank > 3:
        return [0, rank - 1, *range(1, rank - 1)]
    # Rows stand in the longer of the two first axes, samples in the other.
    rows = int(np.argmax(shape[:2])) if rank == 3 else 1
    return [1 - rows, 2, rows]


def _write_rows(
    writer: _Writer, layer: WeightNode, source: ir.Value, packed: PackedLinear, bias: Array | None
) -> ir.Value:
    """Few rows: ``[..., 1, width]`` of each group times ``[width, group_size]``."""
    rank = len(layer.source_shape)
    indices = writer.constant(packed.inputs[:, None, :], "inputs")
    gathered = writer.add("Gather", [source, indices], "gather", {"axis": rank - 1})
    factor = writer.constant(np.ascontiguousarray(packed.weight.transpose(0, 2, 1)), "packed")
    product = writer.add("MatMul", [gathered, factor], "product")
    num_filled = packed.num_groups * packed.group_size
    target = writer.ints([*[0] * (rank - 1), num_filled], "shape")
    result = writer.add("Reshape", [product, target], "joined")
    result = _cut(writer, result, num_filled, packed.num_outputs, rank - 1)
    return _add_bias(writer, result, bias)


def _add_bias(writer: _Writer, value: ir.Value, bias: Array | None) -> ir.Value:
    if bias is None:
        return value
    return writer.add("Add", [value, writer.constant(bias, "bias")], "biased")


def _filled(bias: Array, length: int) -> Array:
    return np.concatenate([bias, np.zeros(length - len(bias), bias.dtype)])


def _cut(writer: _Writer, value: ir.Value, size: int, wanted: int, axis: int) -> ir.Value:
    """Slice off what was added to fill the last group."""
    if size == wanted:
        return value
    bounds = [writer.ints([0], "start"), writer.ints([wanted], "end"), writer.ints([axis], "axis")]
    return writer.add("Slice", [value, *bounds], "slice")


def _fill_in(writer: _Writer, layer: WeightNode, value: ir.Value, alive: Indices) -> ir.Value:
    """Put computed outputs back to their places, between those that are constant."""
    num_outputs = len(layer.weight)
    rank, axis = len(layer.source_shape), layer.channel_axis % len(layer.source_shape)
    bias = layer.bias if layer.bias is not None else np.zeros(num_outputs, layer.weight.dtype)
    dead = np.setdiff1d(np.arange(num_outputs), alive)
    # One channel of each figure is added behind, and read wherever that figure stands.
    figures, which = np.unique(bias[dead], return_inverse=True)
    places = np.empty(num_outputs, np.int64)
    places[alive] = np.arange(len(alive))
    places[dead] = len(alive) + which
    for count, figure in enumerate(figures):
        pads = np.zeros((2, rank), np.int64)
        pads[1, axis] = 1
        operands = [
            value,
            writer.constant(pads.reshape(-1), f"pads{count}"),
            writer.constant(np.array(figure, layer.weight.dtype), f"constant{count}"),
        ]
        value = writer.add("Pad", operands, f"pad{count}")
    indices = writer.constant(places, "places")
    return writer.add("Gather", [value, indices], "filled", {"axis": axis})


def _take_over(graph: ir.Graph, layer: WeightNode, result: ir.Value) -> None:
    """Let all readers of the layer's output read the result; a graph output keeps its name."""
    output = layer.output
    result.type, result.shape = output.type, output.shape
    name = str(output.name)
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    output.name, result.name = f"{name}.before", name
    for node in dict.fromkeys((layer.last_node, layer.node)):
        graph.remove(node, safe=True)
