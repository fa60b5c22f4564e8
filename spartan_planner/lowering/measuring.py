"""Times of the forms of one layer on this device, measured beside each other."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from spartan_planner.lowering.emitting import emit
from spartan_planner.lowering.forms import Form
from spartan_planner.lowering.weight_nodes import WeightNode, find_weight_nodes
from spartan_planner.onnx_sessions import Session, open_session, session_options

NUM_ROUNDS = 7
_IR_VERSION = 10
_OPSET = 20


class Stopwatch:
    """Measures forms in turn, so that what disturbs the device disturbs all of them alike."""

    def __init__(self, num_threads: int = 1) -> None:
        self._options = session_options(num_threads)
        self._known: dict[tuple[object, ...], tuple[float, ...]] = {}

    def __call__(self, layer: WeightNode, forms: Sequence[Form]) -> tuple[float, ...]:
        """Return the least time in ms of each form; equal layers are measured once.

        Raises:
            ModelError: the runtime cannot run one of them.
        """
        # Which weights are zero decides the widths, and those are in the forms' constants.
        key = (layer.source_shape, layer.weight.shape, tuple(forms), _pattern(layer))
        if key not in self._known:
            sessions = [self._session(layer, form) for form in forms]
            rounds = [[item.burst_ms() for item in sessions] for _ in range(NUM_ROUNDS)]
            self._known[key] = tuple(np.min(rounds, axis=0).tolist())
        return self._known[key]

    def _session(self, layer: WeightNode, form: Form) -> Session:
        content = ir.to_proto(single_layer(layer, form)).SerializeToString()
        return open_session(content, options=self._options)


def _pattern(layer: WeightNode) -> bytes:
    used = layer.weight.reshape(*layer.weight.shape[:2], -1).any(axis=2)
    return np.packbits(used).tobytes()


def single_layer(layer: WeightNode, form: Form) -> ir.Model:
    """Return a model of one layer in one form, fed as inside a network.

    A convolution stands behind a one-by-one pooling, which leaves its input in the memory layout
    that the runtime gives it between layers.
    """
    kind = ir.DataType.from_numpy(layer.weight.dtype)
    source = ir.Value(name="x", shape=ir.Shape(layer.source_shape), type=ir.TensorType(kind))
    nodes, fed = [], source
    if layer.kind == "conv":
        ones = [1] * (layer.weight.ndim - 2)
        nodes.append(ir.node("MaxPool", [source], {"kernel_shape": ones}, name="feeder"))
        fed = nodes[0].outputs[0]
        fed.name, fed.shape, fed.type = "fed", source.shape, source.type
    constants: list[ir.Value] = []
    nodes += _dense(layer, fed, constants)
    output = nodes[-1].outputs[0]
    output.name, output.type = "y", ir.TensorType(kind)
    graph = ir.Graph(
        [source], [output], nodes=nodes, initializers=constants, opset_imports={"": _OPSET}
    )
    if not form.is_dense:
        shapes = {"x": layer.source_shape, "fed": layer.source_shape}
        (found,) = find_weight_nodes(graph, shapes)
        emit(graph, found, form, "layer")
    return ir.Model(graph, ir_version=_IR_VERSION)


def _dense(layer: WeightNode, source: ir.Value, constants: list[ir.Value]) -> list[ir.Node]:
    def constant(array: np.ndarray, name: str) -> ir.Value:
        value = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(array), name=name))
        constants.append(value)
        return value

    bias = [constant(layer.bias, "bias")] if layer.bias is not None else []
    if layer.kind == "conv":
        operands = [source, constant(layer.weight, "weight"), *bias]
        return [ir.node("Conv", operands, dict(layer.node.attributes), name="layer")]
    operands = [source, constant(layer.weight.T, "weight")]
    if len(layer.source_shape) == 2 and bias:
        return [ir.node("Gemm", [*operands, *bias], name="layer")]
    product = ir.node("MatMul", operands, name="layer")
    product.outputs[0].name = "product"
    return [product] + [ir.node("Add", [product.outputs[0], *bias], name="biased")] * bool(bias)
