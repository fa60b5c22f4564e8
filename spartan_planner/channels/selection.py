"""Which units are kept, checked against the groups and the model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from cost_models.channel_group import ChannelGroup, ChannelSlice
from spartan_planner.errors import ModelError, UsageError


@dataclass(frozen=True)
class Removal:
    """What goes from one dimension of one tensor.

    Attributes:
        tensor: name of the parameter or buffer.
        dim: the dimension.
        removed: places along it, ascending.
    """

    tensor: str
    dim: int
    removed: tuple[int, ...]


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def removals(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Sequence[int]]
) -> tuple[Removal, ...]:
    """Return what goes from each tensor if each named group keeps these units only.

    Groups that ``kept`` does not name stay whole.

    Raises:
        UsageError: ``kept`` names an unknown group or unit, or keeps none of a group.
        ModelError: a group's tensor is not in the model, or is smaller than the group says.
    """
    by_name = {group.name: group for group in groups}
    unknown = sorted(set(kept) - set(by_name))
    if unknown:
        raise UsageError(
            f"there is no channel group {unknown[0]!r}; name one of the {len(by_name)} groups"
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors_of(model).items()}
    gone: dict[tuple[str, int], set[int]] = {}
    for name, units in kept.items():
        removed = removed_units(by_name[name], units)
        for part in by_name[name].slices:
            _require_place(part, shapes)
            gone.setdefault((part.tensor, part.dim), set()).update(part.elements(removed))
    return tuple(_removals(gone))


def removed_units(group: ChannelGroup, kept: Sequence[int]) -> list[int]:
    """Return the units of a group that are not kept.

    Raises:
        UsageError: a unit is unknown or named twice, or none is kept.
    """
    known = set(range(group.num_units))
    if not kept or not set(kept) <= known or len(set(kept)) < len(kept):
        raise UsageError(
            f"group {group.name!r} has units 0 to {group.num_units - 1}; keep at least one, each "
            "named once"
        )
    return sorted(known - set(kept))


def _removals(gone: Mapping[tuple[str, int], set[int]]) -> Iterator[Removal]:
    for (tensor, dim), elements in gone.items():
        if elements:
            yield Removal(tensor, dim, tuple(sorted(elements)))


def _require_place(part: ChannelSlice, shapes: Mapping[str, tuple[int, ...]]) -> None:
    shape = shapes.get(part.tensor)
    if shape is None:
        raise ModelError(
            f"the model has no tensor {part.tensor!r}; the groups are those of another model"
        )
    if part.dim >= len(shape) or max(max(unit) for unit in part.indices) >= shape[part.dim]:
        raise ModelError(
            f"tensor {part.tensor!r} of shape {shape} is smaller than its channel group says; find "
            "the model's groups anew after every removal"
        )
