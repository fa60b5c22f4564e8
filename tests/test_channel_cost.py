"""True cost of what channels leave, against networks built without them, and its derivative."""

from dataclasses import replace

import pytest
from builders import profile_of, timing_of
from channel_workloads import attention, residual_network

from cost_models import ModelTiming, Workload, cost_model
from cost_models.channel_cost import (
    LayerCosts,
    linearised_cost,
    profile_of_reduced,
    reduce,
    reduced_cost,
)
from cost_models.channel_shapes import reduced_workload
from cost_models.shapes_digest import shapes_digest

EXACT = 1e-12
KEPT = {"stem": 16, "a1": 32, "b1": 32}


def measured(workload: Workload, rest_ms=0.4):
    """A profile that measured a model: its layers by made-up times, and as a whole."""
    timings = [
        timing_of(shape, (), 0.1 + shape.num_weights * 1e-4) for shape in workload.shape_counts()
    ]
    layers_ms = sum(timing.dense_ms for timing in timings)
    whole = ModelTiming(
        workload.model,
        workload.fingerprint,
        layers_ms + rest_ms,
        layers_ms,
        rest_ms,
        shapes_digest(workload),
    )
    return replace(profile_of(*timings), models=(whole,))


@pytest.mark.parametrize("name", ["params", "flops", "memory", "energy"])
def test_counted_costs_are_those_of_the_narrower_network(name):
    whole, narrow = residual_network(32, 64), residual_network(16, 32)
    model, profile = cost_model(name), profile_of()
    expected = model.rest(narrow, profile) + sum(
        model.dense_cost(layer, profile) for layer in narrow.layers
    )
    assert reduced_cost(model, whole, KEPT, profile) == pytest.approx(expected, rel=EXACT)


def test_flops_of_heads_hold_their_products():
    whole = attention()
    model = cost_model("flops")
    saved = reduced_cost(model, whole, {}) - reduced_cost(model, whole, {"0.qkv": 3})
    # Rows of queries, keys, values; columns of the output; both products; six tokens.
    assert saved == 2 * 6 * (24 * 32 + 32 * 8) + 2 * 2 * 6 * 6 * 8


def test_measured_points_are_taken():
    whole, narrow = residual_network(32, 64), residual_network(16, 32)
    model = cost_model("latency")
    both = dict.fromkeys((*whole.shape_counts(), *narrow.shape_counts()))
    profile = profile_of(*(timing_of(shape, (), 1.0) for shape in both))
    assert sum(
        model.dense_cost(layer, profile) for layer in reduce(whole, KEPT, profile).workload.layers
    ) == len(narrow.layers)


def test_the_rest_falls_with_what_layers_write():
    whole = residual_network(32, 64)
    profile, model = measured(whole), cost_model("latency")
    left = reduced_workload(whole, KEPT)
    written, run_ms = 64 * (32 * 3 + 64 * 3), profile.run_overhead_ms
    share = (written / 2 + 10) / (written + 10)
    expected = run_ms + share * (0.4 - run_ms)
    found = profile_of_reduced(profile, whole, left)
    assert model.rest(left, found) == pytest.approx(expected, rel=EXACT)
    assert model.rest(whole, profile) == 0.4
    assert profile_of_reduced(profile, whole, reduced_workload(whole, {})).layers == profile.layers


def test_an_unmeasured_rest_is_estimated_for_what_is_left():
    whole = residual_network(32, 64)
    profile, model = profile_of(), cost_model("latency")
    left = reduce(whole, KEPT, profile)
    assert left.profile is profile
    assert model.rest(left.workload, profile) < model.rest(whole, profile)


@pytest.mark.parametrize("name", ["params", "flops", "latency"])
def test_the_derivative_is_that_of_the_true_cost(name):
    whole = residual_network(32, 64)
    model, profile = cost_model(name), measured(whole)
    found = linearised_cost(model, whole, KEPT, profile, num_units=16)
    # The stem has no more than 16 units left and is taken down to one.
    steps = {"stem": 15, "a1": 16, "b1": 16}
    for group, step in steps.items():
        fewer = {**KEPT, group: KEPT[group] - step}
        difference = reduced_cost(model, whole, KEPT, profile) - reduced_cost(
            model, whole, fewer, profile
        )
        assert found[group] == pytest.approx(difference / step, rel=1e-9)


def test_the_derivative_by_hand():
    whole = residual_network(32, 64)
    found = linearised_cost(cost_model("params"), whole, {"stem": 16})
    # a1 and a2: 16 channels of the stream by 3 x 3; two numbers of normalisation.
    assert found["a1"] == 2 * 16 * 9 + 2
    # b1 and b3: the stream; b2: one kernel of its own.
    assert found["b1"] == 2 * 16 + 9


def test_a_group_of_one_unit_has_no_derivative():
    found = linearised_cost(cost_model("params"), residual_network(), {"a1": 1})
    assert set(found) == {"stem", "b1"}


def test_costs_of_layers_are_those_of_the_reduced_workload():
    whole = residual_network(32, 64)
    models = [cost_model("params"), cost_model("latency")]
    profile = measured(whole)
    costs = LayerCosts(whole, models, profile)
    for layer in reduced_workload(whole, KEPT).layers:
        expected = tuple(model.dense_cost(layer, profile) for model in models)
        assert costs.of(layer.name, KEPT) == expected
        assert costs.of(layer.name, KEPT) is costs.of(layer.name, KEPT)
