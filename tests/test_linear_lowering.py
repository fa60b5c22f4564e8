"""The lowered form of a linear layer: the same product, and the work that its graph really does."""

import numpy as np
import pytest
from builders import linear_shape
from hypothesis import given
from hypothesis import strategies as st

from cost_models import LayerShape, Layout
from spartan_planner.lowering.linear import (
    linear_layout_work,
    linear_lowered_work,
    pack_linear,
)
from spartan_planner.lowering.measuring import linear_network

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
@pytest.mark.parametrize("tokens", [(24,), ()], ids=["sequence", "vector"])
def test_work_is_that_of_the_emitted_graph(outputs, tokens):
    shape = linear_shape(outputs, 64, tokens)
    layout = Layout.parse("tile:64x1@16")
    work = linear_layout_work(shape, layout, 1)
    model = linear_network(shape, layout, 1)
    nodes = [node for node in model.graph if node.op_type != "Reshape"]
    assert work.num_operations == len(nodes)
    packed = [
        value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if "packed" in name
    ]
    assert work.num_weight_bytes == sum(item.nbytes for item in packed)
    rows = int(np.prod(shape.input_shape[:-1]))
    assert work.num_flops == 2 * rows * sum(item.size for item in packed)


def test_fewer_transposes_move_less():
    shape = linear_shape(128, 64, (24,))
    alone, end, inside = (linear_lowered_work(shape, 64, 16, count) for count in (2, 1, 0))
    assert alone.num_bytes - end.num_bytes == 4 * 2 * 24 * 128
    assert end.num_bytes - inside.num_bytes == 4 * 2 * 24 * 64


def test_a_layout_that_may_need_padding_is_refused():
    with pytest.raises(ValueError, match="is not balanced"):
        linear_layout_work(LayerShape("linear", (8, 8), (1, 8)), Layout.parse("tile:4x1"), 1)


def test_a_step_that_is_no_whole_vector_is_refused():
    with pytest.raises(ValueError, match="multiple of 16"):
        linear_network(linear_shape(64, 64, (24,)), Layout.parse("tile:32x1@8"), 1)
