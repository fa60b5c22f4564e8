"""Allocations by rule of thumb: what the rule says, within every budget."""

from dataclasses import replace

import numpy as np
import pytest
from builders import conv_shape, linear_shape, workload_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models import LayerWorkload, Layout, cost_model
from spartan_planner.errors import InfeasibleBudgetError, UsageError
from spartan_planner.planning import (
    ArrayWeights,
    LayerCandidates,
    PlanRequest,
    Policy,
    SparseCandidate,
    make_plan,
    parse_budget,
    value_curve,
)
from spartan_planner.planning.infeasible import Shortfall, why_infeasible
from spartan_planner.planning.policies import allocate_by_policy, least_by_policy, parse_policy

BINS = 0.02
"""Blocks are sorted into bins of values: ratios within a bin are kept or dropped in any order."""
SLACK = 1e-9
"""Relative; rounding of sums and of the bisection."""

WORKLOAD = workload_of(
    LayerWorkload("a.weight", conv_shape(16, 8, 3), 64),
    LayerWorkload("b.weight", conv_shape(32, 16, 3), 64),
    LayerWorkload("c.weight", conv_shape(24, 32, 1), 64),
    LayerWorkload("head.weight", linear_shape(10, 24), 1),
)
RULES = [Policy.UNIFORM, Policy.ERK, Policy.MAGNITUDE]
LAYOUTS = ("element", "tile:4x1", "tile:5x3")
SHARES = st.integers(15, 95)


def arrays(seed=0):
    generator = np.random.default_rng(seed)
    return {
        layer.name: (
            generator.standard_normal(layer.shape.weight_shape) * generator.uniform(0.3, 3)
        ).astype(np.float32)
        for layer in WORKLOAD.layers
    }


def plan_by(policy, budgets, layout="element", seed=0):
    request = PlanRequest(
        [parse_budget(text) for text in budgets],
        layouts=lambda layer: [Layout.parse(layout)] if layer.shape.op == "conv2d" else [],
        policy=policy,
    )
    return make_plan(WORKLOAD, ArrayWeights(arrays(seed)), request)


def scale_intervals(plan, weight_of):
    """For each pruned layer the scales at which it keeps what is planned: at most that density."""
    for layer in plan.sparse_layers:
        if layer.num_kept_blocks < layer.num_blocks:
            weight, whole = weight_of(layer.name), layer.num_whole_blocks
            low = 0.0 if layer.num_kept_blocks == 1 else layer.kept_size / whole / weight
            yield low * (1 - SLACK), (layer.kept_size + 1) / whole / weight * (1 + SLACK)


def erk_weight(name):
    shape = WORKLOAD.layer(name).shape.weight_shape
    return sum(shape) / np.prod(shape)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("policy", RULES)
@settings(max_examples=20)
@given(SHARES, SHARES, st.integers(0, 5))
def test_never_over_any_budget_and_never_better_than_the_bound(policy, layout, flops, params, seed):
    budgets = (f"flops={flops}%", f"params={params}%")
    try:
        plan = plan_by(policy, budgets, layout, seed)
    except InfeasibleBudgetError:
        assert min(flops, params) < 25
        return
    assert plan.policy == policy.value
    for budget in plan.budgets:
        assert budget.predicted <= budget.asked
    best = plan_by(Policy.COST, budgets, layout, seed)
    bound = best.retained_value * (1 + best.duality_gap)
    assert plan.retained_value <= bound / (1 - best.duality_gap) + SLACK


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=20)
@given(SHARES)
def test_uniform_keeps_the_same_density_everywhere(layout, share):
    plan = plan_by(Policy.UNIFORM, [f"params={max(share, 25)}%"], layout)
    intervals = list(scale_intervals(plan, lambda _: 1.0))
    assert max(low for low, _ in intervals) <= min(high for _, high in intervals)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=20)
@given(SHARES)
def test_erk_densities_are_proportional_to_dimensions_over_elements(layout, share):
    plan = plan_by(Policy.ERK, [f"params={max(share, 25)}%"], layout)
    intervals = list(scale_intervals(plan, erk_weight))
    assert max(low for low, _ in intervals) <= min(high for _, high in intervals)
    densities = {layer.name: layer.density for layer in plan.layers}
    assert densities["b.weight"] <= densities["a.weight"]


@settings(max_examples=20)
@given(SHARES)
def test_magnitude_is_one_threshold_on_all_weights(share):
    plan, weights = plan_by(Policy.MAGNITUDE, [f"params={max(share, 25)}%"]), arrays()
    least_kept, greatest_dropped = [], []
    for layer in plan.sparse_layers:
        ordered = np.sort(np.abs(weights[layer.name]).reshape(-1))[::-1]
        if 1 < layer.num_kept_blocks < layer.num_blocks:
            least_kept.append(ordered[layer.num_kept_blocks - 1])
            greatest_dropped.append(ordered[layer.num_kept_blocks])
    assert len(least_kept) == 3
    assert min(least_kept) >= max(greatest_dropped) * (1 - BINS)


@pytest.mark.parametrize("policy", RULES)
@pytest.mark.parametrize("share", [30, 50, 70])
def test_a_binding_budget_is_used_up_to_a_step_of_the_rule(policy, share):
    """A step of the rule moves every layer by a block at most, or by a bin of its values."""
    plan = plan_by(policy, [f"params={share}%"])
    (budget,) = plan.budgets
    step = sum(max(1, BINS * layer.num_blocks) for layer in plan.sparse_layers)
    assert budget.asked - step <= budget.predicted <= budget.asked


@pytest.mark.parametrize("policy", RULES)
def test_what_cannot_be_reached_is_refused(policy):
    with pytest.raises(InfeasibleBudgetError, match="the least achievable is"):
        plan_by(policy, ["params=1%"])


@pytest.mark.parametrize("policy", list(Policy))
def test_policies_by_name(policy):
    assert parse_policy(policy.value) is policy


@pytest.mark.parametrize("text", ["", "Uniform", "random"])
def test_a_policy_of_another_name_is_refused(text):
    with pytest.raises(UsageError, match="known are: cost, uniform, erk, magnitude"):
        parse_policy(text)


@pytest.mark.parametrize("policy", [Policy.UNIFORM, Policy.ERK, Policy.MAGNITUDE])
def test_what_no_policy_can_meet_is_told_as_such(policy):
    with pytest.raises(InfeasibleBudgetError, match="cannot be reached: the least achievable is"):
        plan_by(policy, ["params=0.1%"])


def test_what_a_policy_alone_cannot_meet_is_told_with_its_least():
    """A rule takes one layout for both budgets; here each layout meets one of them alone."""

    def candidate(layout, per_block):
        curve = value_curve(np.arange(1.0, 5.0), np.ones(1))
        costs = np.array(per_block)
        return SparseCandidate(Layout.parse(layout), curve, np.zeros(2), costs, min_size=4.0)

    both = (candidate("element", (1.0, 2.6)), candidate("tile:32x1", (2.6, 1.2)))
    layers = [LayerCandidates(name, 20.0, np.array([20.0, 20.0]), both) for name in "ab"]
    budgets, workloads = np.array([15.0, 16.0]), WORKLOAD.layers[1:3]
    for policy in (Policy.UNIFORM, Policy.ERK, Policy.MAGNITUDE):
        with pytest.raises(InfeasibleBudgetError):
            allocate_by_policy(policy, workloads, layers, budgets)
        assert np.any(least_by_policy(policy, workloads, layers, budgets) > budgets)


def test_the_sentence_about_a_policy_names_its_least():
    models = (cost_model("params"),)
    figures = (np.array([1.0]), np.array([10.0]), np.array([5.0]))
    layers = [LayerCandidates("a", 1.0, np.array([9.0]), ())]
    dear = Shortfall(
        (parse_budget("params=50%"),), models, layers, *figures, ("erk", np.array([7.0]))
    )
    assert "cannot be reached" in why_infeasible(dear)
    cheap = replace(dear, layers=[LayerCandidates("a", 1.0, np.array([1.0]), ())])
    assert why_infeasible(cheap) == (
        "the policy erk cannot meet params: the least that it keeps takes params at least 7 "
        "parameters of 5 asked; loosen the budgets, or take the policy cost, which chooses for "
        "each layer"
    )
    assert "no plan was found" in why_infeasible(replace(cheap, by_policy=None))
