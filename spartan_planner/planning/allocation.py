"""One price for everything: how much of each layer to keep, and in which layout.

The prices of the budgets choose a treatment for every layer (DESIGN 4.7); under these treatments
blocks are kept in the order of value per price for as long as every budget lasts (DESIGN 4.3), so
that no total is ever over, and at most one block under where a budget binds.  Treatments that are
nearly as good are then tried in turn: a layer whose score is short by more than the duality gap
cannot be part of a better choice and is left alone.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from spartan_planner.errors import InfeasibleBudgetError
from spartan_planner.planning.candidates import Costs, LayerCandidates, SparseCandidate
from spartan_planner.planning.filling import Filled, fill
from spartan_planner.planning.price_table import PriceTable
from spartan_planner.planning.prices import Priced, find_prices

_NUM_TRIALS = 200
_NUM_NAMED_LAYERS = 3
_MAX_FAILURES = 60
"""Treatments tried in a row without gain: the nearest come first, those behind gain less."""
_FINE_GAP = 1e-3
"""Share of the bound below which nothing more is tried.

On a ResNet-50 with a measured profile a tenth of it and 200 failures retain 0.006 % (flops) to
0.016 % (latency and params) more, in 3 to 50 times the time (docs/planning.md)."""


@dataclass(frozen=True)
class LayerChoice:
    """What becomes of one layer.

    Attributes:
        name: the layer.
        candidate: the chosen layout, or ``None`` where the layer stays dense.
        num_kept_blocks: blocks kept; 0 where the layer stays dense.
        kept_size: their size in whole blocks.
        cost: ``[budgets]``, of the layer in its chosen form.
        value: retained value.
    """

    name: str
    candidate: SparseCandidate | None
    num_kept_blocks: int
    kept_size: float
    cost: Costs
    value: float


@dataclass(frozen=True)
class Allocation:
    """A choice for every layer.

    Attributes:
        choices: one per layer, in the order given.
        cost: ``[budgets]``, their total cost.
        value: their total retained value.
        prices: ``[budgets]``, value per unit of cost at which a block is just worth keeping.
        bound: no choice within the budgets retains more.
    """

    choices: tuple[LayerChoice, ...]
    cost: Costs
    value: float
    prices: Costs
    bound: float

    @property
    def duality_gap(self) -> float:
        """Share of the bound that the allocation may fall short of the optimum at most."""
        return max(0.0, 1 - self.value / self.bound) if self.bound > 0 else 0.0


def allocate(
    layers: Sequence[LayerCandidates],
    budgets: Costs,
    num_trials: int = _NUM_TRIALS,
    *,
    table: PriceTable | None = None,
    hint: Costs | None = None,
) -> Allocation:
    """Retain as much value as the budgets allow.

    Args:
        layers: what can become of each layer.
        budgets: ``[budgets]``, what the layers may cost together.
        num_trials: how many other treatments to try.
        table: the same layers as a table, where there is one already.
        hint: ``[budgets]``, prices near which to look first.

    Raises:
        InfeasibleBudgetError: no choice was found that meets the budgets.
    """
    if np.any(least_costs(layers) > budgets):
        raise InfeasibleBudgetError(infeasible(layers, budgets))
    found = find_prices(table or PriceTable.of(layers), budgets, hint)
    if found is None:
        raise InfeasibleBudgetError(infeasible(layers, budgets))
    priced, bound = found
    chosen = [treatment.candidate for treatment in priced.best]
    settled = _settled(layers, chosen, priced.prices, budgets)
    if settled is None:
        raise InfeasibleBudgetError(infeasible(layers, budgets))
    chosen, filled = settled
    # On blocks so fine that the prefix is as good as the bound there is nothing to exchange.
    if filled.value < bound * (1 - _FINE_GAP):
        filled = fill(layers, chosen, priced.prices, budgets, with_exchange=True) or filled
    num_failures = 0
    for change in _changes(priced, num_trials):
        if filled.value >= bound * (1 - _FINE_GAP) or num_failures >= _MAX_FAILURES:
            break
        if bound - change.gap <= filled.value:
            continue
        num_failures += 1
        trial = [change.treatments.get(index, old) for index, old in enumerate(chosen)]
        better = _settled(layers, trial, priced.prices, budgets, floor=filled.value)
        if better is not None and better[1].value > filled.value:
            chosen, filled, num_failures = *better, 0
    return _allocation(layers, chosen, filled, priced.prices, bound)


_Chosen = list[SparseCandidate | None]


def _settled(
    layers: Sequence[LayerCandidates],
    chosen: _Chosen,
    prices: Costs,
    budgets: Costs,
    *,
    floor: float | None = None,
) -> tuple[_Chosen, Filled] | None:
    """Fill, and leave dense what then costs no less than its dense form, until it stands still.

    With a floor, layers exchange blocks too, where that can retain more than the floor.
    """
    while True:
        if floor is None:
            filled = fill(layers, chosen, prices, budgets)
        else:
            filled = fill(layers, chosen, prices, budgets, with_exchange=True, floor=floor)
        if filled is None:
            return None
        better = [
            None if c is not None and n is not None and _is_no_cheaper(layer, c, n) else c
            for layer, c, n in zip(layers, chosen, filled.num_kept, strict=True)
        ]
        if all(new is old for new, old in zip(better, chosen, strict=True)):
            return chosen, filled
        chosen = better


def _is_no_cheaper(layer: LayerCandidates, candidate: SparseCandidate, num_kept: int) -> bool:
    cost = candidate.cost(candidate.curve.prefix(num_kept).size)
    return bool(np.all(cost >= layer.dense))


@dataclass(frozen=True)
class _Change:
    """Other treatments for one or two layers, and by how much their scores are short."""

    gap: float
    treatments: dict[int, SparseCandidate | None]


def _changes(priced: Priced, num_trials: int) -> Iterator[_Change]:
    """Other treatments of one layer, then of two, the nearest first."""
    singles = [
        _Change(best.score - other.score, {index: other.candidate})
        for index, (best, others) in enumerate(zip(priced.best, priced.others, strict=True))
        for other in others
    ]
    singles.sort(key=lambda change: change.gap)
    nearest = singles[: int(math.sqrt(num_trials))]
    pairs = [
        _Change(first.gap + second.gap, first.treatments | second.treatments)
        for first, second in itertools.combinations(nearest, 2)
        if first.treatments.keys() != second.treatments.keys()
    ]
    pairs.sort(key=lambda change: change.gap)
    yield from singles[:num_trials]
    yield from pairs
    # What did not pay at first may pay now that another layer has changed.
    yield from singles[:num_trials]


def _allocation(
    layers: Sequence[LayerCandidates],
    chosen: _Chosen,
    filled: Filled,
    prices: Costs,
    bound: float,
) -> Allocation:
    choices = tuple(
        _choice(layer, candidate, number)
        for layer, candidate, number in zip(layers, chosen, filled.num_kept, strict=True)
    )
    return Allocation(choices, filled.cost, filled.value, prices, max(bound, filled.value))


def _choice(
    layer: LayerCandidates, candidate: SparseCandidate | None, num_kept: int | None
) -> LayerChoice:
    if candidate is None or num_kept is None:
        return LayerChoice(layer.name, None, 0, 0.0, layer.dense, layer.value)
    kept = candidate.curve.prefix(num_kept)
    cost = candidate.cost(kept.size)
    return LayerChoice(layer.name, candidate, kept.num_blocks, kept.size, cost, kept.value)


def least_costs(layers: Sequence[LayerCandidates]) -> Costs:
    """Return ``[budgets]``, the least that the layers can cost, each budget looked at alone."""
    total: Costs = np.sum([layer.least_cost for layer in layers], axis=0)
    return total


def dearest_layers(layers: Sequence[LayerCandidates], budget: int = 0) -> str:
    """Name the layers that cost most even at their least: the ones that hold a budget up."""
    ranked = sorted(layers, key=lambda layer: layer.least_cost[budget], reverse=True)
    return ", ".join(
        f"{layer.name} ({layer.least_cost[budget]:.4g})" for layer in ranked[:_NUM_NAMED_LAYERS]
    )


def infeasible(layers: Sequence[LayerCandidates], budgets: Costs) -> str:
    """Return the sentence that says why budgets cannot be met."""
    least = least_costs(layers)
    if np.all(least <= budgets):
        return "no choice was found that meets all budgets, though each alone can be met"
    index = int(np.argmax(least / budgets))
    return (
        f"a budget of {budgets[index]:.4g} for the layers cannot be reached: they cost at least "
        f"{least[index]:.4g}, held up by {dearest_layers(layers, index)}"
    )
