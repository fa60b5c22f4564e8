"""What can become of each layer, what it retains and what it costs in each case."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cost_models import Layout
from spartan_planner.planning.value_curves import Prefix, ValueCurve

Costs = NDArray[np.float64]
"""One figure per budget."""


@dataclass(frozen=True)
class SparseCandidate:
    """A layer in one layout.

    Attributes:
        layout: the layout.
        curve: what it retains.
        fixed: ``[budgets]``, cost of the sparse form that does not depend on what is kept.
        per_block: ``[budgets]``, cost of one whole kept block.
        min_size: least size to keep, in whole blocks; never less than one block.
    """

    layout: Layout
    curve: ValueCurve
    fixed: Costs
    per_block: Costs
    min_size: float = 0.0

    def __post_init__(self) -> None:
        """Refuse costs that do not belong together."""
        if self.fixed.shape != self.per_block.shape or self.fixed.ndim != 1:
            raise ValueError("fixed and per_block need one figure per budget")

    def cost(self, size: float) -> Costs:
        """Return the cost ``[budgets]`` of keeping so many whole blocks."""
        return self.fixed + self.per_block * size

    @cached_property
    def least(self) -> Prefix:
        """The least that may be kept."""
        return self.curve.least_prefix(self.min_size)


@dataclass(frozen=True)
class LayerCandidates:
    """Everything that can become of one layer.

    Attributes:
        name: the layer.
        value: sum of absolute weights: what the dense layer retains.
        dense: ``[budgets]``, cost of the dense layer.
        sparse: the layouts it could be pruned in; empty where it must stay dense.
    """

    name: str
    value: float
    dense: Costs
    sparse: tuple[SparseCandidate, ...]

    @property
    def least_cost(self) -> Costs:
        """``[budgets]``, the least that the layer can cost, each budget looked at alone."""
        costs = [self.dense, *(c.cost(c.least.size) for c in self.sparse)]
        least: Costs = np.min(costs, axis=0)
        return least
