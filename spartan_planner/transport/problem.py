"""A segmented problem, checked: flat views of the values, costs per block, the budget.

Costs may be one number for a whole segment or one per element; the budget and the costs are kept
as given, and beside them normalised by the mean cost over all blocks (DESIGN 4.1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport.collective import sum_over_ranks
from spartan_planner.transport.exact_sums import rounded_sum


@dataclass(frozen=True)
class ScaledCosts:
    """Costs per element divided by a unit, computed a slice at a time in float64."""

    costs: Tensor
    unit: float

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """Return some of the costs in the unit, float64."""
        return self.costs[index].double() / self.unit


Cost = float | Tensor
#: A cost in mean costs: a number, or one per element.
NormalisedCost = float | ScaledCosts

#: A budget outside [0, sum c] by less than this fraction of sum c is taken for rounding.
BUDGET_ROUNDING = 1.0e-9
#: A budget this close to sum c (relative) leaves less than double precision can resolve.
_NOTHING_LEFT = 1.0e-15

# Costs per element are checked and added up in pieces of so many.
_COST_CHUNK = 1 << 17

_VALUE_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Problem:
    """Values in segments, the cost of a block in each, and a budget.

    ``segments`` are flat; ``costs`` as given (flat where there is one per element); ``counts``
    blocks per segment over all ranks; ``local_costs`` the cost of this rank's blocks of each
    segment; ``unit`` the mean cost of a block; ``total`` the cost of all blocks and ``budget``,
    both in the unit of the costs.
    """

    segments: tuple[Tensor, ...]
    costs: tuple[Cost, ...]
    names: tuple[str, ...]
    counts: tuple[int, ...]
    local_costs: tuple[float, ...]
    unit: float
    total: float
    budget: float
    process_group: dist.ProcessGroup | None

    @property
    def num_blocks(self) -> int:
        """Blocks over all segments and ranks; also the mean-normalised cost of all."""
        return sum(self.counts)

    @property
    def normalised_budget(self) -> float:
        """The budget in mean costs."""
        return self.budget / self.unit if self.num_blocks else 0.0

    @property
    def normalised_costs(self) -> tuple[NormalisedCost, ...]:
        """Costs divided by the mean cost of a block."""
        return tuple(
            ScaledCosts(cost, self.unit) if isinstance(cost, Tensor) else cost / self.unit
            for cost in self.costs
        )

    @property
    def device(self) -> torch.device:
        """The device of the values (the CPU when there are none)."""
        return self.segments[0].device if self.segments else torch.device("cpu")


def exact_cost(counts: Sequence[int], costs: Sequence[float]) -> float:
    """Return sum_s counts_s costs_s, rounded once: independent of the order of the segments."""
    return math.fsum(count * cost for count, cost in zip(counts, costs, strict=True))


def build_problem(
    values: Sequence[Tensor],
    costs: Sequence[Cost],
    budget: float,
    names: Sequence[str] | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> Problem:
    """Check values, costs and budget and return them as a problem.

    Values that are not contiguous are copied once, because a block's position decides ties.

    Raises:
        TransportError: Lists of different lengths, a dtype that is not floating point, a cost
            that is not positive and finite, or a budget outside [0, sum c].
    """
    labels = _checked_names(len(values), names)
    if len(costs) != len(values):
        raise TransportError(
            f"{len(values)} value tensors came with {len(costs)} costs; give one for each."
        )
    for name, value, cost in zip(labels, values, costs, strict=True):
        _check_segment(name, value, cost)
    segments = tuple(value.detach().reshape(-1) for value in values)
    flat_costs = tuple(
        _flat_cost(name, value, cost)
        for name, value, cost in zip(labels, values, costs, strict=True)
    )
    counts = _global_counts(segments, process_group)
    local_costs = _local_costs(segments, flat_costs)
    total = _total_cost(local_costs, flat_costs, counts, segments, process_group)
    blocks = sum(counts)
    return Problem(
        segments,
        flat_costs,
        labels,
        counts,
        local_costs,
        total / blocks if blocks else 1.0,
        total,
        _checked_budget(float(budget), total),
        process_group,
    )


def _checked_names(count: int, names: Sequence[str] | None) -> tuple[str, ...]:
    """Return names for ``count`` tensors: the given ones, or ``values[i]``."""
    if names is None:
        return tuple(f"values[{index}]" for index in range(count))
    if len(names) != count:
        raise TransportError(f"{count} value tensors came with {len(names)} names.")
    return tuple(names)


def _check_segment(name: str, values: Tensor, cost: Cost) -> None:
    """Refuse a dtype or a cost that soft and hard top-k are not defined for."""
    if values.dtype not in _VALUE_DTYPES:
        raise TransportError(
            f"Values of {name} are {values.dtype}; they must be one of "
            f"{', '.join(str(dtype) for dtype in _VALUE_DTYPES)}."
        )
    if isinstance(cost, Tensor):
        valid = are_positive(cost)
        found = "a cost tensor with an element that is not"
    else:
        valid, found = cost > 0 and math.isfinite(cost), f"a cost of {cost}, which is not"
    if not valid:
        raise TransportError(f"{name} has {found} positive and finite; every block must cost.")


def are_positive(costs: Tensor) -> bool:
    """Say whether all costs are positive and finite, without a temporary of their size."""
    if costs.numel() == 0:
        return True
    least, greatest = torch.aminmax(costs.detach())
    # A NaN makes both NaN, and no comparison holds.
    return float(least) > 0.0 and float(greatest) < math.inf


def cost_chunks(costs: Tensor) -> tuple[Tensor, ...]:
    """Return flat costs per element in pieces that stay in cache."""
    return torch.split(costs, _COST_CHUNK)


def _flat_cost(name: str, values: Tensor, cost: Cost) -> Cost:
    """Return a number as it is and a cost per element flat, in the order of the values."""
    if not isinstance(cost, Tensor):
        return cost
    if cost.numel() == 1:
        return float(cost)
    if cost.shape != values.shape:
        raise TransportError(
            f"{name} has values of shape {tuple(values.shape)} and costs of shape "
            f"{tuple(cost.shape)}; give one number, or one cost per value."
        )
    return cost.detach().reshape(-1)


def _global_counts(
    segments: Sequence[Tensor], process_group: dist.ProcessGroup | None
) -> tuple[int, ...]:
    """Return blocks per segment, summed over ranks."""
    local = [segment.numel() for segment in segments]
    if process_group is None:
        return tuple(local)
    device = segments[0].device if segments else torch.device("cpu")
    counts = sum_over_ranks(torch.tensor(local, dtype=torch.int64, device=device), process_group)
    return tuple(int(count) for count in counts)


def _local_costs(segments: Sequence[Tensor], costs: Sequence[Cost]) -> tuple[float, ...]:
    """Return the cost of this rank's blocks of each segment, rounded once."""
    return tuple(
        rounded_sum(cost_chunks(cost)) if isinstance(cost, Tensor) else cost * segment.numel()
        for segment, cost in zip(segments, costs, strict=True)
    )


def _total_cost(
    local_costs: Sequence[float],
    costs: Sequence[Cost],
    counts: Sequence[int],
    segments: Sequence[Tensor],
    process_group: dist.ProcessGroup | None,
) -> float:
    """Return the cost of all blocks over all ranks."""
    plain = [cost for cost in costs if not isinstance(cost, Tensor)]
    if len(plain) == len(costs):
        return exact_cost(counts, plain)
    local = torch.tensor(math.fsum(local_costs), dtype=torch.float64, device=segments[0].device)
    return float(sum_over_ranks(local, process_group))


def _checked_budget(budget: float, total: float) -> float:
    """Clamp rounding away and refuse a budget outside [0, total]."""
    slack = BUDGET_ROUNDING * total
    if not -slack <= budget <= total + slack:
        raise TransportError(
            f"The budget is {budget:g}, but it must lie between 0 and {total:g}, the cost of "
            f"keeping every block (both in the unit of the costs)."
        )
    return total if total - budget <= _NOTHING_LEFT * total else max(budget, 0.0)
