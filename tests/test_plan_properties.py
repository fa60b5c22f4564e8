"""A thousand random models, profiles, budgets: never over, and at most one block under."""

import re

import numpy as np
import pytest
from builders import conv_shape, linear_shape, profile_of, timing_of, workload_of

from cost_models import LayerWorkload, Layout
from spartan_planner.errors import InfeasibleBudgetError, PlanError
from spartan_planner.export_metadata import LOWERED, metadata_of
from spartan_planner.planning import ROUNDING, ArrayWeights, Budget, plan_workload

NUM_CASES = 1000
NUM_PARTS = 10
LAYOUTS = ("tile:32x1@16", "tile:64x1@16", "tile:16x1", "tile:24x3", "element", "2:4")
COSTS = ("latency", "flops", "params", "memory", "energy")


def random_workload(random):
    layers = []
    for index in range(random.integers(1, 5)):
        outputs, inputs = (int(size) for size in random.choice([10, 32, 48, 64], 2))
        if random.random() < 0.85:
            shape = conv_shape(outputs, inputs, int(random.choice([1, 3])), 8)
            positions = 64
        else:
            shape, positions = linear_shape(outputs, inputs), 1
        prunable = bool(random.random() < 0.9) or index == 0
        layers.append(LayerWorkload(f"layer{index}", shape, positions, prunable=prunable))
    return workload_of(*layers, extra_parameters=int(random.integers(0, 500)))


def random_profile(random, workload):
    """Some layers measured in some layouts, some only estimated."""
    timings = []
    for shape in dict.fromkeys(layer.shape for layer in workload.layers):
        if random.random() < 0.6:
            is_balanced = shape.is_convolution and shape.weight_shape[1] >= 32
            layouts = ("tile:32x1@16",) if is_balanced and random.random() < 0.8 else ()
            dense_ms = float(random.uniform(0.1, 3))
            fixed_ms = dense_ms * float(random.uniform(0, 1))
            timings.append(timing_of(shape, layouts, dense_ms, fixed_ms))
    return profile_of(*timings, run_overhead_ms=float(random.uniform(0, 0.2)))


def random_case(seed):
    random = np.random.default_rng(seed)
    workload = random_workload(random)
    profile = random_profile(random, workload) if random.random() < 0.6 else None
    known = COSTS if profile else ("flops", "params", "memory")
    names = random.choice(known, random.integers(1, 4), replace=False)
    budgets = [Budget(str(name), float(random.uniform(0.45, 1.05)), True) for name in names]
    layouts = [str(item) for item in random.choice(LAYOUTS, random.integers(1, 4), replace=False)]
    if set(names) & {"latency", "memory", "energy"}:
        # These gain from lowered forms only.
        layouts.append("tile:32x1@16")
    arrays = {
        layer.name: random.standard_normal(layer.shape.weight_shape, np.float32)
        for layer in workload.layers
    }
    return workload, ArrayWeights(arrays), budgets, profile, layouts


@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_never_over_and_at_most_one_block_under(part):
    num_planned = num_refused = 0
    for seed in range(part, NUM_CASES, NUM_PARTS):
        workload, weights, budgets, profile, layouts = random_case(seed)
        options = {"profile": profile, "layouts": layouts}
        try:
            plan = plan_workload(workload, weights, budgets, **options)
        except InfeasibleBudgetError as error:
            num_refused += 1
            assert_least_is_told(str(error), budgets)
            continue
        except PlanError as error:
            if "can be pruned in the layouts" not in str(error):
                raise
            continue
        num_planned += 1
        for budget in plan.budgets:
            assert budget.predicted <= budget.asked, seed
            assert budget.predicted == pytest.approx(plan.predicted(budget.cost), rel=ROUNDING)
        assert_costs_are_those_of_one_form(plan, seed)
        assert_no_block_fits(plan, seed)
    assert num_planned > NUM_CASES / NUM_PARTS / 3
    assert num_refused


def assert_least_is_told(message, budgets):
    if "no plan was found" in message:
        assert len(budgets) > 1
        assert message.count("at least") == len(budgets)
    else:
        assert re.search(r"the least achievable is [\d.e+-]+ \w+ .*held up by layer", message)


def assert_costs_are_those_of_one_form(plan, seed):
    """Every cost is what the exported file promises; a budget never more than was charged."""
    kept = {layer.name: layer.kept_size for layer in plan.sparse_layers}
    promised = {cost.cost: cost.predicted for cost in metadata_of(plan, kept, LOWERED).costs}
    for total in plan.all_costs:
        assert total.predicted == pytest.approx(promised[total.cost], rel=ROUNDING), seed
    for budget in plan.budgets:
        whole = budget.rest + sum(charged(plan, layer, budget)[0] for layer in plan.layers)
        assert budget.predicted <= whole * (1 + ROUNDING), seed


def charged(plan, layer, budget) -> tuple[float, float]:
    """What a layer is charged for by a budget, and for one whole block more.

    A sparse layer is charged for its sparse form, also where in the end the dense form takes less:
    the prediction lies below then.  Only where the sparse form saves, however little is kept, none
    of the budgeted costs that depend on it, the layer is charged for its dense form, zeros and all.
    """
    costs, cost = layer.costs, budget.cost
    if not layer.is_sparse:
        return costs[cost].dense, 0.0
    by_form = [b.cost for b in plan.budgets if b.cost not in ("flops", "params")]
    least = 1 if not layer.min_kept_blocks else layer.min_kept_blocks
    can_pay = any(costs[c].sparse(least) < costs[c].dense for c in by_form)
    if cost in by_form and not can_pay and len(by_form) < len(plan.budgets):
        return costs[cost].dense, 0.0
    return costs[cost].sparse(layer.kept_size), costs[cost].per_block


def assert_no_block_fits(plan, seed):
    """One whole block more, of any layer that has one left, would break some budget.

    A budget above the dense cost counts as the dense cost.
    """
    for layer in plan.sparse_layers:
        layout = Layout.parse(layer.layout)
        if layer.num_kept_blocks == layer.num_blocks or layout.num_of:
            continue
        over = [
            budget.rest
            + sum(charged(plan, other, budget)[0] for other in plan.layers)
            + charged(plan, layer, budget)[1]
            > min(budget.asked, budget.dense) * (1 - ROUNDING)
            for budget in plan.budgets
        ]
        assert any(over), (seed, layer.name)
