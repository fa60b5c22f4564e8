"""Which channel groups a plan may shorten, and to which counts of units."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cost_models import ChannelGroup, LayerWorkload, Workload
from cost_models.channel_latency import VECTOR_STEP
from cost_models.channel_shapes import num_elements_per_unit
from spartan_planner.planning.bounds import Bound, bounds_of

CHANNEL_KINDS = ("channel", "head")
"""Layouts whose blocks are units of a channel group."""


@dataclass(frozen=True)
class ChannelWish:
    """What a plan may do with channels.

    Attributes:
        kinds: kinds of groups that it may shorten.
        multiple: channels kept are a multiple of this, or all; ``None`` for the vector step, or
            half as many channels as a group has where that is less.
        with_tiles: whether what is left may be pruned in other layouts too.
    """

    kinds: frozenset[str]
    multiple: int | None = None
    with_tiles: bool = False


@dataclass(frozen=True)
class GroupCounts:
    """What a group may keep.

    Attributes:
        group: the group.
        counts: units that it may keep, ascending; the last is all of them.
        multiple: units that go together.
        fixed_because: why it must stay whole; empty where it need not.
    """

    group: ChannelGroup
    counts: tuple[int, ...]
    multiple: int
    fixed_because: str = ""


def group_counts(
    workload: Workload, wish: ChannelWish, bounds: Sequence[Bound]
) -> tuple[GroupCounts, ...]:
    """Return for every group of a workload the counts of units that it may keep."""
    layers = {layer.name: layer for layer in workload.layers}
    num_axes = _num_cut_axes(workload)
    return tuple(
        _counts(group, layers, num_axes, wish, bounds) for group in workload.channel_groups
    )


def _num_cut_axes(workload: Workload) -> dict[str, int]:
    """By tensor, how many of its dimensions groups cut."""
    places = {
        (item.tensor, item.dim)
        for group in workload.channel_groups
        for item in group.slices
        if item.role != "vector"
    }
    found: dict[str, int] = {}
    for tensor, _ in places:
        found[tensor] = found.get(tensor, 0) + 1
    return found


def _counts(
    group: ChannelGroup,
    layers: Mapping[str, LayerWorkload],
    num_axes: Mapping[str, int],
    wish: ChannelWish,
    bounds: Sequence[Bound],
) -> GroupCounts:
    cut = [layers[name] for name in _cut_tensors(group) if name in layers]
    reason = _why_fixed(group, cut, wish, bounds)
    if reason:
        return GroupCounts(group, (group.num_units,), 1, reason)
    multiple = units_together(group, wish.multiple)
    shares = (
        bounds_of(layer.name, bounds).min_density ** (1 / num_axes[layer.name]) for layer in cut
    )
    least = max(1, math.ceil(max(shares) * group.num_units - _ROUNDING))
    first = -(-least // multiple) * multiple
    counts = (*range(first, group.num_units, multiple), group.num_units)
    if len(counts) == 1:
        return GroupCounts(group, counts, multiple, f"it has no more than {multiple} units to keep")
    return GroupCounts(group, counts, multiple)


_ROUNDING = 1e-9


def units_together(group: ChannelGroup, multiple: int | None) -> int:
    """Return how many units go together, so that counts of channels are on the device's step.

    A unit of so many channels as the step, such as a head, goes alone.  Where nobody asked for a
    multiple, small groups take a power of two that is at most half of them.
    """
    first = next((item for item in group.slices if item.role == "output"), group.slices[0])
    size = num_elements_per_unit(group, first)
    if multiple is not None:
        return multiple // math.gcd(multiple, size) if group.kind == "channel" else 1
    step = VECTOR_STEP // math.gcd(VECTOR_STEP, size)
    half = max(1, group.num_units // 2)
    return min(step, 1 << (half.bit_length() - 1))


def _cut_tensors(group: ChannelGroup) -> Iterable[str]:
    return dict.fromkeys(item.tensor for item in group.slices if item.role != "vector")


def _why_fixed(
    group: ChannelGroup, cut: Sequence[LayerWorkload], wish: ChannelWish, bounds: Sequence[Bound]
) -> str:
    if group.kind not in wish.kinds:
        return f"layout {group.kind} was not asked for"
    if not cut:
        return "it cuts no layer of the workload"
    for layer in cut:
        bound = bounds_of(layer.name, bounds)
        if bound.keep_dense or bound.allowed is not None:
            return f"{layer.name} shall keep its shape"
        if layer.sliced is not None or any(
            use.weight_shape != layer.shape.weight_shape for use in layer.further_shapes
        ):
            return f"{layer.name} is used in slices"
    return ""
