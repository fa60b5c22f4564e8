"""Tensors of an ONNX graph, wherever they stand in it."""

import math
from collections.abc import Iterator

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

MAX_KEPT_ELEMENTS = 128
"""A tensor of real weights with more elements is left out.  Figures that decide what a graph
computes (bounds, factors, scales of a resize) are far smaller; biases are not, and those of a
ResNet-50 alone would double the text."""

_LEFT_OUT = frozenset(
    int(TensorProto.DataType.Value(name))
    for name in (
        *("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16"),
        *("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT4E2M1"),
        *("INT8", "UINT8", "INT4", "UINT4"),
    )
)
"""Element types of weights.  Wider integers hold shapes and indices, which must stay exact;
no operator takes a shape as 8-bit integers."""

_DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def num_elements(tensor: TensorProto) -> int:
    """Return the number of elements that the dimensions say."""
    return math.prod(tensor.dims)


def is_weight(tensor: TensorProto) -> bool:
    """Whether a skeleton leaves the data of this tensor out."""
    return tensor.data_type in _LEFT_OUT and num_elements(tensor) > MAX_KEPT_ELEMENTS


def is_hollow(tensor: TensorProto) -> bool:
    """Whether the data of this tensor were left out."""
    return is_weight(tensor) and not any(len(getattr(tensor, name)) for name in _DATA_FIELDS)


def empty(tensor: TensorProto) -> None:
    """Leave the data out; name, dimensions and type stay."""
    for name in (*_DATA_FIELDS, "external_data", "data_location"):
        tensor.ClearField(name)


def graphs_of(model: ModelProto) -> Iterator[GraphProto]:
    """Yield the graph and every graph inside a node."""
    yield model.graph
    for node in model.graph.node:
        yield from _graphs_in(node)
    for function in model.functions:
        for node in function.node:
            yield from _graphs_in(node)


def _graphs_in(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        for graph in _graphs_of_attribute(attribute):
            yield graph
            for inner in graph.node:
                yield from _graphs_in(inner)


def _graphs_of_attribute(attribute: AttributeProto) -> Iterator[GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def nodes_of(model: ModelProto) -> Iterator[NodeProto]:
    """Yield every node, those of inner graphs and functions included."""
    for graph in graphs_of(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def named_tensors(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Yield every initializer and constant with the name by which nodes read it."""
    for graph in graphs_of(model):
        for tensor in graph.initializer:
            yield tensor.name, tensor
    for node in nodes_of(model):
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield node.output[0], attribute.t


def every_tensor(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor, those in attributes and sparse ones included."""
    for graph in graphs_of(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in nodes_of(model):
        for attribute in node.attribute:
            yield from _tensors_of_attribute(attribute)


def _tensors_of_attribute(attribute: AttributeProto) -> Iterator[TensorProto]:
    # Touching a field that is not set would set it.
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("sparse_tensor"):
        yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
    for sparse in attribute.sparse_tensors:
        yield from (sparse.values, sparse.indices)


def is_external(tensor: TensorProto) -> bool:
    """Whether the data stand in another file."""
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    return external or len(tensor.external_data) > 0
