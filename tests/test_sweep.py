"""Sweeps and comparisons: each point is the plan that its budget gives on its own."""

import numpy as np
import pytest
from builders import TILE, profile_of, small_profile, small_workload, timing_of

from spartan_planner.errors import InfeasibleBudgetError, UsageError
from spartan_planner.planning import (
    ArrayWeights,
    Budget,
    PlanRequest,
    parse_budget,
    plan_workload,
    prepare,
)
from spartan_planner.planning.compare import compare
from spartan_planner.planning.sweep import curve_csv, sweep

ROUNDING = 1e-12
"""Relative; sums of a handful of float64 in another order."""


def weights() -> ArrayWeights:
    random = np.random.default_rng(0)
    return ArrayWeights(
        {
            layer.name: random.standard_normal(layer.shape.weight_shape, np.float32)
            for layer in small_workload().layers
        }
    )


def problem(text, profile):
    budgets = [parse_budget(part) for part in text.split()]
    return prepare(small_workload(), weights(), PlanRequest(budgets, profile))


@pytest.mark.parametrize("text", ["latency=50%", "latency=60% params=50%"])
def test_every_point_is_the_plan_of_its_budgets(text):
    profile = small_profile()
    curve = sweep(problem(text, profile), profile, num_points=7)
    for point in curve.points:
        asked = [Budget(c.cost, c.asked, False) for c in point.costs if c.asked is not None]
        plan = plan_workload(small_workload(), weights(), asked, profile=profile)
        assert point.retained_value == pytest.approx(plan.retained_value, rel=ROUNDING)
        for cost, total in zip(point.costs, plan.all_costs, strict=True):
            assert cost.predicted == pytest.approx(total.predicted, rel=ROUNDING)
        for cost in point.costs[: len(asked)]:
            assert cost.predicted <= cost.asked
    retained = [point.retained_value for point in curve.points]
    assert retained[-1] == 1.0
    assert retained == sorted(retained)


def test_csv_has_a_line_for_each_point():
    curve = sweep(problem("params=50%", None), num_points=5)
    heading, *lines = curve_csv(curve).splitlines()
    assert heading.startswith("asked_params (parameters),predicted_params (parameters),")
    assert len(lines) == 5
    assert {line.count(",") for line in lines} == {heading.count(",")}


def test_a_curve_needs_two_points_and_a_budget_that_can_be_met():
    with pytest.raises(UsageError, match="at least 2"):
        sweep(problem("params=50%", None), num_points=1)
    with pytest.raises(InfeasibleBudgetError, match="least achievable"):
        sweep(problem("params=1%", None))


def test_devices_are_compared_and_each_plan_priced_on_the_others():
    slow = small_profile()
    stem, a, b, head = (layer.shape for layer in small_workload().layers)
    fast = profile_of(
        timing_of(stem, (), 0.02),
        timing_of(a, (TILE,), 0.1, 0.01),
        timing_of(b, (TILE,), 0.2, 0.02),
        timing_of(head, (), 0.01),
        name="fast",
    )

    def plan_for(profile):
        budgets = {"latency": "60%"}
        return plan_workload(small_workload(), weights(), budgets, profile=profile)

    first, second = compare(small_workload(), [slow, fast], plan_for)
    assert (first.profile, second.profile) == ("made-up", "fast")
    assert first.plan.budget.predicted <= first.plan.budget.asked
    there = first.elsewhere["fast"]["latency"]
    assert 0 < there < first.plan.budget.predicted
    assert set(second.elsewhere) == {"made-up"}
    with pytest.raises(UsageError, match="different names"):
        compare(small_workload(), [slow, slow], plan_for)
