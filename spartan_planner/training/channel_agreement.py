"""Do all processes that train one model keep the same units?"""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from spartan_planner.errors import TrainingError
from spartan_planner.training.agreement import mask_digest
from spartan_planner.training.planned_group import PlannedGroup


def require_same_units(
    groups: Sequence[PlannedGroup], process_group: dist.ProcessGroup | None
) -> None:
    """Refuse processes that keep different units; called on every one of them.

    Args:
        groups: the groups that lose units.
        process_group: the processes; ``None`` for this one alone.

    Raises:
        TrainingError: they differ; names the first such group, on every process.
    """
    masks = [group.hard for group in groups if group.hard is not None]
    if process_group is None or not masks:
        return
    halves = torch.stack([mask_digest(mask).bitwise_right_shift(1) for mask in masks])
    extremes = torch.stack([halves, -halves])
    dist.all_reduce(extremes, dist.ReduceOp.MAX, group=process_group)
    differing = (extremes[0] != -extremes[1]).tolist()
    named = [group.name for group, differs in zip(groups, differing, strict=True) if differs]
    if named:
        raise TrainingError(
            f"the processes keep different units of channel group {named[0]}; something wrote to "
            "the weights or the state of one process alone: resume all of them from the last "
            "checkpoint"
        )
