"""Where the boundary block of a budget is: a sample's guess, one read to check, a radix search."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spartan_planner.transport.boundary import (
    RADIX_BINS,
    Boundary,
    KeyInterval,
    Pool,
    find_boundary,
    key_bins,
    narrowed,
)
from spartan_planner.transport.collective import sum_over_ranks
from spartan_planner.transport.comparisons import read_between
from spartan_planner.transport.float_order import (
    key_of,
    least_value_at_ratio,
    order_keys,
    value_of,
)
from spartan_planner.transport.packing import Pack, is_wholly_packed
from spartan_planner.transport.problem import Problem, exact_cost
from spartan_planner.transport.sampling import SAMPLE_BLOCKS, take_sample

# At most this fraction of the blocks goes into a pool of candidates, 16 bytes each and twice
# while they are joined: an eighth of the bytes of float32 values.
POOL_FRACTION = 1 / 64
# A wholly packed problem is read from cache: a small sample tells enough.
_COARSE_BLOCKS = 1 << 12
# Standard deviations of the sample's estimate on either side of the guess: it fails once in
# 400 times, which costs another read or two and nothing else.
_MARGIN_DEVIATIONS = 3.0


def locate_boundary(
    problem: Problem,
    costs: Sequence[float],
    extremes: tuple[float, float],
    pack: Pack,
    expected: tuple[float, float] | None = None,
) -> Boundary:
    """Return the boundary block of a budget strictly between nothing and everything.

    ``pack`` holds the small segments under the costs as given; ``expected`` are thresholds between
    which it is looked for first.
    """
    everything = KeyInterval(key_of(extremes[0]), key_of(extremes[1]) + 1, (0,) * len(costs))
    pool_limit = max(SAMPLE_BLOCKS, int(problem.num_blocks * POOL_FRACTION))
    whole = is_wholly_packed(problem)
    if whole and (problem.process_group is not None or problem.num_blocks <= 4 * _COARSE_BLOCKS):
        pool = Pool(pack.keys, pack.segments)
        return find_boundary(pool, everything, costs, problem.budget, problem.process_group)
    sample_size = _COARSE_BLOCKS if whole else SAMPLE_BLOCKS
    search = _Search(problem, tuple(costs), pool_limit, pack, sample_size)
    reading = search.expected(everything, expected) if expected is not None else None
    if reading is None:
        reading = search.checked(everything, search.guess(everything))
    while reading.pool is None and not reading.interval.is_single:
        reading = search.read(search.narrowed(reading.interval))
    interval = reading.interval
    if interval.is_single or reading.pool is None:
        return Boundary(interval.low, interval.above, reading.inside)
    return find_boundary(reading.pool, interval, costs, problem.budget, problem.process_group)


@dataclass(frozen=True)
class _Reading:
    """What a read found in an interval: blocks per segment over all ranks, local candidates.

    ``pool`` is None when the candidates are too many to be kept.
    """

    interval: KeyInterval
    at_least: tuple[int, ...]
    inside: tuple[int, ...]
    pool: Pool | None

    @property
    def above(self) -> tuple[int, ...]:
        """Blocks per segment above the interval."""
        return tuple(a - b for a, b in zip(self.at_least, self.inside, strict=True))


@dataclass(frozen=True)
class _Search:
    """The reads of a hard selection."""

    problem: Problem
    costs: tuple[float, ...]
    pool_limit: int
    pack: Pack
    sample_size: int

    @property
    def large(self) -> list[int]:
        """The segments that are read where they are."""
        packed = frozenset(self.pack.indices)
        return [i for i, v in enumerate(self.problem.segments) if v.numel() and i not in packed]

    @property
    def packed(self) -> Pool:
        """The blocks of the small segments."""
        return Pool(self.pack.keys, self.pack.segments)

    def guess(self, everything: KeyInterval) -> KeyInterval:
        """Return keys between which a sample says the boundary is; ``above`` is not known."""
        sampled = take_sample(self.problem, self.costs, self.pack, self.sample_size)
        pool = Pool(sampled.keys, sampled.segments)
        counts = self._summed(torch.bincount(pool.segments, minlength=len(self.costs)))
        # Each sampled block stands for so many of its segment.
        weights = [
            cost * blocks / max(count, 1)
            for cost, blocks, count in zip(self.costs, self.problem.counts, counts, strict=True)
        ]
        below, beyond = sample_margins(counts, weights, self.problem.budget)
        group = self.problem.process_group
        low, high = everything.low, everything.high
        if below > 0.0:
            high = find_boundary(pool, everything, weights, below, group).key + 1
        if beyond < exact_cost(counts, weights):
            low = find_boundary(pool, everything, weights, beyond, group).key
        return KeyInterval(low, high, everything.above)

    def expected(self, everything: KeyInterval, ends: tuple[float, float]) -> _Reading | None:
        """Read what lies between two thresholds; None where the boundary is not among it."""
        low = max(everything.low, key_of(ends[0]))
        high = min(everything.high, key_of(ends[1]) + 1)
        if low >= high:
            return None
        reading = self.read(KeyInterval(low, high, everything.above))
        above, at_least = (exact_cost(n, self.costs) for n in (reading.above, reading.at_least))
        if not above <= self.problem.budget < at_least or reading.pool is None:
            return None
        return replace(reading, interval=KeyInterval(low, high, reading.above))

    def checked(self, everything: KeyInterval, guess: KeyInterval) -> _Reading:
        """Read the guess; where it is wrong, read what is left on the side of the boundary."""
        reading = self.read(guess)
        if exact_cost(reading.above, self.costs) > self.problem.budget:
            return self.read(KeyInterval(guess.high, everything.high, everything.above))
        if exact_cost(reading.at_least, self.costs) <= self.problem.budget:
            return self.read(KeyInterval(everything.low, guess.low, reading.at_least))
        return replace(reading, interval=KeyInterval(guess.low, guess.high, reading.above))

    def narrowed(self, interval: KeyInterval) -> KeyInterval:
        """Narrow the interval by one radix level in one read, keeping no candidates."""
        local = self.packed.within(interval).histogram(interval, len(self.costs))
        for index in self.large:
            for _, keys in self._candidates(index, interval):
                local[index] += torch.bincount(key_bins(keys, interval), minlength=RADIX_BINS)
        histogram = sum_over_ranks(local, self.problem.process_group)
        return narrowed(interval, histogram, self.costs, self.problem.budget)

    def read(self, interval: KeyInterval) -> _Reading:
        """Read all values: count what lies from the interval's low on, keep what is inside."""
        at_least, own = self._packed_counts(interval)
        kept, held = [], own.keys.numel()
        inside = torch.bincount(own.segments, minlength=len(self.costs)).tolist()
        for index in self.large:
            for count, keys in self._candidates(index, interval):
                at_least[index] += int(count)
                inside[index] += keys.numel()
                held += keys.numel()
                if held <= self.pool_limit and not interval.is_single:
                    kept.append((index, keys))
        both = torch.tensor([at_least, inside], device=self.problem.device)
        total = sum_over_ranks(both, self.problem.process_group).tolist()
        keep = sum(total[1]) <= self.pool_limit and not interval.is_single
        pool = _joined(own, kept) if keep else None
        return _Reading(interval, tuple(total[0]), tuple(total[1]), pool)

    def _packed_counts(self, interval: KeyInterval) -> tuple[list[int], Pool]:
        """Return how many packed blocks of each segment lie from the low on, and those inside."""
        packed = self.packed
        at_least = torch.bincount(
            packed.segments[packed.keys >= interval.low], minlength=len(self.costs)
        )
        return at_least.tolist(), packed.within(interval)

    def _candidates(self, index: int, interval: KeyInterval) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield per chunk how many lie from the interval's low on, and the keys inside it."""
        segment, cost = self.problem.segments[index], self.costs[index]
        low = least_value_at_ratio(value_of(interval.low), cost, segment.dtype)
        high = least_value_at_ratio(value_of(interval.high), cost, segment.dtype)
        for count, values in read_between(segment, low, high):
            yield count, order_keys(values.double() / cost)

    def _summed(self, local: Tensor) -> list[int]:
        """Return counts summed over ranks, as numbers."""
        return [int(count) for count in sum_over_ranks(local, self.problem.process_group)]


def sample_margins(
    counts: Sequence[int], weights: Sequence[float], budget: float
) -> tuple[float, float]:
    """Return costs between which a sampled prefix of ``budget`` lies, all but certainly."""
    total = exact_cost(counts, weights)
    squares = exact_cost(counts, [weight * weight for weight in weights])
    share = min(budget / total, 1.0)
    # Variance of the cost above a key, were every sampled block above it by a throw of its own.
    margin = _MARGIN_DEVIATIONS * math.sqrt(squares * share * (1.0 - share))
    return budget - margin, budget + margin


def _joined(own: Pool, kept: Sequence[tuple[int, Tensor]]) -> Pool:
    """Join the candidates of all chunks to those of the small segments."""
    keys = torch.cat([own.keys, *(keys for _, keys in kept)])
    device = keys.device
    sizes = torch.tensor([keys.numel() for _, keys in kept], dtype=torch.int64, device=device)
    origins = torch.tensor([index for index, _ in kept], dtype=torch.int64, device=device)
    return Pool(keys, torch.cat([own.segments, origins.repeat_interleave(sizes)]))
