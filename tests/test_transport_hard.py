"""Segmented hard top-k against the definition by sorting; never over the budget."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spartan_planner.errors import TransportError
from spartan_planner.transport import (
    SelectionStatus,
    packing,
    sampling,
    solve_hard_topk,
    solve_soft_topk,
)

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def by_sorting(values, costs, budget):
    """Definition 4.3: order by z, ties by position, the longest prefix within the budget."""
    ratio = torch.cat([v.double().flatten() / c for v, c in zip(values, costs, strict=True)])
    cost = torch.cat(
        [torch.full((v.numel(),), float(c)) for v, c in zip(values, costs, strict=True)]
    )
    order = ratio.sort(descending=True, stable=True).indices
    kept = int((cost.double()[order].cumsum(0) <= budget).sum())
    mask = torch.zeros(len(ratio), dtype=torch.bool)
    mask[order[:kept]] = True
    parts = mask.split([v.numel() for v in values])
    return [part.view(v.shape) for part, v in zip(parts, values, strict=True)], kept


def agree(values, costs, budget):
    result = solve_hard_topk(values, costs, budget)
    masks, kept = by_sorting(values, costs, budget)
    assert all(torch.equal(a, b) for a, b in zip(result.masks, masks, strict=True))
    assert result.num_kept == kept
    assert result.cost <= budget
    return result


def random_values(sizes):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(n, generator=generator).abs() for n in sizes]


KINDS = {
    "random": lambda x, _: x,
    "ties across tensors": lambda x, cost: (3 * x).round() * cost,
    "equal": lambda x, _: torch.full_like(x, 0.3),
    "zero": lambda x, _: torch.zeros_like(x),
    "sorted": lambda x, _: x.sort().values,
    "negative": lambda x, _: x - 0.5,
    "signed zeros": lambda x, _: torch.where(x > 0.5, 0.0, -0.0).to(x.dtype),
    "many orders": lambda x, _: (x * 8 - 8).exp(),
}


@pytest.mark.parametrize("sample", [None, 64], ids=["whole", "tiny sample"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_definition(monkeypatch, sample, kind, dtype):
    # Integer costs and budgets make the reference's float sums exact.
    if sample is not None:
        monkeypatch.setattr(sampling, "SAMPLE_BLOCKS", sample)
        monkeypatch.setattr(packing, "PACKED_BLOCKS", sample)
    generator = torch.Generator().manual_seed(1)
    for size in (1, 2, 100, 5000):
        for costs in ((1, 1, 1), (3, 1, 7), (1, 4096, 1 << 20)):
            values = [
                KINDS[kind](torch.randn(n, generator=generator).abs().to(dtype), c)
                for n, c in zip((size, size // 2 + 1, 3), costs, strict=True)
            ]
            if all(torch.isfinite(v).all() for v in values):
                total = sum(v.numel() * c for v, c in zip(values, costs, strict=True))
                for share in (0.0, 1e-3, 0.1, 0.5, 0.9, 1.0):
                    agree(values, costs, math.floor(share * total))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["random", "equal", "ties across tensors"])
def test_equals_the_definition_when_values_are_read_in_chunks(kind, dtype):
    generator = torch.Generator().manual_seed(2)
    values = [
        KINDS[kind](torch.randn(n, generator=generator).abs().to(dtype), 1)
        for n in (300_001, 90_007)
    ]
    agree(values, (1, 3), 77_777)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    values=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]), min_size=1, max_size=30),
    cut=st.integers(0, 30),
    costs=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    share=st.floats(0, 1),
)
def test_ties_and_budget(values, cut, costs, share):
    whole = torch.tensor(values)
    parts = [whole[:cut], whole[cut:]]
    total = sum(p.numel() * c for p, c in zip(parts, costs, strict=True))
    result = agree(parts, costs, math.floor(share * total))
    # At most one block under.
    if result.num_kept < len(values):
        assert result.cost + max(costs) > math.floor(share * total)


def test_fractional_costs_are_never_over():
    # Three times 0.1 is more than 0.3 in floats, so the third block does not fit.
    values = [torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)]
    assert solve_hard_topk(values, [0.1], 0.3).num_kept == 2
    assert solve_hard_topk(values, [0.1], 3 * 0.1).num_kept == 3


@pytest.mark.parametrize(
    ("budget", "fill", "status", "threshold"),
    [
        (0.0, False, SelectionStatus.NOTHING_KEPT, math.inf),
        (6.0, True, SelectionStatus.EVERYTHING_KEPT, -math.inf),
    ],
)
def test_limits(budget, fill, status, threshold):
    result = solve_hard_topk([torch.rand(2, 3)], [1.0], budget)
    assert (result.masks[0] == fill).all()
    assert (result.status, result.threshold, result.cost) == (status, threshold, budget)


def test_threshold_is_that_of_the_first_block_left_out():
    result = solve_hard_topk([torch.tensor([4.0, 2.0]), torch.tensor([9.0])], [1.0, 3.0], 4.0)
    assert result.threshold == 2.0
    assert result.cost == 4.0


def test_empty():
    assert solve_hard_topk([], [], 0.0).masks == ()
    assert solve_hard_topk([torch.empty(0, 3)], [1.0], 0.0).masks[0].shape == (0, 3)


@pytest.mark.parametrize("budget", [-1.0, 7.0, math.nan])
def test_budget_outside_is_refused(budget):
    with pytest.raises(TransportError, match="between 0 and 6"):
        solve_hard_topk([torch.rand(6)], [1.0], budget)


@pytest.mark.parametrize("sizes", [(200_000,), (150_000, 140_000, 5), (131_072,), (131_073,)])
def test_equals_the_definition_around_the_size_of_a_pack(sizes):
    values = random_values(sizes)
    for share in (0.01, 0.6):
        agree(values, range(1, len(sizes) + 1), math.floor(share * sum(sizes)))


def test_costs_of_another_shape_are_refused():
    with pytest.raises(TransportError, match=r"shape \(6,\) and costs of shape \(5,\)"):
        solve_hard_topk([torch.rand(6)], [torch.rand(5)], 1.0)
    with pytest.raises(TransportError, match="cost tensor with an element that is not positive"):
        solve_hard_topk([torch.rand(2)], [torch.tensor([1.0, math.nan])], 1.0)


def test_bad_values_are_named():
    with pytest.raises(TransportError, match=r"head\.weight"):
        solve_hard_topk([torch.tensor([1.0, math.nan])], [1.0], 1.0, names=["head.weight"])


@pytest.mark.parametrize("ends", [(0.99, 1.01), (1.0, 1.0), (0.2, 0.3), (3.0, 4.0), (-1.0, 99.0)])
def test_an_expectation_changes_nothing(ends):
    values, costs, budget = random_values((300_000, 50_000, 40)), (1.0, 3.0, 2.0), 60_000.5
    expected = agree(values, costs, budget)
    guess = (ends[0] * expected.threshold, ends[1] * expected.threshold)
    found = solve_hard_topk(values, costs, budget, expected=guess, ratios=expected.ratios)
    assert all(torch.equal(a, b) for a, b in zip(found.masks, expected.masks, strict=True))
    assert (found.threshold, found.cost) == (expected.threshold, expected.cost)


def test_the_range_of_ratios_is_told():
    values, costs = random_values((30_000, 200_000)), (2.0, 5.0)
    found = solve_hard_topk(values, costs, 50_000.0)
    ratios = torch.cat([v.double() / c for v, c in zip(values, costs, strict=True)])
    assert found.ratios == (float(ratios.min()), float(ratios.max()))
    soft = solve_soft_topk(values, costs, 50_000.0, 20.0, ratios=found.ratios)
    again = solve_soft_topk(values, costs, 50_000.0, 20.0)
    assert soft.price == pytest.approx(again.price, rel=1e-6)
