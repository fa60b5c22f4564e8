"""What a unit is worth: the sum of the absolute weights that go with it."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cost_models.channel_group import ChannelGroup, ChannelSlice
from spartan_planner.channels.selection import tensors_of
from spartan_planner.errors import ModelError


@torch.no_grad()
def unit_values(model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, NDArray[np.float64]]:
    """Return the sum of ``|w|`` over the rows and columns of each unit, ``[num_units]`` per group.

    Vectors (norms, biases, running statistics) count nothing.  The values are not normalised: a
    unit that lies in many weights is worth more, as it costs more.

    Raises:
        ModelError: the groups are those of another model.
    """
    tensors = tensors_of(model)
    return {group.name: _values(tensors, group) for group in groups}


def _values(tensors: dict[str, Tensor], group: ChannelGroup) -> NDArray[np.float64]:
    total = np.zeros(group.num_units)
    for part in group.slices:
        if part.role != "vector":
            total += _slice_values(tensors, part)
    return total


def _slice_values(tensors: dict[str, Tensor], part: ChannelSlice) -> NDArray[np.float64]:
    weight = tensors.get(part.tensor)
    if weight is None or part.dim >= weight.dim():
        raise ModelError(f"the model has no tensor {part.tensor!r} with a dimension {part.dim}")
    others = [dim for dim in range(weight.dim()) if dim != part.dim]
    sums = weight.detach().double().abs().sum(others).cpu().numpy()
    if max(max(unit) for unit in part.indices) >= len(sums):
        raise ModelError(
            f"tensor {part.tensor!r} is smaller than its channel group says; find the model's "
            "groups anew after every removal"
        )
    return np.array([sums[list(unit)].sum() for unit in part.indices])
