"""Products of a weight with a number per tile: the mask applied, the gradient of DESIGN 4.4."""

from collections.abc import Sequence

import torch
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport.backend import fits_tiles
from spartan_planner.transport.tile_sums import require_same_shape, row_chunks
from spartan_planner.transport.tiles import (
    TileLayout,
    column_blocks,
    corners,
    split_axis,
    tile_layout,
)


def expand_tiles(block_tensor: Tensor, tile: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return a tensor of a weight's shape in which every element holds its block's entry.

    The inverse of a sum over tiles in shape; a view of ``block_tensor`` when tiles are single
    elements, otherwise a new tensor.

    Raises:
        TransportError: Blocks that are not the grid of ``tile`` over ``shape``.
    """
    layout = tile_layout(shape, tile)
    blocks = _as_blocks(block_tensor, layout)
    if layout.step == 1 and layout.is_inner_trivial:
        return blocks.view(*shape)
    rows = torch.arange(layout.rows, device=blocks.device) // layout.step
    return _over_columns(blocks, layout).index_select(0, rows).view(*shape)


def masked_weight(
    weight: Tensor, soft: Tensor, hard: Tensor, tile: Sequence[int], *, out: Tensor | None = None
) -> Tensor:
    """Return the forward weight w = theta m h (DESIGN 4.4), in one pass.

    Args:
        weight: The dense weights theta, ``[out, in, *kernel]``.
        soft: m per block, of the grid of the tile.
        hard: h per block, boolean, of the same grid.
        tile: Sides of a tile, as for ``tile_values``.
        out: Contiguous tensor to write to, which may be the weight itself.

    Raises:
        TransportError: Masks that are not the grid of the tile over the weight.
    """
    layout = tile_layout(weight.shape, tile)
    result = _output(weight, out)
    masks = _as_blocks(soft, layout), _as_blocks(hard, layout)
    if fits_tiles(weight, *masks, result):
        _fused_product(weight, *masks, layout, result)
        return result
    source, target = (_as_rows(tensor, layout) for tensor in (weight, result))
    for start, stop in row_chunks(layout, weight.device):
        own, kept = (_block_rows(mask, layout, start, stop) for mask in masks)
        # Booleans become numbers first: a product of mixed dtypes takes three times as long.
        scale = own.to(weight.dtype) if kept is own else kept.to(weight.dtype).mul_(own)
        _scale_rows(source[start:stop], scale, layout, target[start:stop])
    return result


def weight_gradient(
    gradient: Tensor,
    weight: Tensor,
    soft: Tensor,
    value_gradient: Tensor,
    tile: Sequence[int],
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Return dL/dtheta = G m + sign(theta) dL/dv (DESIGN 4.4), in one pass.

    Args:
        gradient: G = dL/dw, of the shape of the weight.
        weight: The dense weights theta.
        soft: m per block, of the grid of the tile.
        value_gradient: dL/dv per block, of the same grid.
        tile: Sides of a tile, as for ``tile_values``.
        out: Contiguous tensor to write to, which may be the gradient itself.

    Raises:
        TransportError: Shapes that do not belong together.
    """
    require_same_shape(gradient, weight)
    layout = tile_layout(weight.shape, tile)
    result = _output(gradient, out)
    mask, slope = _as_blocks(soft, layout), _as_blocks(value_gradient, layout)
    if fits_tiles(gradient, weight, mask, slope, result):
        _fused_product(gradient, mask, slope, layout, result, weight)
        return result
    source, theta, target = (_as_rows(tensor, layout) for tensor in (gradient, weight, result))
    for start, stop in row_chunks(layout, weight.device):
        signs = torch.sign(theta[start:stop])
        _scale_rows(signs, _block_rows(slope, layout, start, stop), layout, signs)
        rows = target[start:stop]
        _scale_rows(source[start:stop], _block_rows(mask, layout, start, stop), layout, rows)
        rows.add_(signs)
    return result


def _fused_product(
    source: Tensor,
    soft: Tensor,
    other: Tensor,
    layout: TileLayout,
    out: Tensor,
    weight: Tensor | None = None,
) -> None:
    """Write theta m h, or with the weight G m + sign(theta) dL/dv, with a kernel."""
    from spartan_planner.transport import triton_tiles

    first, second, third = ([t.detach().contiguous()] for t in (source, soft, other))
    weights = None if weight is None else [weight.detach().contiguous()]
    triton_tiles.tile_products(first, second, third, [layout], [out], weights)


def _output(like: Tensor, out: Tensor | None) -> Tensor:
    """Return the tensor to write to: ``out`` if it is given and fits, otherwise a new one."""
    if out is None:
        return torch.empty_like(like, memory_format=torch.contiguous_format, requires_grad=False)
    if out.shape != like.shape or not out.is_contiguous():
        raise TransportError(
            f"out must be contiguous and of shape {tuple(like.shape)}; it has shape "
            f"{tuple(out.shape)} and strides {out.stride()}."
        )
    return out


def _as_rows(tensor: Tensor, layout: TileLayout) -> Tensor:
    """Return a weight-shaped tensor as rows and columns; copies only what is not contiguous."""
    return tensor.detach().reshape(layout.rows, layout.columns)


def _as_blocks(blocks: Tensor, layout: TileLayout) -> Tensor:
    """Return block numbers as rows and columns of blocks."""
    if tuple(blocks.shape) != layout.grid:
        raise TransportError(
            f"Expected one number per block, a grid of {layout.grid}; got {tuple(blocks.shape)}."
        )
    return blocks.detach().reshape(layout.blocks)


def _block_rows(blocks: Tensor, layout: TileLayout, start: int, stop: int) -> Tensor:
    """Return the rows of blocks that rows start to stop of the weight belong to."""
    return blocks[start // layout.step : -(-stop // layout.step)]


def _over_columns(blocks: Tensor, layout: TileLayout) -> Tensor:
    """Return ``[block rows, columns]``: every column with the number of its block."""
    if layout.is_inner_trivial:
        return blocks
    index = column_blocks(layout.inner_shape, layout.inner_tile, blocks.device)
    return blocks.index_select(1, index)


def _scale_rows(source: Tensor, scale: Tensor, layout: TileLayout, out: Tensor) -> None:
    """Write source times its block's number; ``source`` are rows from the start of a tile on.

    Rows of a single tile may be a part of it.
    """
    wide = _over_columns(scale, layout)
    for corner in corners((source.shape[0],), (layout.step,)):
        rows, blocks, step = corner.elements[0], corner.blocks[0], corner.tile[0]
        torch.mul(
            split_axis(source[rows], 0, step),
            wide[blocks].unsqueeze(1),
            out=split_axis(out[rows], 0, step),
        )
