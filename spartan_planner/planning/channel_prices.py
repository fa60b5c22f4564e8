"""What channels are worth at the edge: the price of each budget, and each group by that price."""

from collections.abc import Sequence

import numpy as np

from spartan_planner.planning.candidates import Costs
from spartan_planner.planning.channel_groups import GroupCounts
from spartan_planner.planning.channel_problem import ChannelChoice
from spartan_planner.planning.channel_terms import Figures
from spartan_planner.planning.document import PlanGroup


def channel_prices(choice: ChannelChoice, left_over: Costs, limits: Costs) -> Costs:
    """Return ``[budgets]``, value per unit of cost at which units are just worth keeping.

    The budgets that bind, those within which some next units do not fit, share one price by their
    limits: ``price_k = r / limit_k`` with ``r`` the least of ``value / sum_k (cost_k / limit_k)``
    over the last units kept.  Zero where none go.

    Args:
        choice: what is kept.
        left_over: ``[budgets]``, what is left of the limits.
        limits: ``[budgets]``.
    """
    nexts = [up for _, up in choice.marginals.values() if up is not None]
    lasts = [down for down, _ in choice.marginals.values() if down is not None]
    binding = np.zeros(len(limits), dtype=bool)
    for _, cost in nexts:
        binding |= cost > left_over
    if not binding.any() or not lasts:
        return np.zeros(len(limits))
    weights = np.where(binding, 1 / limits, 0.0)
    rates = [value / float(cost @ weights) for value, cost in lasts if cost @ weights > 0]
    prices: Costs = min(rates, default=0.0) * weights
    return prices


def plan_groups(
    groups: Sequence[GroupCounts], choice: ChannelChoice, prices: Costs
) -> tuple[PlanGroup, ...]:
    """Return what becomes of every group, as a plan holds it."""
    return tuple(_plan_group(item, choice, prices) for item in groups)


def _plan_group(item: GroupCounts, choice: ChannelChoice, prices: Costs) -> PlanGroup:
    group = item.group
    last, following = choice.marginals.get(group.name, (None, None))
    return PlanGroup(
        name=group.name,
        kind=group.kind,
        num_units=group.num_units,
        num_kept_units=choice.kept.get(group.name, group.num_units),
        multiple=item.multiple,
        worth_of_last=_worth(last, prices),
        worth_of_next=_worth(following, prices),
        fixed_because=item.fixed_because,
    )


def _worth(figures: Figures | None, prices: Costs) -> float | None:
    """Value over what it costs at the prices; ``None`` where that is nothing."""
    if figures is None:
        return None
    value, cost = figures
    priced = float(cost @ prices)
    return float(value) / priced if priced > 0 else None
