"""Hard top-k with a cost per element: the definition by sorting, with sums rounded once."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spartan_planner.errors import TransportError
from spartan_planner.transport import (
    SelectionStatus,
    element_costs,
    hard_topk,
    soft_topk,
    solve_hard_topk,
    solve_soft_topk,
)
from spartan_planner.transport.exact_sums import LimbScale, rounded_sum

# Beyond the masks no more than a quarter of the bytes of float32 values.
EXTRA_MEMORY = 0.25


def generator():
    return torch.Generator().manual_seed(11)


def by_sorting(values, costs, budget):
    """Definition 4.3, the cost of a prefix being fsum of its costs, which grows with it."""
    values, costs = values.double().flatten(), costs.double().flatten()
    order = (values / costs).sort(descending=True, stable=True).indices
    ordered = costs[order].tolist()
    fits, fails = 0, len(ordered) + 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        within = math.fsum(ordered[:middle]) <= budget
        fits, fails = (middle, fails) if within else (fits, middle)
    mask = torch.zeros(len(ordered), dtype=torch.bool)
    mask[order[:fits]] = True
    return mask


VALUES = {
    "random": lambda x, _: x,
    "negative": lambda x, _: x - 0.5,
    "equal": lambda x, _: torch.full_like(x, 0.3),
    "zero": lambda x, _: torch.zeros_like(x),
    "tied ratios": lambda x, c: (4 * x).round() * c.float(),
    "signed zeros": lambda x, _: torch.where(x > 0.5, 0.0, -0.0),
}
COSTS = {
    "random": lambda n: torch.rand(n, generator=generator()) + 0.1,
    "12 orders": lambda n: torch.logspace(-6, 6, n, dtype=torch.float64)[
        torch.randperm(n, generator=generator())
    ],
    "all 0.1": lambda n: torch.full((n,), 0.1, dtype=torch.float64),
    "whole": lambda n: torch.randint(1, 5, (n,), generator=generator()),
    "half precision": lambda n: (torch.rand(n, generator=generator()) + 0.1).half(),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("cost", COSTS)
def test_long_rows_equal_the_definition(cost, kind):
    size = 70_001
    costs = COSTS[cost](size)
    values = VALUES[kind](torch.rand(size, generator=generator()), costs)
    ordered = costs.double()[(values.double() / costs.double()).argsort(stable=True).flip(0)]
    total = math.fsum(costs.double().tolist())
    # Budgets that a prefix meets to the last bit or misses by one, and others.
    exact = math.fsum(ordered[: size // 3].tolist())
    for budget in (1e-9 * total, 0.2 * total, exact, math.nextafter(exact, 0.0), 0.999 * total):
        mask = hard_topk(values, costs, budget)
        assert torch.equal(mask, by_sorting(values, costs, budget))
        assert math.fsum(costs.double()[mask].tolist()) <= budget


@pytest.mark.parametrize("pool", [1, 1 << 15], ids=["no pool", "pool"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_segments_with_numbers_and_tensors_as_costs(monkeypatch, dtype, pool):
    monkeypatch.setattr(element_costs, "_LEAST_POOL", pool)
    values = [
        (8 * torch.rand(shape, generator=generator())).to(dtype)
        for shape in ((300, 400), (0,), (70_000,), (7,))
    ]
    costs = [torch.rand(300, 400, generator=generator()) + 0.1, 2.0, 0.3, torch.rand(7) + 0.1]
    each = [
        torch.as_tensor(c, dtype=torch.float64).expand(v.shape).flatten()
        for c, v in zip(costs, values, strict=True)
    ]
    whole = torch.cat(each)
    for share in (0.01, 0.5, 0.9):
        budget = share * float(whole.sum())
        found = solve_hard_topk(values, costs, budget)
        joined = torch.cat([m.flatten() for m in found.masks])
        expected = by_sorting(torch.cat([v.double().flatten() for v in values]), whole, budget)
        assert torch.equal(joined, expected)
        assert found.num_kept == int(joined.sum())
        assert found.cost == math.fsum(whole[joined].tolist()) <= budget
        assert found.status is SelectionStatus.EXACT_PREFIX


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    blocks=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]),
            st.floats(1e-6, 1e6),
        ),
        min_size=2,
        max_size=25,
    ),
    share=st.floats(0, 1),
)
def test_small_problems_equal_the_definition(blocks, share):
    values, costs = (
        torch.tensor(column, dtype=torch.float64) for column in zip(*blocks, strict=True)
    )
    budget = share * math.fsum(costs.tolist())
    expected = by_sorting(values, costs, budget)
    assert torch.equal(hard_topk(values, costs, budget), expected)
    assert torch.equal(solve_hard_topk([values], [costs], budget).masks[0], expected)


def test_rows_where_rounding_decides():
    # Added up one after the other, ten times 0.1 is less than 1, and six times is more than 0.6.
    for length in (11, 50):
        costs = torch.tensor([0.1] * (length - 1) + [0.2], dtype=torch.float64)
        values = torch.arange(float(length), 0.0, -1.0, dtype=torch.float64) * costs
        for count in range(1, length):
            exact = math.fsum([0.1] * count)
            for budget in (exact, math.nextafter(exact, 0.0)):
                expected = by_sorting(values, costs, budget)
                assert torch.equal(hard_topk(values.repeat(3, 1), costs, budget)[1], expected)


@pytest.mark.parametrize("length", [1, 4, 32, 33, 700])
@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("cost", COSTS)
def test_short_rows_equal_the_definition(cost, kind, length):
    costs = torch.stack([COSTS[cost](length) for _ in range(5)])
    values = VALUES[kind](torch.rand(5, length, generator=generator()), costs)
    for share in (0.1, 0.5, 0.9):
        budgets = share * costs.double().sum(1)
        masks = hard_topk(values, costs, budgets)
        for row in range(5):
            expected = by_sorting(values[row], costs[row], float(budgets[row]))
            assert torch.equal(masks[row], expected)


@pytest.mark.parametrize("beta", [10.0, 1e6])
def test_soft_masks_of_segments_with_costs_per_element(beta):
    values = torch.rand(400, 500, generator=generator())
    costs = torch.rand(400, 500, generator=generator()) + 0.1
    budget = 0.2 * float(costs.double().sum())
    masks = solve_soft_topk([values], [costs], budget, beta).masks[0]
    assert float((masks.double() * costs).sum()) == pytest.approx(budget, rel=1e-6)
    flat = soft_topk(values.flatten(), costs.flatten(), budget, beta)
    torch.testing.assert_close(flat, masks.flatten())


def test_a_cost_per_element_is_refused_across_ranks():
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(TransportError, match="one cost per tensor"):
            solve_hard_topk(
                [torch.rand(6)], [torch.rand(6) + 1.0], 1.0, process_group=dist.group.WORLD
            )
    finally:
        dist.destroy_process_group()


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.floats(1e-140, 1e140), min_size=1, max_size=40))
def test_sums_are_rounded_once(terms):
    tensor = torch.tensor(terms, dtype=torch.float64)
    assert rounded_sum([tensor[:7], tensor[7:]]) == math.fsum(terms)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=40))
def test_limbs_are_whole_and_make_up_the_terms(terms):
    tensor = torch.tensor(terms, dtype=torch.float64)
    scale = LimbScale.of(max(terms), len(terms))
    limbs = scale.limbs(tensor)
    units = scale.units(len(limbs))
    for index, term in enumerate(terms):
        parts = [float(limb[index]) for limb in limbs]
        assert all(part == int(part) for part in parts)
        assert math.fsum(p * u for p, u in zip(parts, units, strict=True)) == term
    assert all(float(limb.sum()) < 2**53 for limb in limbs)


def peak_extra(call, output_bytes):
    """Return the greatest sum of live tensor memory during a call, less its output."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        kept = call()
    del kept
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak - output_bytes


@pytest.mark.parametrize("kind", ["random", "tied"])
def test_no_temporary_of_the_size_of_a_long_row(kind):
    size = 10_000_000
    values = torch.rand(size, generator=generator())
    costs = torch.rand(size, generator=generator()) + 0.1
    if kind == "tied":
        values, costs = (4 * values).round_(), torch.ones(size)
    budget = 0.1 * float(costs.sum())
    limit = EXTRA_MEMORY * 4 * size
    assert 0 < peak_extra(lambda: hard_topk(values, costs, budget), size) < limit
    assert 0 < peak_extra(lambda: soft_topk(values, costs, budget, 100.0), 4 * size) < limit
    values.requires_grad_()
    mask = soft_topk(values, costs, budget, 100.0)
    upstream = torch.ones_like(mask)
    slopes = lambda: torch.autograd.grad(mask, values, upstream)  # noqa: E731
    assert 0 < peak_extra(slopes, 4 * size) < limit
