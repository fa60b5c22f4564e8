"""Segmented soft top-k: the budget, the invariants, an exact solver, the edges."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, linprog

from spartan_planner.errors import TransportError
from spartan_planner.transport import SelectionStatus, solve_price, solve_soft_topk

# What the solver promises on the budget: float32 logits come in steps of about 1e-6.
BUDGET = {torch.float64: 1e-9, torch.float32: 1e-6}
# A half-precision mask is rounded after the solve; only the reported error is promised.
ROUNDED = (torch.bfloat16, torch.float16)

KINDS = {
    "random": lambda x: x,
    "ties": lambda x: (3 * x).round(),
    "equal": lambda x: torch.full_like(x, 0.3),
    "zero": torch.zeros_like,
}


def spent(masks, costs):
    return math.fsum(c * float(m.double().sum()) for m, c in zip(masks, costs, strict=True))


def random_values(sizes, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=generator, dtype=torch.float64).abs().to(dtype) for n in sizes]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("costs", [(1.0, 1.0), (1e-6, 1e6)], ids=["alike", "12 orders"])
@pytest.mark.parametrize("dtype", [*BUDGET, *ROUNDED], ids=str)
@pytest.mark.parametrize("size", [1, 5, 300])
def test_budget_is_met(kind, costs, dtype, size):
    values = [KINDS[kind](v) for v in random_values((size, size // 2 + 1), dtype)]
    total = spent([torch.ones_like(v) for v in values], costs)
    for beta in (1e-3, 1.0, 100.0, 1e6):
        for share in (1e-6, 0.05, 0.5, 0.999):
            result = solve_soft_topk(values, costs, share * total, beta)
            assert result.status is SelectionStatus.CONVERGED
            assert result.relative_budget_error <= BUDGET[torch.float32]
            if dtype in BUDGET:
                error = abs(spent(result.masks, costs) / (share * total) - 1)
                assert error <= BUDGET[dtype], (beta, share)
            assert all(((m >= 0) & (m <= 1)).all() for m in result.masks)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("beta", [1e-3, 10.0, 1e6])
def test_budget_is_met_when_values_are_read_in_chunks(kind, dtype, beta):
    values = [KINDS[kind](v) for v in random_values((300_000, 70_001), dtype)]
    costs = (1.0, 40.0)
    budget = 0.1 * spent([torch.ones_like(v) for v in values], costs)
    result = solve_soft_topk(values, costs, budget, beta)
    assert result.relative_budget_error <= 1e-6
    assert result.num_iterations <= 6
    if dtype in BUDGET:
        assert abs(spent(result.masks, costs) / budget - 1) <= BUDGET[dtype]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [*BUDGET, torch.bfloat16], ids=str)
def test_all_but_hard_masks_take_few_reads(kind, dtype):
    # F is a staircase here: bisection over all values would take a read per bit of the price.
    values = [KINDS[kind](v) for v in random_values((600_000, 300_001, 99_999), dtype)]
    costs = (1.0, 40.0, 0.3)
    total = spent([torch.ones_like(v) for v in values], costs)
    for share in (1e-3, 0.1, 0.9):
        cold = solve_soft_topk(values, costs, share * total, 1e6)
        warm = solve_soft_topk(values, costs, share * total, 1e6, initial_price=cold.price * 1.001)
        for result in (cold, warm):
            assert result.status is SelectionStatus.CONVERGED
            assert result.num_iterations <= 6
            assert result.relative_budget_error <= BUDGET.get(dtype, 1e-6)


def test_many_small_tensors_beside_large_ones():
    sizes = [1, 0, 200_000, 3, 150_000, *range(60, 90)]
    values = random_values(sizes, torch.float32)
    costs = [1.0 + index % 5 for index in range(len(sizes))]
    budget = 0.2 * spent([torch.ones_like(v) for v in values], costs)
    joined = torch.cat(values).double()
    spread = torch.cat([torch.full((n,), c) for n, c in zip(sizes, costs, strict=True)]).double()
    for beta in (5.0, 300.0):
        result = solve_soft_topk(values, costs, budget, beta)
        assert abs(spent(result.masks, costs) / budget - 1) <= BUDGET[torch.float32]
        alone = solve_soft_topk([joined], [spread], budget, beta).masks[0]
        # float32 logits near 300 z are off by some 1e-5.
        torch.testing.assert_close(torch.cat(result.masks).double(), alone, atol=1e-4, rtol=0)


def test_price_agrees_with_brentq():
    values, costs, beta = random_values((40, 30)), (2.0, 0.5), 7.0
    budget = 0.3 * (40 * 2.0 + 30 * 0.5)
    unit = (40 * 2.0 + 30 * 0.5) / 70

    def excess(price):
        return (
            sum(
                float((c * torch.sigmoid(beta * (v / (c / unit) - price))).sum())
                for v, c in zip(values, costs, strict=True)
            )
            - budget
        )

    expected = brentq(excess, -10, 10, xtol=1e-14, rtol=1e-14)
    assert solve_soft_topk(values, costs, budget, beta).price == pytest.approx(expected, rel=1e-9)
    assert solve_price(values, costs, budget, beta).price == pytest.approx(expected, rel=1e-9)


def test_sharp_masks_are_the_linear_programme():
    values, costs = random_values((30, 20)), (3.0, 1.0)
    per_block = [3.0] * 30 + [1.0] * 20
    result = solve_soft_topk(values, costs, 40.0, 1e6)
    programme = linprog(
        -torch.cat(values).numpy(), A_ub=[per_block], b_ub=[40.0], bounds=(0, 1), method="highs"
    )
    gained = float((torch.cat(values) * torch.cat(result.masks)).sum())
    # The entropy term is worth at most log(2) / beta for each of 50 blocks.
    assert gained == pytest.approx(-programme.fun, abs=50 / 1e6)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    values=st.lists(st.floats(0, 100), min_size=2, max_size=20),
    share=st.floats(0.01, 0.99),
    beta=st.floats(1e-3, 1e3),
    unit=st.floats(1e-6, 1e6),
)
def test_invariants(values, share, beta, unit):
    v = torch.tensor(values, dtype=torch.float64)
    half = len(values) // 2
    costs = (1.0, 2.5)
    budget = share * (half * costs[0] + (len(values) - half) * costs[1])
    parts = [v[:half], v[half:]]
    mask = solve_soft_topk(parts, costs, budget, beta).masks
    assert spent(mask, costs) == pytest.approx(budget, rel=1e-9)
    # Monotone in the value within a tensor.
    for part, own in zip(parts, mask, strict=True):
        assert (own[part.argsort()].diff() >= 0).all()
    # The unit of cost changes nothing beyond rounding of the normalised costs, times beta z.
    other = solve_soft_topk(parts, [c * unit for c in costs], budget * unit, beta).masks
    torch.testing.assert_close(torch.cat(other), torch.cat(mask), atol=1e-9, rtol=1e-8)
    # Nor does the order of tensors or of blocks.
    turned = solve_soft_topk([parts[1].flip(0), parts[0]], costs[::-1], budget, beta).masks
    expected = torch.cat([mask[1].flip(0), mask[0]])
    torch.testing.assert_close(torch.cat(turned), expected, atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize(
    ("budget", "fill", "status", "price"),
    [
        (0.0, 0.0, SelectionStatus.NOTHING_KEPT, math.inf),
        (10.0, 1.0, SelectionStatus.EVERYTHING_KEPT, -math.inf),
        (10.0 * (1 + 1e-12), 1.0, SelectionStatus.EVERYTHING_KEPT, -math.inf),
    ],
)
def test_limits_of_the_budget(budget, fill, status, price):
    result = solve_soft_topk(random_values((4, 1)), (2.0, 2.0), budget, 10.0)
    assert all((m == fill).all() for m in result.masks)
    assert (result.status, result.price) == (status, price)
    assert solve_price(random_values((4, 1)), (2.0, 2.0), budget, 10.0).status is status


def test_nothing_at_all_is_a_limit():
    assert solve_soft_topk([], [], 0.0, 1.0).masks == ()
    assert solve_soft_topk([torch.empty(0)], [1.0], 0.0, 1.0).masks[0].numel() == 0


def test_empty_tensors_among_others_change_nothing():
    values = random_values((40, 30))
    plain = solve_soft_topk(values, (1.0, 2.0), 20.0, 5.0)
    padded = solve_soft_topk(
        [values[0], torch.empty(0, dtype=torch.float64), values[1]], (1.0, 9.0, 2.0), 20.0, 5.0
    )
    torch.testing.assert_close(padded.masks[2], plain.masks[1])


def test_warm_start_saves_reads_and_agrees():
    values = random_values((200_000, 100_000), torch.float32)
    cold = solve_soft_topk(values, (1.0, 2.0), 40_000.0, 20.0)
    warm = solve_soft_topk(values, (1.0, 2.0), 40_000.0, 20.0, initial_price=cold.price * 1.0001)
    assert warm.num_iterations <= 2
    assert warm.price == pytest.approx(cold.price, rel=1e-5)
    # The infinite price of a limit is no start, and is passed over.
    limit = solve_soft_topk(values, (1.0, 2.0), 40_000.0, 20.0, initial_price=math.inf)
    assert limit.price == pytest.approx(cold.price, rel=1e-6)


def test_a_hopeless_warm_start_still_converges():
    values = random_values((200_000,), torch.float32)
    result = solve_soft_topk(values, (1.0,), 20_000.0, 1e3, initial_price=-1e9)
    assert abs(spent(result.masks, (1.0,)) / 20_000.0 - 1) <= 1e-6


def test_masks_keep_shape_and_dtype_and_leave_autograd_alone():
    value = torch.rand(4, 3, 2, dtype=torch.bfloat16, requires_grad=True)
    mask = solve_soft_topk([value], [1.0], 5.0, 4.0).masks[0]
    assert (mask.shape, mask.dtype, mask.requires_grad) == (value.shape, value.dtype, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 11.0}, "between 0 and 10"),
        ({"budget": -1.0}, "between 0 and 10"),
        ({"budget": math.nan}, "between 0 and 10"),
        ({"costs": (1.0,)}, "2 value tensors came with 1 costs"),
        ({"costs": (1.0, 0.0)}, r"values\[1\] has a cost of 0.0"),
        ({"costs": (1.0, math.inf)}, "positive and finite"),
        ({"beta": 0.0}, "beta is 0.0"),
        ({"beta": math.nan}, "beta is nan"),
        ({"values": [torch.ones(4), torch.ones(1, dtype=torch.int64)]}, "torch.int64"),
        ({"values": [torch.ones(4), torch.full((1,), math.nan)]}, "are NaN or infinite"),
        ({"names": ["a"]}, "1 names"),
    ],
)
def test_bad_input_is_refused(change, message):
    call = {"values": random_values((4, 1)), "costs": (2.0, 2.0), "budget": 5.0, "beta": 1.0}
    with pytest.raises(TransportError, match=message):
        solve_soft_topk(**(call | change))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("budget", [0.0, 5.0])
def test_the_tensor_with_a_bad_value_is_named(bad, budget):
    values = [torch.ones(10), torch.tensor([1.0, bad, 2.0])]
    with pytest.raises(TransportError, match=r"conv2\.weight are NaN or infinite"):
        solve_soft_topk(values, (1.0, 1.0), budget, 1.0, names=["conv1.weight", "conv2.weight"])
