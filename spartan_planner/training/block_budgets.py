"""What the budgets of a plan leave for the blocks that compete in training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spartan_planner.planning import ROUNDING, Plan

Costs = NDArray[np.float64]


@dataclass(frozen=True)
class BlockBudgets:
    """The budgets of a plan, as limits on the kept blocks of its sparse layers.

    Attributes:
        per_block: ``[layers, budgets]``, cost of one whole block of each sparse layer.
        limits: ``[budgets]``, what is left when everything that does not compete is paid.
        weights: ``[budgets]``, weight of each in the blended cost (DESIGN 4.8).
    """

    per_block: Costs
    limits: Costs
    weights: Costs

    @staticmethod
    def of(plan: Plan, num_protected: Sequence[int]) -> "BlockBudgets":
        """Pay for what does not compete: the rest, dense layers, fixed parts, protected blocks.

        Args:
            plan: the plan.
            num_protected: for each sparse layer the blocks that are always kept.
        """
        names = [budget.cost for budget in plan.budgets]
        per_block = np.array(
            [[layer.costs[name].per_block for name in names] for layer in plan.sparse_layers]
        ).reshape(-1, len(names))
        protected = per_block * np.array(num_protected, float).reshape(-1, 1)
        limits = [
            (budget.asked or 0.0) * (1 - ROUNDING) - budget.rest - _paid(plan, budget.cost)
            for budget in plan.budgets
        ]
        weights = np.array([plan.blend[name] for name in names])
        return BlockBudgets(per_block, np.maximum(0, limits - protected.sum(axis=0)), weights)

    @property
    def blended_per_block(self) -> list[float]:
        """Blended cost of one block of each sparse layer."""
        return [float(cost) for cost in self.per_block @ self.weights]

    @property
    def blended_limit(self) -> float:
        """Blended cost that the kept blocks may have."""
        return float(self.limits @ self.weights)

    def overrun(self, kept: Sequence[float]) -> float:
        """Return the largest share of a limit that is spent, and 1 where none is exceeded.

        Args:
            kept: for each sparse layer the number of blocks kept, protected ones left out.  Ragged
                blocks count as whole ones, so what is within the limits here is so by size too.
        """
        spent = np.array(kept, float) @ self.per_block
        over = spent > self.limits
        with np.errstate(divide="ignore"):
            return float(np.max(spent[over] / self.limits[over], initial=1.0))


def _paid(plan: Plan, cost: str) -> float:
    return sum(
        layer.costs[cost].fixed if layer.is_sparse else layer.predicted(cost)
        for layer in plan.layers
    )
