"""What channels leave of a weight: the smaller tensor in which tiles compete."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spartan_planner.training.planned_group import Place, PlannedGroup


class ReducedWeight:
    """A weight that loses channels and is pruned in tiles beside.

    Tiles cover the weight of the units that the plan would keep now, as they do in the smaller
    model.  ``parameter`` holds that smaller weight as a planned weight's parameter does; it is
    filled from the whole weight before tiles are chosen, and put back afterwards.

    Args:
        name: of the weight.
        whole: its parameter.
        pairs: the groups that cut it, and where.
    """

    def __init__(
        self, name: str, whole: nn.Parameter, pairs: Sequence[tuple[PlannedGroup, Place]]
    ) -> None:
        self.name, self.whole, self.pairs = name, whole, tuple(pairs)
        self.parameter = nn.Parameter(torch.empty(0))
        self.parameter = nn.Parameter(self.taken(whole.detach()).clone())

    @property
    def _places(self) -> tuple[Tensor, ...]:
        """Along the first two dimensions what stays, such that they index a rectangle."""
        kept = []
        for dim in range(2):
            stays = torch.ones(self.whole.shape[dim], dtype=torch.bool, device=self.whole.device)
            for group, place in self.pairs:
                if place.dim == dim:
                    stays &= place.along(_planned(group, stays.device), other=True)
            kept.append(stays.nonzero().flatten())
        return kept[0][:, None], kept[1][None, :]

    def taken(self, tensor: Tensor) -> Tensor:
        """Return the part of a tensor of the whole weight's shape that stays."""
        return tensor[self._places]

    def put(self, part: Tensor, into: Tensor) -> None:
        """Put the part that stays back into a tensor of the whole weight's shape."""
        into[self._places] = part


def _planned(group: PlannedGroup, device: torch.device) -> Tensor:
    """The units that would be kept; the first ones before values are known."""
    if group.planned is not None:
        return group.planned
    return torch.arange(group.num_units, device=device) < group.num_kept
