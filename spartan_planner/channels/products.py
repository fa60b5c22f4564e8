"""Products and convolutions: where channels are produced and consumed."""

import torch
from torch import Tensor

from spartan_planner.channels.calls import Call
from spartan_planner.channels.layers import (
    Labelled,
    held,
    held_all,
    is_free,
    labels_along,
    merged,
    settled,
    varying,
)
from spartan_planner.channels.rearranging import Layers, Rule

CONTRACTED = "it is multiplied with numbers whose channels are kept"
SPATIAL = "it lies along a dimension that a window slides over"


def matrix_product(call: Call) -> list[Layers]:
    """``left @ right``: [..., m, k] times [..., k, n], and a summand that broadcasts."""
    names = ("batch1", "batch2") if "batch1" in call.arguments else ("self", "mat2")
    if call.name == "addmm":
        names = ("mat1", "mat2")
    left, right = call.labelled(names[0]), call.labelled(names[1])
    num_dims = len(left.shape)
    rest = _contracted(call, (left, num_dims - 1), (right, num_dims - 2))
    sides = [
        Labelled((*left.shape[:-1], 1), rest[0], left.is_fixed),
        Labelled((*right.shape[:-2], 1, right.shape[-1]), rest[1], right.is_fixed),
    ]
    for side in sides:
        _note_part(call, side, left.is_fixed and right.is_fixed)
    if call.name in ("addmm", "baddbmm", "addbmm"):
        sides.append(call.labelled("self"))
    return [merged(call.units, sides, "a product joins it with channels that are kept")]


def _note_part(call: Call, side: Labelled, both_fixed: bool) -> None:
    """Rows of a weight produce; what a stack of products of activations has in common is a head."""
    for layer in settled(call.units, side.layers):
        if side.is_fixed and not both_fixed:
            call.tensors.play(layer, "output")
        elif not side.is_fixed and len(side.shape) == 3 and layer.shape[0] > 1:
            call.tensors.heads.append(layer)


def _contracted(
    call: Call, left: tuple[Labelled, int], right: tuple[Labelled, int]
) -> tuple[Layers, Layers]:
    """Unite what is summed over; return the layers of each side that the product keeps."""
    units, sides = call.units, (left, right)
    rest: list[Layers] = []
    for item, dim in sides:
        mixed = [at for at in settled(units, item.layers) if len(varying(at)) > 1]
        for layer in mixed:
            if layer.shape[dim] > 1:
                held(units, layer, [dim], CONTRACTED)
    _unite_summed(call, left, right)
    for item, dim in sides:
        layers = settled(units, item.layers)
        rest.append(tuple(layer for layer in layers if layer.shape[dim] == 1))
    return rest[0], rest[1]


def _unite_summed(call: Call, left: tuple[Labelled, int], right: tuple[Labelled, int]) -> None:
    units, either_fixed = call.units, left[0].is_fixed or right[0].is_fixed
    found = [labels_along(units, item, dim) for item, dim in (left, right)]
    for (item, _), labels in zip((left, right), found, strict=True):
        if item.is_fixed and labels is not None and either_fixed:
            call.tensors.play(labels, "input")
    first, second = found
    if first is not None and second is not None and either_fixed:
        units.unite(first, second)
        return
    for labels in found:
        if labels is not None:
            held(units, labels, [0], CONTRACTED)


def convolution(call: Call) -> list[Layers]:
    """Convolutions: rows of the kernel produce, columns consume, groups go one way or the other."""
    units, source, kernel = call.units, call.labelled("input"), call.labelled("weight")
    spatial = range(2, len(source.shape))
    source = Labelled(
        source.shape, held_all(units, source.layers, list(spatial), SPATIAL), source.is_fixed
    )
    flat = held_all(units, kernel.layers, list(range(2, len(kernel.shape))), SPATIAL)
    kernel = Labelled(kernel.shape, flat, kernel.is_fixed)
    rows = _convolved(call, source, kernel)
    produced = [rows.reshape([-1 if at == 1 else 1 for at in range(len(source.shape))])]
    shape = tuple(size if at == 1 else 1 for at, size in enumerate(call.output.shape))
    sides = [Labelled(shape, tuple(produced), True)]
    bias = call.optional("bias")
    if bias is not None:
        sides.append(bias.reshaped(shape))
    layers = merged(units, sides, "its bias is kept")
    batched = [layer for layer in settled(units, source.layers) if layer.shape[0] > 1]
    return [(*layers, *(layer for layer in batched if varying(layer) == (0,)))]


def _convolved(call: Call, source: Labelled, kernel: Labelled) -> Tensor:
    """Unite the labels that a convolution ties together; return those of its outputs."""
    num_groups, is_transposed = call.arguments["groups"], call.arguments["transposed"]
    row_dim, column_dim = (1, 0) if is_transposed else (0, 1)
    inputs = _all_along(call, source, 1)
    rows, columns = _all_along(call, kernel, row_dim), _all_along(call, kernel, column_dim)
    if num_groups == 1:
        call.tensors.play(rows, "output")
        call.tensors.play(columns, "input")
        call.units.unite(inputs, columns)
        return rows
    if is_transposed:
        for labels in (inputs, rows, columns):
            call.units.keep(labels, "a transposed convolution in groups is not followed")
        return rows.repeat(num_groups)
    call.tensors.play(rows, "output")
    call.tensors.play(columns, "input")
    return _grouped(call, inputs, rows, columns, num_groups)


def _grouped(call: Call, inputs: Tensor, rows: Tensor, columns: Tensor, num_groups: int) -> Tensor:
    """Whole groups go where there are at least as many groups as channels in one.

    Else the same places of every group go.
    """
    units, per_group = call.units, inputs.reshape(num_groups, -1)
    out_per_group = rows.reshape(num_groups, -1)
    is_depthwise = per_group.shape[1] == 1
    if is_depthwise or (num_groups >= per_group.shape[1] and is_free(units, inputs)):
        units.unite(per_group, per_group[:, :1])
        units.unite(out_per_group, per_group[:, :1])
        units.keep(columns, "whole groups of the convolution go")
        return rows
    units.unite(out_per_group, out_per_group[:1])
    units.unite(per_group, per_group[:1])
    units.unite(per_group[0], columns)
    return rows


def _all_along(call: Call, item: Labelled, dim: int) -> Tensor:
    """Labels along a dimension, those of no unit where it has none."""
    labels = labels_along(call.units, item, dim)
    if labels is None:
        for layer in settled(call.units, item.layers):
            if layer.shape[dim] > 1:
                call.units.keep(layer, CONTRACTED)
        labels = torch.full((item.shape[dim],), call.units.code(CONTRACTED))
    return labels


def looked_up(call: Call) -> list[Layers]:
    """Rows of a table: its columns become channels."""
    table = call.labelled("weight")
    layers = held_all(call.units, table.layers, [0], "it is a row of a table that is looked up")
    lasting = [layer for layer in layers if layer.shape[0] == 1]
    for layer in lasting:
        call.tensors.play(layer, "output")
    num_dims = call.output.dim()
    return [tuple(layer.reshape((1,) * (num_dims - 1) + (-1,)) for layer in lasting)]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm"), matrix_product),
    "convolution": convolution,
    "embedding": looked_up,
}
