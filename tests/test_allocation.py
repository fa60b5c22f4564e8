"""Allocation: every budget is met exactly, and little value is given away for it."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, milp

from cost_models import Layout
from spartan_planner.errors import InfeasibleBudgetError
from spartan_planner.planning import LayerCandidates, SparseCandidate, allocate, value_curve
from spartan_planner.planning.allocation import least_costs

ROUNDING = 1e-9
"""Relative; sums of at most a few hundred float64, compared in another order."""

SOLVER = 1e-6
"""Relative; HiGHS's own feasibility and integrality tolerance."""

WITHIN_OPTIMUM = 0.01
"""Share of the best value that an allocation may fall short on small cases."""


def candidate(text, values, per_block, fixed=0.0, sizes=1.0, min_size=0.0) -> SparseCandidate:
    """A layer in one layout; costs are one figure or one per budget."""
    values = np.asarray(values, float)
    curve = value_curve(values, np.broadcast_to(np.asarray(sizes, float), values.shape))
    per_block = np.atleast_1d(np.asarray(per_block, float))
    fixed = np.broadcast_to(np.asarray(fixed, float), per_block.shape)
    return SparseCandidate(Layout.parse(text), curve, fixed, per_block, min_size)


def layer(name, values, per_block, fixed=0.0, dense=None) -> LayerCandidates:
    """A layer in one layout; its dense form costs what all its blocks cost."""
    sparse = candidate("element", values, per_block, fixed)
    cost = sparse.cost(sparse.curve.size) if dense is None else np.atleast_1d(dense)
    return LayerCandidates(name, float(np.sum(values)), cost, (sparse,))


def random_layers(seed: int, num_layers=4, num_layouts=2, num_blocks=8, num_budgets=1):
    """Layers with blocks of several sizes, the last ragged, a fixed part and a dense form."""
    random = np.random.default_rng(seed)
    layers = []
    for index in range(num_layers):
        fine = random.exponential(size=2 * num_blocks) * random.uniform(0.2, 2)
        scale = random.uniform(0.5, 2, num_budgets)
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


def budgets_between(layers, shares) -> np.ndarray:
    least = least_costs(layers)
    return least + np.asarray(shares) * (sum(item.dense for item in layers) - least)


@dataclass
class Forms:
    """Every form of every layer as columns of a 0/1 program."""

    values: list[float]
    costs: list[np.ndarray]
    rows: list[dict[int, float]]
    lower: list[float]
    upper: list[float]

    def column(self, value: float, cost: np.ndarray) -> int:
        self.values.append(value)
        self.costs.append(cost)
        return len(self.values) - 1

    def row(self, entries: dict[int, float], lower: float, upper: float) -> None:
        self.rows.append(entries)
        self.lower.append(lower)
        self.upper.append(upper)


def best_value(layers, budgets) -> float | None:
    """The exact optimum: one form per layer, blocks only of it and at least one."""
    forms = Forms([], [], [], [], [])
    for item in layers:
        chosen = [forms.column(item.value, item.dense)]
        for sparse in item.sparse:
            form = forms.column(0.0, sparse.fixed)
            blocks = [
                forms.column(ratio * size, sparse.per_block * size)
                for ratio, size in zip(sparse.curve.ratios, sparse.curve.sizes, strict=True)
            ]
            for block in blocks:
                forms.row({block: 1, form: -1}, -np.inf, 0)
            forms.row({form: -1, **dict.fromkeys(blocks, 1)}, 0, np.inf)
            chosen.append(form)
        forms.row(dict.fromkeys(chosen, 1), 1, 1)
    for index, budget in enumerate(budgets):
        costs = [float(cost[index]) for cost in forms.costs]
        forms.row(dict(enumerate(costs)), -np.inf, budget)
    matrix = np.zeros((len(forms.rows), len(forms.values)))
    for number, entries in enumerate(forms.rows):
        matrix[number, list(entries)] = list(entries.values())
    solution = milp(
        -np.array(forms.values),
        constraints=LinearConstraint(matrix, forms.lower, forms.upper),
        integrality=np.ones(len(forms.values)),
        bounds=(0, 1),
    )
    return -solution.fun if solution.success else None


def cost_of(item, choice) -> np.ndarray:
    """The cost of a choice, counted anew from the blocks."""
    if choice.candidate is None:
        return item.dense
    curve = choice.candidate.curve
    kept = np.repeat(curve.sizes, curve.counts)[: choice.num_kept_blocks]
    return choice.candidate.fixed + choice.candidate.per_block * kept.sum()


SEEDS = st.integers(0, 2**32 - 1)
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=3)
CASES = st.tuples(SEEDS, st.integers(1, 5), st.integers(1, 2), st.integers(1, 9), SHARES)


def case(drawn):
    seed, num_layers, num_layouts, num_blocks, shares = drawn
    layers = random_layers(seed, num_layers, num_layouts, num_blocks, len(shares))
    return layers, budgets_between(layers, shares)


def allocated(layers, budgets):
    """Budgets drawn together may contradict each other; such cases are not meant here."""
    try:
        return allocate(layers, budgets)
    except InfeasibleBudgetError:
        assume(False)


@given(CASES)
def test_never_over(drawn):
    layers, budgets = case(drawn)
    result = allocated(layers, budgets)
    spent = sum(cost_of(*pair) for pair in zip(layers, result.choices, strict=True))
    assert result.cost == pytest.approx(spent, rel=ROUNDING)
    assert np.all(spent <= budgets * (1 + ROUNDING))
    for choice in result.choices:
        assert choice.candidate is None or choice.num_kept_blocks >= 1


@given(CASES)
def test_at_most_one_block_under_where_a_sparse_layer_can_absorb_it(drawn):
    layers, budgets = case(drawn)
    result = allocated(layers, budgets)
    open_ = [
        c.candidate.per_block
        for c in result.choices
        if c.candidate and c.num_kept_blocks < c.candidate.curve.num_blocks
    ]
    assume(open_)
    one_block = np.max(open_, axis=0)
    assert np.any(budgets - result.cost <= one_block * (1 + ROUNDING))


@given(CASES)
def test_no_layer_costs_more_than_its_dense_form(drawn):
    layers, budgets = case(drawn)
    result = allocated(layers, budgets)
    for item, choice in zip(layers, result.choices, strict=True):
        assert choice.candidate is None or np.any(choice.cost < item.dense)


@given(CASES, st.sampled_from([1e-6, 1e-3, 1e3, 1e6]))
def test_unit_of_cost_does_not_matter(drawn, unit):
    def scaled(item: LayerCandidates) -> LayerCandidates:
        sparse = tuple(
            replace(c, fixed=c.fixed * unit, per_block=c.per_block * unit) for c in item.sparse
        )
        return replace(item, dense=item.dense * unit, sparse=sparse)

    layers, budgets = case(drawn)
    # Away from the edge at which rounding decides.
    budgets = budgets * (1 + ROUNDING)
    plain = allocated(layers, budgets)
    other = allocated([*map(scaled, layers)], budgets * unit)
    assert other.value == pytest.approx(plain.value, rel=WITHIN_OPTIMUM)
    assert np.all(other.cost <= budgets * unit * (1 + ROUNDING))


@given(CASES)
def test_bound_holds_what_is_retained(drawn):
    layers, budgets = case(drawn)
    result = allocated(layers, budgets)
    assert result.value <= result.bound * (1 + ROUNDING)
    assert 0 <= result.duality_gap <= 1


@pytest.mark.parametrize("num_budgets", [1, 2, 3])
@pytest.mark.parametrize("seed", range(15))
def test_value_against_the_exact_optimum(seed, num_budgets):
    """Choices of layout included; the bound that is reported holds."""
    layers = random_layers(seed, num_blocks=24, num_budgets=num_budgets)
    shares = 0.15 + 0.7 * np.random.default_rng(seed).random(num_budgets)
    budgets = budgets_between(layers, shares)
    best = best_value(layers, budgets)
    result = allocate(layers, budgets)
    assert best * (1 - WITHIN_OPTIMUM) <= result.value <= best * (1 + SOLVER)
    assert result.bound >= best * (1 - SOLVER)


def test_wider_layout_is_chosen_where_it_is_cheaper():
    fine, coarse = candidate("tile:1x1", np.ones(8), 1.0), candidate("tile:8x1", [8.0], 2.0)
    both = LayerCandidates("a", 8.0, np.array([8.0]), (fine, coarse))
    (choice,) = allocate([both], np.array([4.0])).choices
    assert choice.candidate is coarse
    assert (choice.cost[0], choice.value) == (2.0, 8.0)


def test_layer_stays_dense_where_sparse_does_not_pay():
    costly = layer("costly", [1.0] * 4, 1.0, fixed=10.0, dense=4.0)
    cheap = layer("cheap", [1.0] * 4, 1.0)
    first, second = allocate([costly, cheap], np.array([6.0])).choices
    assert first.candidate is None
    assert second.num_kept_blocks == 2


def test_every_budget_counts():
    """The first budget alone would keep the first layer whole."""
    a = layer("a", [4.0, 3.0, 2.0, 1.0], [1.0, 2.0])
    b = layer("b", [1.0, 1.0, 1.0, 1.0], [1.0, 0.1])
    (first, second) = allocate([a, b], np.array([5.0, 4.5])).choices
    assert (first.num_kept_blocks, second.num_kept_blocks) == (2, 3)


def test_least_size_is_kept():
    a = LayerCandidates(
        "a", 4.0, np.array([4.0]), (candidate("element", [1.0] * 4, 1.0, min_size=2.5),)
    )
    b = layer("b", [9.0] * 4, 1.0)
    first, second = allocate([a, b], np.array([5.0])).choices
    assert (first.num_kept_blocks, second.num_kept_blocks) == (3, 2)


def test_everything_is_kept_where_the_budget_allows_it():
    layers = random_layers(0)
    result = allocate(layers, sum(item.dense for item in layers))
    assert result.value == pytest.approx(sum(item.value for item in layers), rel=ROUNDING)


def test_blocks_without_value_still_leave_one_per_layer():
    layers = [layer("a", [0.0, 0.0], 1.0), layer("b", [0.0, 0.0], 1.0)]
    result = allocate(layers, np.array([2.0]))
    assert [choice.num_kept_blocks for choice in result.choices] == [1, 1]


def test_least_cost_is_reachable_and_less_is_not():
    layers = random_layers(3)
    least = least_costs(layers)
    assert allocate(layers, least).cost == pytest.approx(least, rel=ROUNDING)
    with pytest.raises(InfeasibleBudgetError):
        allocate(layers, least * (1 - ROUNDING))


def test_infeasible_budget_names_the_least_and_what_holds_it_up():
    layers = [layer("small", [1.0], 1.0), layer("large", [1.0], 100.0), layer("b", [1.0], 9.0)]
    message = r"at least 110, .*large \(100\), b \(9\), small \(1\)"
    with pytest.raises(InfeasibleBudgetError, match=message):
        allocate(layers, np.array([50.0]))


def test_budgets_that_contradict_each_other_are_refused():
    """Each layout is cheap in one cost only."""
    first, second = candidate("tile:1x1", [1.0], [1.0, 9.0]), candidate("tile:2x1", [1.0], [9.0, 1])
    both = LayerCandidates("a", 1.0, np.array([9.0, 9.0]), (first, second))
    with pytest.raises(InfeasibleBudgetError, match="no choice was found that meets all budgets"):
        allocate([both], np.array([2.0, 2.0]))
