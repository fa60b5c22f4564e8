"""The model with removed units masked: as large as before, computing what the smaller one does."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from cost_models.channel_group import ChannelGroup
from spartan_planner.channels.selection import removals, tensors_of


@torch.no_grad()
def mask_channels(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Sequence[int]]
) -> None:
    """Set every slice of the units that are not kept to zero, in place.

    A normalisation of a removed channel is then neutral: weight, bias and mean are 0, the variance
    is 1, so that the channel is 0 behind it.

    Args:
        model: is changed in place.
        groups: the model's channel groups.
        kept: units to keep, by the name of their group; other groups stay whole.

    Raises:
        UsageError: ``kept`` names an unknown group or unit, or keeps none of a group.
        ModelError: the groups are those of another model.
    """
    tensors = tensors_of(model)
    for item in removals(model, groups, kept):
        value = 1.0 if item.tensor.endswith("running_var") else 0.0
        tensors[item.tensor].index_fill_(
            item.dim, _index(item.removed, tensors[item.tensor]), value
        )


def _index(places: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(places, device=like.device)
