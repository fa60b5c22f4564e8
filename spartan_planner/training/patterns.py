"""The n:m scope in training: every group of m consecutive inputs has a budget of its own."""

import torch
import torch.distributed as dist
from torch import Tensor

from spartan_planner.transport import hard_topk, soft_topk
from spartan_planner.transport.collective import sum_over_ranks


def pattern_budget(num_kept: int, num_of: int, budget_share: float) -> float:
    """Return what a group may keep on its way from all its elements to ``num_kept``."""
    return num_kept + (num_of - num_kept) * budget_share


def to_groups(tensor: Tensor, input_dim: int, num_of: int) -> Tensor:
    """Return ``[..., groups, num_of]``, the inputs of a weight as groups on the last axis."""
    moved = tensor.movedim(input_dim, -1)
    return moved.reshape(*moved.shape[:-1], moved.shape[-1] // num_of, num_of)


def from_groups(groups: Tensor, input_dim: int) -> Tensor:
    """Return a weight's shape from :func:`to_groups`, contiguous."""
    return groups.flatten(-2).movedim(-1, input_dim).contiguous()


def hard_pattern(values: Tensor, input_dim: int, num_of: int, budget: float) -> Tensor:
    """Return the boolean mask of the greatest of each group, as many as ``budget`` holds."""
    groups = to_groups(values, input_dim, num_of).contiguous()
    return from_groups(hard_topk(groups, 1.0, budget), input_dim)


def soft_pattern(values: Tensor, input_dim: int, num_of: int, budget: float, beta: float) -> Tensor:
    """Return masks that spend ``budget`` softly in each group (DESIGN 4.1)."""
    groups = to_groups(values, input_dim, num_of).contiguous()
    return from_groups(soft_topk(groups, 1.0, budget, beta), input_dim)


def pattern_gradient(
    soft: Tensor, gradient: Tensor, input_dim: int, num_of: int, beta: float
) -> Tensor:
    """Return dL/dv, ``beta r (g - sum_group g r / sum_group r)`` with ``r = m (1 - m)``.

    DESIGN 4.2 for each group, all costs being equal; 0 where a group's masks are all 0 or 1.

    Args:
        soft: ``m`` in the weight's shape.
        gradient: ``g = dL/dm``, of that shape.
        input_dim: the dimension of the inputs.
        num_of: inputs of a group.
        beta: as the masks were solved with.
    """
    masks, slopes = (to_groups(t, input_dim, num_of) for t in (soft, gradient))
    spread = masks * (1 - masks)
    total = spread.sum(-1, keepdim=True)
    shared = (slopes * spread).sum(-1, keepdim=True) / torch.where(total > 0, total, 1.0)
    return from_groups(beta * spread * (slopes - shared), input_dim)


def pattern_surplus(
    values: Tensor,
    hard: Tensor,
    input_dim: int,
    num_of: int,
    process_group: dist.ProcessGroup | None = None,
) -> float:
    """Return the mean value of what is kept, less the mean of the greatest dropped of a group.

    Over all parts of a weight that is spread over a process group.
    """
    groups, kept = (to_groups(t, input_dim, num_of) for t in (values, hard))
    dropped = torch.where(kept, 0.0, groups).amax(-1)
    sums = [(values * hard).sum(dtype=torch.float64), dropped.sum(dtype=torch.float64)]
    counts = [hard.count_nonzero().double(), torch.full_like(sums[0], dropped.numel())]
    total: list[float] = sum_over_ranks(torch.stack(sums + counts), process_group).tolist()
    worth, lost, num_kept, num_groups = total
    mean_lost = lost / num_groups
    return worth / num_kept - mean_lost if num_kept else mean_lost
