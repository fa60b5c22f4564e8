"""Operations that only move elements: what they do to labels, they do by doing it to them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from spartan_planner.channels.calls import Call
from spartan_planner.channels.layers import Labelled, held, held_all, merged, settled, varying
from spartan_planner.channels.units import NO_UNIT

Layers = tuple[Tensor, ...]
FIXED_PART = "the model's code takes a part of fixed size or place out of it"


def moved(call: Call) -> list[Layers]:
    """Views, permutations, expansions: the operation itself, on the labels."""
    source = call.labelled("self")
    if "dtype" in call.arguments:  # a view of the same bytes as other numbers
        return unfollowed(call)
    return [_applied(call, settled(call.units, source.layers), source.shape)]


def copied(call: Call) -> list[Layers]:
    """Copies: the labels of the source."""
    first = next(iter(call.arguments))
    return [call.labelled(first).layers]


def turned(call: Call) -> list[Layers]:
    """Operations that only order or flip dimensions: the same on a layer as it is stored."""
    layers = settled(call.units, call.labelled("self").layers)
    return [tuple(_run(call, layer) for layer in layers)]


def _applied(call: Call, layers: Layers, shape: Sequence[int]) -> Layers:
    return tuple(_run(call, layer.expand(*shape)) for layer in layers)


def _run(call: Call, labels: Tensor) -> Any:  # noqa: ANN401 - a tensor, or a list of them
    given = {name: value for name, value in call.arguments.items() if name != "self"}
    given = tree_map_only(Tensor, Tensor.cpu, given)  # where labels are
    if call.name in ("view", "_unsafe_view", "_reshape_copy"):
        return labels.reshape(given["size"])
    return call.func(labels, **given)


def taken_apart(call: Call) -> list[Layers]:
    """Split and unbind: pieces of equal size lose channels at the same places, or none."""
    source, dim = call.labelled("self"), call.arguments["dim"] % len(call.labelled("self").shape)
    sizes = [piece.shape[dim] for piece in call.output] if call.name != "unbind" else []
    layers = _in_equal_parts(call, source, dim, sizes)
    results = [_run(call, layer.expand(*source.shape)) for layer in layers]
    return [tuple(result[at] for result in results) for at in range(len(call.output))]


def _in_equal_parts(call: Call, source: Labelled, dim: int, sizes: Sequence[int]) -> Layers:
    """Unite what lies at the same place of each part; parts of unequal size are kept whole."""
    layers: list[Tensor] = []
    for layer in settled(call.units, source.layers):
        if layer.shape[dim] == 1 or len(sizes) == 1:
            layers.append(layer)
        elif not sizes:
            layers += held(call.units, layer, [dim], FIXED_PART)
        elif len(set(sizes)) == 1:
            parts = torch.stack(torch.split(layer, sizes[0], dim))
            call.units.unite(parts, parts[:1])
            layers.append(layer)
        else:
            call.units.keep(layer, FIXED_PART)
    return settled(call.units, layers)


def sliced(call: Call) -> list[Layers]:
    """A slice: one of several equal parts, or the channels are kept."""
    source = call.labelled("self")
    dim, size = call.arguments["dim"] % len(source.shape), call.output.shape[call.arguments["dim"]]
    whole = source.shape[dim]
    if size == whole:
        return [source.layers]
    start = torch.arange(whole)[call.arguments["start"] or 0 :][:1].tolist() or [0]
    is_part = size > 0 and whole % size == 0 and start[0] % size == 0
    sizes = [size] * (whole // size) if is_part and call.arguments["step"] == 1 else [0, 1]
    layers = _in_equal_parts(call, source, dim, sizes)
    return [_applied(call, layers, source.shape)]


def selected(call: Call) -> list[Layers]:
    """One place of a dimension: that dimension keeps its size."""
    source = call.labelled("self")
    dim = call.arguments["dim"] % len(source.shape)
    layers = held_all(call.units, source.layers, [dim], FIXED_PART)
    return [_applied(call, layers, source.shape)]


def indexed(call: Call) -> list[Layers]:
    """Elements picked by an index: the indexed dimensions keep their size."""
    source = call.labelled("self")
    if call.name == "index_select":
        dims = [call.arguments["dim"] % len(source.shape)]
    else:
        indices = call.arguments["indices"]
        if any(item is not None and item.dtype == torch.bool for item in indices):
            return unfollowed(call)
        dims = [dim for dim, item in enumerate(indices) if item is not None]
    layers = held_all(call.units, source.layers, dims, FIXED_PART)
    return [_applied(call, layers, source.shape)]


def padded(call: Call) -> list[Layers]:
    """Constant padding: what is padded belongs to no unit."""
    source, pad = call.labelled("self"), call.arguments["pad"]
    layers = []
    for layer in settled(call.units, source.layers):
        amounts = list(pad)
        for at in range(len(pad) // 2):
            if layer.shape[-1 - at] == 1:
                amounts[2 * at] = amounts[2 * at + 1] = 0
        layers.append(torch.constant_pad_nd(layer, amounts, NO_UNIT))
    return [tuple(layers)]


def joined(call: Call) -> list[Layers]:
    """Concatenation: labels one after the other; along other dimensions the inputs agree."""
    items = [call.tensors.of(item) for item in call.arguments["tensors"]]
    items = [item for item in items if item.shape != (0,)]
    num_dims = len(items[0].shape)
    dim = call.arguments["dim"] % num_dims
    across = [_without(call, item, dim) for item in items]
    merged(call.units, across, "it is concatenated with channels that are kept")
    along = [_along(call, item, dim) for item in items]
    if any(labels is None for labels in along):
        return unfollowed(call)
    lasting = merged(call.units, across, "it is concatenated with channels that are kept")
    return [(torch.cat([item for item in along if item is not None], dim), *lasting)]


def _without(call: Call, item: Labelled, dim: int) -> Labelled:
    """The layers that do not change along ``dim``, over a tensor of size 1 there."""
    shape = tuple(1 if at == dim else size for at, size in enumerate(item.shape))
    layers = settled(call.units, item.layers)
    kept = tuple(layer for layer in layers if layer.shape[dim] == 1)
    return Labelled(shape, kept, item.is_fixed)


def _along(call: Call, item: Labelled, dim: int) -> Tensor | None:
    """The labels along ``dim``: zeros without any, None where they change elsewhere as well."""
    size = [item.shape[dim] if at == dim else 1 for at in range(len(item.shape))]
    layers = [layer for layer in settled(call.units, item.layers) if layer.shape[dim] > 1]
    if item.shape[dim] == 1 or not layers:
        return torch.full(size, NO_UNIT)
    if len(layers) > 1 or varying(layers[0]) != (dim,):
        return None
    return layers[0]


def unfollowed(call: Call) -> list[Layers]:
    """An operation without a rule: everything that it reads is kept."""
    reason = f"it goes through {call.name}, which is not followed"
    for value in tree_leaves(call.arguments):
        if isinstance(value, Tensor):
            for layer in call.tensors.of(value).layers:
                call.units.keep(layer, reason)
    return [() for _ in tree_leaves(call.output)]


Rule = Callable[[Call], list[Layers]]

RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            "expand",
            "repeat",
            "roll",
            "squeeze",
            "view",
            "_unsafe_view",
            "_reshape_alias",
        ),
        moved,
    ),
    **dict.fromkeys(("alias", "flip", "permute", "t", "transpose", "unsqueeze"), turned),
    **dict.fromkeys(
        ("clone", "contiguous", "detach", "_to_copy", "lift_fresh", "native_dropout"), copied
    ),
    **dict.fromkeys(("split", "split_with_sizes", "unbind", "unsafe_split"), taken_apart),
    "cat": joined,
    "constant_pad_nd": padded,
    "index": indexed,
    "index_select": indexed,
    "select": selected,
    "slice": sliced,
}
