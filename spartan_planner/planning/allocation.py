"""One price for everything: how much of each layer to keep, and in which layout.

For a price ``lambda``, every layer takes the treatment with the highest score (DESIGN 4.7)

    sparse:  sum_b max(v_b - lambda s_b, 0) - lambda fixed        dense:  sum_b v_b - lambda dense

The lowest price at which the total meets the budget is found by bisection; under the treatments it
yields, blocks are then kept in the order of value per cost for as long as the budget lasts
(DESIGN 4.3), so that the total is never over and at most one block under.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spartan_planner.errors import InfeasibleBudgetError
from spartan_planner.planning.candidates import LayerCandidates, SparseCandidate

MIN_KEPT_BLOCKS = 1
"""A layer without any block would cut the network in two."""

_NUM_BISECTIONS = 100
_NUM_NAMED_LAYERS = 3


@dataclass(frozen=True)
class LayerChoice:
    """What becomes of one layer.

    Attributes:
        name: the layer.
        candidate: the chosen layout, or ``None`` where the layer stays dense.
        kept: ``[blocks]`` bool, the kept blocks; empty where the layer stays dense.
        cost: cost of the layer in its chosen form.
        value: retained value.
    """

    name: str
    candidate: SparseCandidate | None
    kept: NDArray[np.bool_]
    cost: float
    value: float


@dataclass(frozen=True)
class Allocation:
    """A choice for every layer.

    Attributes:
        choices: one per layer, in the order given.
        cost: their total cost.
        value: their total retained value.
        price: value per unit of cost at which a block is just worth keeping.
    """

    choices: tuple[LayerChoice, ...]
    cost: float
    value: float
    price: float


def allocate(layers: Sequence[LayerCandidates], budget: float) -> Allocation:
    """Retain as much value as a budget allows.

    Args:
        layers: what can become of each layer.
        budget: what the layers may cost together.

    Raises:
        InfeasibleBudgetError: no choice meets the budget; the message gives the least achievable
            cost and the layers that hold it up.
    """
    price = _lowest_feasible_price(layers, budget)
    treatments = [_best_treatment(layer, price) for layer in layers]
    while True:
        choices = _fill(layers, treatments, price, budget)
        # A layer that ended with so many blocks that its dense form is no dearer is better dense.
        better = [
            None if choice.candidate and choice.cost >= layer.dense else choice.candidate
            for layer, choice in zip(layers, choices, strict=True)
        ]
        if all(new is old for new, old in zip(better, treatments, strict=True)):
            break
        treatments = better
    cost = float(sum(choice.cost for choice in choices))
    value = float(sum(choice.value for choice in choices))
    return Allocation(tuple(choices), cost, value, price)


def least_cost(layers: Sequence[LayerCandidates]) -> float:
    """Return the least that the layers can cost together."""
    return float(sum(_least_layer_cost(layer) for layer in layers))


def _least_layer_cost(layer: LayerCandidates) -> float:
    return min([layer.dense, *(_minimum(candidate) for candidate in layer.sparse)])


def _minimum(candidate: SparseCandidate) -> float:
    return candidate.cost.fixed + float(np.min(candidate.block_costs)) * MIN_KEPT_BLOCKS


def _lowest_feasible_price(layers: Sequence[LayerCandidates], budget: float) -> float:
    if _total_cost(layers, 0.0) <= budget:
        return 0.0
    if least_cost(layers) > budget:
        raise _infeasible(layers, budget)
    low, high = 0.0, _price_above_all(layers)
    while _total_cost(layers, high) > budget:
        low, high = high, high * 2
        if not np.isfinite(high):
            raise _infeasible(layers, budget)
    for _ in range(_NUM_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _total_cost(layers, middle) <= budget:
            high = middle
        else:
            low = middle
    return high


def _price_above_all(layers: Sequence[LayerCandidates]) -> float:
    value = sum(layer.value for layer in layers)
    cost = sum(layer.dense for layer in layers)
    return float(value / cost) if cost > 0 and value > 0 else 1.0


def _total_cost(layers: Sequence[LayerCandidates], price: float) -> float:
    return float(sum(_score(layer, price)[1] for layer in layers))


def _best_treatment(layer: LayerCandidates, price: float) -> SparseCandidate | None:
    return _score(layer, price)[2]


def _score(layer: LayerCandidates, price: float) -> tuple[float, float, SparseCandidate | None]:
    """Score, cost and identity of the best treatment at a price; ties go to the cheaper."""
    best: tuple[float, float, SparseCandidate | None] = (
        layer.value - price * layer.dense,
        layer.dense,
        None,
    )
    for candidate in layer.sparse:
        kept = _kept_at(candidate, price)
        cost = candidate.cost.fixed + float(np.sum(candidate.block_costs[kept]))
        score = float(np.sum(candidate.values[kept])) - price * cost
        if score > best[0] or (score == best[0] and cost < best[1]):
            best = (score, cost, candidate)
    return best


def _kept_at(candidate: SparseCandidate, price: float) -> NDArray[np.bool_]:
    surplus = candidate.values - price * candidate.block_costs
    kept: NDArray[np.bool_] = surplus > 0
    if not kept.any():
        kept[int(np.argmax(surplus))] = True
    return kept


def _fill(
    layers: Sequence[LayerCandidates],
    treatments: Sequence[SparseCandidate | None],
    price: float,
    budget: float,
) -> list[LayerChoice]:
    """Keep blocks in the order of value per cost, ties by position, while the budget lasts."""
    sparse = [(i, c) for i, c in enumerate(treatments) if c is not None]
    spent = sum(layer.dense for layer, c in zip(layers, treatments, strict=True) if c is None)
    spent += sum(candidate.cost.fixed for _, candidate in sparse)
    kept = {i: np.zeros(candidate.values.size, np.bool_) for i, candidate in sparse}
    for i, candidate in sparse:
        first = int(np.argmax(candidate.values - price * candidate.block_costs))
        kept[i][first] = True
        spent += float(candidate.block_costs[first])
    if sparse:
        _keep_longest_prefix(sparse, kept, budget - spent)
    return [
        _choice(layer, candidate, kept.get(i))
        for i, (layer, candidate) in enumerate(zip(layers, treatments, strict=True))
    ]


def _keep_longest_prefix(
    sparse: Sequence[tuple[int, SparseCandidate]],
    kept: dict[int, NDArray[np.bool_]],
    budget: float,
) -> None:
    costs = np.concatenate([candidate.block_costs for _, candidate in sparse])
    values = np.concatenate([candidate.values for _, candidate in sparse])
    already = np.concatenate([kept[i] for i, _ in sparse])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(costs > 0, values / costs, np.inf)
    order = np.argsort(-ratio, kind="stable")
    order = order[~already[order]]
    total = np.cumsum(costs[order])
    chosen = order[: int(np.searchsorted(total, budget, side="right"))]
    already[chosen] = True
    parts = np.split(already, np.cumsum([candidate.values.size for _, candidate in sparse])[:-1])
    for (i, _), part in zip(sparse, parts, strict=True):
        kept[i] = part


def _choice(
    layer: LayerCandidates, candidate: SparseCandidate | None, kept: NDArray[np.bool_] | None
) -> LayerChoice:
    if candidate is None or kept is None:
        return LayerChoice(layer.name, None, np.zeros(0, np.bool_), layer.dense, layer.value)
    cost = candidate.cost.fixed + float(np.sum(candidate.block_costs[kept]))
    value = float(np.sum(candidate.values[kept]))
    return LayerChoice(layer.name, candidate, kept, cost, value)


def dearest_layers(layers: Sequence[LayerCandidates]) -> str:
    """Name the layers that cost most even at their least: the ones that hold a budget up."""
    ranked = sorted(layers, key=_least_layer_cost, reverse=True)[:_NUM_NAMED_LAYERS]
    return ", ".join(f"{layer.name} ({_least_layer_cost(layer):.4g})" for layer in ranked)


def _infeasible(layers: Sequence[LayerCandidates], budget: float) -> InfeasibleBudgetError:
    return InfeasibleBudgetError(
        f"a budget of {budget:.4g} for the layers cannot be reached: they cost at least "
        f"{least_cost(layers):.4g}, held up by {dearest_layers(layers)}"
    )
