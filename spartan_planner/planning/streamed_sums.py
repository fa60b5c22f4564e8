"""Values of the blocks of a weight that arrives a few rows at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cost_models import Layout, LayoutKind
from spartan_planner.planning.block_sums import Array, added_up, kernel_sums
from spartan_planner.planning.value_curves import (
    Histogram,
    ValueCurve,
    added,
    histogram_of,
    merged_curve,
    value_curve,
)


@dataclass
class StreamedSums:
    """What each layout retains, gathered piece by piece.

    Attributes:
        layouts: the layouts.
        weight_shape: shape of the whole weight, ``[out, in, *kernel]``.
    """

    layouts: Sequence[Layout]
    weight_shape: tuple[int, ...]
    _ranked: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    _histograms: dict[int, dict[float, Histogram]] = field(default_factory=dict)

    @property
    def num_rows_together(self) -> int:
        """Pieces must hold a multiple of so many rows, but for the last."""
        return math.lcm(*(self._outputs(layout) for layout in self.layouts), 1)

    def add(self, piece: Array) -> None:
        """Take the next rows, ``[rows, in, *kernel]``."""
        groups = self._groups(piece)
        for index, layout in enumerate(self.layouts):
            if layout.kind is LayoutKind.ELEMENT:
                self._count(index, np.abs(piece).reshape(-1), 1.0)
            elif layout.balanced_step:
                rows = groups[self._outputs(layout)]
                ranked = np.sort(rows, axis=1)[:, ::-1].sum(axis=0, dtype=np.float64)
                self._ranked[index] = self._ranked.get(index, np.zeros_like(ranked)) + ranked
            else:
                self._add_tiles(index, layout, groups[self._outputs(layout)], len(piece))

    def curves(self) -> tuple[ValueCurve, ...]:
        """Return what each layout retains, once all rows are in."""
        return tuple(self._curve(index, layout) for index, layout in enumerate(self.layouts))

    def _outputs(self, layout: Layout) -> int:
        return min(layout.tile_outputs, self.weight_shape[0])

    def _groups(self, piece: Array) -> dict[int, Array]:
        """Sums over each number of outputs in use; a multiple is summed from its divisor."""
        tiles = [layout for layout in self.layouts if layout.kind is not LayoutKind.ELEMENT]
        sums = {1: kernel_sums(piece)} if tiles else {}
        for outputs in sorted({self._outputs(layout) for layout in tiles}):
            divisor = max(size for size in sums if outputs % size == 0)
            sums[outputs] = added_up(sums[divisor], outputs // divisor, axis=0)
        return sums

    def _add_tiles(self, index: int, layout: Layout, groups: Array, num_rows: int) -> None:
        """Count tiles by their size: the last row and the last column may be ragged."""
        inputs = self.weight_shape[1]
        width = min(layout.tile_inputs, inputs)
        tiles = added_up(groups, width, axis=1)
        outputs = self._outputs(layout)
        rows = [(tiles[: num_rows // outputs], 1.0)]
        if num_rows % outputs:
            rows.append((tiles[-1:], num_rows % outputs / outputs))
        for part, height in rows:
            self._count(index, part[:, : inputs // width], height)
            if inputs % width:
                self._count(index, part[:, -1:], height * (inputs % width / width))

    def _count(self, index: int, values: Array, size: float) -> None:
        if not values.size:
            return
        by_size = self._histograms.setdefault(index, {})
        new = histogram_of(values, size)
        by_size[size] = added(by_size[size], new) if size in by_size else new

    def _curve(self, index: int, layout: Layout) -> ValueCurve:
        if index in self._histograms:
            return merged_curve(list(self._histograms[index].values()))
        ranked = self._ranked[index]
        values = added_up(ranked, min(layout.balanced_step, ranked.size), axis=0)
        return value_curve(values, layout.block_sizes(self.weight_shape))
