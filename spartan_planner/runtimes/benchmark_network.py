"""Networks to time: every layer of a workload in one graph, side by side.

One run of the graph touches every weight once, as a run of the real model does, so that caches are
as warm or as cold as they will be.  A layer sits behind a one-by-one pooling, which leaves it in
the memory layout that the runtime gives it inside a network; what the runtime adds between the
pooling and the layer (reordering, gathering) is part of the layer's time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from cost_models import CostModelError, LayerShape, Layout
from spartan_planner.lowering import lower_graph
from spartan_planner.runtimes.protocol import LayerSet

OPSET = 20
IR_VERSION = 10
FEEDER_OP = "MaxPool"


@dataclass(frozen=True)
class BenchmarkNetwork:
    """A serialized network and the names by which its layers are found in it.

    Attributes:
        model: serialized ONNX model.
        outputs: for each layer, in order, the name of the graph output that it writes.
    """

    model: bytes
    outputs: tuple[str, ...]


def network_of(layers: LayerSet) -> BenchmarkNetwork:
    """Build the network of a set of layers.

    Raises:
        CostModelError: a layer of an element type that is not measured.
    """
    if layers.layout is None:
        return dense_network(layers.shapes)
    return lowered_network(layers.shapes, layers.layout, layers.num_kept_blocks)


def dense_network(shapes: Sequence[LayerShape], seed: int = 0) -> BenchmarkNetwork:
    """Build the network of these layers, dense.

    Raises:
        CostModelError: a layer of an element type that is not measured.
    """
    return _serialize(_network(shapes, np.random.default_rng(seed)), len(shapes))


def lowered_network(
    shapes: Sequence[LayerShape], layout: Layout, num_kept_blocks: Sequence[int], seed: int = 0
) -> BenchmarkNetwork:
    """Build the network of these layers, each lowered with so many random blocks kept.

    The lowering is the one that export uses.

    Raises:
        CostModelError: a layer of an element type that is not measured.
    """
    generator = np.random.default_rng(seed)
    model = _network(shapes, generator)
    graph = ir.from_proto(model)
    for index, kept in enumerate(num_kept_blocks):
        value = graph.graph.initializers[_weight(index)]
        assert value.const_value is not None
        mask = random_mask(shapes[index], layout, kept, generator)
        masked = value.const_value.numpy() * (mask.T if _is_product(shapes[index]) else mask)
        value.const_value = ir.tensor(masked.astype(np.float32), name=value.name)
    lower_graph(graph, {_weight(index): layout for index in range(len(shapes))})
    return _serialize(ir.to_proto(graph), len(shapes))


def random_mask(
    shape: LayerShape, layout: Layout, num_kept_blocks: int, generator: np.random.Generator
) -> np.ndarray:
    """Return a 0/1 mask of a weight in a balanced layout, so many random blocks kept."""
    outputs, inputs, *kernel = shape.weight_shape
    num_kept_inputs = min(inputs, num_kept_blocks * layout.balanced_step)
    mask = np.zeros((outputs, inputs), np.float32)
    for start in range(0, outputs, layout.tile_outputs):
        chosen = generator.permutation(inputs)[:num_kept_inputs]
        mask[start : start + layout.tile_outputs, chosen] = 1
    return mask.reshape(outputs, inputs, *[1] * len(kernel))


def _weight(index: int) -> str:
    return f"layer{index}.weight"


def _serialize(model: ModelProto, num_layers: int) -> BenchmarkNetwork:
    outputs = tuple(f"layer{index}.output" for index in range(num_layers))
    return BenchmarkNetwork(model.SerializeToString(), outputs)


def _network(shapes: Sequence[LayerShape], generator: np.random.Generator) -> ModelProto:
    nodes, inputs, outputs, constants = [], [], [], []
    for index, shape in enumerate(shapes):
        if shape.dtype != "float32":
            raise CostModelError(
                f"layer shape {shape.label()} has weights of type {shape.dtype}; "
                "only float32 is measured"
            )
        layer = _layer(f"layer{index}", shape, generator)
        nodes += layer.nodes
        constants += layer.constants
        kind = TensorProto.INT64 if shape.op == "embedding" else TensorProto.FLOAT
        inputs.append(helper.make_tensor_value_info(f"layer{index}.input", kind, shape.input_shape))
        outputs.append(
            helper.make_tensor_value_info(f"layer{index}.output", TensorProto.FLOAT, None)
        )
    graph = helper.make_graph(nodes, "benchmark", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


@dataclass(frozen=True)
class _Layer:
    nodes: list[NodeProto]
    constants: list[TensorProto]


def _layer(name: str, shape: LayerShape, generator: np.random.Generator) -> _Layer:
    weight_shape = shape.weight_shape
    scale = 1 / math.sqrt(math.prod(weight_shape[1:]))
    weight = generator.standard_normal(weight_shape, np.float32) * np.float32(scale)
    if shape.op == "embedding":
        operands = [f"{name}.weight", f"{name}.input"]
        node = helper.make_node("Gather", operands, [f"{name}.output"], name=name)
        return _Layer([node], [numpy_helper.from_array(weight, f"{name}.weight")])
    if shape.op == "linear":
        return _linear(name, shape, weight)
    return _convolution(name, shape, weight)


def _linear(name: str, shape: LayerShape, weight: np.ndarray) -> _Layer:
    names = [f"{name}.input", f"{name}.weight"]
    bias = np.zeros(shape.weight_shape[0], np.float32)
    constants = [numpy_helper.from_array(bias, f"{name}.bias")] if shape.has_bias else []
    if not _is_product(shape):
        constants.append(numpy_helper.from_array(weight, f"{name}.weight"))
        operands = [*names, f"{name}.bias"] if shape.has_bias else names
        node = helper.make_node("Gemm", operands, [f"{name}.output"], transB=1, name=name)
        return _Layer([node], constants)
    constants.append(numpy_helper.from_array(np.ascontiguousarray(weight.T), f"{name}.weight"))
    product = f"{name}.product" if shape.has_bias else f"{name}.output"
    nodes = [helper.make_node("MatMul", names, [product], name=name)]
    if shape.has_bias:
        operands = [product, f"{name}.bias"]
        nodes.append(helper.make_node("Add", operands, [f"{name}.output"], name=f"{name}.add"))
    return _Layer(nodes, constants)


def _is_product(shape: LayerShape) -> bool:
    """Whether a layer is a ``MatMul``, whose weight is stored ``[in, out]``."""
    return shape.op == "linear" and len(shape.input_shape) != 2


def _convolution(name: str, shape: LayerShape, weight: np.ndarray) -> _Layer:
    transposed = shape.op.startswith("conv_transpose")
    kernel = shape.weight_shape[2:]
    num_outputs = shape.weight_shape[1] * shape.groups if transposed else shape.weight_shape[0]
    constants = [numpy_helper.from_array(weight, f"{name}.weight")]
    operands = [f"{name}.fed", f"{name}.weight"]
    if shape.has_bias:
        constants.append(numpy_helper.from_array(np.zeros(num_outputs, np.float32), f"{name}.bias"))
        operands.append(f"{name}.bias")
    feeder = helper.make_node(
        FEEDER_OP, [f"{name}.input"], [f"{name}.fed"], kernel_shape=[1] * len(kernel)
    )
    node = helper.make_node(
        "ConvTranspose" if transposed else "Conv",
        operands,
        [f"{name}.output"],
        name=name,
        group=shape.groups,
        kernel_shape=kernel,
        strides=shape.stride or [1] * len(kernel),
        pads=[*shape.padding, *shape.padding] or [0] * 2 * len(kernel),
        dilations=shape.dilation or [1] * len(kernel),
    )
    return _Layer([feeder, node], constants)
