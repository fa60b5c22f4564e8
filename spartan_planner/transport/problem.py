"""A segmented problem, checked: flat views of the values, costs per block, the budget.

Costs may be one number for a whole segment or one per element; the budget and the costs are kept
as given, and beside them normalised by the mean cost over all blocks (DESIGN 4.1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real

import torch
import torch.distributed as dist
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport.collective import counts_by_rank, sum_over_ranks
from spartan_planner.transport.exact_sums import exact_parts, rounded_sum


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
# The same where the costs or the budget come in float32 or narrower: sums of them are no closer.
_NARROW_BUDGET_ROUNDING = 1.0e-6

# Costs per element are checked and added up in pieces of so many.
_COST_CHUNK = 1 << 17

_VALUE_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Problem:
    """Values in segments, the cost of a block in each, and a budget.

    ``segments`` are flat; ``costs`` as given (flat where there is one per element); ``counts``
    blocks per segment over all ranks; ``local_costs`` the cost of this rank's blocks of each
    segment; ``has_element_costs`` whether any rank has a cost per element; ``unit`` the mean cost
    of a block; ``total`` the cost of all blocks and ``budget``, both in the unit of the costs.
    """

    segments: tuple[Tensor, ...]
    costs: tuple[Cost, ...]
    names: tuple[str, ...]
    counts: tuple[int, ...]
    local_costs: tuple[float, ...]
    has_element_costs: bool
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
    labels, flat_costs = _agreed_costs(values, costs, names, process_group)
    segments = tuple(value.detach().reshape(-1) for value in values)
    counts = _global_counts(segments, process_group)
    own_element_costs = any(isinstance(cost, Tensor) for cost in flat_costs)
    flag = torch.tensor(int(own_element_costs), device=_device(segments))
    has_element_costs = int(sum_over_ranks(flag, process_group)) > 0
    total = _total_cost(segments, flat_costs, counts, has_element_costs, process_group)
    blocks = sum(counts)
    rounding = max([BUDGET_ROUNDING, *(budget_rounding(cost) for cost in costs)])
    return Problem(
        segments,
        flat_costs,
        labels,
        counts,
        _local_costs(segments, flat_costs),
        has_element_costs,
        total / blocks if blocks else 1.0,
        total,
        _checked_budget(budget, total, rounding),
        process_group,
    )


def _agreed_costs(
    values: Sequence[Tensor],
    costs: Sequence[Cost],
    names: Sequence[str] | None,
    process_group: dist.ProcessGroup | None,
) -> tuple[tuple[str, ...], tuple[Cost, ...]]:
    """Return names and flat costs of checked input; refuse it on all ranks if one has to.

    A rank that raised alone would leave the others waiting inside the next exchange.
    """
    refusal: TransportError | None = None
    checked: tuple[tuple[str, ...], tuple[Cost, ...]] = ((), ())
    try:
        checked = _checked_segments(values, costs, names, process_group is not None)
    except TransportError as error:
        refusal = error
    if process_group is not None:
        state = torch.tensor([int(refusal is not None), len(checked[0])], device=_device(values))
        states = counts_by_rank(state, process_group).tolist()
        refused = [rank for rank, (flag, _) in enumerate(states) if flag]
        if refused and refusal is None:
            refusal = TransportError(
                f"The values or costs of rank {refused[0]} were refused; its own error says why."
            )
        elif len({count for _, count in states}) > 1:
            refusal = refusal or TransportError(
                f"The ranks came with {sorted({count for _, count in states})} value tensors; "
                f"give every rank its shard of each, empty where it has none."
            )
    if refusal is not None:
        raise refusal
    return checked


def _checked_segments(
    values: Sequence[Tensor], costs: Sequence[Cost], names: Sequence[str] | None, is_shard: bool
) -> tuple[tuple[str, ...], tuple[Cost, ...]]:
    """Return names and flat costs, or refuse what top-k is not defined for."""
    for what, given in (("values", values), ("costs", costs)):
        if not _is_list(given):
            raise TransportError(
                f"{what} must be a list with one entry per tensor; got {type(given).__name__}."
            )
    labels = checked_names(len(values), names)
    if len(costs) != len(values):
        raise TransportError(
            f"{len(values)} value tensors came with {len(costs)} costs; give one for each."
        )
    triples = list(zip(labels, values, costs, strict=True))
    for name, value, cost in triples:
        _check_segment(name, value, cost)
    return labels, tuple(_flat_cost(*triple, is_shard) for triple in triples)


def checked_names(count: int, names: Sequence[str] | None) -> tuple[str, ...]:
    """Return names for ``count`` tensors: the given ones, or ``values[i]``.

    Raises:
        TransportError: Another number of names than tensors.
    """
    if names is None:
        return tuple(f"values[{index}]" for index in range(count))
    if len(names) != count:
        raise TransportError(f"{count} value tensors came with {len(names)} names.")
    return tuple(names)


def is_tensor(given: object) -> bool:
    """Say whether this is a tensor, whatever its annotation says."""
    return isinstance(given, Tensor)


def is_real(given: object) -> bool:
    """Say whether this is a real number or a tensor of real numbers."""
    return isinstance(given, Real) or (isinstance(given, Tensor) and not given.is_complex())


def is_number(given: object) -> bool:
    """Say whether this is a real number, or a tensor that holds one."""
    return is_real(given) and (not isinstance(given, Tensor) or given.numel() == 1)


def check_dtype(name: str, dtype: torch.dtype) -> None:
    """Refuse a dtype of values that top-k is not defined for.

    Raises:
        TransportError: Not a floating-point dtype, or a narrower one than half precision.
    """
    if dtype not in _VALUE_DTYPES:
        raise TransportError(
            f"{name} are {dtype}; they must be one of "
            f"{', '.join(str(dtype) for dtype in _VALUE_DTYPES)}."
        )


def _check_segment(name: str, values: Tensor, cost: Cost) -> None:
    """Refuse a dtype or a cost that soft and hard top-k are not defined for."""
    if not is_tensor(values):
        raise TransportError(f"Values of {name} must be a tensor; got {type(values).__name__}.")
    check_dtype(f"Values of {name}", values.dtype)
    if not is_real(cost):
        raise TransportError(
            f"The cost of {name} must be a number or a tensor; got {type(cost).__name__}."
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


def _device(values: Sequence[Tensor]) -> torch.device:
    """Return the device of the values, the CPU where there are none, or no tensors."""
    first = values[0] if _is_list(values) and len(values) else None
    return first.device if first is not None and is_tensor(first) else torch.device("cpu")


def _is_list(given: object) -> bool:
    """Say whether this has an entry per tensor; a tensor's entries are those of its first axis."""
    if isinstance(given, Tensor):
        return given.ndim > 0
    return isinstance(given, Sequence) and not isinstance(given, str)


def _flat_cost(name: str, values: Tensor, cost: Cost, is_shard: bool) -> Cost:
    """Return a number as it is and a cost per element flat, in the order of the values.

    The one cost of a shard of one element stays a cost per element: those of the other ranks are.
    """
    if not isinstance(cost, Tensor):
        return float(cost)
    if cost.numel() == 1 and not (is_shard and cost.ndim and cost.shape == values.shape):
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
    segments: Sequence[Tensor],
    costs: Sequence[Cost],
    counts: Sequence[int],
    has_element_costs: bool,
    process_group: dist.ProcessGroup | None,
) -> float:
    """Return the cost of all blocks over all ranks.

    With a cost per element it is the sum over all elements of all segments, rounded once, as hard
    selection adds up; across ranks, where that takes no such costs, their sums are added.
    """
    if not has_element_costs:
        return exact_cost(counts, [cost for cost in costs if not isinstance(cost, Tensor)])
    parts: list[Fraction] = []
    for segment, cost in zip(segments, costs, strict=True):
        if isinstance(cost, Tensor):
            parts += map(Fraction, exact_parts(cost_chunks(cost)))
        else:
            parts.append(Fraction(cost) * segment.numel())
    local = torch.tensor(float(sum(parts)), dtype=torch.float64, device=segments[0].device)
    return float(sum_over_ranks(local, process_group))


def budget_rounding(given: Cost) -> float:
    """Return what fraction of the total rounding may add to a budget, for such costs or budget."""
    narrow = isinstance(given, Tensor) and given.dtype in _VALUE_DTYPES[1:]
    return _NARROW_BUDGET_ROUNDING if narrow else BUDGET_ROUNDING


def budget_sentence(budget: float, total: float) -> str:
    """Return what to tell of a budget that is out of range."""
    return (
        f"The budget is {budget:.9g}, but it must lie between 0 and {total:.9g}, the cost of "
        f"keeping every block (both in the unit of the costs)."
    )


def _checked_budget(given: float, total: float, rounding: float) -> float:
    """Clamp rounding away and refuse a budget outside [0, total]."""
    if not is_number(given):
        raise TransportError(f"The budget must be a number; got {type(given).__name__}.")
    budget, rounding = float(given), max(rounding, budget_rounding(given))
    slack = rounding * total
    if not -slack <= budget <= total + slack:
        raise TransportError(budget_sentence(budget, total))
    return min(max(budget, 0.0), total)
