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
    rows,
    soft_n_of_m,
    soft_topk,
    solve_hard_by_layer,
    solve_hard_topk,
    solve_soft_by_layer,
    solve_soft_topk,
    uniform_densities,
)
from spartan_planner.transport.rows import Rows, soft_rows

# The rows are solved in float64.
BUDGET = 1e-9
X, HUGE = torch.rand(3), torch.tensor([1e300, 1.0], dtype=torch.float64)


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
    soft = soft_topk(values, 2.0, budgets, 9.0)
    kept = hard_topk(values, 2.0, budgets)
    for index, budget in enumerate(budgets.tolist()):
        alone = solve_soft_topk([values[index]], [2.0], budget, 9.0).masks[0]
        torch.testing.assert_close(soft[index], alone, rtol=1e-9, atol=1e-12)
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


@pytest.mark.parametrize(
    ("shape", "budget"), [((0, 4), 2.0), ((3, 0), 0.0), ((0,), 0.0), ((2, 0, 3), 1.0)]
)
def test_empty(shape, budget):
    values = torch.empty(shape, requires_grad=True)
    soft = soft_topk(values, 1.0, budget, 5.0)
    assert soft.shape == hard_topk(values, 1.0, budget).shape == shape
    (slope,) = torch.autograd.grad(soft.sum(), values)
    assert slope.shape == shape


@pytest.mark.parametrize(("beta", "most"), [(5.0, 8), (50.0, 14)])
def test_rows_that_have_converged_wait_for_the_others(beta, most):
    values = torch.rand(16_384, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ones = torch.ones_like(values)
    found = soft_rows(Rows(values, ones, 2.0 * ones[:, :1]), beta)
    # A row that goes on from noise is bisected away and takes 45 steps or more.
    assert found.num_iterations <= most
    torch.testing.assert_close(found.masks.sum(1), 2.0 * ones[:, 0], rtol=BUDGET, atol=0.0)


@pytest.mark.parametrize("length", [5, 40, 20_000])
@pytest.mark.parametrize("kind", ["one number", "per element"])
def test_a_budget_just_below_the_total_is_kept(length, kind):
    values = torch.rand(length, generator=torch.Generator().manual_seed(2))
    each = torch.rand(length, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    each = torch.full_like(each, 0.1) if kind == "one number" else each + 0.1
    costs = 0.1 if kind == "one number" else each
    total = math.fsum(each.tolist())
    assert hard_topk(values, costs, total).all()
    for budget in (math.nextafter(total, 0.0), total * (1.0 - 5e-16)):
        for mask in (hard_topk(values, costs, budget), solve_hard(values, costs, budget)):
            assert int(mask.sum()) == length - 1
            assert math.fsum(each[mask].tolist()) <= budget


def solve_hard(values, costs, budget):
    found = solve_hard_topk([values], [costs], budget)
    assert 0.0 <= found.relative_budget_error == (budget - found.cost) / budget
    return found.masks[0]


def test_the_sum_of_all_costs_keeps_everything():
    generator = torch.Generator().manual_seed(4)
    for _ in range(200):
        costs = (torch.rand(5, generator=generator, dtype=torch.float64) + 0.01).mul(100).round()
        costs = costs / 100
        assert hard_topk(torch.arange(5.0, 0.0, -1.0), costs, math.fsum(costs.tolist())).all()


def test_a_total_of_many_tensors_is_rounded_once():
    generator = torch.Generator().manual_seed(5)
    for _ in range(50):
        costs = [torch.rand(7, generator=generator, dtype=torch.float64) for _ in range(3)]
        values = [torch.rand(7, generator=generator) for _ in costs]
        each = torch.cat(costs).tolist() + [0.1] * 3
        arguments = [*values, torch.rand(3)], [*costs, 0.1]
        total = math.fsum(each)
        assert solve_hard_topk(*arguments, total).num_kept == 24
        assert solve_hard_topk(*arguments, math.nextafter(total, 0.0)).num_kept == 23


@pytest.mark.parametrize("total", ["float32", "rows kept", "no rounding"])
def test_a_total_rounded_to_float32_is_the_total(total):
    for seed in range(20):
        costs = torch.rand(2, 1000, generator=torch.Generator().manual_seed(seed)) + 0.1
        budget = costs.sum(1, keepdim=total == "rows kept")
        if total == "no rounding":
            with pytest.raises(TransportError, match="Row 1: The budget is"):
                soft_topk(costs, costs.double(), budget.double() * torch.tensor([0.5, 1.00001]), 5)
        else:
            assert soft_topk(costs, costs, budget, 5.0).shape == costs.shape
            assert solve_soft_topk([costs[0]], [costs[0]], float(costs[0].sum()), 5.0)


def test_costs_of_whole_numbers_equal_floats():
    values, costs = torch.rand(3, 20), torch.arange(1, 21)
    for function in (hard_topk, lambda *given: soft_topk(*given, 9.0)):
        assert torch.equal(function(values, costs, 70), function(values, costs.double(), 70.0))


def test_rows_that_reach_the_iteration_limit_warn(monkeypatch):
    monkeypatch.setattr(rows, "_ITERATION_LIMIT", 2)
    with pytest.warns(RuntimeWarning, match="iteration limit was reached at beta 200"):
        soft_topk(torch.rand(4, 9, dtype=torch.float64), 1.0, 3.0, 200.0)


# 16 MB of values; a solve may take a quarter of that beside its result.
@pytest.mark.parametrize("scope", ["soft", "hard", "whole numbers"])
def test_rows_are_solved_without_a_copy(scope):
    values, costs = torch.rand(2000, 2000), torch.ones(2000, dtype=torch.int64)
    call = {
        "soft": lambda: soft_n_of_m(values, 2, 4, 5.0),
        "hard": lambda: hard_n_of_m(values, 2, 4),
        "whole numbers": lambda: soft_topk(values, costs, 200, 5.0),
    }[scope]
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        result = call()
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert peak >= result.nbytes
    assert peak - result.nbytes <= 0.25 * values.nbytes


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
        (([1.0, 2.0], 1.0, 1.0), "values must be a tensor; a list was given"),
        ((torch.ones(2, dtype=torch.complex64), 1.0, 1.0), "values are torch.complex64"),
        ((torch.rand(3), [1.0] * 3, 1.0), "costs must be a number or a tensor .* got list"),
        ((torch.rand(3), None, 1.0), "costs must be a number or a tensor .* got NoneType"),
        ((torch.rand(3), 1.0, "2"), "budget must be a number or a tensor .* got str"),
        ((HUGE, torch.tensor([1e-12, 1.0], dtype=torch.float64), 0.5), "range of a double"),
        ((torch.rand(3), -1.0, 1.0), "positive and finite"),
        ((torch.rand(3), torch.rand(2), 1.0), r"costs of shape \(2,\) and budget of shape \(\)"),
        ((torch.rand(3), 1.0, 4.0), "Row 0: The budget is 4, but it must lie between 0 and 3,"),
        ((torch.rand(3), 1.0, math.nan), "The budget is nan"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(TransportError, match=message):
        hard_topk(*arguments)
    with pytest.raises(TransportError, match=message):
        soft_topk(*arguments, 1.0)


@pytest.mark.parametrize("beta", ["1", None, [1.0], 0.0])
def test_a_beta_that_is_no_positive_number_is_refused(beta):
    with pytest.raises(TransportError, match="must be a positive finite number"):
        soft_topk(torch.rand(3), 1.0, 1.0, beta)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([X], 1.0, 1.0), "costs must be a list with one entry per tensor; got float"),
        ((None, [1.0], 1.0), "values must be a list with one entry per tensor; got NoneType"),
        (([[1.0]], [1.0], 1.0), "must be a tensor; got list"),
        (([X], [None], 1.0), "must be a number or a tensor; got NoneType"),
        (([X], ["1"], 1.0), "must be a number or a tensor; got str"),
        (([X], [1.0], None), "The budget must be a number; got NoneType"),
        (([X.long()], [1.0], 1.0), "are torch.int64"),
        (([X, HUGE], [1.0, 1e-12], 0.5), r"per cost of values\[1\] is beyond"),
    ],
)
def test_bad_segments_are_refused(arguments, message):
    with pytest.raises(TransportError, match=message):
        solve_hard_topk(*arguments)
    with pytest.raises(TransportError, match=message):
        solve_soft_topk(*arguments, 1.0)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"names": ["a"]}, "2 value tensors came with 1 names"),
        ({"initial_prices": [None]}, "2 value tensors came with 1 initial prices"),
    ],
)
def test_lists_of_the_wrong_length_are_refused(extra, message):
    with pytest.raises(TransportError, match=message):
        solve_soft_by_layer([X, X], [0.5, 0.5], 1.0, **extra)


@pytest.mark.parametrize("densities", [uniform_densities, erk_densities])
@pytest.mark.parametrize("layer", [-1, 2])
def test_a_dense_layer_that_is_not_there_is_refused(densities, layer):
    with pytest.raises(TransportError, match="layers are counted from 0 to 1"):
        densities([(4, 4), (30, 30)], 0.2, [layer])


def test_two_of_four():
    values = torch.rand(6, 8, dtype=torch.float64, requires_grad=True)
    kept = hard_n_of_m(values, 2, 4)
    assert (kept.view(6, 2, 4).sum(2) == 2).all()
    soft = soft_n_of_m(values, 2, 4, 10.0)
    torch.testing.assert_close(soft.view(6, 2, 4).sum(2), torch.full((6, 2), 2.0).double())
    assert torch.autograd.gradcheck(lambda v: soft_n_of_m(v, 2, 4, 10.0), (values,))


@pytest.mark.parametrize(("n", "m"), [(5, 4), (2, 3), (-1, 4), (0, 0), (2.5, 4), (2, 4.0)])
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
