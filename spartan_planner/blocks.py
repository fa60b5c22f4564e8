"""The blocks of a weight tensor in a layout: their values, and back from blocks to elements."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cost_models import Layout, LayoutKind
from spartan_planner.transport import expand_tiles, mask_gradient, tile_values


@dataclass(frozen=True)
class BlockAssignment:
    """Which tile of a weight belongs to which block.

    Attributes:
        tile: sizes of a tile along each dimension of the weight.
        weight_shape: the weight's shape.
        block_of_tile: block index of each tile, in the shape of the tile grid; ``None`` where
            tiles are blocks.
        num_blocks: number of blocks.
    """

    tile: tuple[int, ...]
    weight_shape: tuple[int, ...]
    block_of_tile: Tensor | None
    num_blocks: int

    def per_tile(self, blocks: Tensor) -> Tensor:
        """Spread one figure per block ``[blocks]`` to the tile grid."""
        if self.block_of_tile is None:
            return blocks.reshape(_grid(self.tile, self.weight_shape))
        return blocks[self.block_of_tile]

    def expand(self, blocks: Tensor) -> Tensor:
        """Spread one figure per block ``[blocks]`` to the elements of the weight."""
        return expand_tiles(self.per_tile(blocks), self.tile, self.weight_shape)

    def sum_tiles(self, tiles: Tensor) -> Tensor:
        """Add figures of the tile grid up per block, ``[blocks]``."""
        if self.block_of_tile is None:
            return tiles.reshape(-1)
        sums = tiles.new_zeros(self.num_blocks)
        return sums.index_add_(0, self.block_of_tile.reshape(-1), tiles.reshape(-1))

    def mask_gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Return ``g_b = sum_{i in b} G_i theta_i`` for each block (DESIGN 4.4)."""
        return self.sum_tiles(mask_gradient(gradient, weight, self.tile))


def tile_shape(layout: Layout, weight_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes of a tile along each dimension of the weight."""
    if layout.kind is not LayoutKind.TILE:
        return (1,) * len(weight_shape)
    outputs, inputs, *kernel = weight_shape
    return (min(layout.tile_outputs, outputs), min(layout.tile_inputs, inputs), *kernel)


def assign_blocks(weight: Tensor, layout: Layout) -> tuple[Tensor, BlockAssignment]:
    """Return the value of each block and the assignment of tiles to blocks.

    In a balanced layout tiles are ranked by value within each group of outputs, ties by position,
    and block ``r`` takes the ranks from ``r * step`` on in every group.  In an n:m layout elements
    are ranked within each group of ``m`` inputs, and block ``r`` takes rank ``r`` of every group.

    Args:
        weight: ``[out, in, *kernel]``.
        layout: the layout.

    Returns:
        Values ``[blocks]``, sums of absolute weights, and the assignment.
    """
    shape = tuple(weight.shape)
    tile = tile_shape(layout, shape)
    values = tile_values(weight, tile)
    num_blocks = layout.num_blocks(shape)
    if layout.kind is LayoutKind.N_M:
        groups = values.reshape(shape[0], -1, layout.num_of, *shape[2:])
        block_of_tile = ranks_along(groups, 2).reshape(shape)
    elif layout.balanced_step:
        block_of_tile = ranks_along(values, 1) // layout.balanced_step
    else:
        return values.reshape(-1), BlockAssignment(tile, shape, None, num_blocks)
    assignment = BlockAssignment(tile, shape, block_of_tile, num_blocks)
    return assignment.sum_tiles(values), assignment


def ranks_along(values: Tensor, dim: int) -> Tensor:
    """Rank along a dimension, the greatest first, ties by position."""
    order = torch.argsort(values, dim=dim, descending=True, stable=True)
    ranks = torch.empty_like(order)
    sizes = [1] * values.ndim
    sizes[dim] = -1
    steps = torch.arange(order.shape[dim], device=order.device).reshape(sizes)
    return ranks.scatter_(dim, order, steps.expand_as(order))


def _grid(tile: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-size // step) for size, step in zip(shape, tile, strict=True))
