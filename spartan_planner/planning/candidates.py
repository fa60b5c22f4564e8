"""What can become of each layer, and what its blocks are worth in each case."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_models import Layout, LinearCost


@dataclass(frozen=True)
class SparseCandidate:
    """A layer in one layout.

    Attributes:
        layout: the layout.
        values: ``[blocks]``, value of each block, in position order.
        sizes: ``[blocks]``, size of each block in whole blocks; below 1 where it is ragged.
        cost: the layer's linear cost of the budgeted quantity.
    """

    layout: Layout
    values: NDArray[np.float64]
    sizes: NDArray[np.float64]
    cost: LinearCost

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        if self.values.shape != self.sizes.shape or self.values.ndim != 1 or not self.values.size:
            raise ValueError("values and sizes must be one-dimensional, equally long and not empty")
        if not np.all(np.isfinite(self.values)) or np.any(self.values < 0):
            raise ValueError("values must be finite and not negative")

    @property
    def block_costs(self) -> NDArray[np.float64]:
        """``[blocks]``, what keeping each block costs."""
        return self.cost.per_block * self.sizes


@dataclass(frozen=True)
class LayerCandidates:
    """Everything that can become of one layer.

    Attributes:
        name: the layer.
        value: sum of absolute weights: what the dense layer retains.
        dense: cost of the dense layer.
        sparse: the layouts it could be pruned in; empty where it must stay dense.
    """

    name: str
    value: float
    dense: float
    sparse: tuple[SparseCandidate, ...]
