"""Tiles of a weight: hyper-rectangles, ragged at the far edges, one block each (DESIGN 2).

A weight of shape ``[out, in, *kernel]`` and a tile of as many sides give a grid of
``ceil(side / tile side)`` blocks per axis.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from spartan_planner.errors import TransportError


@dataclass(frozen=True)
class TileLayout:
    """A tiled weight seen as a matrix: rows are cut every ``step``, columns by an inner tile.

    ``rows x columns`` is the weight's row-major order; ``inner_shape`` and ``inner_tile`` are the
    axes that make up a row (empty when a row is one element); ``grid`` is that of the weight.
    """

    grid: tuple[int, ...]
    rows: int
    step: int
    inner_shape: tuple[int, ...]
    inner_tile: tuple[int, ...]

    @property
    def columns(self) -> int:
        """Elements in a row."""
        return math.prod(self.inner_shape)

    @property
    def inner_grid(self) -> tuple[int, ...]:
        """Blocks along each axis of a row."""
        return tile_grid(self.inner_shape, self.inner_tile)

    @property
    def blocks(self) -> tuple[int, int]:
        """Blocks along the rows and along the columns."""
        return math.ceil(self.rows / self.step), math.prod(self.inner_grid)

    @property
    def is_inner_trivial(self) -> bool:
        """Say whether every column is a block of its own."""
        return max(self.inner_tile, default=1) == 1


def tile_grid(shape: Sequence[int], tile: Sequence[int]) -> tuple[int, ...]:
    """Return the number of blocks along each axis.

    Raises:
        TransportError: A tile with another number of sides than the weight, or a side below 1.
    """
    if len(tile) != len(shape) or min(tile, default=1) < 1:
        raise TransportError(
            f"A weight of shape {tuple(shape)} cannot be cut into tiles of {tuple(tile)}: a tile "
            f"needs as many sides as the weight, each at least 1."
        )
    return tuple(math.ceil(side / step) for side, step in zip(shape, tile, strict=True))


def tile_layout(shape: Sequence[int], tile: Sequence[int]) -> TileLayout:
    """Return the layout of a tiled weight, with as few and as long axes as describe it.

    Raises:
        TransportError: A tile that does not fit the number of axes, or a side below 1.
    """
    grid = tile_grid(shape, tile)
    sides, steps = _merged_axes(shape, tile)
    return TileLayout(grid, sides[0], steps[0], sides[1:], steps[1:])


def _merged_axes(
    shape: Sequence[int], tile: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Join neighbouring axes where the tiles stay rectangles of the joint axis.

    That is so when a tile covers the inner axis, or when both are cut into single elements.
    """
    sides: list[int] = []
    steps: list[int] = []
    for side, step in zip(shape, tile, strict=True):
        covered = step >= side
        if sides and (covered or (step == 1 and steps[-1] == 1)):
            sides[-1] *= side
            steps[-1] *= max(side, 1) if covered else 1
        else:
            sides.append(side)
            steps.append(max(min(step, side), 1))
    return tuple(sides) or (1,), tuple(steps) or (1,)


@dataclass(frozen=True)
class Corner:
    """A rectangle that consists of equal tiles: where it is, where its blocks are, the tile."""

    elements: tuple[slice, ...]
    blocks: tuple[slice, ...]
    tile: tuple[int, ...]


def corners(shape: Sequence[int], tile: Sequence[int]) -> Iterator[Corner]:
    """Yield the rectangles of equal tiles that make up a shape: whole tiles, and what is over."""
    axes = []
    for side, step in zip(shape, tile, strict=True):
        whole, over = divmod(side, step)
        pieces = [(slice(0, whole * step), slice(0, whole), step)] if whole else []
        if over:
            pieces.append((slice(whole * step, side), slice(whole, whole + 1), over))
        axes.append(pieces)
    for combination in itertools.product(*axes):
        elements, blocks, sides = zip(*combination, strict=True) if combination else ((), (), ())
        yield Corner(elements, blocks, sides)


def split_axis(tensor: Tensor, axis: int, step: int) -> Tensor:
    """Return a view with an axis of k * step elements split into ``k, step``."""
    shape = tensor.shape
    return tensor.view(*shape[:axis], shape[axis] // step, step, *shape[axis + 1 :])


@lru_cache(maxsize=1024)
def column_blocks(shape: tuple[int, ...], tile: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the index of the block of every column of a row, int64 [columns]."""
    grid = tile_grid(shape, tile)
    index = torch.zeros(shape, dtype=torch.int64, device=device)
    for axis, (side, step) in enumerate(zip(shape, tile, strict=True)):
        along = torch.arange(side, device=device) // step * math.prod(grid[axis + 1 :])
        index += along.view(-1, *[1] * (len(shape) - axis - 1))
    return index.reshape(-1)
