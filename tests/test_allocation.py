"""Allocation: the budget is met exactly, and little value is given away for it."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, milp

from cost_models import Layout, LinearCost
from spartan_planner.errors import InfeasibleBudgetError
from spartan_planner.planning import LayerCandidates, SparseCandidate, allocate
from spartan_planner.planning.allocation import least_cost

ROUNDING = 1e-9
"""Relative; sums of at most a few hundred float64, compared in another order."""

SOLVER = 1e-6
"""Relative; HiGHS's own feasibility and integrality tolerance."""

TYPICAL_GAP = 0.03
"""Mean share of the best value that rounding to one block and one layout may cost on cases this
small; it shrinks with the number of blocks."""


def candidate(text, values, per_block, fixed=0.0, sizes=None, dense=0.0) -> SparseCandidate:
    values = np.asarray(values, float)
    sizes = np.ones(values.size) if sizes is None else np.asarray(sizes, float)
    return SparseCandidate(
        Layout.parse(text), values, sizes, LinearCost(dense, fixed, per_block, "ms")
    )


def layer(name, values, per_block, fixed=0.0, dense=None, sizes=None) -> LayerCandidates:
    """A layer in one layout; its dense form costs what all its blocks cost."""
    sparse = candidate("element", values, per_block, fixed, sizes)
    cost = float(sparse.block_costs.sum()) + fixed if dense is None else dense
    return LayerCandidates(name, float(np.sum(values)), cost, (sparse,))


def random_layers(seed: int, num_layers=4, num_layouts=2, num_blocks=8) -> list[LayerCandidates]:
    """Layers with blocks of several sizes, the last ragged, a fixed part and a dense form."""
    random = np.random.default_rng(seed)
    layers = []
    for index in range(num_layers):
        fine = random.exponential(size=2 * num_blocks) * random.uniform(0.2, 2)
        scale = random.uniform(0.5, 2)
        sparse = []
        for layout in range(num_layouts):
            merge = layout + 1
            values = fine.reshape(-1, merge).sum(axis=1)
            sizes = np.ones(values.size)
            sizes[-1] = random.uniform(0.3, 1)
            per_block = scale * merge * random.uniform(0.8, 1.2) / (2 * num_blocks)
            fixed = scale * random.uniform(0, 0.2) / merge
            sparse.append(candidate(f"tile:{merge}x1", values, per_block, fixed, sizes))
        dense = scale * random.uniform(0.7, 1.1)
        layers.append(LayerCandidates(f"layer{index}", float(fine.sum()), dense, tuple(sparse)))
    return layers


def budget_between(layers: list[LayerCandidates], share: float) -> float:
    least = least_cost(layers)
    return least + share * (sum(item.dense for item in layers) - least)


@dataclass
class Forms:
    """Every form of every layer as columns of a 0/1 program."""

    values: list[float]
    costs: list[float]
    rows: list[dict[int, float]]
    lower: list[float]
    upper: list[float]

    def column(self, value: float, cost: float) -> int:
        self.values.append(value)
        self.costs.append(cost)
        return len(self.values) - 1

    def row(self, entries: dict[int, float], lower: float, upper: float) -> None:
        self.rows.append(entries)
        self.lower.append(lower)
        self.upper.append(upper)


def best_value(layers: list[LayerCandidates], budget: float) -> float:
    """The exact optimum: one form per layer, blocks only of it and at least one."""
    forms = Forms([], [], [], [], [])
    for item in layers:
        chosen = [forms.column(item.value, item.dense)]
        for sparse in item.sparse:
            form = forms.column(0.0, sparse.cost.fixed)
            pairs = zip(sparse.values, sparse.block_costs, strict=True)
            blocks = [forms.column(value, cost) for value, cost in pairs]
            for block in blocks:
                forms.row({block: 1, form: -1}, -np.inf, 0)
            forms.row({form: -1, **dict.fromkeys(blocks, 1)}, 0, np.inf)
            chosen.append(form)
        forms.row(dict.fromkeys(chosen, 1), 1, 1)
    forms.row(dict(enumerate(forms.costs)), -np.inf, budget)
    matrix = np.zeros((len(forms.rows), len(forms.values)))
    for number, entries in enumerate(forms.rows):
        matrix[number, list(entries)] = list(entries.values())
    solution = milp(
        -np.array(forms.values),
        constraints=LinearConstraint(matrix, forms.lower, forms.upper),
        integrality=np.ones(len(forms.values)),
        bounds=(0, 1),
    )
    assert solution.success
    return -solution.fun


def cost_of(item: LayerCandidates, choice) -> float:
    """The cost of a choice, counted anew from the candidate."""
    if choice.candidate is None:
        return item.dense
    return choice.candidate.cost.fixed + choice.candidate.block_costs[choice.kept].sum()


SEEDS = st.integers(0, 2**32 - 1)
CASES = st.builds(random_layers, SEEDS, st.integers(1, 5), st.integers(1, 2), st.integers(1, 9))
SHARES = st.floats(0, 1)


@given(CASES, SHARES)
def test_never_over(layers, share):
    budget = budget_between(layers, share)
    result = allocate(layers, budget)
    spent = sum(cost_of(*pair) for pair in zip(layers, result.choices, strict=True))
    assert result.cost == pytest.approx(spent, rel=ROUNDING)
    assert spent <= budget * (1 + ROUNDING)
    for choice in result.choices:
        assert choice.candidate is None or choice.kept.any()


@given(CASES, SHARES)
def test_at_most_one_block_under_where_a_sparse_layer_can_absorb_it(layers, share):
    budget = budget_between(layers, share)
    result = allocate(layers, budget)
    dropped = [c.candidate.block_costs[~c.kept] for c in result.choices if c.candidate]
    costs = np.concatenate([*dropped, []])
    assume(costs.size)
    assert budget - result.cost <= costs.max() * (1 + ROUNDING)


@given(CASES, SHARES)
def test_no_layer_costs_more_than_its_dense_form(layers, share):
    result = allocate(layers, budget_between(layers, share))
    for item, choice in zip(layers, result.choices, strict=True):
        assert choice.cost < item.dense or choice.candidate is None


@given(CASES, SHARES)
def test_kept_blocks_are_the_most_valuable_per_cost(layers, share):
    """Across layers too, but for the block that every sparse layer keeps in any case."""
    result = allocate(layers, budget_between(layers, share))
    sparse = [choice for choice in result.choices if choice.candidate]
    kept, dropped = [], []
    for choice in sparse:
        ratio = choice.candidate.values / choice.candidate.block_costs
        if np.count_nonzero(choice.kept) > 1:
            kept.append(np.sort(ratio[choice.kept])[1:].min())
        dropped += ratio[~choice.kept].tolist()
    if kept and dropped:
        assert min(kept) >= max(dropped) * (1 - ROUNDING)


@given(CASES, SHARES, SHARES)
def test_a_larger_budget_never_lowers_the_price_of_the_smaller(layers, some, other):
    fewer, more = sorted((some, other))
    tight = allocate(layers, budget_between(layers, fewer))
    loose = allocate(layers, budget_between(layers, more))
    assert loose.price <= tight.price * (1 + ROUNDING)


@given(SEEDS, SHARES, st.sampled_from([1e-6, 1e-3, 1e3, 1e6]))
def test_unit_of_cost_does_not_matter(seed, share, unit):
    def scaled(item: LayerCandidates) -> LayerCandidates:
        sparse = tuple(
            SparseCandidate(
                c.layout,
                c.values,
                c.sizes,
                LinearCost(0.0, c.cost.fixed * unit, c.cost.per_block * unit, "ms"),
            )
            for c in item.sparse
        )
        return LayerCandidates(item.name, item.value, item.dense * unit, sparse)

    layers = random_layers(seed)
    budget = budget_between(layers, share) * (1 + ROUNDING)
    plain, other = allocate(layers, budget), allocate([*map(scaled, layers)], budget * unit)
    assert other.cost == pytest.approx(plain.cost * unit, rel=ROUNDING)
    assert other.value == pytest.approx(plain.value, rel=ROUNDING)


@pytest.mark.parametrize("seed", range(30))
def test_value_against_the_exact_optimum(seed):
    """By weak duality no choice is worth more than ours plus what the unspent budget of the
    priced solution could buy: at the price found, one layer's step between its forms."""
    layers = random_layers(seed)
    budget = budget_between(layers, 0.1 + 0.8 * (seed % 9) / 8)
    result = allocate(layers, budget)
    best = best_value(layers, budget)
    assert result.value <= best * (1 + SOLVER)
    step = max(
        max(item.dense, *(c.cost.fixed + c.block_costs.sum() for c in item.sparse))
        for item in layers
    )
    assert best - result.value <= result.price * step + SOLVER * best


def test_value_is_close_to_the_exact_optimum_on_average():
    gaps = []
    for seed in range(30):
        layers = random_layers(100 + seed)
        budget = budget_between(layers, 0.1 + 0.8 * (seed % 9) / 8)
        gaps.append(1 - allocate(layers, budget).value / best_value(layers, budget))
    assert np.mean(gaps) <= TYPICAL_GAP


@pytest.mark.parametrize("seed", range(10))
def test_one_layout_and_no_fixed_part_lose_at_most_one_block(seed):
    random = np.random.default_rng(seed)
    layers = [
        layer(f"layer{i}", random.exponential(size=12), random.uniform(0.5, 2)) for i in range(4)
    ]
    budget = budget_between(layers, 0.4)
    result = allocate(layers, budget)
    block = max(item.sparse[0].cost.per_block for item in layers)
    assert best_value(layers, budget) - result.value <= result.price * block + SOLVER


def test_ties_go_to_the_first_position_every_time():
    layers = [layer("a", [1, 1, 1, 1], 1.0), layer("b", [1, 1, 1, 1], 1.0)]
    for _ in range(3):
        first, second = allocate(layers, 5.0).choices
        assert first.kept.tolist() == [True] * 4 or first.candidate is None
        assert second.kept.tolist() == [True, False, False, False]


def test_wider_layout_is_chosen_where_it_is_cheaper():
    values = np.ones(8)
    fine, coarse = candidate("tile:1x1", values, 1.0), candidate("tile:8x1", [8.0], 2.0)
    both = LayerCandidates("a", 8.0, 8.0, (fine, coarse))
    (choice,) = allocate([both], 4.0).choices
    assert choice.candidate is coarse
    assert (choice.cost, choice.value) == (2.0, 8.0)


def test_layer_stays_dense_where_sparse_does_not_pay():
    costly = layer("costly", [1.0] * 4, 1.0, fixed=10.0, dense=4.0)
    cheap = layer("cheap", [1.0] * 4, 1.0)
    first, second = allocate([costly, cheap], 6.0).choices
    assert first.candidate is None
    assert second.kept.sum() == 2


def test_everything_is_kept_where_the_budget_allows_it():
    layers = random_layers(0)
    result = allocate(layers, np.inf)
    assert result.price == 0
    assert result.value == pytest.approx(sum(item.value for item in layers), rel=ROUNDING)
    assert result.cost <= sum(item.dense for item in layers)


def test_blocks_without_value_still_leave_one_per_layer():
    layers = [layer("a", [0.0, 0.0], 1.0), layer("b", [0.0, 0.0], 1.0)]
    result = allocate(layers, 2.0)
    assert [choice.kept.sum() for choice in result.choices] == [1, 1]


def test_least_cost_is_reachable_and_less_is_not():
    layers = random_layers(3)
    least = least_cost(layers)
    assert allocate(layers, least).cost == pytest.approx(least, rel=ROUNDING)
    with pytest.raises(InfeasibleBudgetError):
        allocate(layers, least * (1 - ROUNDING))


def test_infeasible_budget_names_the_least_and_what_holds_it_up():
    layers = [layer("small", [1.0], 1.0), layer("large", [1.0], 100.0), layer("b", [1.0], 9.0)]
    message = r"at least 110, .*large \(100\), b \(9\), small \(1\)"
    with pytest.raises(InfeasibleBudgetError, match=message):
        allocate(layers, 50.0)


@pytest.mark.parametrize(
    ("values", "sizes", "message"),
    [
        ([], [], "not empty"),
        ([1.0], [1.0, 1.0], "equally long"),
        ([[1.0]], [[1.0]], "one-dimensional"),
        ([-1.0], [1.0], "not negative"),
        ([np.nan], [1.0], "finite"),
        ([np.inf], [1.0], "finite"),
    ],
)
def test_values_that_cannot_be_ordered_are_refused(values, sizes, message):
    with pytest.raises(ValueError, match=message):
        candidate("element", values, 1.0, sizes=sizes)
