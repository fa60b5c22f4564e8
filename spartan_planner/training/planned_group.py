"""One channel group under a plan: where its units lie, what they are worth, and their masks.

A unit lies in several tensors, but its masks act in one kind of place only: where it is *read*.
The columns of its consumers are multiplied by m and h, so that every path through the unit is
multiplied once; behind a normalisation, in gates and in products of queries and keys factors of
producers would have no effect or act twice.  What produces the unit stays alive while masks move,
for without its activations no gradient could tell that the unit should come back.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cost_models.channel_group import ChannelGroup, ChannelSlice
from spartan_planner.errors import TrainingError
from spartan_planner.transport import solve_hard_topk

Dense = Callable[[str], Tensor]
"""Returns the latent weight of a name."""


@dataclass(frozen=True)
class Place:
    """A slice of a group in one parameter, ready for products.

    Attributes:
        tensor: name of the parameter.
        dim: the dimension along which units lie.
        unit_of: ``[size along dim]``, the unit of each element; ``num_units`` where it has none.
        num_units: of the group.
        num_elements: elements along ``dim`` that have a unit.
    """

    tensor: str
    dim: int
    unit_of: Tensor
    num_units: int
    num_elements: int

    @staticmethod
    def of(part: ChannelSlice, parameter: Tensor) -> "Place":
        """Make the place of a slice in its parameter."""
        num_units = len(part.indices)
        unit_of = torch.full((parameter.shape[part.dim],), num_units)
        for unit, elements in enumerate(part.indices):
            unit_of[list(elements)] = unit
        unit_of = unit_of.to(parameter.device)
        return Place(part.tensor, part.dim, unit_of, num_units, part.num_elements)

    def along(self, figures: Tensor, other: float) -> Tensor:
        """Return ``[size along dim]``: the figure of each element's unit, or another number."""
        return torch.cat([figures, figures.new_tensor([other])])[self.unit_of]

    def factors(self, figures: Tensor, like: Tensor, other: float = 1.0) -> Tensor:
        """Return the figures so that they multiply a tensor of the parameter's shape."""
        shape = [-1 if dim == self.dim else 1 for dim in range(like.dim())]
        return self.along(figures.to(like.dtype), other).view(shape)

    def sums(self, along: Tensor) -> Tensor:
        """Return ``[num_units]``, sums over the elements of each unit; ``along`` as the result."""
        total = along.new_zeros(self.num_units + 1)
        return total.index_add_(0, self.unit_of, along)[: self.num_units]

    def others(self, tensor: Tensor) -> list[int]:
        """Return all dimensions but that of the units."""
        return [dim for dim in range(tensor.dim()) if dim != self.dim]


@dataclass
class PlannedGroup:
    """A channel group that a plan shortens.

    Attributes:
        group: the group.
        num_kept: units that the plan keeps.
        places: where it lies in parameters, biases and norms included.
        readers: the places where masks act: columns of consumers, or where a group has none the
            rows of its first producer.
        valued: the places whose absolute weights are its value.
        unit_elements: mean number of elements of a unit in them.
        soft: ``[num_units]`` mask ``m``; ``None`` where it is 1 everywhere.
        hard: ``[num_units]`` mask ``h``, boolean; ``None`` before the first step.
        planned: ``[num_units]``, which would be kept were the budget reached: what tiles compete
            in; as ``hard`` once it is.
        price, spread, beta: of its soft masks, in value of a mean element.
    """

    group: ChannelGroup
    num_kept: int
    places: tuple[Place, ...]
    readers: tuple[Place, ...]
    valued: tuple[Place, ...]
    unit_elements: float
    soft: Tensor | None = None
    hard: Tensor | None = None
    planned: Tensor | None = None
    price: float | None = None
    spread: float = 0.0
    beta: float = 0.0

    @staticmethod
    def of(
        group: ChannelGroup,
        num_kept: int,
        parameters: Mapping[str, nn.Parameter],
        layers: frozenset[str],
    ) -> "PlannedGroup":
        """Make the planned group of a channel group.

        Args:
            group: the group.
            num_kept: units that the plan keeps.
            parameters: of the model.
            layers: names of the weights that the plan knows; others have no value.

        Raises:
            TrainingError: a parameter is spread over processes.
        """
        parts = [part for part in group.slices if part.tensor in parameters]
        for part in parts:
            _require_whole(part.tensor, parameters[part.tensor])
        placed = [(part, Place.of(part, parameters[part.tensor])) for part in parts]
        valued = [
            (part, place)
            for part, place in placed
            if part.role != "vector" and part.tensor in layers
        ]
        readers = [place for part, place in placed if part.role == "input"]
        producers = [place for part, place in placed if part.role == "output"]
        num_elements = sum(
            parameters[part.tensor].numel() * part.num_elements / len(place.unit_of)
            for part, place in valued
        )
        return PlannedGroup(
            group,
            num_kept,
            tuple(place for _, place in placed),
            tuple(readers or producers[:1]),
            tuple(place for _, place in valued),
            num_elements / group.num_units,
        )

    @property
    def name(self) -> str:
        """The group's name."""
        return self.group.name

    @property
    def num_units(self) -> int:
        """Units that the model has."""
        return self.group.num_units

    @property
    def kept(self) -> list[int]:
        """The units that are kept, ascending; all of them before the first step."""
        if self.hard is None:
            return list(range(self.num_units))
        return [int(unit) for unit in self.hard.nonzero().flatten().tolist()]

    def count(self, budget_share: float) -> float:
        """Return the units that may be kept, ``budget_share`` of the way back to all of them."""
        return self.num_kept + (self.num_units - self.num_kept) * budget_share

    def values(self, dense: Dense) -> Tensor:
        """Return ``[num_units]``, the mean of ``|theta|`` over the elements of a mean unit.

        v_u = sum |theta| over rows and columns of unit u / unit_elements
        """
        sums = [self._sums_of(place, dense(place.tensor)) for place in self.valued]
        return torch.stack(sums).sum(0) / self.unit_elements

    @staticmethod
    def _sums_of(place: Place, weight: Tensor) -> Tensor:
        wide = weight.detach()
        wide = wide if wide.dtype is torch.float64 else wide.float()
        others = place.others(wide)
        along = torch.linalg.vector_norm(wide, 1, dim=others) if others else wide.abs()
        return place.sums(along)

    def factor(self, weight: Tensor, place: Place, *, is_soft: bool) -> Tensor:
        """Return what a place of the weight is multiplied by: ``m``, or ``m h``."""
        ones = torch.ones(self.num_units, device=weight.device)
        figures = ones if self.soft is None else self.soft
        if not is_soft and self.hard is not None:
            figures = figures * self.hard
        return place.factors(figures, weight)


def most_valuable(values: Tensor, count: float, name: str) -> tuple[Tensor, float]:
    """Return which units are the most valuable, no more than ``count``, and the threshold."""
    found = solve_hard_topk([values], [1.0], float(count), names=[name])
    return found.masks[0], found.threshold


def _require_whole(name: str, parameter: nn.Parameter) -> None:
    from spartan_planner.training.sharding import sharding_of

    if sharding_of(name, parameter) is not None:
        raise TrainingError(
            f"parameter {name!r} is spread over processes, and the channels of a plan are trained "
            "in whole parameters only; train with copies of the model (DDP) instead of FSDP2"
        )


def common_factor(
    weight: Tensor, pairs: Sequence[tuple[PlannedGroup, Place]], *, is_soft: bool
) -> Tensor | float:
    """Return the product of the factors of all groups that are read in a weight."""
    product: Tensor | float = 1.0
    for group, place in pairs:
        product = group.factor(weight, place, is_soft=is_soft) * product
    return product
