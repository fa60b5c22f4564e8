"""What every cost model promises; a model without a row in the table fails."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from builders import conv_shape, linear_shape, profile_of, timing_of, workload_of
from hypothesis import given
from hypothesis import strategies as st

from cost_models import (
    CostModel,
    CostModelError,
    DeviceFacts,
    DeviceProfile,
    Fact,
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
    "memory": ("bytes", 4 * 18_432.0, 4 * 17.0),
    # 4 pJ per multiply-add at 8 x 8 places, 100 pJ per byte of weights, input and output.
    "energy": ("J", 4e-12 * 18_432 * 64 + 4e-10 * (18_432 + 32 * 64 + 64 * 64), 0.0),
}

COUNTING = ("flops", "params")
"""What is counted in the weight alone: without overhead, all blocks cost what the layer costs."""

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


@given(CASES, st.floats(0, 1))
def test_a_sparse_form_claimed_to_be_slower_never_beats_the_dense_one(case, density):
    cost = linear(*case)
    num_blocks = Layout.parse(case[2]).num_whole_blocks(case[1].shape.weight_shape)
    sparse, best = cost.sparse(density * num_blocks), cost.best(density * num_blocks)
    assert best == (sparse if sparse < cost.dense else cost.dense)
    limit = cost.break_even_density(num_blocks)
    assert 0 <= limit <= 1
    if density < limit * (1 - ROUNDING):
        assert sparse <= cost.dense * (1 + ROUNDING)
    elif density > limit * (1 + ROUNDING):
        assert best >= cost.dense * (1 - ROUNDING)


@given(CASES)
def test_a_ragged_weight_is_charged_block_by_block_for_the_whole(case):
    layout, cost = Layout.parse(case[2]), linear(*case)
    sizes = layout.block_sizes(case[1].shape.weight_shape)
    whole = cost.sparse(layout.num_whole_blocks(case[1].shape.weight_shape))
    assert cost.fixed + np.sum(cost.per_block * sizes) == pytest.approx(whole, rel=ROUNDING)


@pytest.mark.parametrize("name", cost_model_names())
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("text", LAYOUTS)
def test_keeping_everything_costs_at_least_as_much_as_dense(name, layer, text):
    """Whoever lowers a layer of which nothing was pruned gains nothing; only counts are equal."""
    cost = linear(name, layer, text)
    whole = cost.sparse(Layout.parse(text).num_whole_blocks(layer.shape.weight_shape))
    assert whole >= cost.dense * (1 - ROUNDING)
    if name in COUNTING:
        assert cost.fixed == 0
        assert whole == pytest.approx(cost.dense, rel=ROUNDING)


def in_another_unit(factor: float) -> DeviceProfile:
    """The device, every time and every energy of it ``factor`` times as much."""
    timings = (timing_of(shape, LAYOUTS, factor, factor / 10) for shape in SHAPES)
    known = PROFILE.facts
    facts = replace(
        known,
        **{
            field.name: scaled(getattr(known, field.name), factor)
            for field in fields(DeviceFacts)
            if field.name.startswith("energy")
        },
    )
    return replace(profile_of(*timings), facts=facts)


def scaled(fact: Fact | dict[str, Fact], factor: float) -> Fact | dict[str, Fact]:
    if isinstance(fact, dict):
        return {name: scaled(item, factor) for name, item in fact.items()}
    return replace(fact, value=fact.value * factor)


@pytest.mark.parametrize("name", [n for n in cost_model_names() if cost_model(n).needs_profile])
@given(factor=st.floats(1e-6, 1e6))
def test_unit_of_the_profile_cancels_in_shares(name, factor):
    """A device a thousand times slower has the same break-even densities and shares of dense."""
    model = cost_model(name)
    other = in_another_unit(factor)
    for layer in LAYERS:
        for layout in map(Layout.parse, LAYOUTS):
            num_blocks = layout.num_whole_blocks(layer.shape.weight_shape)
            here, there = (model.linear_cost(layer, layout, p) for p in (PROFILE, other))
            assert there.dense == pytest.approx(factor * here.dense, rel=ROUNDING)
            shares = [cost.break_even_density(num_blocks) for cost in (here, there)]
            assert shares[0] == pytest.approx(shares[1], rel=ROUNDING)
            # 0 where a few outputs would be filled up to a group of many.
            assert 0 <= shares[0] < 1


@pytest.mark.parametrize("name", cost_model_names())
def test_figures_are_finite_and_deterministic(name):
    for layer in LAYERS:
        figures = [linear(name, layer, text) for text in LAYOUTS]
        assert figures == [linear(name, layer, text) for text in LAYOUTS]
        assert all(math.isfinite(cost.dense) for cost in figures)
        # Blocks are free only where pruning them gains nothing.
        assert all(cost.per_block > 0 or cost.fixed == cost.dense for cost in figures)


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
