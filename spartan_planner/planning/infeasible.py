"""Why budgets cannot be met, in one sentence: the least achievable, and what holds it up."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cost_models import CostModel
from spartan_planner.planning.allocation import dearest_layers, least_costs
from spartan_planner.planning.budget import Budget, base_unit
from spartan_planner.planning.candidates import Costs, LayerCandidates

_ROUNDING = 4e-12
"""A few times what a plan leaves unused of a budget, so that what is advised can be met."""


@dataclass(frozen=True)
class Shortfall:
    """Budgets that were not met.

    Attributes:
        budgets: the limits.
        models: the cost model of each.
        layers: what can become of each layer.
        rest, dense, asked: ``[budgets]``, cost outside all layers, of the dense model, the limits.
        by_policy: name of the policy, and ``[budgets]`` what its least costs all together; ``None``
            where any choice would have done.
    """

    budgets: Sequence[Budget]
    models: Sequence[CostModel]
    layers: Sequence[LayerCandidates]
    rest: Costs
    dense: Costs
    asked: Costs
    by_policy: tuple[str, Costs] | None

    @property
    def least(self) -> Costs:
        """``[budgets]``, the least of each cost, looked at alone."""
        total: Costs = self.rest + least_costs(self.layers)
        return total


def why_infeasible(shortfall: Shortfall) -> str:
    """Return the sentence for the user: what is the least, and what to do."""
    short = np.flatnonzero(
        (shortfall.least * (1 + _ROUNDING) > shortfall.asked) & (shortfall.asked < shortfall.dense)
    )
    if short.size:
        return "; and ".join(_unreachable(shortfall, int(index)) for index in short)
    if shortfall.by_policy is None:
        return _not_together(shortfall)
    return _not_by_policy(shortfall, *shortfall.by_policy)


def _unreachable(shortfall: Shortfall, index: int) -> str:
    budget, unit = shortfall.budgets[index], shortfall.models[index].unit
    least, dense = float(shortfall.least[index]), float(shortfall.dense[index])
    return (
        f"{budget.cost} of {shortfall.asked[index]:.4g} {unit} cannot be reached: the least "
        f"achievable is {least:.4g} {unit} ({least / dense:.1%} of the dense {dense:.4g} {unit}), "
        f"held up by {dearest_layers(shortfall.layers, index)}"
        f"{_outside(float(shortfall.rest[index]), unit)}; ask for {_hint(shortfall, index, least)} "
        "or more"
    )


def _outside(rest: float, unit: str) -> str:
    return f", and {rest:.4g} {unit} outside all layers" if rest > 0 else ""


def _not_together(shortfall: Shortfall) -> str:
    return (
        f"no plan was found that meets the budgets on {_costs(shortfall)} together, though each "
        f"alone can be met ({_figures(shortfall, shortfall.least)}); loosen one of them"
    )


def _not_by_policy(shortfall: Shortfall, policy: str, least: Costs) -> str:
    return (
        f"the policy {policy} cannot meet {_costs(shortfall)}: the least that it keeps takes "
        f"{_figures(shortfall, least)}; loosen the budgets, or take the policy cost, which chooses "
        "for each layer"
    )


def _costs(shortfall: Shortfall) -> str:
    return " and ".join(budget.cost for budget in shortfall.budgets)


def _figures(shortfall: Shortfall, figures: Costs) -> str:
    return ", ".join(
        f"{budget.cost} at least {figure:.4g} {model.unit} of {asked:.4g} asked"
        for budget, model, figure, asked in zip(
            shortfall.budgets, shortfall.models, figures, shortfall.asked, strict=True
        )
    )


def _hint(shortfall: Shortfall, index: int, least: float) -> str:
    """Return a budget, as users write it, that can just be met."""
    budget, reachable = shortfall.budgets[index], least * (1 + _ROUNDING)
    if budget.is_relative:
        return f"{budget.cost}={math.ceil(reachable / float(shortfall.dense[index]) * 100)}%"
    digit = 10.0 ** (math.floor(math.log10(reachable)) - 3)
    figure = math.ceil(reachable / digit) * digit
    return f"{budget.cost}={figure:.4g}{base_unit(shortfall.models[index])}"
