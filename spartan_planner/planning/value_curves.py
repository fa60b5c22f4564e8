"""What a layer retains as a function of how much of it is kept."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

MAX_EXACT_BLOCKS = 4096
"""Up to so many blocks a curve holds each one; beyond, blocks of nearly the same value share a
bin."""

_KEY_SHIFT = 14
"""Bits of a float32 that a bin leaves open: values in a bin differ by at most 2**-9, 0.2 %."""


@dataclass(frozen=True)
class ValueCurve:
    """The blocks of a layer in one layout, in the order in which they are kept.

    Blocks are ordered by value per size, greatest first; a bin holds blocks of equal size and of
    equal (or nearly equal) value.

    Attributes:
        ratios: ``[bins]``, value of a whole block of the bin, not increasing.
        counts: ``[bins]`` int64, blocks of the bin.
        sizes: ``[bins]``, size of each block of the bin in whole blocks; below 1 where ragged.
    """

    ratios: NDArray[np.float64]
    counts: NDArray[np.int64]
    sizes: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Refuse curves that are not ordered, not finite or empty."""
        if not self.ratios.size or not np.all(np.isfinite(self.ratios)) or self.ratios[-1] < 0:
            raise ValueError("values must be finite, not negative and not empty")
        if np.any(np.diff(self.ratios) > 0):
            raise ValueError("values must not increase")
        if np.any(self.counts < 1) or np.any(self.sizes <= 0) or np.any(self.sizes > 1):
            raise ValueError("counts must be at least 1, sizes positive and at most 1")

    @property
    def num_blocks(self) -> int:
        """Blocks in all."""
        return self._sums[0][-1]

    @property
    def size(self) -> float:
        """Size of all blocks together, in whole blocks."""
        return float(self.cumulative_sizes[-1])

    @property
    def value(self) -> float:
        """Value of all blocks together."""
        return float(self.cumulative_values[-1])

    @cached_property
    def cumulative_counts(self) -> NDArray[np.int64]:
        """``[bins + 1]``, blocks of the first bins."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    @cached_property
    def cumulative_sizes(self) -> NDArray[np.float64]:
        """``[bins + 1]``, size of the first bins."""
        return np.concatenate([[0.0], np.cumsum(self.counts * self.sizes)])

    @cached_property
    def cumulative_values(self) -> NDArray[np.float64]:
        """``[bins + 1]``, value of the first bins."""
        return np.concatenate([[0.0], np.cumsum(self.counts * self.sizes * self.ratios)])

    # Lists and ``bisect`` are ten times as fast as numpy on single figures.
    @cached_property
    def rising(self) -> list[float]:
        """``[bins]``, the negated values of whole blocks, not decreasing."""
        return [-ratio for ratio in self.ratios.tolist()]

    @cached_property
    def _sums(self) -> tuple[list[int], list[float], list[float]]:
        return (
            self.cumulative_counts.tolist(),
            self.cumulative_sizes.tolist(),
            self.cumulative_values.tolist(),
        )

    def num_bins_above(self, price: float) -> int:
        """Return how many leading bins have a value per whole block above ``price``."""
        return bisect_left(self.rising, -price)

    def above(self, price: float) -> "Prefix":
        """Return the blocks with a value per whole block above ``price``."""
        index = bisect_left(self.rising, -price)
        counts, sizes, values = self._sums
        return Prefix(counts[index], sizes[index], values[index])

    def bin_of(self, index: int) -> int:
        """Return the bin of a block by its place in the order; that after the last for the end."""
        return bisect_right(self._sums[0], index) - 1

    def head(self, num_blocks: int) -> "ValueCurve":
        """Return the curve of the first blocks alone."""
        last = bisect_left(self._sums[0], num_blocks)
        counts = self.counts[:last].copy()
        counts[-1] -= self._sums[0][last] - num_blocks
        return ValueCurve(self.ratios[:last], counts, self.sizes[:last])

    def prefix(self, num_kept: int) -> "Prefix":
        """Return size and value of the first ``num_kept`` blocks."""
        counts, sizes, values = self._sums
        index = bisect_right(counts, num_kept) - 1
        size, value = sizes[index], values[index]
        more = num_kept - counts[index]
        if more:
            size += more * float(self.sizes[index])
            value += more * float(self.sizes[index] * self.ratios[index])
        return Prefix(num_kept, size, value)

    def prefixes(self, first: int, last: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return sizes and values of the prefixes of ``first`` to ``last`` blocks."""
        if self.counts.size == self.num_blocks:
            return self.cumulative_sizes[first : last + 1], self.cumulative_values[first : last + 1]
        found = [self.prefix(number) for number in range(first, last + 1)]
        return np.array([item.size for item in found]), np.array([item.value for item in found])

    def least_prefix(self, min_size: float) -> "Prefix":
        """Return the shortest prefix of at least ``min_size`` and at least one block."""
        index = int(np.searchsorted(self.cumulative_sizes, min_size, side="left"))
        if index == 0:
            return self.prefix(1)
        if index > self.counts.size:
            return self.prefix(self.num_blocks)
        missing = min_size - float(self.cumulative_sizes[index - 1])
        more = min(int(np.ceil(missing / self.sizes[index - 1])), int(self.counts[index - 1]))
        return self.prefix(max(1, int(self.cumulative_counts[index - 1]) + more))


@dataclass(frozen=True)
class Prefix:
    """The first blocks of a curve: how many, their size in whole blocks, their value."""

    num_blocks: int
    size: float
    value: float


def value_curve(values: NDArray[np.floating], sizes: NDArray[np.floating]) -> ValueCurve:
    """Order blocks by value per size.

    Args:
        values: ``[blocks]``, finite and not negative.
        sizes: ``[blocks]`` in whole blocks, or ``[1]`` where all are equally large.

    Raises:
        ValueError: values that are negative or not finite, or no block.
    """
    if not values.size or not np.all(np.isfinite(values)) or values.min() < 0:
        raise ValueError("values must be finite, not negative and not empty")
    sizes = np.broadcast_to(sizes, values.shape)
    if values.size <= MAX_EXACT_BLOCKS:
        ratios = values.astype(np.float64) / sizes
        order = np.argsort(-ratios, kind="stable")
        return ValueCurve(
            ratios[order], np.ones(order.size, np.int64), sizes[order].astype(np.float64)
        )
    parts = [histogram_of(values[sizes == size], float(size)) for size in np.unique(sizes)[::-1]]
    return merged_curve(parts)


@dataclass(frozen=True)
class Histogram:
    """Blocks of one size, counted by the leading bits of their value.

    Attributes:
        keys: ``[bins]`` int64, not repeated.
        counts: ``[bins]`` int64.
        values: ``[bins]``, sum of the values in each bin.
        size: size of each block in whole blocks.
    """

    keys: NDArray[np.int64]
    counts: NDArray[np.int64]
    values: NDArray[np.float64]
    size: float


def histogram_of(values: NDArray[np.floating], size: float = 1.0) -> Histogram:
    """Count non-negative values by the leading bits of their float32 form."""
    narrow = np.ascontiguousarray(values, np.float32).reshape(-1)
    keys = narrow.view(np.int32) >> _KEY_SHIFT
    counts = np.bincount(keys)
    sums: NDArray[np.float64] = np.bincount(keys, weights=narrow).astype(np.float64)
    filled = np.flatnonzero(counts)
    return Histogram(filled, counts[filled], sums[filled], size)


def added(first: Histogram, second: Histogram) -> Histogram:
    """Add two histograms of blocks of the same size: parts of one layer read one by one."""
    keys = np.union1d(first.keys, second.keys)
    counts, values = np.zeros(keys.size, np.int64), np.zeros(keys.size)
    for part in (first, second):
        place = np.searchsorted(keys, part.keys)
        counts[place] += part.counts
        values[place] += part.values
    return Histogram(keys, counts, values, first.size)


def merged_curve(parts: list[Histogram]) -> ValueCurve:
    """Return the curve of blocks of several sizes."""
    ratios = np.concatenate([part.values / part.counts / part.size for part in parts])
    counts = np.concatenate([part.counts for part in parts])
    sizes = np.concatenate([np.full(part.counts.size, part.size) for part in parts])
    order = np.argsort(-ratios, kind="stable")
    return ValueCurve(ratios[order], counts[order], sizes[order])
