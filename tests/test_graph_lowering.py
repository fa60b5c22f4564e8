"""Lowered graphs: the runtime computes what an independent evaluator says of the dense graph."""

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from builders import conv_node, onnx_model
from onnx import helper
from onnx.reference import ReferenceEvaluator

from cost_models import Layout
from spartan_planner.errors import ExportError
from spartan_planner.lowering import LoweredLayer, lower_graph

FLOAT32_ROUNDING = 2e-5
"""Absolute, for sums of at most 600 float32 products of figures near 1, in another order."""


@dataclass(frozen=True)
class Case:
    """One convolution: its weight, what it reads and its attributes."""

    weight_shape: tuple[int, ...]
    tile: str
    place: tuple[int, ...] = (6, 7)
    bias: bool = False
    density: float = 0.3
    attributes: dict[str, object] = field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (2, self.weight_shape[1], *self.place)


CASES = {
    "plain": Case((8, 16, 3, 3), "tile:4x1"),
    "bias": Case((8, 16, 3, 3), "tile:4x1", bias=True),
    "balanced": Case((64, 64, 3, 3), "tile:32x1@16"),
    "ragged outputs": Case((10, 16, 3, 3), "tile:4x1"),
    "ragged outputs and bias": Case((10, 16, 3, 3), "tile:4x1", bias=True),
    "fewer outputs than a tile": Case((3, 16, 3, 3), "tile:8x1", bias=True),
    "single elements": Case((6, 12, 3, 3), "element"),
    "one by one": Case((8, 16, 1, 1), "tile:4x1", bias=True),
    "strides": Case((8, 16, 3, 3), "tile:4x1", attributes={"strides": [2, 1]}),
    "padding": Case((8, 16, 3, 3), "tile:4x1", attributes={"pads": [1, 2, 1, 0]}),
    "dilation": Case((8, 16, 3, 3), "tile:4x1", attributes={"dilations": [2, 2]}),
    "automatic padding": Case((9, 16, 3, 3), "tile:4x1", attributes={"auto_pad": "SAME_UPPER"}),
    "written kernel shape": Case((8, 16, 3, 2), "tile:4x1", attributes={"kernel_shape": [3, 2]}),
    "one dimension": Case((10, 16, 5), "tile:4x1", (9,), bias=True),
    "three dimensions": Case((8, 16, 2, 2, 2), "tile:4x1", (3, 3, 3)),
    "nothing kept": Case((10, 16, 3, 3), "tile:4x1", bias=True, density=0.0),
}


def masked(shape, tile, density, seed=0) -> np.ndarray:
    random = np.random.default_rng(seed)
    weight = random.standard_normal(shape, np.float32)
    for start in range(0, shape[0], tile):
        weight[start : start + tile, random.random(shape[1]) >= density] = 0
    return weight


def model_of(case: Case, seed=0) -> onnx.ModelProto:
    layout = Layout.parse(case.tile)
    constants = {"w": masked(case.weight_shape, layout.tile_outputs, case.density, seed)}
    if case.bias:
        constants["b"] = np.linspace(-1, 1, case.weight_shape[0], dtype=np.float32)
    node = conv_node(bias="b" if case.bias else None, **case.attributes)
    return onnx_model([node], constants, {"x": case.input_shape}, ["y"])


def lowered_from(model: onnx.ModelProto, **tiles: str):
    graph = ir.from_proto(model)
    layers = lower_graph(graph, {name: Layout.parse(tile) for name, tile in tiles.items()})
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    return after, layers


def inputs_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    shapes = {
        item.name: [dim.dim_value for dim in item.type.tensor_type.shape.dim]
        for item in model.graph.input
    }
    return {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def require_equal(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """The runtime's outputs of ``after`` are the reference evaluator's of ``before``."""
    inputs = inputs_of(before)
    names = [item.name for item in before.graph.output]
    session = onnxruntime.InferenceSession(
        after.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert [item.name for item in session.get_outputs()] == names
    expected = ReferenceEvaluator(before).run(names, inputs)
    for seen, wanted in zip(session.run(names, inputs), expected, strict=True):
        np.testing.assert_allclose(seen, wanted, rtol=0, atol=FLOAT32_ROUNDING)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_outputs_stay_the_same(case):
    model = model_of(case)
    after, (layer,) = lowered_from(model, w=case.tile)
    require_equal(model, after)
    outputs, inputs = case.weight_shape[:2]
    assert layer.num_groups == -(-outputs // Layout.parse(case.tile).tile_outputs)
    assert layer.num_inputs_per_group < layer.num_inputs == inputs
    assert "w" not in {item.name for item in after.graph.initializer}


@pytest.mark.parametrize("seed", range(8))
def test_outputs_stay_the_same_on_random_masks(seed):
    random = np.random.default_rng(seed)
    shape = (int(random.integers(2, 40)), int(random.integers(8, 40)), 3, 3)
    tile, density = int(random.integers(1, 12)), random.uniform(0, 0.6)
    case = Case(shape, f"tile:{tile}x1", bias=bool(seed % 2), density=density)
    model = model_of(case, seed)
    require_equal(model, lowered_from(model, w=case.tile)[0])


def test_weights_really_shrink():
    case = CASES["balanced"]
    model = model_of(case)
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    after, (layer,) = lowered_from(model, w=case.tile)
    packed = next(i for i in after.graph.initializer if i.name == "w.packed")
    groups = weight.reshape(2, 32, 64, 9)
    longest = (groups != 0).any(axis=(1, 3)).sum(axis=1).max()
    assert layer.num_inputs_per_group == -(-longest // 16) * 16
    assert tuple(packed.dims) == (64, layer.num_inputs_per_group, 3, 3)


def test_convolution_that_needs_all_inputs_is_left_alone():
    model = model_of(Case((8, 16, 3, 3), "tile:4x1", density=1.0))
    after, layers = lowered_from(model, w="tile:4x1")
    assert layers == ()
    assert [node.op_type for node in after.graph.node] == ["Conv"]


def test_only_named_layers_are_lowered_in_graph_order():
    weights = {name: masked((8, 8, 1, 1), 4, 0.5, i) for i, name in enumerate("abc")}
    nodes = [
        conv_node("a", "x", "h1"),
        helper.make_node("Relu", ["h1"], ["h2"]),
        conv_node("b", "h2", "h3"),
        conv_node("c", "h3", "y"),
    ]
    model = onnx_model(nodes, weights, {"x": (1, 8, 3, 3)}, ["y"])
    after, layers = lowered_from(model, c="tile:4x1", a="tile:4x1")
    assert [layer.name for layer in layers] == ["a", "c"]
    assert sum(node.op_type == "Gather" for node in after.graph.node) == 2
    require_equal(model, after)


def test_padded_output_that_others_read_and_that_leaves_the_graph():
    weights = {"a": masked((6, 8, 3, 3), 4, 0.4), "b": masked((4, 6, 1, 1), 4, 0.5, 1)}
    nodes = [conv_node("a", "x", "h"), conv_node("b", "h", "y")]
    nodes.append(helper.make_node("Neg", ["h"], ["z"]))
    model = onnx_model(nodes, weights, {"x": (1, 8, 5, 5)}, ["h", "y", "z"])
    after, _ = lowered_from(model, a="tile:4x1", b="tile:4x1")
    require_equal(model, after)


def test_weight_shared_by_two_convolutions_is_lowered_in_both():
    weights = {"w": masked((6, 8, 1, 1), 4, 0.4), "b": np.arange(6, dtype=np.float32)}
    nodes = [conv_node("w", "x", "y", "b"), conv_node("w", "z", "v")]
    model = onnx_model(nodes, weights, {"x": (1, 8, 4, 4), "z": (1, 8, 2, 2)}, ["y", "v"])
    after, layers = lowered_from(model, w="tile:4x1")
    assert layers == (LoweredLayer("w", 2, layers[0].num_inputs_per_group, 8),) * 2
    assert "w" not in {item.name for item in after.graph.initializer}
    require_equal(model, after)


def test_shared_bias_survives_for_the_other_reader():
    weights = {"w": masked((6, 8, 1, 1), 4, 0.4), "b": np.arange(6, dtype=np.float32)}
    nodes = [conv_node("w", "x", "h", "b"), helper.make_node("Add", ["h", "c"], ["y"])]
    nodes.insert(0, helper.make_node("Reshape", ["b", "shape"], ["c"]))
    constants = {**weights, "shape": np.array([1, 6, 1, 1])}
    model = onnx_model(nodes, constants, {"x": (1, 8, 4, 4)}, ["y"])
    require_equal(model, lowered_from(model, w="tile:4x1")[0])


def grouped_model() -> onnx.ModelProto:
    constants = {"w": np.ones((4, 2, 1, 1), np.float32)}
    return onnx_model([conv_node(group=2)], constants, {"x": (1, 4, 3, 3)}, ["y"])


def fed_weight_model() -> onnx.ModelProto:
    return onnx_model([conv_node()], {}, {"x": (1, 4, 3, 3), "w": (4, 4, 1, 1)}, ["y"])


def overridable_weight_model() -> onnx.ModelProto:
    """The constant is only the default of a graph input: a user may feed another weight."""
    model = model_of(CASES["plain"])
    model.graph.input.append(
        helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, CASES["plain"].weight_shape)
    )
    return model


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (model_of(CASES["plain"]), "gone"),
        (grouped_model(), "w"),
        (fed_weight_model(), "w"),
        (overridable_weight_model(), "w"),
        (onnx_model([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": (1, 4)}, ["y"]), "w"),
    ],
    ids=["absent", "grouped", "fed", "overridable", "no convolution"],
)
def test_weight_that_no_plain_convolution_has_is_refused(model, name):
    with pytest.raises(
        ExportError, match=f"no plain convolution or linear layer with the weight '{name}'"
    ):
        lower_graph(ir.from_proto(model), {name: Layout.parse("tile:4x1")})


def test_bias_that_is_fed_cannot_be_padded():
    weights = {"w": masked((6, 8, 1, 1), 4, 0.4)}
    nodes = [conv_node("w", "x", "y", "b")]
    model = onnx_model(nodes, weights, {"x": (1, 8, 4, 4), "b": (6,)}, ["y"])
    with pytest.raises(ExportError, match="bias of layer 'w' is not constant"):
        lower_graph(ir.from_proto(model), {"w": Layout.parse("tile:4x1")})
