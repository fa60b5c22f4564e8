"""A model made physically smaller: removed channels and heads leave its tensors."""

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from cost_models.channel_group import ChannelGroup
from spartan_planner.channels.attributes import inner_sizes, kept_conv_groups, layer_sizes
from spartan_planner.channels.narrow_attention import NarrowAttention
from spartan_planner.channels.record import KeptPlaces, keep_record, record_of
from spartan_planner.channels.selection import Removal, removals, tensors_of


def remove_channels(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Sequence[int]]
) -> nn.Module:
    """Return a smaller copy of the model: the same classes, smaller tensors.

    It computes what the masked model computes (:func:`mask_channels`), can be trained, and can be
    made smaller again once its groups are found anew.  The copy carries a record of what left it,
    by which :func:`save_pruned` and :func:`load_pruned` rebuild it.

    Args:
        model: stays as it is.
        groups: the model's channel groups.
        kept: units to keep, by the name of their group; other groups stay whole.

    Raises:
        UsageError: ``kept`` names an unknown group or unit, or keeps none of a group.
        ModelError: the groups are those of another model.
    """
    removals(model, groups, kept)  # refuses before anything is copied
    smaller = copy.deepcopy(model)
    shrink(smaller, groups, kept)
    return smaller


def shrink(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Sequence[int]]
) -> None:
    """Remove units from the model in place; see :func:`remove_channels`."""
    gone = removals(model, groups, kept)
    places = [_places(tensor, item) for tensor, item in _with_tensors(model, gone)]
    old_shapes = {name: tuple(tensor.shape) for name, tensor in tensors_of(model).items()}
    sizes = _inner_sizes(model, groups, kept, gone)
    narrowed = [name for name, _ in _attentions(model, gone)]
    narrow_attention(model, narrowed)
    cut(model, places)
    sizes |= _layer_sizes(model, gone, old_shapes)
    state_sizes(model, sizes)
    keep_record(model, record_of(model).then(places, sizes, narrowed))


def _with_tensors(model: nn.Module, gone: Sequence[Removal]) -> Iterator[tuple[Tensor, Removal]]:
    tensors = tensors_of(model)
    return ((tensors[item.tensor], item) for item in gone)


def _places(tensor: Tensor, item: Removal) -> KeptPlaces:
    size, removed = tensor.shape[item.dim], set(item.removed)
    left = tuple(at for at in range(size) if at not in removed)
    return KeptPlaces(item.tensor, item.dim, size, left)


@torch.no_grad()
def cut(model: nn.Module, places: Sequence[KeptPlaces]) -> None:
    """Leave only these places of the model's tensors, wherever a tensor is used."""
    tensors, smaller = tensors_of(model), dict[str, Tensor]()
    for item in places:
        tensor = smaller.get(item.tensor, tensors[item.tensor])
        index = torch.tensor(item.kept, device=tensor.device)
        smaller[item.tensor] = tensor.detach().index_select(item.dim, index)
    by_id = {id(tensors[name]): tensor for name, tensor in smaller.items()}
    for module in model.modules():
        _replace(module, by_id)


def _replace(module: nn.Module, by_id: Mapping[int, Tensor]) -> None:
    for name, parameter in list(module._parameters.items()):
        if parameter is not None and id(parameter) in by_id:
            fresh = by_id[id(parameter)]
            if not isinstance(fresh, nn.Parameter):
                fresh = nn.Parameter(fresh, parameter.requires_grad)
            module._parameters[name] = fresh
    for name, buffer in list(module._buffers.items()):
        if buffer is not None and id(buffer) in by_id:
            module._buffers[name] = by_id[id(buffer)]


def narrow_attention(model: nn.Module, names: Sequence[str]) -> None:
    """Let these attention modules have fewer heads than their embedding has room for."""
    for name in names:
        module = model.get_submodule(name)
        module.__class__ = NarrowAttention
        # Keeps torch's fused encoder layers from reading the weights past this class.
        module._qkv_same_embed_dim = False  # type: ignore[assignment]


def state_sizes(model: nn.Module, sizes: Mapping[tuple[str, str], int]) -> None:
    """Bring up to date what modules say of their own sizes."""
    for (module, attribute), value in sizes.items():
        setattr(model.get_submodule(module), attribute, value)


def _attentions(
    model: nn.Module, gone: Sequence[Removal]
) -> Iterator[tuple[str, nn.MultiheadAttention]]:
    for item in gone:
        owner, _, name = item.tensor.rpartition(".")
        module = model.get_submodule(owner)
        if name == "in_proj_weight" and isinstance(module, nn.MultiheadAttention) and not item.dim:
            yield owner, module


def _layer_sizes(
    model: nn.Module, gone: Sequence[Removal], old_shapes: Mapping[str, tuple[int, ...]]
) -> dict[tuple[str, str], int]:
    """What the layers that became smaller say of their own weight."""
    sizes: dict[tuple[str, str], int] = {}
    rows = {item.tensor: item.removed for item in gone if item.dim == 0}
    for name in dict.fromkeys(item.tensor for item in gone):
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        old = old_shapes[name]
        if leaf not in ("weight", "running_mean"):
            continue
        num_groups = getattr(module, "groups", 1)
        if isinstance(num_groups, int) and num_groups > 1:
            num_groups = kept_conv_groups(num_groups, old[0], rows.get(name, ()))
        for attribute, value in layer_sizes(module, leaf, old, num_groups).items():
            sizes[owner, attribute] = value
    return sizes


def _inner_sizes(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Sequence[int]],
    gone: Sequence[Removal],
) -> dict[tuple[str, str], int]:
    """What the modules around the layers that became smaller say of the sizes inside."""
    lost = {(item.tensor, item.dim): len(item.removed) for item in gone}
    tensors, sizes = tensors_of(model), dict[tuple[str, str], int]()
    smaller = [
        group for group in groups if len(kept.get(group.name, ())) not in (0, group.num_units)
    ]
    # The nearest layers have the last word, and of these the first: what a module takes apart by a
    # size it keeps is what its first layer wrote.  A wrong guess is found when groups are verified.
    for level in reversed(range(_NUM_LEVELS)):
        for group in reversed(smaller):
            widths = _widths(tensors, group, lost)
            heads = (group.num_units, len(kept[group.name])) if group.kind == "head" else None
            for name in _holders(group, level):
                found = inner_sizes(model.get_submodule(name), heads, widths)
                sizes |= {(name, attribute): value for attribute, value in found.items()}
    return sizes


_NUM_LEVELS = 3
"""A layer, the module that it is part of, and the one that this is part of."""


def _widths(
    tensors: Mapping[str, Tensor], group: ChannelGroup, lost: Mapping[tuple[str, int], int]
) -> dict[int, int]:
    """Sizes of a group's dimensions, before and after, where those of one size stay equal."""
    found: dict[int, set[int]] = {}
    for part in group.slices:
        size = tensors[part.tensor].shape[part.dim]
        found.setdefault(size, set()).add(size - lost[part.tensor, part.dim])
    return {size: after.pop() for size, after in found.items() if len(after) == 1}


def _holders(group: ChannelGroup, level: int) -> list[str]:
    """Modules this far above the tensors of a group."""
    names = [part.tensor.split(".")[:-1] for part in group.slices]
    return list(
        dict.fromkeys(".".join(name[: len(name) - level]) for name in names if len(name) >= level)
    )
