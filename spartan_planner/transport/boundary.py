"""Radix search for the boundary block of a budget over integer keys (DESIGN 4.3).

Keys order the blocks by z.  Blocks are counted, never summed, so the cost of any prefix is
exact whatever the order of addition or the number of ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from spartan_planner.transport.collective import sum_over_ranks
from spartan_planner.transport.problem import exact_cost

#: Bins of one radix level, the only thing beside scalars that ranks exchange.
RADIX_BINS = 2048
# So few candidates are told apart one by one, where another level would read more bins.
_FEW = 1 << 12


@dataclass(frozen=True)
class KeyInterval:
    """Keys ``low <= key < high`` among which the boundary block is.

    ``above``: blocks per segment, over all ranks, with key >= high; they fit into the budget.
    """

    low: int
    high: int
    above: tuple[int, ...]

    @property
    def is_single(self) -> bool:
        """Say whether only one key is left."""
        return self.high - self.low <= 1

    @property
    def bin_width(self) -> int:
        """Keys per bin when the interval is cut into radix bins: a power of two."""
        least = -(-(self.high - self.low) // (RADIX_BINS - 1))
        return 1 << (least - 1).bit_length()

    def edge(self, index: int) -> int:
        """Return the least key of a bin; bins start at multiples of their width."""
        return (self.low // self.bin_width + index) * self.bin_width


@dataclass(frozen=True)
class Pool:
    """Candidate blocks in any order: ``keys`` int64 [p] and ``segments`` int64 [p]."""

    keys: Tensor
    segments: Tensor

    def within(self, interval: KeyInterval) -> "Pool":
        """Return the candidates whose keys lie in the interval."""
        inside = (self.keys >= interval.low) & (self.keys < interval.high)
        return Pool(self.keys[inside], self.segments[inside])

    def histogram(self, interval: KeyInterval, num_segments: int) -> Tensor:
        """Count the candidates per segment and bin, int64 [segments, RADIX_BINS]."""
        bins = key_bins(self.keys, interval)
        counts = torch.bincount(
            self.segments * RADIX_BINS + bins, minlength=num_segments * RADIX_BINS
        )
        return counts.view(num_segments, RADIX_BINS)


@dataclass(frozen=True)
class Boundary:
    """The key of the first block that does not fit, and how many blocks lie above it or on it.

    ``above`` and ``ties`` are per segment, over all ranks.
    """

    key: int
    above: tuple[int, ...]
    ties: tuple[int, ...]


def key_bins(keys: Tensor, interval: KeyInterval) -> Tensor:
    """Return the radix bin of keys that lie in the interval.

    Both are divided before they are subtracted: two keys of opposite sign can be further apart
    than an int64 says.
    """
    width = interval.bin_width
    # A shift rounds down as a division would, and takes a tenth of its time.
    return (keys >> (width.bit_length() - 1)) - interval.low // width


def narrowed(
    interval: KeyInterval, histogram: Tensor, costs: Sequence[float], budget: float
) -> KeyInterval:
    """Return the bin of the interval that holds the boundary block.

    ``histogram`` counts blocks per segment and bin over all ranks.  The cost of everything from a
    bin upwards falls with the bin, so the boundary is found by bisection; it must be inside, that
    is ``above`` plus all bins must cost more than the budget.
    """
    table = histogram.cpu()
    from_bin = table.flip(1).cumsum(1).flip(1)
    above = torch.tensor(interval.above)
    fits, fails = table.shape[1], 0
    while fits - fails > 1:
        middle = (fits + fails) // 2
        cost = exact_cost((above + from_bin[:, middle]).tolist(), costs)
        fits, fails = (middle, fails) if cost <= budget else (fits, middle)
    kept = above if fits == table.shape[1] else above + from_bin[:, fits]
    low = max(interval.low, interval.edge(fails))
    high = min(interval.high, interval.edge(fits))
    return KeyInterval(low, high, tuple(kept.tolist()))


def _boundary_of_few(
    pool: Pool, interval: KeyInterval, costs: Sequence[float], budget: float
) -> Boundary:
    """Find the boundary block among a few candidates put in order.

    Sums in floats guess the place, exact costs confirm it or go on by bisection.
    """
    order = pool.keys.argsort(descending=True)
    keys, segments = pool.keys[order], pool.segments[order]
    above = torch.tensor(interval.above)

    def kept(length: int) -> tuple[int, ...]:
        counts = above + torch.bincount(segments[:length], minlength=len(costs)).cpu()
        return tuple(counts.tolist())

    each = torch.tensor(costs, dtype=torch.float64, device=keys.device)[segments]
    spent = each.cumsum(0) + exact_cost(interval.above, costs)
    guess = int((spent <= budget).sum())
    fits, fails = 0, keys.numel()
    while fails - fits > 1:
        near = guess if fits < guess < fails else guess + 1
        middle = near if fits < near < fails else (fits + fails) // 2
        within = exact_cost(kept(middle), costs) <= budget
        fits, fails = (middle, fails) if within else (fits, middle)
    key = keys[fits]
    kept_above, kept_tied = (kept(int(side.sum())) for side in (keys > key, keys >= key))
    ties = tuple(a - b for a, b in zip(kept_tied, kept_above, strict=True))
    return Boundary(int(key), kept_above, ties)


def find_boundary(
    pool: Pool,
    interval: KeyInterval,
    costs: Sequence[float],
    budget: float,
    process_group: dist.ProcessGroup | None = None,
) -> Boundary:
    """Find the boundary block among the candidates of all ranks, a radix level at a time."""
    count = len(costs)
    while process_group is None and not interval.is_single and pool.keys.numel() > _FEW:
        interval = narrowed(interval, pool.histogram(interval, count), costs, budget)
        pool = pool.within(interval)
    if process_group is None:
        return _boundary_of_few(pool, interval, costs, budget)
    histogram = sum_over_ranks(pool.histogram(interval, count), process_group)
    while not interval.is_single:
        interval = narrowed(interval, histogram, costs, budget)
        pool = pool.within(interval)
        histogram = sum_over_ranks(pool.histogram(interval, count), process_group)
    ties = tuple(histogram.sum(1).tolist())
    return Boundary(interval.low, interval.above, ties)
