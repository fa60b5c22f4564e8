"""Tiles on a GPU: sums over them, and products with a number per tile, many weights at once.

Ragged edges are tiles with fewer elements.  Sums are added in a fixed order, without atomics, so
that every run and every rank finds the same values (DESIGN 4.3).
"""

# ruff: noqa: ANN001, ANN201, N803 - Triton reads the arguments' values, not their types
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from spartan_planner.transport.tiles import TileLayout, column_blocks
from spartan_planner.transport.triton_tables import (
    BLOCK,
    addresses,
    launch,
    next_power,
    stretches,
    tl_dtype,
    whole_numbers,
)

# Elements that a program adds up at once, over one tile or several.
_SUM_BLOCK = 1024
# Numbers that describe the tiles of a segment to the kernels.
_NUM_FIGURES = tl.constexpr(6)


@triton.jit  # type: ignore[untyped-decorator]
def tile_sums_kernel(  # type: ignore[no-untyped-def]
    weights, gradients, outputs, figures, orders, firsts, segments, starts,
    WEIGHT: tl.constexpr, GRADIENT: tl.constexpr, IS_PRODUCT: tl.constexpr,
    TILES: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Sum |theta|, or G theta, over TILES tiles, ELEMENTS of each at a time."""
    program = tl.program_id(0)
    segment = tl.load(segments + program)
    figure = figures + segment * _NUM_FIGURES
    rows = tl.load(figure)
    columns = tl.load(figure + 1)
    step = tl.load(figure + 2)
    inner = tl.load(figure + 3)
    width = tl.load(figure + 4)
    count = tl.load(figure + 5)
    weight = tl.load(weights + segment).to(tl.pointer_type(WEIGHT))
    gradient = tl.load(gradients + segment).to(tl.pointer_type(GRADIENT))
    output = tl.load(outputs + segment).to(tl.pointer_type(tl.float32))
    order = tl.load(orders + segment).to(tl.pointer_type(tl.int32))
    first = tl.load(firsts + segment).to(tl.pointer_type(tl.int32))

    block = tl.load(starts + program).to(tl.int32) + tl.arange(0, TILES)
    is_block = block < count
    block_row = block // inner
    block_column = block - block_row * inner
    begin = tl.load(first + block_column, mask=is_block, other=0)
    end = tl.load(first + block_column + 1, mask=is_block, other=0)
    total = tl.zeros((TILES, ELEMENTS), tl.float32)
    position = tl.arange(0, ELEMENTS)
    size = step * width
    done = size * 0
    while done < size:
        own_row = (done + position) // width
        own_column = (done + position) - own_row * width
        row = block_row[:, None] * step + own_row[None, :]
        place = begin[:, None] + own_column[None, :]
        inside = is_block[:, None] & (own_row[None, :] < step) & (row < rows)
        inside = inside & (place < end[:, None])
        index = row * columns + tl.load(order + place, mask=inside, other=0)
        value = tl.load(weight + index, mask=inside, other=0.0).to(tl.float32)
        if IS_PRODUCT:
            value *= tl.load(gradient + index, mask=inside, other=0.0).to(tl.float32)
        else:
            value = tl.abs(value)
        total += value
        done += ELEMENTS
    tl.store(output + block, tl.sum(total, 1), mask=is_block)


@triton.jit  # type: ignore[untyped-decorator]
def tile_product_kernel(  # type: ignore[no-untyped-def]
    sources, weights, soft, other, outputs, figures, lengths, blocks_of, segments, starts,
    SOURCE: tl.constexpr, WEIGHT: tl.constexpr, SOFT: tl.constexpr, OTHER: tl.constexpr,
    OUTPUT: tl.constexpr, IS_GRADIENT: tl.constexpr, IS_SINGLE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write x m h, or G m + sign(theta) dL/dv, with m and h or dL/dv those of an element's tile."""
    program = tl.program_id(0)
    segment = tl.load(segments + program)
    index = tl.load(starts + program).to(tl.int32) + tl.arange(0, BLOCK)
    inside = index < tl.load(lengths + segment)
    source = tl.load(sources + segment).to(tl.pointer_type(SOURCE))
    output = tl.load(outputs + segment).to(tl.pointer_type(OUTPUT))
    block = index
    if not IS_SINGLE:
        figure = figures + segment * _NUM_FIGURES
        columns = tl.load(figure + 1)
        row = index // columns
        of_column = tl.load(blocks_of + segment).to(tl.pointer_type(tl.int32))
        column_block = tl.load(of_column + index - row * columns, mask=inside, other=0)
        block = (row // tl.load(figure + 2)) * tl.load(figure + 3) + column_block
    first = tl.load(soft + segment).to(tl.pointer_type(SOFT))
    second = tl.load(other + segment).to(tl.pointer_type(OTHER))
    value = tl.load(source + index, mask=inside, other=0.0).to(tl.float32)
    mask = tl.load(first + block, mask=inside, other=0).to(tl.float32)
    number = tl.load(second + block, mask=inside, other=0).to(tl.float32)
    if IS_GRADIENT:
        theta = tl.load(weights + segment).to(tl.pointer_type(WEIGHT))
        theta = tl.load(theta + index, mask=inside, other=0.0).to(tl.float32)
        sign = tl.where(theta > 0.0, 1.0, tl.where(theta < 0.0, -1.0, 0.0))
        result = value * mask + sign * number
    else:
        result = value * (mask * number)
    tl.store(output + index, result.to(OUTPUT), mask=inside)


@dataclass(frozen=True)
class ColumnTable:
    """The columns of a row by inner block.

    ``blocks`` [columns]: the block of each; ``order`` [columns]: sorted by block; ``firsts``
    [blocks + 1]: where each block's begin, all int32; ``width``: columns of the widest block.
    """

    blocks: Tensor
    order: Tensor
    firsts: Tensor
    width: int


@lru_cache(maxsize=1024)
def column_table(
    shape: tuple[int, ...], tile: tuple[int, ...], inner: int, device: torch.device
) -> ColumnTable:
    """Return the columns of an inner shape, sorted by block; made once per layout."""
    blocks = column_blocks(shape, tile, device)
    counts = torch.bincount(blocks, minlength=inner)
    firsts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    order = blocks.argsort(stable=True)
    width = int(counts.max()) if blocks.numel() else 1
    return ColumnTable(blocks.int(), order.int(), firsts.int(), width)


@dataclass(frozen=True)
class LayoutTable:
    """The layouts of many weights: figures int32 [weights, 6] and the tables of their columns."""

    figures: Tensor
    columns: tuple[ColumnTable, ...]
    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    elements: tuple[int, ...]


@lru_cache(maxsize=256)
def layout_table(layouts: tuple[TileLayout, ...], device: torch.device) -> LayoutTable:
    """Describe layouts to the kernels; made once per shape of a problem."""
    columns, figures, elements = [], [], []
    for layout in layouts:
        inner = layout.blocks[1]
        own = column_table(layout.inner_shape, layout.inner_tile, inner, device)
        count = layout.blocks[0] * inner
        columns.append(own)
        figures.append([layout.rows, layout.columns, layout.step, inner, own.width, count])
        # Neighbouring tiles of one column each are read side by side, others along themselves.
        is_strided = own.width == 1 and layout.columns > 1
        elements.append(1 if is_strided else min(next_power(layout.step * own.width), _SUM_BLOCK))
    return LayoutTable(
        torch.tensor(figures, dtype=torch.int32, device=device),
        tuple(columns),
        tuple(layout.rows * layout.columns for layout in layouts),
        tuple(figure[5] for figure in figures),
        tuple(elements),
    )


def tile_sums(
    weights: Sequence[Tensor], gradients: Sequence[Tensor] | None, layouts: Sequence[TileLayout]
) -> list[Tensor]:
    """Return sum |theta|, or sum G theta, over the tiles, float32 in the shape of the grid.

    One read; one launch for each dtype and power of two that covers a tile.  Tensors contiguous.
    """
    device = weights[0].device
    table = layout_table(tuple(layouts), device)
    sums = [torch.zeros(layout.grid, dtype=torch.float32, device=device) for layout in layouts]
    other = list(gradients) if gradients is not None else list(weights)
    kinds = tuple(
        (w.dtype, g.dtype, elements)
        for w, g, elements in zip(weights, other, table.elements, strict=True)
    )
    arguments = (
        *(addresses(tensors, device) for tensors in (weights, other, sums)),
        table.figures,
        addresses([own.order for own in table.columns], device),
        addresses([own.firsts for own in table.columns], device),
    )
    for kind in dict.fromkeys(kinds):
        tiles = _SUM_BLOCK // kind[2]
        counts = tuple(
            n if own == kind and size else 0
            for n, own, size in zip(table.counts, kinds, table.sizes, strict=True)
        )
        for own in stretches(counts, kinds, tiles, device):
            launch(
                tile_sums_kernel, own.count, *arguments, own.segments, own.starts,
                WEIGHT=tl_dtype(kind[0]), GRADIENT=tl_dtype(kind[1]),
                IS_PRODUCT=gradients is not None, TILES=tiles, ELEMENTS=kind[2],
            )  # fmt: skip
    return sums


def tile_products(
    sources: Sequence[Tensor],
    soft: Sequence[Tensor],
    other: Sequence[Tensor],
    layouts: Sequence[TileLayout],
    outputs: Sequence[Tensor],
    weights: Sequence[Tensor] | None = None,
) -> None:
    """Write theta m h (sources theta, other h), or with weights G m + sign(theta) dL/dv.

    One pass, one launch for each combination of dtypes.  ``soft`` and ``other`` are grids of
    tiles; tensors are contiguous, and outputs may be the sources.
    """
    device = sources[0].device
    table = layout_table(tuple(layouts), device)
    theta = list(weights) if weights is not None else list(sources)
    lists = (sources, theta, soft, other, outputs)
    singles = [layout.step == 1 and layout.columns == 1 for layout in layouts]
    kinds = tuple(
        (*(tensor.dtype for tensor in row[:5]), row[5]) for row in zip(*lists, singles, strict=True)
    )
    arguments: list[Any] = [addresses(tensors, device) for tensors in lists]
    arguments += [table.figures, whole_numbers(table.sizes, device)]
    arguments.append(addresses([own.blocks for own in table.columns], device))
    for own in stretches(table.sizes, kinds, BLOCK, device):
        names = ("SOURCE", "WEIGHT", "SOFT", "OTHER", "OUTPUT")
        dtypes = dict(zip(names, (tl_dtype(dtype) for dtype in own.kind[:5]), strict=True))
        launch(
            tile_product_kernel, own.count, *arguments, own.segments, own.starts, **dtypes,
            IS_GRADIENT=weights is not None, IS_SINGLE=own.kind[5], BLOCK=BLOCK,
        )  # fmt: skip
