"""Bytes of a model against the files that lowering and ONNX really write."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from builders import conv_node, conv_shape, linear_shape, onnx_model, workload_of
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from cost_models import CostModelError, LayerShape, LayerWorkload, Layout, SlicedWeight, cost_model
from spartan_planner.lowering import lower_graph

OVERHEAD_PER_TENSOR = 64
"""Bytes: name, dimensions and type of an initializer, with their tags and lengths."""

OVERHEAD_PER_MODEL = 1200
"""Bytes: header, inputs, outputs, and three nodes per convolution with names and attributes."""

MEMORY = cost_model("memory")


def pruned(random, outputs, inputs, kernel, tile, num_kept, dtype):
    """A weight whose groups of ``tile`` outputs each keep ``num_kept`` inputs of their own."""
    weight = random.uniform(0.5, 1.0, (outputs, inputs, kernel, kernel)).astype(dtype)
    for start in range(0, outputs, tile):
        weight[start : start + tile, random.permutation(inputs)[num_kept:]] = 0
    return weight


def lowered(weight, text, has_bias, num_uses=1) -> onnx.ModelProto:
    """A model that convolves its input ``num_uses`` times by ``weight``, lowered."""
    outputs, inputs = weight.shape[:2]
    constants = {"w": weight}
    names = [f"x{use}" for use in range(num_uses)]
    if has_bias:
        constants["b"] = np.ones(outputs, weight.dtype)
    nodes = [
        conv_node(source=name, output=f"y{name}", bias="b" if has_bias else None) for name in names
    ]
    model = onnx_model(
        nodes, constants, dict.fromkeys(names, (1, inputs, 8, 8)), [f"y{n}" for n in names]
    )
    graph = ir.from_proto(model)
    assert lower_graph(graph, {"w": Layout.parse(text)})
    return ir.to_proto(graph)


def num_constant_bytes(model: onnx.ModelProto) -> int:
    arrays = [numpy_helper.to_array(item) for item in model.graph.initializer]
    return sum(array.nbytes for array in arrays)


def check_file(model: onnx.ModelProto, expected: float) -> None:
    assert num_constant_bytes(model) == expected
    num_tensors = len(model.graph.initializer)
    overhead = model.ByteSize() - expected
    assert 0 < overhead <= OVERHEAD_PER_MODEL + OVERHEAD_PER_TENSOR * num_tensors


@given(
    seed=st.integers(0, 2**32 - 1),
    outputs=st.integers(1, 40),
    inputs=st.integers(2, 40),
    kernel=st.sampled_from([1, 3]),
    tile=st.integers(1, 48),
    step=st.integers(1, 20),
    share=st.floats(0, 1),
    has_bias=st.booleans(),
)
def test_balanced_tiles_take_what_lowering_writes(
    seed, outputs, inputs, kernel, tile, step, share, has_bias
):
    num_steps = int(share * ((inputs - 1) // step))
    if num_steps == 0:
        step, num_steps = 1, 1
    num_kept = num_steps * step
    random = np.random.default_rng(seed)
    weight = pruned(random, outputs, inputs, kernel, tile, num_kept, np.float32)
    text = f"tile:{tile}x1@{step}"
    shape = conv_shape(outputs, inputs, kernel, has_bias=has_bias)
    layer = LayerWorkload("w", shape, positions=1)
    cost = MEMORY.linear_cost(layer, Layout.parse(text), None)
    # In the layout's own count a step is a block; the bias lies outside the layer.
    rest = MEMORY.rest(workload_of(layer, extra_parameters=has_bias * outputs), None)
    check_file(lowered(weight, text, has_bias), cost.sparse(num_steps) + rest)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("num_uses", [1, 2, 3])
def test_every_use_of_a_tied_weight_is_written_for_itself(dtype, num_uses):
    weight = pruned(np.random.default_rng(0), 32, 48, 3, 16, 16, dtype)
    constants = {"w": weight}
    shape = conv_shape(32, 48, dtype=dtype)
    layer = LayerWorkload("w", shape, positions=num_uses, num_uses=num_uses)
    cost = MEMORY.linear_cost(layer, Layout.parse("tile:16x1@16"), None)
    names = [f"x{use}" for use in range(num_uses)]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [conv_node(source=name, output=f"y{name}") for name in names],
        "test",
        [helper.make_tensor_value_info(name, kind, (1, 48, 8, 8)) for name in names],
        [helper.make_tensor_value_info(f"y{name}", kind, None) for name in names],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = ir.from_proto(helper.make_model(graph))
    assert len(lower_graph(model, {"w": Layout.parse("tile:16x1@16")})) == num_uses
    check_file(ir.to_proto(model), cost.sparse(1))


@pytest.mark.parametrize("num_uses", [1, 3])
@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (conv_shape(64, 64), "element"),
        (conv_shape(64, 64), "tile:32x1"),
        (conv_shape(64, 64), "tile:32x4"),
        (conv_shape(64, 16, groups=4, input_shape=(1, 64, 8, 8)), "tile:16x1@16"),
        (LayerShape("linear", (64, 64), (1, 2, 3, 1, 1, 64)), "tile:32x1@16"),
        (linear_shape(64, 64), "element"),
        (LayerShape("conv_transpose2d", (64, 64, 2, 2), (1, 64, 4, 4)), "tile:32x1@16"),
        (LayerShape("embedding", (64, 32), (1, 3)), "tile:32x1@16"),
    ],
)
def test_what_lowering_does_not_write_is_masked_and_as_large_as_dense(shape, text, num_uses):
    layer = LayerWorkload("w", shape, 1, num_uses=num_uses)
    cost = MEMORY.linear_cost(layer, Layout.parse(text), None)
    assert cost.dense == cost.fixed == 4 * shape.num_weights
    assert cost.per_block == 0


def test_a_masked_file_is_as_large_as_the_dense_one():
    random = np.random.default_rng(1)
    weight = random.uniform(0.5, 1.0, (32, 48, 3, 3)).astype(np.float32)
    masked = np.where(random.random(weight.shape) < 0.9, np.float32(0), weight)
    shape = conv_shape(32, 48)
    cost = MEMORY.linear_cost(LayerWorkload("w", shape, 1), Layout.parse("element"), None)
    sizes = {"x": (1, 48, 8, 8)}
    for values in (weight, masked):
        check_file(onnx_model([conv_node()], {"w": values}, sizes, ["y"]), cost.sparse(10))


@pytest.mark.parametrize(
    ("dtype", "num_bytes"),
    [("float64", 8), ("float32", 4), ("bfloat16", 2), ("float16", 2), ("int8", 1)],
)
def test_dense_takes_its_elements(dtype, num_bytes):
    layer = LayerWorkload("w", conv_shape(8, 4, dtype=dtype), 64, num_uses=3)
    assert MEMORY.dense_cost(layer, None) == 8 * 4 * 9 * num_bytes
    assert MEMORY.rest(workload_of(layer, extra_parameters=6), None) == 6 * num_bytes


def test_sliced_weights_count_whole_once():
    shape = linear_shape(16, 16)
    layer = LayerWorkload("w", shape, 1, num_uses=3, sliced=SlicedWeight(768, 768))
    assert MEMORY.dense_cost(layer, None) == 4 * 768


def test_unknown_element_types_are_refused_never_priced_at_zero():
    layer = LayerWorkload("w", conv_shape(8, 4, dtype="complex64"), 64)
    with pytest.raises(CostModelError, match="'complex64' is not known; known are: float64"):
        MEMORY.dense_cost(layer, None)
