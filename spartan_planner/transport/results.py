"""What the solvers hand back: frozen values, and a status that explains itself."""

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from spartan_planner.transport.cuts import Cut


class SelectionStatus(Enum):
    """How a selection ended; the value is the explanation."""

    CONVERGED = "The masks spend the budget to within the tolerance."
    NOTHING_KEPT = "The budget is zero: the limit in which every block is dropped."
    EVERYTHING_KEPT = (
        "The budget is the cost of all blocks: the limit in which every block is kept."
    )
    EXACT_PREFIX = "The longest prefix by value per cost whose cost is at most the budget is kept."
    NOT_CONVERGED = (
        "The iteration limit was reached before the budget was met to the tolerance; "
        "relative_budget_error says how far off the masks are."
    )


@dataclass(frozen=True)
class Price:
    """The dual variable of the budget, to more digits than one float holds.

    A soft mask is ``sigmoid(beta * (z - anchor) - offset)`` with z the value per mean-normalised
    cost.  ``offset`` is a logit; it matters when beta is so large that the price falls between
    two neighbouring floats (DESIGN 4.1 at the hard limit).
    """

    anchor: float
    offset: float = 0.0

    def value(self, beta: float) -> float:
        """Return the price as one float, in the unit of z: ``anchor + offset / beta``."""
        return self.anchor + self.offset / beta


@dataclass(frozen=True)
class PriceSolution:
    """The price that meets a budget, without the masks.

    ``price`` is in the mean-normalised unit of z = value / (cost / mean cost) and can be handed
    to the next solve as ``initial_price``; ``exact_price`` is the same to more digits.
    """

    price: float
    exact_price: Price
    num_iterations: int
    relative_budget_error: float
    status: SelectionStatus


@dataclass(frozen=True)
class SoftSelection:
    """Soft masks of the shapes and dtypes of the values, and the price behind them.

    ``price`` is in the mean-normalised unit of z = value / (cost / mean cost);
    ``num_iterations`` counts full reads of the values that evaluated the budget;
    ``relative_budget_error`` is ``|sum c m - budget| / budget`` before the masks are rounded to a
    half-precision dtype.
    """

    masks: tuple[Tensor, ...]
    price: float
    num_iterations: int
    relative_budget_error: float
    status: SelectionStatus


@dataclass(frozen=True)
class HardSelection:
    """Boolean masks that keep the longest prefix by z = value / cost within the budget.

    ``threshold`` is the z of the first block that no longer fits (-inf when all are kept, +inf
    when the budget is zero), in value per unit of the costs as given; ``cost`` and ``num_kept``
    are those of what is kept, over all ranks of the process group; ``relative_budget_error`` is
    ``(budget - cost) / budget``, what is left over, never below 0.  ``ratios`` are the least and
    the greatest z, which save :func:`solve_soft_topk` a read; ``None`` where no read found them.
    ``cuts`` say what is kept of each tensor where no masks were asked for.
    """

    masks: tuple[Tensor, ...]
    threshold: float
    cost: float
    num_kept: int
    status: SelectionStatus
    relative_budget_error: float
    ratios: tuple[float, float] | None = None
    cuts: "tuple[Cut, ...]" = ()


def left_of_budget(cost: float, budget: float) -> float:
    """Return the fraction of a budget that a cost leaves, 0 for a budget of nothing."""
    return (budget - cost) / budget if budget > 0.0 else 0.0
