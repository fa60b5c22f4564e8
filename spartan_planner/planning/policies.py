"""Allocations by rule of thumb, held to the same budgets: uniform, ERK, global magnitude.

Each is a family with one parameter, solved for the greatest that meets every budget.  They are
here to be compared with; the cost-weighted allocation (``allocation``) retains more.
"""

import math
from collections.abc import Callable, Sequence
from enum import Enum

import numpy as np

from cost_models import LayerWorkload
from spartan_planner.errors import InfeasibleBudgetError, UsageError
from spartan_planner.planning.allocation import Allocation, LayerChoice, infeasible
from spartan_planner.planning.candidates import Costs, LayerCandidates, SparseCandidate
from spartan_planner.planning.price_table import PriceTable
from spartan_planner.planning.prices import find_prices
from spartan_planner.planning.value_curves import Prefix

_NUM_BISECTIONS = 60
_FIRST_DENSITY = 0.5


class Policy(Enum):
    """How kept weights are spread over the layers."""

    COST = "cost"
    UNIFORM = "uniform"
    ERK = "erk"
    MAGNITUDE = "magnitude"


def parse_policy(name: str) -> Policy:
    """Return the policy of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        return Policy(name)
    except ValueError as error:
        known = ", ".join(policy.value for policy in Policy)
        raise UsageError(f"policy {name!r} is not known; known are: {known}") from error


KeptPrefix = Callable[[int, SparseCandidate], Prefix]
"""What layer number ``i`` keeps in a layout."""


def allocate_by_policy(
    policy: Policy,
    workloads: Sequence[LayerWorkload],
    layers: Sequence[LayerCandidates],
    budgets: Costs,
) -> Allocation:
    """Keep as much as the budgets allow, spread by a rule.

    ``uniform``: the same density everywhere.  ``erk``: densities proportional to the sum of the
    weight's dimensions over their product (Evci et al., RigL, 2020), at most 1.  ``magnitude``:
    one threshold on the mean absolute weight of a block.  Each layer takes the layout that is
    cheapest at its density, and stays dense where that is cheaper still.

    Args:
        policy: any but ``cost``.
        workloads: the layers' shapes, in the same order.
        layers: what can become of each.
        budgets: ``[budgets]``, what the layers may cost together.

    Raises:
        InfeasibleBudgetError: even one block per layer costs too much.
    """
    family = _family(policy, workloads)
    chosen = [
        _cheapest(layer, _at_density(_FIRST_DENSITY), i, budgets) for i, layer in enumerate(layers)
    ]
    for _ in range(3):
        kept = _greatest(family, layers, chosen, budgets)
        chosen = [_cheapest(layer, kept, i, budgets) for i, layer in enumerate(layers)]
    kept = _greatest(family, layers, chosen, budgets)
    choices = tuple(
        _choice(layer, candidate, kept, i)
        for i, (layer, candidate) in enumerate(zip(layers, chosen, strict=True))
    )
    cost = np.sum([choice.cost for choice in choices], axis=0)
    if np.any(cost > budgets):
        raise InfeasibleBudgetError(infeasible(layers, budgets))
    value = sum(choice.value for choice in choices)
    found = find_prices(PriceTable.of(layers), budgets)
    prices, bound = (
        (np.zeros_like(budgets), value) if found is None else (found[0].prices, found[1])
    )
    return Allocation(choices, cost, value, prices, max(bound, value))


def least_by_policy(
    policy: Policy,
    workloads: Sequence[LayerWorkload],
    layers: Sequence[LayerCandidates],
    budgets: Costs,
) -> Costs:
    """Return ``[budgets]``, what the layers cost when a rule keeps the least; as above."""
    kept = _family(policy, workloads)(0.0)
    chosen = [_cheapest(layer, kept, i, budgets) for i, layer in enumerate(layers)]
    pairs = enumerate(zip(layers, chosen, strict=True))
    costs = [_choice(layer, candidate, kept, i).cost for i, (layer, candidate) in pairs]
    total: Costs = np.sum(costs, axis=0)
    return total


def _family(policy: Policy, workloads: Sequence[LayerWorkload]) -> Callable[[float], KeptPrefix]:
    return _magnitude(workloads) if policy is Policy.MAGNITUDE else _shares(policy, workloads)


def _at_density(density: float) -> KeptPrefix:
    return lambda _, candidate: _least_of(candidate, density)


def _least_of(candidate: SparseCandidate, density: float) -> Prefix:
    """The longest prefix of at most that share, and never less than the least."""
    curve = candidate.curve
    kept = curve.least_prefix(density * curve.size)
    if kept.size > density * curve.size and kept.num_blocks > 1:
        kept = curve.prefix(kept.num_blocks - 1)
    least = candidate.least
    return kept if kept.num_blocks > least.num_blocks else least


def _shares(policy: Policy, workloads: Sequence[LayerWorkload]) -> Callable[[float], KeptPrefix]:
    if policy is Policy.UNIFORM:
        weights = [1.0] * len(workloads)
    else:
        shapes = [layer.shape.weight_shape for layer in workloads]
        weights = [sum(shape) / math.prod(shape) for shape in shapes]

    def family(parameter: float) -> KeptPrefix:
        # The parameter runs from 0 (nothing) to 1 (the layer of the least weight is whole).
        scale = parameter / min(weights)
        return lambda i, candidate: _least_of(candidate, min(1.0, scale * weights[i]))

    return family


def _magnitude(workloads: Sequence[LayerWorkload]) -> Callable[[float], KeptPrefix]:
    def family(parameter: float) -> KeptPrefix:
        threshold = math.inf if parameter == 0 else 1 / parameter - 1

        def kept(index: int, candidate: SparseCandidate) -> Prefix:
            elements = candidate.layout.num_elements_per_block(workloads[index].shape.weight_shape)
            number = candidate.curve.num_bins_above(threshold * elements)
            prefix = candidate.curve.prefix(int(candidate.curve.cumulative_counts[number]))
            least = candidate.least
            return prefix if prefix.num_blocks > least.num_blocks else least

        return kept

    return family


def _greatest(
    family: Callable[[float], KeptPrefix],
    layers: Sequence[LayerCandidates],
    chosen: Sequence[SparseCandidate | None],
    budgets: Costs,
) -> KeptPrefix:
    """Return the member of the family that keeps most within the budgets."""

    def fits(parameter: float) -> bool:
        kept = family(parameter)
        costs = [
            _choice(layer, candidate, kept, i).cost
            for i, (layer, candidate) in enumerate(zip(layers, chosen, strict=True))
        ]
        return bool(np.all(np.sum(costs, axis=0) <= budgets))

    low, high = 0.0, 1.0
    if fits(high):
        return family(high)
    for _ in range(_NUM_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return family(low)


def _cheapest(
    layer: LayerCandidates, kept: KeptPrefix, index: int, budgets: Costs
) -> SparseCandidate | None:
    def share(candidate: SparseCandidate) -> float:
        return float(np.sum(candidate.cost(kept(index, candidate).size) / budgets))

    return min(layer.sparse, key=share, default=None)


def _choice(
    layer: LayerCandidates, candidate: SparseCandidate | None, kept: KeptPrefix, index: int
) -> LayerChoice:
    if candidate is not None:
        prefix = kept(index, candidate)
        cost = candidate.cost(prefix.size)
        if not np.all(cost >= layer.dense):
            size, value = prefix.size, prefix.value
            return LayerChoice(layer.name, candidate, prefix.num_blocks, size, cost, value)
    return LayerChoice(layer.name, None, 0, 0.0, layer.dense, layer.value)
