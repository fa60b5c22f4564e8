"""The workload of an ONNX file."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import onnx_ir as ir
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]
from onnx import ModelProto, NodeProto
from onnx.shape_inference import InferenceError

from cost_models import LayerWorkload, UnpricedOperation, Workload
from cost_models.workload import ActivationProduct, SlicedWeight
from spartan_planner.errors import ModelError
from spartan_planner.graph_skeleton import graph_text_of_proto
from spartan_planner.graph_skeleton.tensors import graphs_of, num_elements
from spartan_planner.onnx_workload.convolutions import read_convolution
from spartan_planner.onnx_workload.layer_names import layer_names
from spartan_planner.onnx_workload.products import (
    read_attention,
    read_einsum,
    read_gather,
    read_gemm,
    read_matmul,
)
from spartan_planner.onnx_workload.reading import read_hollow
from spartan_planner.onnx_workload.recurrent import read_recurrent
from spartan_planner.onnx_workload.shapes import Shape, input_shapes_of, value_shapes
from spartan_planner.onnx_workload.tracing import ShapedGraph
from spartan_planner.onnx_workload.uses import Product, Reading, WeightUse

_READERS: dict[str, Callable[[NodeProto, ShapedGraph], Reading]] = {
    "Conv": read_convolution,
    "ConvTranspose": read_convolution,
    "ConvInteger": partial(read_convolution, bias=-1),
    "QLinearConv": partial(read_convolution, source=0, kernel=3, bias=8),
    "MatMul": read_matmul,
    "MatMulInteger": read_matmul,
    "QLinearMatMul": partial(read_matmul, left=0, right=3),
    "Gemm": read_gemm,
    "Einsum": read_einsum,
    "Attention": read_attention,
    "Gather": read_gather,
    **dict.fromkeys(("RNN", "GRU", "LSTM"), read_recurrent),
}
"""How to read each operation that can consume a weight or multiply activations."""

_DATA_MOVEMENT = frozenset(
    {
        *("Cast", "CastLike", "Concat", "Constant", "ConstantOfShape", "Expand", "Flatten"),
        *("Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Tile"),
        *("Transpose", "Unsqueeze", "DepthToSpace", "SpaceToDepth", "Dropout"),
    }
)

_BROKEN = (
    *(ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError),
    *(EncodeError, InferenceError),
)
"""What the libraries raise over files that parse and make no sense: any field may hold anything."""


def workload_of_onnx(path: Path, input_shapes: Sequence[Sequence[int]] | None = None) -> Workload:
    """Describe what each weight of an ONNX file does in one run.

    Weights are found through the nodes that consume them, also behind nodes that reshape,
    transpose, slice, cast or dequantize them; a layer has its initializer's name, or the
    parameter's where an exporter replaced it (:func:`layer_names`).  The fingerprint is the SHA-256
    over the names and shapes of all initializers, in the order of the file.  ``num_parameters``
    counts the elements of all initializers of real numbers (scalars that the exporter wrote out
    included; batch normalizations that it folded into convolutions, and weights that it found equal
    and merged, not counted any more), and of quantized weights.

    Args:
        path: the file; weights in files beside it are not read.
        input_shapes: one per input, batch first; without them the shapes in the file, an open
            batch taken for one.

    Raises:
        ModelError: the file cannot be read or is not valid, the shapes do not fit, or no node
            consumes a weight.
    """
    model = read_hollow_checked(path)
    try:
        return _describe(model, path, input_shapes)
    except _BROKEN as error:
        raise _not_valid(path, error) from error


def weight_uses_of_onnx(
    path: Path, input_shapes: Sequence[Sequence[int]] | None = None
) -> tuple[WeightUse, ...]:
    """Return every node that consumes a weight, in order: which, and how the file stores it.

    ``layer`` is the name that the workload gives to the layer.

    Raises:
        ModelError: as :func:`workload_of_onnx`.
    """
    model = read_hollow_checked(path)
    try:
        graph = shaped_graph(model, input_shapes_of(model, input_shapes))
        readings = [item for node in graph.model.graph.node for item in read_node(node, graph)]
    except _BROKEN as error:
        raise _not_valid(path, error) from error
    return _named([item for item in readings if isinstance(item, WeightUse)], graph)


def _named(uses: Sequence[WeightUse], graph: ShapedGraph) -> tuple[WeightUse, ...]:
    names = layer_names(uses, graph)
    return tuple(replace(use, layer=names[use.weight.name]) for use in uses)


def read_hollow_checked(path: Path) -> ModelProto:
    """Read a file without its weights.

    Raises:
        ModelError: it is not an ONNX model, whatever made the reader stumble.
    """
    try:
        return read_hollow(path)
    except _BROKEN as error:
        raise _not_valid(path, error) from error


def _not_valid(path: Path, error: BaseException) -> ModelError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return ModelError(f"{path} is not a valid ONNX model ({reason}); export it again")


def shaped_graph(model: ModelProto, input_shapes: Sequence[Shape]) -> ShapedGraph:
    """Return the graph with the shape of every value.

    Raises:
        ModelError: a shape cannot be found.
    """
    batch_size = input_shapes[0][0] if input_shapes and input_shapes[0] else 1
    return ShapedGraph(model, value_shapes(model, input_shapes), batch_size)


def read_node(node: NodeProto, graph: ShapedGraph) -> Reading:
    """Return what a node does with weights and activations; nothing where it cannot be priced."""
    reader = _READERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if reader is None or set(node.output) <= graph.settled:
        return ()
    return reader(node, graph)


def _describe(model: ModelProto, path: Path, given: Sequence[Sequence[int]] | None) -> Workload:
    input_shapes = input_shapes_of(model, given)
    graph = shaped_graph(model, input_shapes)
    readings = [(node, read_node(node, graph)) for node in model.graph.node]
    found = [item for _, reading in readings for item in reading if isinstance(item, WeightUse)]
    uses: dict[str, list[WeightUse]] = {}
    for item in _named(found, graph):
        uses.setdefault(item.weight.name, []).append(item)
    if not uses:
        raise ModelError(f"{path} has no weight that a convolution or product consumes")
    names = {tensor.name for tensor in model.graph.initializer}
    fingerprint = _fingerprint(model)
    return Workload(
        schema_version=2,
        model=str(path),
        fingerprint=fingerprint,
        num_parameters=_num_parameters(model, set(uses)),
        layers=tuple(_layer(items, graph.batch_size) for items in uses.values()),
        unpriced=_unpriced(readings, graph),
        products=_products([item for _, reading in readings for item in reading], graph.batch_size),
        graph=graph_text_of_proto(
            model,
            input_shapes,
            {items[0].layer: name for name, items in uses.items() if name in names},
            fingerprint,
        ),
    )


def _fingerprint(model: ModelProto) -> str:
    lines = [
        f"{tensor.name} {tuple(tensor.dims)}"
        for graph in graphs_of(model)
        for tensor in graph.initializer
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _num_parameters(model: ModelProto, consumed: set[str]) -> int:
    return sum(
        num_elements(tensor)
        for graph in graphs_of(model)
        for tensor in graph.initializer
        if ir.DataType(tensor.data_type).is_floating_point() or tensor.name in consumed
    )


def _layer(uses: Sequence[WeightUse], batch_size: int) -> LayerWorkload:
    """One layer of all uses of a weight; a look-up beside products adds nothing to its cost."""
    weight = uses[0].weight
    products = [use for use in uses if use.shape.op != "embedding"]
    first = (products or uses)[0].shape
    rows = [use.num_rows * use.num_repeats * use.shape.num_weights for use in products or uses]
    positions = Fraction(sum(rows), batch_size * weight.num_elements)
    is_sliced = any(use.shape.num_weights != weight.num_elements for use in uses)
    is_even = positions.denominator == 1
    shapes = [use.shape for use in uses for _ in range(use.num_repeats)]
    reason = _not_prunable_because(uses, is_sliced, is_even)
    return LayerWorkload(
        name=uses[0].layer,
        shape=first,
        positions=max(1, math.ceil(positions)),
        num_uses=shapes.count(first),
        prunable=not reason,
        not_prunable_because=reason,
        further_shapes=tuple(shape for shape in shapes if shape != first),
        sliced=(
            SlicedWeight(weight.num_elements, round(positions * weight.num_elements))
            if is_sliced or not is_even
            else None
        ),
    )


def _not_prunable_because(uses: Sequence[WeightUse], is_sliced: bool, is_even: bool) -> str:
    if any(use.shape.op == "embedding" for use in uses):
        return "rows are looked up in it"
    reasons = [use.not_prunable_because for use in uses if use.not_prunable_because]
    if reasons:
        return reasons[0]
    if is_sliced:
        return "its nodes each consume a part of it"
    if not is_even:
        return "its work is not the same for each sample of the batch"
    return "it is quantized" if uses[0].weight.is_quantized else ""


def _products(readings: Sequence[object], batch_size: int) -> tuple[ActivationProduct, ...]:
    macs: dict[tuple[str, Shape, Shape], list[int]] = {}
    for item in readings:
        if isinstance(item, Product):
            key = (item.op, item.left_shape, item.right_shape)
            macs.setdefault(key, []).append(item.macs)
    return tuple(
        ActivationProduct(*key, len(calls), round(sum(calls) / batch_size))
        for key, calls in macs.items()
    )


def _unpriced(
    readings: Sequence[tuple[NodeProto, Reading]], graph: ShapedGraph
) -> tuple[UnpricedOperation, ...]:
    """All nodes that nothing describes, by operation; not those that only move or know sizes."""
    uses = [item for _, reading in readings for item in reading if isinstance(item, WeightUse)]
    covered = {name for use in uses for name in use.further_nodes}
    sizes: dict[str, list[int]] = {}
    for node, reading in readings:
        is_default = node.domain in ("", "ai.onnx")
        if reading or (node.name or node.output[0]) in covered:
            continue
        if (is_default and node.op_type in _DATA_MOVEMENT) or set(node.output) <= graph.settled:
            continue
        name = node.op_type if is_default else f"{node.domain}.{node.op_type}"
        sizes.setdefault(name, []).append(math.prod(graph.shapes[node.output[0]]))
    return tuple(
        UnpricedOperation(op, len(figures), sum(figures)) for op, figures in sorted(sizes.items())
    )
