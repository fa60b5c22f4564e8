"""The lowered form of a linear layer: the same product, and the work that its graph really does."""

import numpy as np
import onnx
import pytest
from builders import linear_shape
from hypothesis import given
from hypothesis import strategies as st
from onnx.numpy_helper import to_array

from cost_models import Layout
from cost_models.layer_work import lowered_work
from spartan_planner.lowering.linear import pack_linear
from spartan_planner.runtimes.benchmark_network import lowered_network

FLOAT64_ROUNDING = 1e-12
"""Absolute, for sums of at most a few dozen products of figures near 1, in another order."""


def grouped(seed, outputs, inputs, group_size, density) -> np.ndarray:
    random = np.random.default_rng(seed)
    weight = random.standard_normal((outputs, inputs))
    for start in range(0, outputs, group_size):
        weight[start : start + group_size, random.random(inputs) >= density] = 0
    return weight


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 24),
    st.integers(1, 8),
    st.floats(0, 1),
)
def test_batched_product_of_gathered_rows_equals_the_dense_product(
    seed, outputs, inputs, group_size, step, density
):
    weight = grouped(seed, outputs, inputs, group_size, density)
    packed = pack_linear(weight, group_size, step)
    x = np.random.default_rng(1).standard_normal((inputs, 5))
    product = packed.weight @ x[packed.inputs]
    assert product.shape == (packed.num_groups, group_size, 5)
    result = product.reshape(-1, 5)[: packed.num_outputs]
    np.testing.assert_allclose(result, weight @ x, rtol=0, atol=FLOAT64_ROUNDING)
    assert packed.has_padded_outputs == bool(outputs % group_size)


@pytest.mark.parametrize("outputs", [128, 96], ids=["whole groups", "ragged"])
@pytest.mark.parametrize("tokens", [(24,), (2,), ()], ids=["sequence", "few rows", "vector"])
def test_work_is_that_of_the_emitted_graph(outputs, tokens):
    shape, layout = linear_shape(outputs, 64, tokens), Layout.parse("tile:64x1@16")
    work = lowered_work(shape, layout, share=1 / 4)
    graph = onnx.load_from_string(lowered_network([shape], layout, [1]).model).graph
    nodes = [node for node in graph.node if node.op_type != "Reshape"]
    assert work.num_operations == len(nodes)
    packed = [to_array(item) for item in graph.initializer if "packed" in item.name]
    assert work.num_weight_bytes == sum(item.nbytes for item in packed)
    rows = int(np.prod(shape.input_shape[:-1]))
    assert work.num_flops == 2 * rows * sum(item.size for item in packed)


def test_turning_moves_inputs_and_outputs_once_more():
    layout = Layout.parse("tile:64x1@16")
    few, many = (lowered_work(linear_shape(128, 64, (n,)), layout, 1 / 4) for n in (7, 8))
    # Of seven rows the bias is added in an operation of its own; of eight in passing.
    of_a_row = 4 * ((2 + 1) * 2 * 16 + 128)
    assert few.num_bytes - few.num_weight_bytes == 7 * (of_a_row + 2 * 4 * 128)
    assert many.num_bytes - many.num_weight_bytes == 8 * (of_a_row + 2 * 4 * (64 + 128))
