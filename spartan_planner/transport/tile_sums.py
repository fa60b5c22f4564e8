"""Sums over the tiles of a weight, in one read and without a full-size temporary (DESIGN 4.4)."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport.backend import fits_tiles
from spartan_planner.transport.passes import chunk_size
from spartan_planner.transport.tiles import TileLayout, corners, split_axis, tile_layout


def tile_values(weight: Tensor, tile: Sequence[int]) -> Tensor:
    """Return the value of every tile of a weight: the sum of its absolute elements.

    Args:
        weight: ``[out, in, *kernel]``, any floating dtype.
        tile: Sides of a tile, one per axis; a side beyond the weight's means all of it.

    Returns:
        The grid of ``ceil(side / tile side)`` values, float32 (float64 for float64 weights);
        tiles at the far edges hold what is left.

    Raises:
        TransportError: A tile that does not fit the number of axes, or a side below 1.
    """
    layout = tile_layout(weight.shape, tile)
    if not _is_single(layout) and fits_tiles(weight):
        return _fused_sums(weight, None, layout)
    rows = _as_rows(weight, layout)

    def absolute(start: int, stop: int, out: Tensor) -> None:
        torch.abs(out.copy_(rows[start:stop]), out=out) if rows.dtype != out.dtype else torch.abs(
            rows[start:stop], out=out
        )

    return _tile_sums(layout, absolute, weight)


def mask_gradient(gradient: Tensor, weight: Tensor, tile: Sequence[int]) -> Tensor:
    """Return dL/dm of every tile: g_b = sum over the tile of G theta (DESIGN 4.4).

    Args:
        gradient: G = dL/dw, of the shape of the weight.
        weight: The dense weights theta, ``[out, in, *kernel]``.
        tile: Sides of a tile, as for :func:`tile_values`.

    Raises:
        TransportError: Shapes that differ, or a tile that does not fit.
    """
    require_same_shape(gradient, weight)
    layout = tile_layout(weight.shape, tile)
    if not _is_single(layout) and fits_tiles(weight, gradient):
        return _fused_sums(weight, gradient, layout)
    rows, gradient_rows = _as_rows(weight, layout), _as_rows(gradient, layout)

    def product(start: int, stop: int, out: Tensor) -> None:
        # Half precision is widened first: its products would overflow and underflow.
        factors = rows[start:stop], gradient_rows[start:stop]
        if any(factor.dtype != out.dtype for factor in factors):
            torch.mul(out.copy_(factors[0]), factors[1], out=out)
        else:
            torch.mul(*factors, out=out)

    return _tile_sums(layout, product, weight)


def _is_single(layout: TileLayout) -> bool:
    """Say whether every tile is one element: then torch does it in one pass, too."""
    return layout.step == 1 and layout.is_inner_trivial


def _fused_sums(weight: Tensor, gradient: Tensor | None, layout: TileLayout) -> Tensor:
    """Sum |theta| or G theta over tiles with a kernel."""
    from spartan_planner.transport import triton_tiles

    others = None if gradient is None else [gradient.detach().contiguous()]
    return triton_tiles.tile_sums([weight.detach().contiguous()], others, [layout])[0]


def require_same_shape(gradient: Tensor, weight: Tensor) -> None:
    """Refuse a gradient of another shape than its weight."""
    if gradient.shape != weight.shape:
        raise TransportError(
            f"The gradient has shape {tuple(gradient.shape)}, its weight {tuple(weight.shape)}."
        )


def row_chunks(layout: TileLayout, device: torch.device) -> Iterator[tuple[int, int]]:
    """Yield bounds of rows that fit a chunk: whole tiles of rows, or parts of a single one."""
    fitting = max(chunk_size(device) // max(layout.columns, 1), 1)
    if fitting >= layout.step:
        fitting -= fitting % layout.step
    for tile_start in range(0, layout.rows, max(layout.step, fitting)):
        tile_stop = min(tile_start + max(layout.step, fitting), layout.rows)
        for start in range(tile_start, tile_stop, fitting):
            yield start, min(start + fitting, tile_stop)


def _as_rows(weight: Tensor, layout: TileLayout) -> Tensor:
    """Return the weight as rows and columns; copies only what is not contiguous."""
    return weight.detach().reshape(layout.rows, layout.columns)


def _tile_sums(
    layout: TileLayout, fill: Callable[[int, int, Tensor], None], like: Tensor
) -> Tensor:
    """Sum over tiles what ``fill(start, stop, out)`` writes for rows start to stop."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    sums = torch.zeros(layout.blocks, dtype=dtype, device=like.device)
    longest = max((stop - start for start, stop in row_chunks(layout, like.device)), default=0)
    scratch = torch.empty(longest, layout.columns, dtype=dtype, device=like.device)
    for start, stop in row_chunks(layout, like.device):
        if _is_single(layout):
            fill(start, stop, sums[start:stop])
            continue
        part = scratch[: stop - start]
        fill(start, stop, part)
        for corner in corners((stop - start,), (layout.step,)):
            rows = split_axis(part[corner.elements[0]], 0, corner.tile[0]).sum(1)
            first = start // layout.step + corner.blocks[0].start
            sums[first : first + rows.shape[0]] += _inner_sums(rows, layout)
    return sums.view(layout.grid)


def _inner_sums(rows: Tensor, layout: TileLayout) -> Tensor:
    """Sum ``rows [k, columns]`` over the inner tiles, ``[k, inner blocks]``."""
    if layout.is_inner_trivial:
        return rows
    shaped = rows.view(-1, *layout.inner_shape)
    sums = rows.new_empty(rows.shape[0], *layout.inner_grid)
    for corner in corners(layout.inner_shape, layout.inner_tile):
        part = shaped[:, *corner.elements]
        for axis, side in enumerate(corner.tile, start=1):
            part = split_axis(part, axis, side).sum(axis + 1)
        sums[:, *corner.blocks] = part
    return sums.view(rows.shape[0], -1)
