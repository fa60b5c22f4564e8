"""Other weights put into the nodes of a graph."""

import numpy as np
import onnx_ir as ir

from spartan_planner.lowering.constants import Array, add_constant, is_constant
from spartan_planner.lowering.weight_nodes import WeightNode


def set_weight(graph: ir.Graph, layer: WeightNode, weight: Array, bias: Array | None) -> None:
    """Give a layer another weight ``[out, in, *kernel]`` and bias ``[out]``, in place."""
    node = layer.node
    oriented = weight.T if node.op_type == "MatMul" else weight
    before = node.inputs[1]
    value = add_constant(graph, np.ascontiguousarray(oriented), f"{layer.name}.alive")
    node.replace_input_with(1, value)
    take_name(graph, before, value)
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


def take_name(graph: ir.Graph, before: ir.Value | None, value: ir.Value) -> None:
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
