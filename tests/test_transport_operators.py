"""Soft and hard top-k of rows, and the scopes built on them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spartan_planner.errors import TransportError
from spartan_planner.transport import (
    erk_densities,
    hard_n_of_m,
    hard_topk,
    soft_n_of_m,
    soft_topk,
    solve_hard_by_layer,
    solve_hard_topk,
    solve_soft_by_layer,
    solve_soft_topk,
    uniform_densities,
)

# The rows are solved in float64.
BUDGET = 1e-9


@pytest.mark.parametrize("beta", [1e-3, 1.0, 100.0, 1e6])
@pytest.mark.parametrize("kind", ["random", "ties", "equal", "zero"])
def test_every_row_meets_its_budget(beta, kind):
    values = torch.rand(50, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    values = {"random": values, "ties": (3 * values).round()}.get(
        kind, torch.full_like(values, 0.3 if kind == "equal" else 0.0)
    )
    costs = torch.logspace(-6, 6, 9, dtype=torch.float64)
    for share in (1e-9, 0.05, 0.7):
        budget = share * costs.sum()
        spent = (soft_topk(values, costs, float(budget), beta) * costs).sum(1)
        torch.testing.assert_close(spent, budget.expand(50), rtol=BUDGET, atol=0.0)


def test_rows_equal_the_segmented_solver():
    values = torch.rand(3, 40, dtype=torch.float64)
    budgets = torch.tensor([5.0, 20.0, 79.0])
    rows = soft_topk(values, 2.0, budgets, 9.0)
    kept = hard_topk(values, 2.0, budgets)
    for index, budget in enumerate(budgets.tolist()):
        alone = solve_soft_topk([values[index]], [2.0], budget, 9.0).masks[0]
        torch.testing.assert_close(rows[index], alone, rtol=1e-9, atol=1e-12)
        assert torch.equal(kept[index], solve_hard_topk([values[index]], [2.0], budget).masks[0])


def test_costs_per_element_equal_costs_per_segment():
    parts, costs = (torch.rand(30), torch.rand(20)), (1.0, 4.0)
    whole = torch.cat(parts)
    per_element = torch.cat([torch.full((30,), 1.0), torch.full((20,), 4.0)])
    masks = torch.cat(solve_soft_topk(parts, costs, 33.0, 6.0).masks)
    torch.testing.assert_close(soft_topk(whole, per_element, 33.0, 6.0), masks)
    kept = torch.cat(solve_hard_topk(parts, costs, 33.0).masks)
    assert torch.equal(hard_topk(whole, per_element, 33.0), kept)


def test_long_rows():
    values = torch.rand(2, 40_000, generator=torch.Generator().manual_seed(8))
    costs = torch.rand(40_000, generator=torch.Generator().manual_seed(9)) + 0.1
    budget = float(costs.double().sum()) / 3
    spent = (soft_topk(values, costs, budget, 20.0).double() * costs).sum(1)
    torch.testing.assert_close(spent, torch.full((2,), budget).double(), rtol=1e-6, atol=0.0)
    assert (hard_topk(values, 1.0, 1234.0).sum(1) == 1234).all()
    kept = (hard_topk(values, costs, budget) * costs.double()).sum(1)
    assert ((kept <= budget) & (kept > budget - 2)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_shape_and_dtype_are_kept(dtype):
    values = torch.rand(2, 3, 4).to(dtype)
    assert soft_topk(values, 1.0, 2.0, 5.0).dtype == dtype
    assert soft_topk(values, 1.0, 2.0, 5.0).shape == hard_topk(values, 1.0, 2.0).shape == (2, 3, 4)


def test_empty():
    assert soft_topk(torch.empty(0, 4), 1.0, 2.0, 5.0).shape == (0, 4)
    assert hard_topk(torch.empty(3, 0), 1.0, 0.0).shape == (3, 0)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    values=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=12),
    share=st.floats(0, 1),
    cost=st.sampled_from([0.1, 1.0, 3.0]),
)
def test_hard_rows_are_never_over(values, share, cost):
    budget = share * cost * len(values)
    mask = hard_topk(torch.tensor(values), cost, budget)
    kept = int(mask.sum())
    assert kept == len(values) or kept * cost <= budget < (kept + 1) * cost
    # Ties by position: of two equal values the earlier is kept first.
    for value in set(values):
        own = [bool(m) for v, m in zip(values, mask.tolist(), strict=True) if v == value]
        assert own == sorted(own, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.tensor(1.0), 1.0, 1.0), "at least one axis"),
        ((torch.tensor([1, 2]), 1.0, 1.0), "values are torch.int64; they must be one of"),
        ((torch.tensor([1.0, math.nan]), 1.0, 1.0), "some are NaN"),
        ((torch.rand(3), -1.0, 1.0), "positive and finite"),
        ((torch.rand(3), torch.rand(2), 1.0), "do not broadcast"),
        ((torch.rand(3), 1.0, 4.0), "Row 0: The budget is 4, but it must lie between 0 and 3,"),
        ((torch.rand(3), 1.0, math.nan), "The budget is nan"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(TransportError, match=message):
        hard_topk(*arguments)
    with pytest.raises(TransportError, match=message):
        soft_topk(*arguments, 1.0)


def test_two_of_four():
    values = torch.rand(6, 8, dtype=torch.float64, requires_grad=True)
    kept = hard_n_of_m(values, 2, 4)
    assert (kept.view(6, 2, 4).sum(2) == 2).all()
    soft = soft_n_of_m(values, 2, 4, 10.0)
    torch.testing.assert_close(soft.view(6, 2, 4).sum(2), torch.full((6, 2), 2.0).double())
    assert torch.autograd.gradcheck(lambda v: soft_n_of_m(v, 2, 4, 10.0), (values,))


@pytest.mark.parametrize(("n", "m"), [(5, 4), (2, 3), (-1, 4), (0, 0)])
def test_groups_that_do_not_fit_are_refused(n, m):
    with pytest.raises(TransportError):
        hard_n_of_m(torch.rand(2, 8), n, m)


def test_layers_keep_their_own_density():
    values = [torch.rand(30), torch.rand(100)]
    hard = solve_hard_by_layer(values, (0.1, 0.29))
    assert [s.num_kept for s in hard] == [3, 29]
    soft = solve_soft_by_layer(values, (0.1, 0.29), 5.0)
    for selection, kept in zip(soft, (3.0, 29.0), strict=True):
        assert float(selection.masks[0].sum()) == pytest.approx(kept, rel=1e-6)
    with pytest.raises(TransportError, match="1 densities"):
        solve_hard_by_layer(values, (0.1,))
    with pytest.raises(TransportError, match=r"must lie in \[0, 1\]"):
        solve_hard_by_layer(values, (0.1, 1.1))


def test_uniform_densities():
    assert uniform_densities([(3, 3)] * 3, 0.2, dense_layers=[0]) == (1.0, 0.2, 0.2)


@pytest.mark.parametrize("density", [0.0, 0.05, 0.2, 0.5, 0.99, 1.0])
def test_erk_densities_keep_the_density_overall(density):
    shapes = [(64, 3, 7, 7), (64, 64, 3, 3), (512, 512, 3, 3), (1000, 512)]
    found = erk_densities(shapes, density)
    sizes = [math.prod(shape) for shape in shapes]
    kept = sum(d * n for d, n in zip(found, sizes, strict=True))
    assert kept == pytest.approx(density * sum(sizes), rel=1e-9)
    assert all(0 <= d <= 1 + 1e-12 for d in found)
    free = [i for i, d in enumerate(found) if 0 < d < 1]
    ratios = [found[i] * sizes[i] / sum(shapes[i]) for i in free]
    assert all(r == pytest.approx(ratios[0]) for r in ratios)


def test_erk_refuses_more_dense_layers_than_the_density_allows():
    with pytest.raises(TransportError, match="stay dense"):
        erk_densities([(10, 10), (10, 10)], 0.3, dense_layers=[0])
