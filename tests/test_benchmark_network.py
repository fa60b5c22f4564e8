"""Networks to time: they compute what their layers say."""

import numpy as np
import onnx
import pytest
from builders import conv_shape, linear_shape
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from cost_models import CostModelError, LayerShape, Layout
from spartan_planner.onnx_sessions import open_session
from spartan_planner.runtimes.benchmark_network import dense_network, lowered_network

SHAPES = {
    "conv2d": conv_shape(8, 4, 3, 5),
    "conv2d, stride, bias": conv_shape(8, 4, 3, 5, stride=(2, 2), has_bias=True),
    "conv2d, depthwise": conv_shape(4, 1, 3, 5, groups=4, input_shape=(1, 4, 5, 5)),
    "conv2d, bare": LayerShape("conv2d", (8, 4, 3, 3), (1, 4, 5, 5)),
    "conv1d": LayerShape("conv1d", (8, 4, 3), (1, 4, 7), padding=(1,)),
    "conv3d": LayerShape("conv3d", (8, 4, 2, 2, 2), (1, 4, 3, 3, 3)),
    "conv_transpose2d": LayerShape("conv_transpose2d", (4, 3, 2, 2), (1, 4, 3, 3), 2, (2, 2)),
    "linear": linear_shape(3, 5),
    "linear on tokens": linear_shape(3, 5, (4,)),
    "linear without bias": LayerShape("linear", (3, 5), (1, 4, 5)),
    "embedding": LayerShape("embedding", (10, 4), (1, 3)),
}
OUTPUT_SHAPES = {
    "conv2d": (1, 8, 5, 5),
    "conv2d, stride, bias": (1, 8, 3, 3),
    "conv2d, depthwise": (1, 4, 5, 5),
    "conv2d, bare": (1, 8, 3, 3),
    "conv1d": (1, 8, 7),
    "conv3d": (1, 8, 2, 2, 2),
    "conv_transpose2d": (1, 6, 6, 6),
    "linear": (1, 3),
    "linear on tokens": (1, 4, 3),
    "linear without bias": (1, 4, 3),
    "embedding": (1, 3, 4),
}
TILE = Layout.parse("tile:32x1@16")


def constants_of(model: bytes) -> dict[str, np.ndarray]:
    graph = onnx.load_from_string(model).graph
    return {item.name: numpy_helper.to_array(item) for item in graph.initializer}


@pytest.mark.parametrize("name", SHAPES)
def test_layer_has_its_shape_and_the_output_that_follows(name):
    network = dense_network([SHAPES[name]])
    weight = constants_of(network.model)["layer0.weight"]
    assert sorted(weight.shape) == sorted(SHAPES[name].weight_shape)
    (output,) = open_session(network.model).run()
    assert output.shape == OUTPUT_SHAPES[name]


def test_all_layers_stand_side_by_side():
    network = dense_network([*SHAPES.values()])
    session = open_session(network.model)
    assert [item.name for item in session.inference.get_outputs()] == [*network.outputs]
    assert [output.shape for output in session.run()] == [*OUTPUT_SHAPES.values()]


def test_same_seed_same_network():
    shapes = [conv_shape(8, 4), linear_shape()]
    assert dense_network(shapes).model == dense_network(shapes).model
    assert dense_network(shapes).model != dense_network(shapes, seed=1).model


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_lowered_layer_holds_so_many_blocks(kept):
    shape = conv_shape(64, 64, 3, 4, has_bias=True)
    network = lowered_network([shape], TILE, [kept])
    packed = constants_of(network.model)["layer0.weight.packed"]
    assert packed.shape == (64, 16 * kept, 3, 3)
    assert np.all(packed.any(axis=(2, 3)))


def test_keeping_every_block_is_the_dense_form():
    shape = conv_shape(32, 32, 1, 4)
    graph = onnx.load_from_string(lowered_network([shape], TILE, [2]).model).graph
    assert [node.op_type for node in graph.node] == ["MaxPool", "Conv"]


def test_runtime_agrees_with_the_reference_on_a_lowered_network():
    shapes = [conv_shape(64, 32, 3, 4), conv_shape(32, 64, 1, 3)]
    network = lowered_network(shapes, TILE, [1, 2])
    session = open_session(network.model)
    expected = ReferenceEvaluator(onnx.load_from_string(network.model)).run(None, session.inputs)
    for seen, wanted in zip(session.run(), expected, strict=True):
        # Sums of 144 float32 products of figures near 1, in another order.
        np.testing.assert_allclose(seen, wanted, rtol=0, atol=1e-5)


def test_element_type_that_is_not_measured_is_refused():
    with pytest.raises(CostModelError, match="only float32 is measured"):
        dense_network([conv_shape(dtype="float16")])
