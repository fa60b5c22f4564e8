"""The channel groups of a torch model, and what is left out of them and why."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

from cost_models.channel_group import ChannelGroup, ChannelSlice, GroupKind, Role
from spartan_planner.channels.following import Follower
from spartan_planner.channels.tensors import LabelledTensors, boxes
from spartan_planner.channels.units import NO_UNIT
from spartan_planner.channels.verified import keeping_promises
from spartan_planner.errors import ModelError
from spartan_planner.extraction.extract import everything_visible, inputs_for

OUTPUT = "the model's output consists of it"
ONE_UNIT = "it is one unit, which cannot go without the rest of its layer"

UNUSED = "no operation of a forward pass uses it"


@dataclass(frozen=True)
class LeftOut:
    """A producer whose channels are in no group.

    Attributes:
        name: of its weight in the model.
        reason: why its channels are always kept.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class ChannelFindings:
    """What can be removed from a model in whole channels or heads, and what not."""

    groups: tuple[ChannelGroup, ...]
    left_out: tuple[LeftOut, ...]


class _Place(NamedTuple):
    tensor: str
    dim: int


_Unit = dict[_Place, list[int]]


def channel_groups(model: nn.Module, inputs: Sequence[Tensor] | Tensor) -> tuple[ChannelGroup, ...]:
    """Return the groups of channels and heads that can be removed from a model exactly.

    Args:
        model: any module that runs on ``inputs``; stays as it is.
        inputs: one tensor or the positional arguments; their first dimension is the batch.

    Raises:
        ModelError: the model does not run on the inputs.
    """
    return find_channels(model, inputs).groups


def find_channels(model: nn.Module, inputs: Sequence[Tensor] | Tensor) -> ChannelFindings:
    """Return the groups as :func:`channel_groups` does, and what is left out and why.

    One forward pass is watched; then random units are removed from a copy with random weights, in
    float64, and the smaller copy is compared with the masked one.  A group that breaks that promise
    is left out.

    Raises:
        ModelError: the model does not run on the inputs, or its weights are not there.
    """
    placed = inputs_for(model, inputs)
    if any(tensor.is_meta or isinstance(tensor, FakeTensor) for tensor in model.parameters()):
        raise ModelError("channel groups need the model's weights; build it without --meta")
    with everything_visible(model):
        try:
            found = findings(follow(model, placed))
        except Exception as error:  # whatever a model's code raises
            raise ModelError(
                f"the model does not run on inputs of shape {_shapes(placed)}: "
                f"{' '.join(str(error).split())[:300]}; check the shapes of its inputs"
            ) from error
        kept, broken = keeping_promises(model, found.groups, placed)
    reasons = tuple(LeftOut(name, problem) for name, problem in broken.items())
    return ChannelFindings(kept, (*found.left_out, *reasons))


def _shapes(inputs: Sequence[Tensor]) -> str:
    return " and ".join(str(tuple(item.shape)) for item in inputs)


def follow(model: nn.Module, inputs: Sequence[Tensor]) -> LabelledTensors:
    """Run the model and return what its operations tie together.

    It runs as it is set; where that leaves parameters unused (classifiers beside the last one), a
    copy runs once more as it does in training.
    """
    tensors = LabelledTensors(model)
    _watch(model, inputs, tensors)
    if tensors.unused():
        trained = copy.deepcopy(model).train()
        tensors.rename(trained)
        # Normalisations refuse to train on one example.  A model that cannot train without targets
        # is left at that: what it did not use is named among what is left out.
        with suppress(Exception), torch.random.fork_rng(devices=[]):
            _watch(trained, [torch.cat([item, item]) for item in inputs], tensors)
    boxes(tensors)
    return tensors


def _watch(model: nn.Module, inputs: Sequence[Tensor], tensors: LabelledTensors) -> None:
    with torch.no_grad(), Follower(tensors):
        output = model(*inputs)
    for tensor in tree_leaves(output):
        if isinstance(tensor, Tensor):
            for layer in tensors.of(tensor).layers:
                tensors.units.keep(layer, OUTPUT)


def findings(tensors: LabelledTensors) -> ChannelFindings:
    """Return the groups that the labels make, unverified."""
    units = dict(_units(tensors))
    at = [_Place(item.tensor, item.dim) for item in tensors.dimensions]
    roles = dict(zip(at, tensors.roles(), strict=True))
    producers = {place for place, role in roles.items() if role == "output"}
    by_places: dict[frozenset[tuple[_Place, int]], list[int]] = {}
    for root, unit in units.items():
        if any(place in producers for place in unit):
            places = frozenset((place, len(at)) for place, at in unit.items())
            by_places.setdefault(places, []).append(root)
    heads = _heads(tensors)
    groups = [
        _group([units[root] for root in roots], roles, bool(heads & set(roots)))
        for roots in by_places.values()
    ]
    left_out = (
        *_kept(tensors),
        *(LeftOut(group.name, ONE_UNIT) for group in groups if group.num_units < 2),
        *(LeftOut(name, UNUSED) for name in tensors.unused()),
    )
    return ChannelFindings(_named_apart([item for item in groups if item.num_units > 1]), left_out)


def _units(tensors: LabelledTensors) -> Iterator[tuple[int, _Unit]]:
    """Every unit with its elements, in the order of the first use of its first tensor."""
    units: dict[int, _Unit] = {}
    for item in tensors.dimensions:
        place, roots = _Place(item.tensor, item.dim), tensors.units.roots(item.labels)
        free = (roots != NO_UNIT).nonzero().ravel()
        for index, root in zip(free.tolist(), roots[free].tolist(), strict=True):
            units.setdefault(root, {}).setdefault(place, []).append(index)
    yield from units.items()


def _heads(tensors: LabelledTensors) -> set[int]:
    return {root for item in tensors.heads for root in tensors.units.roots(item).ravel().tolist()}


def _group(units: Sequence[_Unit], roles: dict[_Place, Role], is_head: bool) -> ChannelGroup:
    slices = tuple(
        ChannelSlice(
            place.tensor, place.dim, tuple(tuple(unit[place]) for unit in units), roles[place]
        )
        for place in roles
        if place in units[0]
    )
    name = next(item.tensor for item in slices if item.role == "output")
    kind: GroupKind = "head" if is_head else "channel"
    return ChannelGroup(name, kind, len(units), slices)


def _named_apart(groups: Sequence[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    """Groups that begin in the same tensor get numbers: ``conv1.weight``, ``conv1.weight#2``."""
    seen: dict[str, int] = {}
    result = []
    for group in groups:
        seen[group.name] = count = seen.get(group.name, 0) + 1
        name = group.name if count == 1 else f"{group.name}#{count}"
        result.append(ChannelGroup(name, group.kind, group.num_units, group.slices))
    return tuple(result)


def _kept(tensors: LabelledTensors) -> Iterator[LeftOut]:
    """Producers with channels that are always kept, with the first reason."""
    for item, role in zip(tensors.dimensions, tensors.roles(), strict=True):
        if role == "output":
            reasons = map(tensors.units.reason, tensors.units.raw_roots(item.labels).tolist())
            reason = next(filter(None, reasons), "")
            if reason:
                yield LeftOut(item.tensor, reason)
