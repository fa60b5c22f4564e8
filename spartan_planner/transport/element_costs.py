"""Hard top-k where every block has a cost of its own: a weighted radix search (DESIGN 4.3).

The cost of a prefix is the sum of its costs rounded once (``math.fsum``), whatever their range:
costs are cut into limbs whose histograms add up without rounding (``exact_sums``).  The values are
read in pieces that stay in cache, once per radix level of 2048 bins, until so few are left near the
boundary that they can be kept beside; nothing is sorted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spartan_planner.transport.boundary import RADIX_BINS, KeyInterval, key_bins, narrowed
from spartan_planner.transport.exact_sums import LimbScale, padded
from spartan_planner.transport.float_order import key_of, order_keys, value_of
from spartan_planner.transport.passes import chunk_bounds
from spartan_planner.transport.problem import Cost, Problem, exact_cost
from spartan_planner.transport.results import HardSelection, SelectionStatus, left_of_budget

# About ten float64 temporaries of a piece are alive at once: 5 MB on a CPU.
_CPU_PIECE = 1 << 16
_GPU_PIECE = 1 << 22
# At most this fraction of the blocks is kept beside, 16 bytes each and twice while joined.
_POOL_FRACTION = 1 / 256
_LEAST_POOL = 1 << 15

#: Reads the keys and the costs of blocks, in order of position and in pieces.
Read = Callable[[], Iterator[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Prefix:
    """Everything above ``key``, and the first ``ties`` blocks that have it."""

    key: int
    ties: int
    cost: float


@dataclass(frozen=True)
class _Level:
    """An interval of keys that holds the boundary; ``above`` in limbs, and how many are inside."""

    interval: KeyInterval
    num_inside: int


@dataclass(frozen=True)
class _Costs:
    """How costs are cut, and the budget."""

    scale: LimbScale
    budget: float

    def cost(self, limbs: Sequence[int]) -> float:
        """Return the cost that whole numbers of the units make."""
        return exact_cost(limbs, self.scale.units(len(limbs)))

    def narrowed(self, read: Read, level: _Level) -> _Level:
        """Narrow the interval by one radix level in one read."""
        interval = level.interval
        table, counts = self._histograms(read, interval)
        above = list(interval.above) + [0] * (table.shape[0] - len(interval.above))
        table = padded(table, len(above))
        whole = KeyInterval(interval.low, interval.high, tuple(above))
        found = narrowed(whole, table, self.scale.units(len(above)), self.budget)
        bins = torch.arange(RADIX_BINS)
        chosen = (bins >= _bin(found.low, interval)) & (bins <= _bin(found.high - 1, interval))
        return _Level(found, int(counts.cpu()[chosen].sum()))

    def _histograms(self, read: Read, interval: KeyInterval) -> tuple[Tensor, Tensor]:
        """Return the limbs of the cost in every bin, int64 [limbs, bins], and counts [bins]."""
        table, counts = torch.zeros(0, RADIX_BINS, dtype=torch.int64), torch.zeros(1)
        for keys, costs in read():
            keys, costs = _within(keys, costs, interval)
            bins = key_bins(keys, interval)
            rows = [
                torch.bincount(bins, limb, minlength=RADIX_BINS).long()
                for limb in self.scale.limbs(costs)
            ]
            table = padded(table.to(bins.device), len(rows))
            table[: len(rows)] += torch.stack(rows)
            counts = counts.to(bins.device) + torch.bincount(bins, minlength=RADIX_BINS)
        return table, counts

    def admitted(self, read: Read, level: _Level) -> Prefix:
        """Return the prefix, given the one key of the boundary: tied blocks go by position."""
        key, spent, ties = level.interval.low, list(level.interval.above), 0
        for keys, costs in read():
            tied = costs[keys == key]
            if not tied.numel():
                continue
            rows = torch.stack(self.scale.limbs(tied)).cumsum_(1).long()
            rows = padded(rows, len(spent))
            base = [*spent, *[0] * (rows.shape[0] - len(spent))]
            fits = self._fitting(rows.cpu(), base)
            if fits:
                sums = rows[:, fits - 1].tolist()
                spent = [a + b for a, b in zip(base, sums, strict=True)]
                ties += fits
            if fits < tied.numel():
                break
        return Prefix(key, ties, self.cost(spent))

    def _fitting(self, cumulative: Tensor, spent: Sequence[int]) -> int:
        """Return how many of the blocks fit beside what is spent; ``cumulative`` [limbs, n]."""
        fits, fails = 0, cumulative.shape[1] + 1
        while fails - fits > 1:
            middle = (fits + fails) // 2
            limbs = [a + b for a, b in zip(spent, cumulative[:, middle - 1].tolist(), strict=True)]
            fits, fails = (middle, fails) if self.cost(limbs) <= self.budget else (fits, middle)
        return fits


def _bin(key: int, interval: KeyInterval) -> int:
    """Return the radix bin of one key of the interval."""
    return key // interval.bin_width - interval.low // interval.bin_width


def select_by_element(
    masks: Sequence[Tensor], problem: Problem, extremes: tuple[float, float]
) -> HardSelection:
    """Write the masks of the longest prefix within a budget between nothing and everything.

    ``extremes`` are the least and greatest z.  Peak memory beyond the masks: some five
    megabytes, and an eighth of a byte per block for the candidates.
    """
    found = _prefix(problem, extremes)
    num_kept = _write(masks, problem, found)
    threshold = value_of(found.key)
    return HardSelection(
        tuple(masks),
        threshold,
        found.cost,
        num_kept,
        SelectionStatus.EXACT_PREFIX,
        left_of_budget(found.cost, problem.budget),
    )


def _prefix(problem: Problem, extremes: tuple[float, float]) -> Prefix:
    """Search for the boundary, a radix level at a time."""
    pairs = zip(problem.segments, problem.costs, strict=True)
    dearest = max(_greatest(cost) for segment, cost in pairs if segment.numel())
    search = _Costs(LimbScale.of(dearest, problem.num_blocks), problem.budget)
    interval = KeyInterval(key_of(extremes[0]), key_of(extremes[1]) + 1, (0,))
    level, limit = _Level(interval, problem.num_blocks), _pool_limit(problem.num_blocks)

    def read() -> Iterator[tuple[Tensor, Tensor]]:
        return _read(problem)

    source: Read = read
    while not level.interval.is_single:
        if source is read and level.num_inside <= limit:
            source = _pooled(read, level.interval)
        level = search.narrowed(source, level)
    return search.admitted(source, level)


def _greatest(cost: Cost) -> float:
    """Return the greatest cost of a segment that has blocks."""
    return float(cost.amax()) if isinstance(cost, Tensor) else float(cost)


def _pool_limit(num_blocks: int) -> int:
    """Return how many candidates may be kept beside."""
    return max(_LEAST_POOL, int(num_blocks * _POOL_FRACTION))


def _within(keys: Tensor, costs: Tensor, interval: KeyInterval) -> tuple[Tensor, Tensor]:
    """Return the keys inside an interval, and their costs."""
    inside = (keys >= interval.low) & (keys < interval.high)
    if bool(inside.all()):
        return keys, costs
    return keys[inside], costs[inside]


def _pooled(read: Read, interval: KeyInterval) -> Read:
    """Read once and keep what lies in the interval."""
    kept = []
    for keys, costs in read():
        kept.append(_within(keys, costs, interval))
    pool = torch.cat([keys for keys, _ in kept]), torch.cat([costs for _, costs in kept])
    return lambda: iter([pool])


def _pieces(problem: Problem, index: int) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Yield bounds, z and costs (float64) of the pieces of a segment."""
    values, cost = problem.segments[index], problem.costs[index]
    size = _CPU_PIECE if values.device.type == "cpu" else _GPU_PIECE
    for start, stop in chunk_bounds(values.numel(), size):
        ratios = values[start:stop].double()
        if isinstance(cost, Tensor):
            costs = cost[start:stop].double()
        else:
            costs = torch.full_like(ratios, cost)
        yield start, stop, ratios / costs, costs


def _read(problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield keys and costs of all blocks, in order of position."""
    for index in range(len(problem.segments)):
        for _, _, ratios, costs in _pieces(problem, index):
            yield order_keys(ratios), costs


def _write(masks: Sequence[Tensor], problem: Problem, prefix: Prefix) -> int:
    """Write the masks and return how many blocks are kept."""
    threshold, ties, num_kept = value_of(prefix.key), prefix.ties, 0
    for index, mask in enumerate(masks):
        flat = mask.view(-1)
        for start, stop, ratios, _ in _pieces(problem, index):
            piece = torch.gt(ratios, threshold, out=flat[start:stop])
            if ties:
                tied = (ratios == threshold).nonzero().squeeze(1)[:ties]
                piece[tied] = True
                ties -= tied.numel()
            num_kept += int(piece.count_nonzero())
    return num_kept
