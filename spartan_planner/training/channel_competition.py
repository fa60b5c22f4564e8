"""The units of each channel group compete for the places that a plan leaves them.

Every group keeps as many units as the plan says, so that the true cost of the smaller model, which
is bilinear in these counts, is the planned one by construction (DESIGN 4.9).
"""

import torch
from torch import Tensor

from spartan_planner.planning import Schedule
from spartan_planner.training.planned_group import Dense, PlannedGroup, most_valuable
from spartan_planner.training.schedules import SchedulePoint
from spartan_planner.training.sharpness import mean_surplus, sharpness
from spartan_planner.transport import soft_topk_gradient, solve_soft_topk


def select(group: PlannedGroup, dense: Dense, point: SchedulePoint) -> None:
    """Select hard by the latent weights: ``hard`` for now, ``planned`` for the plan's count."""
    values = group.values(dense)
    group.hard, threshold = most_valuable(values, group.count(point.budget_share), group.name)
    group.planned = group.hard
    if point.budget_share:
        group.planned, _ = most_valuable(values, group.num_kept, group.name)
    group.price = threshold


def soften(group: PlannedGroup, dense: Dense, schedule: Schedule, point: SchedulePoint) -> None:
    """Give a group that is selected its soft mask: ``m_u = sigmoid(beta (v_u - price))``."""
    assert group.hard is not None
    assert group.price is not None
    values, count = group.values(dense), group.count(point.budget_share)
    kept = values[group.hard]
    group.spread = mean_surplus(float(kept.sum()), float(kept.numel()), group.price)
    group.beta = sharpness(schedule, point.sharpened, group.unit_elements, group.spread)
    found = solve_soft_topk(
        [values], [1.0], count, group.beta, initial_price=group.price, names=[group.name]
    )
    group.soft, group.price = found.masks[0], found.price


def value_gradient(group: PlannedGroup, mask_gradient: Tensor) -> Tensor:
    """Return ``dL/d|theta|`` of every element of a unit, ``[num_units]``, given ``g = dL/dm``.

    dL/dv = r (g - sum r g / sum r) with r = beta m (1 - m), and v is the mean over unit_elements.
    """
    assert group.soft is not None
    (found,) = soft_topk_gradient(
        [group.soft], [1.0], group.beta, [mask_gradient.to(group.soft.dtype)]
    )
    return found / group.unit_elements


def keep_living(group: PlannedGroup, dense: Dense) -> None:
    """Take back units whose weights are all zero: where a method prunes for good they stay out."""
    assert group.hard is not None
    group.hard = group.hard & (group.values(dense) > 0)


def hold(group: PlannedGroup, is_read: Tensor, dense: Dense) -> None:
    """Keep the units that are read, and of the others as many as the plan has places for.

    Those with weights of their own come first: tiles may have left nothing where they are read.
    """
    score = 2 * is_read.to(torch.int8) + (group.values(dense) > 0)
    order = torch.argsort(score, descending=True, stable=True)
    kept = torch.zeros_like(is_read)
    kept[order[: group.num_kept]] = True
    group.hard = group.planned = kept
