"""What the budgets of a plan leave for the blocks that compete."""

from dataclasses import replace

import numpy as np
import pytest
from builders import small_plan
from hypothesis import given
from hypothesis import strategies as st
from networks import tiny_inputs, tiny_network, tiny_plan

from spartan_planner.plan_model import plan
from spartan_planner.training.block_budgets import BlockBudgets

ROUNDING = 1e-9
"""Relative; the share of a budget left unused, and sums in another order."""


def plan_in(layout):
    budgets = {"flops": "50%", "params": "55%"}
    return plan(tiny_network(), tiny_inputs(), budgets=budgets, layouts=[layout])


PLANS = {layout: plan_in(layout) for layout in ("tile:64x1@16", "tile:24x5", "element")}


def two_budgets(latency=3.0, flops=2.5e3, prices=(2.0, 0.5)):
    """``small_plan`` with limits on both costs: 0.5 + 0.125 + 0.5 k + 1 ms, 500 k + 1000 FLOPs."""
    plan = small_plan()
    first, second = plan.budgets[0], plan.totals[0]
    return replace(
        plan,
        budgets=(
            replace(first, asked=latency, predicted=min(latency, 2.875), price=prices[0]),
            replace(second, asked=flops, predicted=min(flops, 2.25e3), price=prices[1]),
        ),
        totals=(),
    )


def test_what_does_not_compete_is_paid_first():
    budgets = BlockBudgets.of(two_budgets(), [0])
    np.testing.assert_array_equal(budgets.per_block, [[0.5, 500.0]])
    np.testing.assert_allclose(budgets.limits, [3.0 - 1.625, 2500.0 - 1000.0], rtol=ROUNDING)
    assert np.all(budgets.limits <= [1.375, 1500.0])


def test_protected_blocks_are_paid_as_whole_ones():
    budgets = BlockBudgets.of(two_budgets(), [2])
    np.testing.assert_allclose(budgets.limits, [0.375, 500.0], rtol=ROUNDING)
    spent = BlockBudgets.of(two_budgets(), [5])
    np.testing.assert_array_equal(spent.limits, [0.0, 0.0])


def test_prices_blend_the_costs():
    budgets = BlockBudgets.of(two_budgets(prices=(2.0, 0.5)), [0])
    assert budgets.blended_per_block == [2.0 * 0.5 + 0.5 * 500.0]
    assert budgets.blended_limit == pytest.approx(2.0 * 1.375 + 0.5 * 1500.0, rel=ROUNDING)


def test_without_prices_each_budget_counts_by_its_limit():
    budgets = BlockBudgets.of(two_budgets(prices=(0.0, 0.0)), [0])
    np.testing.assert_allclose(budgets.weights, [1 / 3.0, 1 / 2.5e3])


@pytest.mark.parametrize(
    ("kept", "overrun"),
    [(0.0, 1.0), (2.0, 1.0), (2.75, 1.375 / 1.375), (3.0, 1.5 / 1.375), (4.0, 2.0 / 1.375)],
)
def test_the_worst_overrun_counts(kept, overrun):
    budgets = BlockBudgets.of(two_budgets(latency=3.0 * (1 + 2e-12)), [0])
    assert budgets.overrun([kept]) == pytest.approx(overrun, rel=ROUNDING)


def test_a_limit_of_nothing_is_exceeded_without_measure():
    budgets = BlockBudgets(np.array([[1.0, 0.0], [1.0, 2.0]]), np.array([5.0, 0.0]), np.ones(2))
    assert budgets.overrun([5, 0]) == 1.0
    assert budgets.overrun([0, 1]) == np.inf
    assert budgets.overrun([6, 0]) == 6 / 5


def test_a_plan_without_sparse_layers_has_nothing_to_limit():
    budgets = BlockBudgets.of(tiny_plan(tiny_network(), "100%"), [])
    assert budgets.per_block.shape == (0, 1)
    assert budgets.overrun([]) == 1.0


@given(st.data())
def test_what_is_within_the_limits_keeps_every_budget(data):
    """Counted anew by the plan, ragged blocks at their size."""
    layout = data.draw(st.sampled_from(["tile:64x1@16", "tile:24x5", "element"]))
    made = PLANS[layout]
    protected = [1 if "@" in layout else 0 for _ in made.sparse_layers]
    budgets = BlockBudgets.of(made, protected)
    kept = [
        data.draw(st.integers(0, layer.num_blocks - number))
        for layer, number in zip(made.sparse_layers, protected, strict=True)
    ]
    sizes = {
        layer.name: min(count + number, layer.num_whole_blocks)
        for layer, count, number in zip(made.sparse_layers, kept, protected, strict=True)
    }
    if budgets.overrun(kept) == 1.0:
        for budget in made.budgets:
            assert made.predicted(budget.cost, sizes) <= budget.asked
