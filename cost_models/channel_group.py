"""Channel groups: channels that can only be kept or removed together, across all their tensors.

A channel is produced by a row of one weight (or, over a residual connection, of several),
normalised by elements of vectors, and consumed by columns of other weights.  What is removed at
once is a *unit*: one channel with all of these, or one attention head with its rows of queries,
keys and values and its columns of the output projection.  Names of tensors are those of the
model's parameters and buffers, as in :class:`~cost_models.workload.LayerWorkload`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from cost_models.documents import document
from cost_models.unit_indices import UnitIndices

Role = Literal["output", "input", "vector"]
"""Rows of a producer, columns of a consumer, or anything else: norm, bias, running statistics."""

GroupKind = Literal["channel", "head"]


@document
@dataclass(frozen=True)
class ChannelSlice:
    """Where the units of a group lie in one tensor.

    Attributes:
        tensor: name of the parameter or buffer in the model.
        dim: the dimension along which the units lie.
        indices: ``[num_units][elements of the unit along dim]``; no element is in two units.
        role: ``output`` for rows of a producer, ``input`` for columns of a consumer, ``vector``
            for what belongs to no product: norms, biases, running statistics.
    """

    tensor: str
    dim: int
    indices: UnitIndices
    role: Role

    def __post_init__(self) -> None:
        """Refuse places that no tensor has, and elements that two units share."""
        if self.dim < 0:
            raise ValueError("dim must not be negative")
        elements = [index for unit in self.indices for index in unit]
        if not all(self.indices) or min(elements, default=-1) < 0:
            raise ValueError("every unit must have elements, counted from 0")
        if len(set(elements)) < len(elements):
            raise ValueError(f"an element of {self.tensor!r} appears twice")

    @property
    def num_elements(self) -> int:
        """Places along ``dim`` that the units hold, all together."""
        return sum(map(len, self.indices))

    def elements(self, units: Iterable[int]) -> tuple[int, ...]:
        """Return the places along ``dim`` of these units, ascending."""
        return tuple(sorted(index for unit in units for index in self.indices[unit]))


@document
@dataclass(frozen=True)
class ChannelGroup:
    """Units that lie in the same tensors, each of which can be removed without the others.

    Attributes:
        name: that of the first producer.
        kind: whether a unit is a channel or an attention head.
        num_units: how many there are.
        slices: where they lie, no more than one slice per tensor and dimension.
    """

    name: str
    kind: GroupKind
    num_units: int
    slices: tuple[ChannelSlice, ...]

    def __post_init__(self) -> None:
        """Refuse groups that contradict themselves."""
        if self.num_units < 1 or not self.slices:
            raise ValueError("a group must have a unit and a slice")
        if any(len(part.indices) != self.num_units for part in self.slices):
            raise ValueError("every slice must hold num_units units")
        places = [(part.tensor, part.dim) for part in self.slices]
        if len(set(places)) < len(places):
            raise ValueError("a group must have one slice per tensor and dimension")

    def slices_of(self, tensor: str) -> tuple[ChannelSlice, ...]:
        """Return the slices in this tensor: none, one, or one per dimension."""
        return tuple(part for part in self.slices if part.tensor == tensor)
