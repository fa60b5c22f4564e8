"""Plans in which channels go: never over by the true cost, what they hold, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from builders import profile_of, timing_of
from channel_workloads import attention, concatenation, residual_network, weights_of, with_groups
from test_channel_cost import measured

from cost_models import SlicedWeight, cost_model
from cost_models.channel_cost import reduce, reduced_cost
from spartan_planner.errors import InfeasibleBudgetError, PlanError, UsageError
from spartan_planner.planning import (
    ROUNDING,
    ArrayWeights,
    Bound,
    Budget,
    Plan,
    Policy,
    fingerprint_of,
    plan_workload,
    read_plan,
)
from spartan_planner.planning.bounds import parse_bounds
from spartan_planner.planning.channel_groups import ChannelWish, group_counts, units_together
from spartan_planner.planning.channel_values import ReducedWeights, kept_units, read_all_sums
from spartan_planner.planning.channel_values import unit_values as values_of_units
from spartan_planner.planning.compare import cost_of_plan
from spartan_planner.planning.request import read_layouts

WORKLOADS = {
    "residual": residual_network(),
    "narrow": residual_network(24, 40),
    "concatenation": concatenation(),
    "attention": attention(num_heads=6, head_size=16),
}
COSTS = ("latency", "flops", "params", "memory", "energy")
SUMMATION = 1e-9
"""Relative: values added up in another order, in float32 here and there."""


def planned(workload, budgets, layouts=("channel", "head"), seed=0, **options) -> Plan:
    return plan_workload(
        workload, ArrayWeights(weights_of(workload, seed)), budgets, layouts=layouts, **options
    )


def retained_by_hand(workload, plan, seed=0):
    """Sum of absolute weights that the planned counts leave, units by value, over all weights."""
    weights = ArrayWeights(weights_of(workload, seed))
    sums = read_all_sums(workload, weights)
    units = {
        group.name: kept_units(values_of_units(group, sums), plan.kept_units[group.name])
        for group in workload.channel_groups
        if group.name in plan.kept_units
    }
    left = ReducedWeights.of(workload, weights, units)
    kept = sum(left.values(layer, ()).total for layer in workload.layers)
    return kept / sum(item.total for item in sums.values())


@pytest.mark.parametrize("seed", range(40))
def test_never_over_by_the_true_cost(seed):
    random = np.random.default_rng(seed)
    workload = WORKLOADS[str(random.choice(list(WORKLOADS)))]
    profile = measured(workload) if random.random() < 0.5 else profile_of()
    names = [str(name) for name in random.choice(COSTS, random.integers(1, 4), replace=False)]
    budgets = [Budget(name, float(random.uniform(0.4, 1.0)), True) for name in names]
    try:
        plan = planned(workload, budgets, profile=profile, seed=seed)
    except InfeasibleBudgetError:
        return
    for total in plan.all_costs:
        model = cost_model(total.cost)
        assert total.dense == pytest.approx(
            reduced_cost(model, workload, {}, profile), rel=ROUNDING
        )
        true = reduced_cost(model, workload, plan.kept_units, profile)
        assert total.predicted == pytest.approx(true, rel=ROUNDING)
        if total.asked is not None:
            assert total.predicted <= total.asked
    for group in plan.groups:
        assert group.num_kept_units % group.multiple == 0 or not group.is_shortened
    assert plan.retained_value == pytest.approx(
        retained_by_hand(workload, plan, seed), rel=SUMMATION
    )


@pytest.mark.parametrize("seed", range(12))
def test_channels_and_tiles_together_are_never_over_nor_worse_than_either(seed):
    random = np.random.default_rng(seed)
    workload = WORKLOADS[str(random.choice(list(WORKLOADS)))]
    budgets = {"flops": f"{random.uniform(45, 90):.3g}%", "params": "90%"}
    plan = planned(workload, budgets, ["auto"], seed)
    for budget in plan.budgets:
        assert budget.predicted <= budget.asked
        assert budget.predicted == pytest.approx(plan.predicted(budget.cost), rel=ROUNDING)
    assert plan.retained_value == max(plan.retained_by.values())
    weights = ArrayWeights(weights_of(workload, seed))
    for layouts in ((), ("channel", "head")):
        try:
            alone = plan_workload(workload, weights, budgets, layouts=layouts)
        except (InfeasibleBudgetError, PlanError):
            continue
        assert plan.retained_value >= alone.retained_value * (1 - SUMMATION)


def test_what_becomes_of_each_layer_is_told():
    workload = residual_network()
    plan = planned(workload, {"flops": "50%"}, ["auto"])
    kept = plan.kept_units
    left = reduce(workload, kept).workload
    treatments = {layer.name: plan.treatment(layer) for layer in plan.layers}
    assert plan.kept_units
    for layer, before, after in zip(plan.layers, workload.layers, left.layers, strict=True):
        assert layer.num_weights == after.num_weights
        assert layer.num_weights + layer.num_removed_weights == before.num_weights
        assert bool(layer.cut_by) == (after.shape != before.shape)
        dense = cost_model("flops").dense_cost(before, None)
        assert layer.whole_cost("flops") == dense
        expected = ["channel"] if layer.cut_by else []
        expected += [layer.layout] if layer.is_sparse else []
        assert treatments[layer.name] == ("+".join(expected) or "dense")
    assert plan.duality_gap is None
    weights = ArrayWeights(weights_of(workload))
    assert plan.weights_fingerprint == fingerprint_of(workload.layers, weights)


def test_worth_says_why():
    plan = planned(residual_network(), {"params": "50%"})
    assert plan.budget.price > 0
    lasts = [group.worth_of_last for group in plan.groups if group.worth_of_last is not None]
    # The price is that of the least valuable units that stay.
    assert min(lasts) == pytest.approx(1.0)
    for group in plan.groups:
        assert (group.worth_of_next is None) == (not group.is_shortened)


def test_a_plan_survives_its_file(tmp_path):
    from cost_models import write_document

    plan = planned(residual_network(), {"params": "50%"}, ["auto"])
    write_document(tmp_path / "plan.yaml", plan)
    assert read_plan(tmp_path / "plan.yaml") == plan


def test_budgets_of_the_dense_model_keep_everything():
    plan = planned(residual_network(), {"params": "100%"}, ["auto"])
    assert plan.kept_units == {}
    assert plan.retained_value == 1.0
    assert plan.budget.predicted == plan.budget.dense


def test_another_device_prices_what_channels_leave():
    workload = residual_network()
    here, there = measured(workload), profile_of(timing_of(workload.layers[1].shape, (), 9.0))
    plan = planned(workload, {"latency": "70%"}, profile=here)
    for profile in (here, there):
        expected = reduced_cost(cost_model("latency"), workload, plan.kept_units, profile)
        found = cost_of_plan(plan, workload, "latency", profile)
        assert found == pytest.approx(expected, rel=ROUNDING)


def counts_of(workload, wish=None, bounds=()):
    found = group_counts(workload, wish or ChannelWish(frozenset({"channel", "head"})), bounds)
    return {item.group.name: item for item in found}


def test_counts_are_on_the_step():
    counts = counts_of(residual_network(24, 40))
    assert counts["stem"].counts == (8, 16, 24)
    assert counts["a1"].counts == (16, 32, 40)
    assert counts_of(attention(4, 16))["0.qkv"].counts == (1, 2, 3, 4)
    wish = ChannelWish(frozenset({"channel"}), multiple=5)
    assert counts_of(residual_network(24, 40), wish)["stem"].counts == (5, 10, 15, 20, 24)


@pytest.mark.parametrize(
    ("group", "multiple", "expected"),
    [
        (residual_network(64).channel_groups[0], None, 16),
        (residual_network(24).channel_groups[0], None, 8),
        (residual_network(64).channel_groups[0], 8, 8),
        (attention(4, 64).channel_groups[0], None, 1),
        (attention(4, 8).channel_groups[0], None, 2),
        (attention(4, 8).channel_groups[0], 8, 1),
    ],
)
def test_units_that_go_together(group, multiple, expected):
    assert units_together(group, multiple) == expected


def test_bounds_hold_channels():
    workload = residual_network()
    dense = parse_bounds(["a2"], [], [])
    assert counts_of(workload, bounds=dense)["a1"].fixed_because == "a2 shall keep its shape"
    assert counts_of(workload, bounds=dense)["b1"].fixed_because == ""
    least = parse_bounds([], ["a1=36%"], [])
    # Both axes of a1 may lose: each keeps the root of it, 60 %.
    assert counts_of(workload, bounds=least)["a1"].counts == (48, 64)
    assert counts_of(workload, bounds=least)["stem"].counts == (32,)
    plan = planned(workload, {"params": "60%"}, bounds=parse_bounds([], ["a*=20%"], []))
    for layer in plan.layers[1:3]:
        assert layer.whole_density >= 0.2


def test_minimum_density_holds_for_channels_and_tiles_together():
    bounds = parse_bounds([], ["*=30%"], [])
    plan = planned(residual_network(), {"flops": "55%"}, ["auto"], bounds=bounds)
    assert min(layer.whole_density for layer in plan.layers) >= 0.3


def test_kinds_that_were_not_asked_for_stay():
    plan = planned(attention(), {"params": "70%"}, ["channel"])
    assert set(plan.kept_units) <= {"0.up", "1.up"}
    heads = [group for group in plan.groups if group.kind == "head"]
    assert {group.fixed_because for group in heads} == {"layout head was not asked for"}
    plan = planned(attention(num_heads=8, head_size=16), {"params": "90%"}, ["head"])
    assert set(plan.kept_units) <= {"0.qkv", "1.qkv"}


def test_layers_used_in_slices_hold_their_groups():
    workload = attention()
    packed = workload.layers[0]
    sliced = replace(packed, sliced=SlicedWeight(packed.num_weights, packed.macs))
    workload = replace(workload, layers=(sliced, *workload.layers[1:]))
    assert counts_of(workload)["0.qkv"].fixed_because == "0.qkv is used in slices"


@pytest.mark.parametrize(
    ("workload", "budgets", "options", "error", "message"),
    [
        (
            residual_network(),
            {"params": "1%"},
            {},
            InfeasibleBudgetError,
            "with the fewest channels",
        ),
        (
            residual_network(),
            {"params": "1%"},
            {"layouts": ["auto"]},
            InfeasibleBudgetError,
            "with the fewest channels that may stay it is at least",
        ),
        (
            with_groups(residual_network()),
            {"params": "50%"},
            {},
            PlanError,
            "names no channel groups",
        ),
        (
            attention(),
            {"params": "50%"},
            {"bounds": [Bound("*", keep_dense=True)]},
            PlanError,
            "no channels of attention may go: 0.qkv shall keep its shape",
        ),
        (residual_network(), {}, {}, UsageError, "give at least one"),
        (residual_network(), {"params": "50%"}, {"policy": Policy.ERK}, UsageError, "policy cost"),
        (residual_network(), {"params": "50%"}, {"channel_multiple": 0}, UsageError, "at least 1"),
        (
            residual_network(),
            {"params": "50%"},
            {"channel_multiple": 8, "layouts": ["element"]},
            UsageError,
            "needs layout channel or auto",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(workload, budgets, options, error, message):
    with pytest.raises(error, match=message):
        planned(workload, budgets, **options)


def test_layouts_as_text():
    assert read_layouts(["tile:64x1"])[1] is None
    others, wish = read_layouts(["auto"])
    assert others == ()
    assert wish == ChannelWish(frozenset({"channel", "head"}), None, with_tiles=True)
    assert read_layouts(["channel"])[1] == ChannelWish(frozenset({"channel"}))
    others, wish = read_layouts(["head", "tile:64x1"], 8)
    assert [str(item) for item in others] == ["tile:64x1"]
    assert wish == ChannelWish(frozenset({"head"}), 8, with_tiles=True)


def test_the_same_weights_make_the_same_plan():
    plans = [planned(residual_network(), {"flops": "50%"}, ["auto"]) for _ in range(2)]
    assert plans[0] == plans[1]


def test_documents_that_contradict_themselves_are_refused():
    plan = planned(residual_network(), {"params": "50%"})
    group = next(group for group in plan.groups if group.is_shortened)
    for changes, message in (
        ({"num_kept_units": 0}, "between 1 and"),
        ({"num_kept_units": group.num_units + 1}, "between 1 and"),
        ({"num_kept_units": group.multiple + 1, "num_units": 64}, "multiple"),
        ({"multiple": 0}, "at least 1"),
        ({"fixed_because": "it is"}, "must stay whole"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(group, **changes)
    with pytest.raises(ValueError, match="appears twice"):
        replace(plan, groups=(group, group))
    with pytest.raises(ValueError, match="loses units"):
        replace(plan, groups=())
