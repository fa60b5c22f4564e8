"""The physically smaller model that a plan's channels leave, and the plan for what is left."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cost_models.channel_group import ChannelGroup, ChannelSlice
from spartan_planner.channels.planned import planned_groups
from spartan_planner.channels.removal import remove_channels
from spartan_planner.errors import ExportError
from spartan_planner.extraction import model_fingerprint
from spartan_planner.planned_parameters import planned_parameters
from spartan_planner.planning import Plan


@dataclass(frozen=True)
class SmallerModel:
    """What is left of a model.

    Attributes:
        model: without the channels that the plan removes; the model itself where none go.
        plan: for what is left: the tiles of its layers, no channels.
    """

    model: nn.Module
    plan: Plan


def smaller_model(
    model: nn.Module, plan: Plan, channel_groups: Sequence[ChannelGroup] | None = None
) -> SmallerModel:
    """Remove the channels that a plan removes and that nobody reads any more.

    The smaller model computes what the given one does; it can be trained on, saved with
    ``save_pruned``, and planned and pruned again.

    Args:
        model: trained to the plan or pruned in one shot; stays as it is.
        plan: the plan.
        channel_groups: all groups of the model; found from a forward pass if not given.

    Raises:
        PlanError: the plan belongs to another model.
        ExportError: more units are read than the plan keeps.
    """
    planned_parameters(model, plan)
    groups = planned_groups(model, plan, channel_groups)
    if not groups:
        return SmallerModel(model, plan)
    kept = {group.name: kept_units(model, group, plan.kept_units[group.name]) for group in groups}
    smaller = remove_channels(model, groups, kept)
    return SmallerModel(smaller, plan_for_what_is_left(plan, smaller))


def plan_for_what_is_left(plan: Plan, smaller: nn.Module) -> Plan:
    """Return the plan of a smaller model, from which no more channels go."""
    return replace(
        plan,
        model_fingerprint=model_fingerprint(smaller),
        groups=(),
        layers=tuple(replace(layer, cut_by=()) for layer in plan.layers),
    )


@torch.no_grad()
def kept_units(model: nn.Module, group: ChannelGroup, num_kept: int) -> list[int]:
    """Return which units of a group a model keeps: those that are read, filled up by weight.

    A unit is read where a column of its consumers is not zero.  Where fewer are read than planned,
    because tiles left nothing of them, those with the most of their other weights stay as well.

    Args:
        model: holds the weights.
        group: one of its groups.
        num_kept: units that the plan keeps.

    Raises:
        ExportError: more are read.
    """
    parameters = dict(model.named_parameters())
    parts = [part for part in group.slices if part.tensor in parameters]
    readers = [part for part in parts if part.role == "input"] or parts[:1]
    read = torch.stack([_sums(parameters[part.tensor], part) for part in readers]).sum(0) > 0
    weight = torch.stack([_sums(parameters[part.tensor], part) for part in parts]).sum(0)
    if int(read.sum()) > num_kept:
        raise ExportError(
            f"these weights use {int(read.sum())} units of channel group {group.name}, above the "
            f"{num_kept} that the plan allows; train with the plan, or prune the weights in one "
            "shot first"
        )
    order = sorted(range(group.num_units), key=lambda unit: (not read[unit], -float(weight[unit])))
    return sorted(order[:num_kept])


def _sums(weight: Tensor, part: ChannelSlice) -> Tensor:
    """Sum of absolute weights of each unit in a slice, ``[num_units]``."""
    others = [dim for dim in range(weight.dim()) if dim != part.dim]
    absolute = weight.detach().abs()
    along = (absolute.sum(others) if others else absolute).double().cpu()
    return torch.stack([along[list(elements)].sum() for elements in part.indices])
