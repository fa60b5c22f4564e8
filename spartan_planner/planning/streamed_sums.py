"""Values of the blocks of a weight that arrives a few rows at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cost_models import Layout, LayoutKind
from spartan_planner.planning.block_sums import Array, added_up, kernel_sums, sums_by_rank
from spartan_planner.planning.value_curves import (
    MAX_EXACT_BLOCKS,
    Histogram,
    ValueCurve,
    added,
    histogram_of,
    merged_curve,
    value_curve,
)


@dataclass
class StreamedSums:
    """What a weight is worth, and what each layout retains of it, gathered piece by piece.

    Of a layout with few blocks each value is kept; of one with many only their histogram.

    Attributes:
        layouts: the layouts.
        weight_shape: shape of the whole weight, ``[out, in, *kernel]``.
        total: sum of absolute weights so far.
    """

    layouts: Sequence[Layout]
    weight_shape: tuple[int, ...]
    total: float = 0.0
    _ranked: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    _exact: dict[int, list[Array]] = field(default_factory=dict)
    _histograms: dict[int, dict[float, Histogram]] = field(default_factory=dict)

    @property
    def num_rows_together(self) -> int:
        """Pieces must hold a multiple of so many rows, but for the last."""
        return math.lcm(*(self._outputs(layout) for layout in self.layouts), 1)

    def add(self, piece: Array) -> None:
        """Take the next rows, ``[rows, in, *kernel]``."""
        absolute = np.abs(piece)
        self.total += float(absolute.sum(dtype=np.float64))
        groups = self._groups(absolute)
        for index, layout in enumerate(self.layouts):
            if layout.kind is LayoutKind.ELEMENT:
                self._take(index, layout, [(absolute.reshape(-1), 1.0)])
            elif layout.kind is LayoutKind.N_M:
                self._rank(index, _input_groups(absolute, layout.num_of))
            elif layout.balanced_step:
                self._rank(index, groups[self._outputs(layout)])
            else:
                tiles = groups[self._outputs(layout)]
                self._take(index, layout, self._sized_tiles(layout, tiles, len(piece)))

    def curves(self) -> tuple[ValueCurve, ...]:
        """Return what each layout retains, once all rows are in."""
        return tuple(self._curve(index, layout) for index, layout in enumerate(self.layouts))

    def _outputs(self, layout: Layout) -> int:
        return min(layout.tile_outputs, self.weight_shape[0])

    def _groups(self, absolute: Array) -> dict[int, Array]:
        """Sums over each number of outputs in use; a multiple is summed from its divisor."""
        tiles = [layout for layout in self.layouts if layout.kind is LayoutKind.TILE]
        sums = {1: kernel_sums(absolute)} if tiles else {}
        for outputs in sorted({self._outputs(layout) for layout in tiles}):
            divisor = max(size for size in sums if outputs % size == 0)
            sums[outputs] = added_up(sums[divisor], outputs // divisor, axis=0)
        return sums

    def _rank(self, index: int, groups: Array) -> None:
        ranked = sums_by_rank(groups)
        self._ranked[index] = self._ranked.get(index, np.zeros_like(ranked)) + ranked

    def _sized_tiles(
        self, layout: Layout, groups: Array, num_rows: int
    ) -> list[tuple[Array, float]]:
        """Tiles by their size: the last row and the last column may be ragged."""
        inputs = self.weight_shape[1]
        width = min(layout.tile_inputs, inputs)
        tiles = added_up(groups, width, axis=1)
        if self._is_exact(layout):
            return [(tiles.reshape(-1), 1.0)]
        outputs, parts = self._outputs(layout), []
        rows = [(tiles[: num_rows // outputs], 1.0)]
        if num_rows % outputs:
            rows.append((tiles[-1:], num_rows % outputs / outputs))
        for part, height in rows:
            parts.append((part[:, : inputs // width], height))
            if inputs % width:
                parts.append((part[:, -1:], height * (inputs % width / width)))
        return parts

    def _is_exact(self, layout: Layout) -> bool:
        return layout.num_blocks(self.weight_shape) <= MAX_EXACT_BLOCKS

    def _take(self, index: int, layout: Layout, parts: Sequence[tuple[Array, float]]) -> None:
        """Keep the values of few blocks, in position order; count those of many by their size."""
        if self._is_exact(layout):
            self._exact.setdefault(index, []).extend(values for values, _ in parts)
            return
        by_size = self._histograms.setdefault(index, {})
        for values, size in parts:
            if values.size:
                new = histogram_of(values, size)
                by_size[size] = added(by_size[size], new) if size in by_size else new

    def _curve(self, index: int, layout: Layout) -> ValueCurve:
        if index in self._histograms:
            return merged_curve(list(self._histograms[index].values()))
        if index in self._exact:
            values: Array = np.concatenate(self._exact[index])
        else:
            ranked = self._ranked[index]
            values = added_up(ranked, min(max(1, layout.balanced_step), ranked.size), axis=0)
        return value_curve(values, layout.block_sizes(self.weight_shape))


def _input_groups(absolute: Array, num_of: int) -> Array:
    """Return ``[rows * groups, m, kernel]``: the runs of ``m`` inputs of every output."""
    return absolute.reshape(-1, num_of, math.prod(absolute.shape[2:]))
