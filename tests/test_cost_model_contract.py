"""What every cost model promises; a model without a row in the table fails."""

import math
from dataclasses import replace

import numpy as np
import pytest
from builders import conv_shape, linear_shape, profile_of, timing_of, workload_of
from hypothesis import given
from hypothesis import strategies as st

from cost_models import (
    CostModel,
    CostModelError,
    LayerWorkload,
    Layout,
    LinearCost,
    cost_model,
    cost_model_names,
)

LAYOUTS = ("element", "tile:64x1", "tile:4x3", "tile:32x1@16", "tile:7x1@3")
SHAPES = (conv_shape(64, 32), conv_shape(96, 40), linear_shape(10, 20), conv_shape(3, 2, 1))
LAYERS = tuple(
    LayerWorkload(f"layer{index}", shape, positions=49, num_uses=uses)
    for index, (shape, uses) in enumerate(zip(SHAPES, (1, 2, 1, 3), strict=True))
)
PROFILE = profile_of(*(timing_of(shape, LAYOUTS) for shape in SHAPES))
WORKLOAD = workload_of(*LAYERS, extra_parameters=17)

ROUNDING = 1e-12
"""Relative; sums of a few thousand float64."""

# name: unit; layer 0 dense (64 x 32 x 3 x 3 weights at 49 positions; 1 ms in the profile); rest
TABLE = {
    "latency": ("ms", 1.0, 0.05),
    "flops": ("FLOPs", 2.0 * 18_432 * 49, 0.0),
    "params": ("parameters", 18_432.0, 17.0),
}

CASES = st.tuples(st.sampled_from(sorted(TABLE)), st.sampled_from(LAYERS), st.sampled_from(LAYOUTS))


def linear(name: str, layer: LayerWorkload, text: str) -> LinearCost:
    return cost_model(name).linear_cost(layer, Layout.parse(text), PROFILE)


def test_every_cost_model_has_a_row():
    assert set(cost_model_names()) == set(TABLE)


@pytest.mark.parametrize("name", cost_model_names())
def test_known_figures(name):
    unit, dense, rest = TABLE[name]
    model = cost_model(name)
    assert isinstance(model, CostModel)
    assert (model.name, model.unit) == (name, unit)
    assert model.dense_cost(LAYERS[0], PROFILE) == pytest.approx(dense, rel=ROUNDING)
    assert model.rest(WORKLOAD, PROFILE) == pytest.approx(rest, rel=ROUNDING)


@given(CASES)
def test_both_forms_name_the_same_dense_cost_and_unit(case):
    model = cost_model(case[0])
    cost = linear(*case)
    assert cost.dense == model.dense_cost(case[1], PROFILE)
    assert cost.unit == model.unit


@given(CASES, st.floats(0, 1), st.floats(0, 1))
def test_monotone_in_density(case, some, other):
    cost = linear(*case)
    num_blocks = Layout.parse(case[2]).num_whole_blocks(case[1].shape.weight_shape)
    fewer, more = sorted((some, other))
    assert 0 <= cost.sparse(fewer * num_blocks) <= cost.sparse(more * num_blocks)


@given(CASES, st.integers(0, 2**32 - 1))
def test_ragged_blocks_are_charged_for_what_they_hold(case, seed):
    name, layer, text = case
    layout, cost = Layout.parse(text), linear(*case)
    sizes = layout.block_sizes(layer.shape.weight_shape)
    kept = np.random.default_rng(seed).random(sizes.size) < 0.5
    held = sizes[kept].sum() * layout.num_elements_per_block(layer.shape.weight_shape)
    whole = cost.sparse(layout.num_whole_blocks(layer.shape.weight_shape)) - cost.fixed
    share = held / layer.num_weights
    charged = cost.sparse(sizes[kept].sum()) - cost.fixed
    # The fixed part cancels, which leaves its own rounding behind.
    allowed = ROUNDING * (whole + cost.fixed)
    assert charged == pytest.approx(share * whole, rel=ROUNDING, abs=allowed), name


@pytest.mark.parametrize("name", [n for n in cost_model_names() if not cost_model(n).needs_profile])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("text", LAYOUTS)
def test_keeping_everything_costs_as_much_as_dense_where_only_counting(name, layer, text):
    cost = linear(name, layer, text)
    whole = Layout.parse(text).num_whole_blocks(layer.shape.weight_shape)
    assert cost.fixed == 0
    assert cost.sparse(whole) == pytest.approx(cost.dense, rel=ROUNDING)


@pytest.mark.parametrize("name", [n for n in cost_model_names() if cost_model(n).needs_profile])
def test_unit_of_the_profile_cancels_in_shares(name):
    """A device a thousand times slower has the same break-even densities and shares of dense."""
    model = cost_model(name)
    slow = profile_of(*(timing_of(shape, LAYOUTS, 1e3, 1e2) for shape in SHAPES))
    for layer in LAYERS:
        for layout in map(Layout.parse, LAYOUTS):
            num_blocks = layout.num_whole_blocks(layer.shape.weight_shape)
            shares = [
                model.linear_cost(layer, layout, profile).break_even_density(num_blocks)
                for profile in (PROFILE, slow)
            ]
            assert shares[0] == pytest.approx(shares[1], rel=ROUNDING)
            assert 0 < shares[0] < 1


@pytest.mark.parametrize("name", cost_model_names())
def test_figures_are_finite_and_deterministic(name):
    for layer in LAYERS:
        figures = [linear(name, layer, text) for text in LAYOUTS]
        assert figures == [linear(name, layer, text) for text in LAYOUTS]
        assert all(math.isfinite(cost.dense) and cost.per_block > 0 for cost in figures)


@pytest.mark.parametrize("name", ["latency", "flops"])
def test_uses_of_a_tied_weight_are_all_charged(name):
    once = LayerWorkload("tied", SHAPES[0], positions=49)
    thrice = replace(once, positions=3 * 49, num_uses=3)
    model = cost_model(name)
    assert model.dense_cost(thrice, PROFILE) == pytest.approx(3 * model.dense_cost(once, PROFILE))


def test_latency_of_a_layer_needs_a_profile():
    with pytest.raises(CostModelError, match="give a profile"):
        cost_model("latency").linear_cost(LAYERS[0], Layout.parse(LAYOUTS[1]), None)


def test_latency_of_a_model_needs_a_profile():
    with pytest.raises(CostModelError, match="give a profile"):
        cost_model("latency").rest(WORKLOAD, None)


def test_latency_adds_up_the_uses_of_a_weight_at_their_own_shapes():
    large, small = conv_shape(64, 64, side=8), conv_shape(64, 64, side=4)
    layer = LayerWorkload("shared", large, 144, num_uses=2, further_shapes=(small,))
    profile = profile_of(timing_of(large, dense_ms=1.0), timing_of(small, dense_ms=0.25))
    latency = cost_model("latency")
    assert latency.dense_cost(layer, profile) == 2 * 1.0 + 0.25
    cost = latency.linear_cost(layer, Layout.parse("tile:32x1@16"), profile)
    assert cost.fixed == pytest.approx(3 * 0.1)


@given(CASES, st.floats(0, 1))
def test_facts_alone_price_every_layer_and_never_at_zero(case, density):
    name, layer, text = case
    model, layout = cost_model(name), Layout.parse(text)
    facts_only = profile_of()
    cost = model.linear_cost(layer, layout, facts_only)
    num_blocks = layout.num_whole_blocks(layer.shape.weight_shape)
    assert cost.dense == model.dense_cost(layer, facts_only) > 0
    assert 0 <= cost.best(density * num_blocks) <= cost.dense
    assert cost.best(num_blocks) > 0
