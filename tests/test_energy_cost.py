"""Energy of one pass against figures worked out by hand and against the runtime's own shapes."""

from dataclasses import replace

import pytest
from builders import FACTS, conv_shape, linear_shape, profile_of, workload_of

from cost_models import (
    ActivationProduct,
    CostModelError,
    DeviceFacts,
    LayerShape,
    LayerWorkload,
    Layout,
    cost_model,
)

ENERGY = cost_model("energy")
PROFILE = profile_of()
ROUNDING = 1e-12
"""Relative; a handful of float64 operations."""

# The profile's: 4 pJ per float32 multiply-add, 100 pJ per byte.
MAC, BYTE = 4e-12, 100e-12


def test_dense_layer_by_hand():
    layer = LayerWorkload("w", conv_shape(64, 32, input_shape=(2, 32, 8, 8)), 64)
    macs = 64 * 32 * 9 * 64 * 2
    num_bytes = 4 * (64 * 32 * 9 + 2 * 32 * 64 + 2 * 64 * 64)
    expected = macs * MAC + num_bytes * BYTE
    assert ENERGY.dense_cost(layer, PROFILE) == pytest.approx(expected, rel=ROUNDING)


def test_lowered_layer_by_hand():
    layer = LayerWorkload("w", conv_shape(64, 32), 64)
    cost = ENERGY.linear_cost(layer, Layout.parse("tile:32x1@16"), PROFILE)
    # One block: 16 inputs of each of two groups of 32 outputs.
    macs = 64 * 16 * 9 * 64
    weights, indices, gathered = 4 * 64 * 16 * 9, 8 * 2 * 16, 3 * 4 * 2 * 16 * 64
    per_block = macs * MAC + (weights + indices + gathered) * BYTE
    assert cost.per_block == pytest.approx(per_block, rel=ROUNDING)
    assert cost.fixed == pytest.approx(4 * 64 * 64 * BYTE, rel=ROUNDING)
    assert cost.source == "estimated"


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (linear_shape(10, 20, tokens=(7,)), "element"),
        (linear_shape(64, 64, tokens=(2, 3, 1, 1, 1)), "tile:32x1@16"),
        (conv_shape(64, 32), "tile:32x1"),
        (conv_shape(64, 32), "element"),
    ],
)
def test_what_no_export_can_skip_takes_what_dense_takes(shape, text):
    layer = LayerWorkload("w", shape, 7)
    cost = ENERGY.linear_cost(layer, Layout.parse(text), PROFILE)
    assert (cost.fixed, cost.per_block) == (ENERGY.dense_cost(layer, PROFILE), 0.0)
    assert cost.dense == cost.fixed


def test_weights_move_once_and_activations_at_every_use():
    once = LayerWorkload("w", conv_shape(64, 32), 64)
    twice = replace(once, positions=128, num_uses=2)
    weights = 4 * 64 * 32 * 9 * BYTE
    single = ENERGY.dense_cost(once, PROFILE) - weights
    assert ENERGY.dense_cost(twice, PROFILE) == pytest.approx(weights + 2 * single, rel=ROUNDING)


@pytest.mark.parametrize(("num_looked_up", "num_read"), [(3, 3), (50, 50), (80, 50)])
def test_tables_move_the_rows_that_are_looked_up(num_looked_up, num_read):
    shape = LayerShape("embedding", (50, 16), (1, num_looked_up))
    expected = 4 * 16 * num_read + 8 * num_looked_up + 4 * 16 * num_looked_up
    layer = LayerWorkload("table", shape, num_looked_up)
    assert ENERGY.dense_cost(layer, PROFILE) == pytest.approx(expected * BYTE, rel=ROUNDING)


def test_rest_holds_the_products_of_activations():
    product = ActivationProduct("bmm", (4, 7, 16), (4, 16, 5), num_calls=3, macs=3 * 4 * 7 * 16 * 5)
    workload = replace(
        workload_of(LayerWorkload("w", linear_shape(), 1)), products=(product, product)
    )
    num_bytes = 4 * (4 * 7 * 16 + 4 * 16 * 5 + 4 * 7 * 5)
    expected = 2 * 3 * (4 * 7 * 16 * 5 * MAC + num_bytes * BYTE)
    assert ENERGY.rest(workload, PROFILE) == pytest.approx(expected, rel=ROUNDING)
    assert ENERGY.rest(workload_of(), None) == 0


def test_element_type_picks_the_energy_of_its_arithmetic():
    fact = FACTS.energy_pj_per_mac["float32"]
    facts = replace(FACTS, energy_pj_per_mac={"float32": fact, "int8": replace(fact, value=0.25)})
    profile = replace(PROFILE, facts=facts)
    layer = LayerWorkload("w", conv_shape(64, 32, dtype="int8"), 64)
    num_bytes = 64 * 32 * 9 + 32 * 64 + 64 * 64
    expected = 64 * 32 * 9 * 64 * 0.25e-12 + num_bytes * BYTE
    assert ENERGY.dense_cost(layer, profile) == pytest.approx(expected, rel=ROUNDING)


WITHOUT_BYTES = DeviceFacts(
    FACTS.peak_gflop_per_s, FACTS.bandwidth_gb_per_s, FACTS.launch_overhead_us,
    energy_pj_per_mac=FACTS.energy_pj_per_mac,
)  # fmt: skip


@pytest.mark.parametrize(
    ("profile", "dtype", "message"),
    [
        (None, "float32", "energy depends on the device; give a profile"),
        (replace(PROFILE, facts=WITHOUT_BYTES), "float32", "has no energy_pj_per_byte, without"),
        (PROFILE, "float16", "has no energy_pj_per_mac of float16, without"),
    ],
)
def test_what_the_profile_lacks_is_refused_never_priced_at_zero(profile, dtype, message):
    layer = LayerWorkload("w", conv_shape(64, 32, dtype=dtype), 64)
    with pytest.raises(CostModelError, match=message):
        ENERGY.dense_cost(layer, profile)
    with pytest.raises(CostModelError, match=message):
        ENERGY.linear_cost(layer, Layout.parse("element"), profile)
