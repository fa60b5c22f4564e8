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
from spartan_planner.transport.problem import Problem, exact_cost
from spartan_planner.transport.sampling import SAMPLE_BLOCKS, sample_keys

# At most this fraction of the blocks goes into a pool of candidates, 16 bytes each and twice
# while they are joined: an eighth of the bytes of float32 values.
POOL_FRACTION = 1 / 64
# Standard deviations of the sample's estimate on either side of the guess: it fails once in
# 400 times, which costs another read or two and nothing else.
_MARGIN_DEVIATIONS = 3.0


def locate_boundary(
    problem: Problem, costs: Sequence[float], extremes: tuple[float, float]
) -> Boundary:
    """Return the boundary block of a budget strictly between nothing and everything."""
    everything = KeyInterval(key_of(extremes[0]), key_of(extremes[1]) + 1, (0,) * len(costs))
    pool_limit = max(SAMPLE_BLOCKS, int(problem.num_blocks * POOL_FRACTION))
    search = _Search(problem, tuple(costs), pool_limit)
    if problem.num_blocks > SAMPLE_BLOCKS:
        reading = search.checked(everything, search.guess(everything))
    else:
        reading = search.read(everything)
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

    def guess(self, everything: KeyInterval) -> KeyInterval:
        """Return keys between which a sample says the boundary is; ``above`` is not known."""
        sampled = sample_keys(self.problem)
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
        shape = len(self.costs), RADIX_BINS
        local = torch.zeros(shape, dtype=torch.int64, device=self.problem.device)
        for index, row in enumerate(local):
            for _, keys in self._candidates(index, interval):
                row += torch.bincount(key_bins(keys, interval), minlength=RADIX_BINS)
        histogram = sum_over_ranks(local, self.problem.process_group)
        return narrowed(interval, histogram, self.costs, self.problem.budget)

    def read(self, interval: KeyInterval) -> _Reading:
        """Read all values: count what lies from the interval's low on, keep what is inside."""
        device, kept, held = self.problem.device, [], 0
        local = torch.zeros(2, len(self.costs), dtype=torch.int64, device=device)
        for index in range(len(self.costs)):
            for count, keys in self._candidates(index, interval):
                local[0, index] += count.long()
                local[1, index] += keys.numel()
                held += keys.numel()
                if held <= self.pool_limit and not interval.is_single:
                    kept.append((index, keys))
        total = sum_over_ranks(local, self.problem.process_group)
        at_least, inside = (tuple(row) for row in total.tolist())
        keep = sum(inside) <= self.pool_limit and not interval.is_single
        return _Reading(interval, at_least, inside, _joined(kept, device) if keep else None)

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


def _joined(kept: Sequence[tuple[int, Tensor]], device: torch.device) -> Pool:
    """Join the candidates of all chunks to one pool."""
    empty = torch.empty(0, dtype=torch.int64, device=device)
    keys = torch.cat([empty, *(keys for _, keys in kept)])
    sizes = torch.tensor([keys.numel() for _, keys in kept], dtype=torch.int64, device=device)
    origins = torch.tensor([index for index, _ in kept], dtype=torch.int64, device=device)
    return Pool(keys, origins.repeat_interleave(sizes))
