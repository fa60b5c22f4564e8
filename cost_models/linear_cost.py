"""The cost of a layer as a linear function of its kept blocks, and where that pays."""

import math
from dataclasses import dataclass
from typing import Literal

from cost_models.documents import document

CostSource = Literal["exact", "measured", "estimated"]


@document
@dataclass(frozen=True)
class LinearCost:
    """What keeping blocks of one layer adds to a budgeted quantity.

    ``cost(kept) = min(dense, fixed + per_block * kept)``: an exporter leaves a layer dense where
    its sparse form does not pay (DESIGN section 4.6).

    Attributes:
        dense: cost of leaving the layer dense.
        fixed: cost of the sparse form that does not depend on what is kept.
        per_block: cost of one whole kept block.
        unit: unit of the three figures.
        source: exact by definition, measured on the device, or estimated from its facts.
    """

    dense: float
    fixed: float
    per_block: float
    unit: str
    source: CostSource = "exact"

    def __post_init__(self) -> None:
        """Refuse figures that are not costs."""
        for name in ("dense", "fixed", "per_block"):
            figure = getattr(self, name)
            if not math.isfinite(figure) or figure < 0:
                raise ValueError(f"{name} must be a finite figure of at least 0, not {figure}")

    def sparse(self, num_blocks: float) -> float:
        """Cost of the sparse form with that many whole blocks kept."""
        return self.fixed + self.per_block * num_blocks

    def best(self, num_blocks: float) -> float:
        """Cost of the cheaper of the sparse and the dense form."""
        return min(self.dense, self.sparse(num_blocks))

    def break_even_density(self, num_blocks: float) -> float:
        """Density under which the sparse form of a layer of ``num_blocks`` beats the dense one.

        0 when it never does, 1 when it always does.
        """
        if self.sparse(num_blocks) < self.dense:
            return 1.0
        if self.fixed >= self.dense or num_blocks == 0:
            return 0.0
        return min(1.0, (self.dense - self.fixed) / (self.per_block * num_blocks))
