"""Pruning the given weights to a plan at once, without training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from cost_models import ChannelGroup, Layout
from spartan_planner.blocks import assign_blocks
from spartan_planner.channels.neutral import mask_channels
from spartan_planner.channels.planned import planned_groups
from spartan_planner.channels.record import KeptPlaces, record_of
from spartan_planner.channels.removal import remove_channels
from spartan_planner.channels.values import unit_values
from spartan_planner.export.smaller import plan_for_what_is_left
from spartan_planner.planned_parameters import planned_parameters
from spartan_planner.planning import ROUNDING, Plan
from spartan_planner.planning.channel_values import kept_units


@torch.no_grad()
def prune_one_shot(
    model: nn.Module, plan: Plan, channel_groups: Sequence[ChannelGroup] | None = None
) -> None:
    """Keep the most valuable units and blocks, as much as planned, and zero the rest.

    Where channels go the model stays as large as it is: every slice of a removed unit is zero and
    its normalisation neutral, so that :func:`smaller_model` computes the same.

    Args:
        model: changed in place.
        plan: the plan; its kept sizes are met, never exceeded.
        channel_groups: all groups of the model, where channels go; found from a forward pass if
            not given.

    Raises:
        PlanError: the plan belongs to another model.
    """
    planned_parameters(model, plan)
    groups = planned_groups(model, plan, channel_groups)
    if not groups:
        _prune_tiles(model, plan)
        return
    kept = _most_valuable(model, plan, groups)
    mask_channels(model, groups, kept)
    smaller = remove_channels(model, groups, kept)
    _prune_tiles(smaller, plan_for_what_is_left(plan, smaller))
    _put_back(model, plan, smaller)


def _most_valuable(
    model: nn.Module, plan: Plan, groups: Sequence[ChannelGroup]
) -> dict[str, tuple[int, ...]]:
    """The planner's own choice: by the absolute weights of its layers, ties by position."""
    layers = {layer.name for layer in plan.layers}
    counted = [
        replace(group, slices=tuple(part for part in group.slices if part.tensor in layers))
        for group in groups
    ]
    values = unit_values(model, counted)
    return {name: kept_units(item, plan.kept_units[name]) for name, item in values.items()}


def _put_back(model: nn.Module, plan: Plan, smaller: nn.Module) -> None:
    """Write the pruned weights of the smaller model to where they came from."""
    places: dict[str, list[KeptPlaces]] = {}
    for item in record_of(smaller).places:
        places.setdefault(item.tensor, []).append(item)
    whole, left = dict(model.named_parameters()), dict(smaller.named_parameters())
    for layer in plan.sparse_layers:
        index = _index(whole[layer.name], {item.dim: item for item in places.get(layer.name, [])})
        whole[layer.name][index] = left[layer.name]


def _index(weight: Tensor, places: Mapping[int, KeptPlaces]) -> tuple[Tensor, ...]:
    """What is kept of a weight, such that it indexes a box."""
    kept = [
        torch.tensor(places[dim].kept) if dim in places else torch.arange(size)
        for dim, size in enumerate(weight.shape)
    ]
    return tuple(item.to(weight.device) for item in torch.meshgrid(*kept, indexing="ij"))


def _prune_tiles(model: nn.Module, plan: Plan) -> None:
    parameters = planned_parameters(model, plan)
    for layer in plan.sparse_layers:
        weight = parameters[layer.name]
        layout = Layout.parse(layer.layout)
        values, assignment = assign_blocks(weight, layout)
        sizes = torch.from_numpy(layout.block_sizes(tuple(weight.shape))).to(weight.device)
        # The planner's own order: value per cost, ties by position.
        order = torch.argsort(values.double() / sizes, descending=True, stable=True)
        fits = torch.cumsum(sizes[order], 0) <= layer.kept_size * (1 + ROUNDING)
        kept = torch.zeros_like(values)
        kept[order[fits]] = 1
        weight.mul_(assignment.expand(kept))
