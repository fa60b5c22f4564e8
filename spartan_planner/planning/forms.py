"""In which form a pruned layer is in the exported file, and what every cost then is.

A layer has one form for all costs: lowered, its zero blocks skipped, or as it was, zeros and all.
"""

from collections.abc import Collection, Mapping, Sequence

from cost_models import LinearCost

COUNTED_COSTS = frozenset({"params", "flops"})
"""Costs that count what is not zero and so do not depend on the form of the file; any other, such
as the bytes of the file or the time on a device, is the dense one where zeros are only masked."""


def deciding_costs(budgeted: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """Return the costs that decide on forms: the budgeted ones that depend on the form.

    Where there is none, the device's time decides, and without a device the first budget.

    Args:
        budgeted: costs with a budget, at least one.
        known: all costs that can be told.
    """
    by_form = tuple(cost for cost in budgeted if cost not in COUNTED_COSTS)
    if by_form:
        return by_form
    return ("latency",) if "latency" in known else (budgeted[0],)


def is_lowered(costs: Mapping[str, LinearCost], kept_size: float, deciding: Sequence[str]) -> bool:
    """Whether a layer that keeps so many whole blocks is lowered: it saves a deciding cost.

    Where it saves none, its dense form exceeds no budget that its lowered form would keep.
    """
    return any(costs[cost].sparse(kept_size) < costs[cost].dense for cost in deciding)


def executed_cost(cost: str, linear: LinearCost, kept_size: float, *, lowered: bool) -> float:
    """Return a cost of a pruned layer in its form, with so many whole blocks kept."""
    return linear.sparse(kept_size) if lowered or cost in COUNTED_COSTS else linear.dense
