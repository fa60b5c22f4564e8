"""Keeping blocks under fixed treatments: the order of value per price, while the budgets last."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spartan_planner.planning.candidates import Costs, LayerCandidates, SparseCandidate
from spartan_planner.planning.exchange import exchanged

_NUM_BISECTIONS = 100
_GREATEST_MULTIPLE = 1e15
"""Beyond this multiple of its price no block is worth keeping."""


@dataclass(frozen=True)
class Filled:
    """How many blocks each layer keeps.

    Attributes:
        num_kept: for each layer; ``None`` where it stays dense.
        cost: ``[budgets]``, of all layers.
        value: what all layers retain.
    """

    num_kept: tuple[int | None, ...]
    cost: Costs
    value: float


def fill(
    layers: Sequence[LayerCandidates],
    chosen: Sequence[SparseCandidate | None],
    prices: Costs,
    budgets: Costs,
    *,
    with_exchange: bool = False,
) -> Filled | None:
    """Keep the longest prefix of the blocks, ordered by value per price, within every budget.

    Then whatever later blocks still fit.  Every sparse layer keeps its least.

    Args:
        layers: the layers.
        chosen: for each the layout, or ``None`` where it stays dense.
        prices: ``[budgets]``; they order the blocks.
        budgets: ``[budgets]``.
        with_exchange: whether layers then exchange last blocks.

    Returns:
        What is kept, or ``None`` where even the least is too much.
    """
    sparse = [candidate for candidate in chosen if candidate is not None]
    base = _sum(
        [layer.dense for layer, c in zip(layers, chosen, strict=True) if c is None]
        + [candidate.fixed for candidate in sparse],
        budgets,
    )
    if np.any(base > budgets):
        return None
    filling = _Filling(sparse, prices, budgets - base)
    counts = filling.counts() if sparse else []
    if counts is None:
        return None
    if with_exchange:
        counts = exchanged(sparse, counts, filling.slack(counts))
    return _filled(layers, chosen, counts)


def _filled(
    layers: Sequence[LayerCandidates],
    chosen: Sequence[SparseCandidate | None],
    counts: Sequence[int],
) -> Filled:
    remaining = iter(counts)
    num_kept = tuple(None if candidate is None else next(remaining) for candidate in chosen)
    costs, value = [], 0.0
    for layer, candidate, number in zip(layers, chosen, num_kept, strict=True):
        if candidate is None or number is None:
            costs.append(layer.dense)
            value += layer.value
        else:
            kept = candidate.curve.prefix(number)
            costs.append(candidate.cost(kept.size))
            value += kept.value
    return Filled(num_kept, np.sum(costs, axis=0), value)


def _sum(costs: Sequence[Costs], like: Costs) -> Costs:
    total: NDArray[np.float64] = np.sum([np.zeros_like(like), *costs], axis=0)
    return total


@dataclass(frozen=True)
class _Filling:
    """Sparse layers that compete for what the budgets leave."""

    sparse: Sequence[SparseCandidate]
    prices: Costs
    budgets: Costs

    def counts(self) -> list[int] | None:
        """Return how many blocks each layer keeps."""
        least = [candidate.least.num_blocks for candidate in self.sparse]
        if not self._fits(least):
            return None
        everything = [candidate.curve.num_blocks for candidate in self.sparse]
        if self._fits(everything):
            return everything
        low, high = 0.0, 1.0
        while not self._fits(self._counts_at(high)):
            low, high = high, high * 2
            if high > _GREATEST_MULTIPLE:
                return self._completed(least)
        for _ in range(_NUM_BISECTIONS):
            middle = (low + high) / 2
            if middle in (low, high):
                break
            low, high = (low, middle) if self._fits(self._counts_at(middle)) else (middle, high)
        return self._completed(self._counts_at(high))

    def slack(self, counts: Sequence[int]) -> Costs:
        """Return what is left of the budgets."""
        return self.budgets - self._cost(counts)

    def _counts_at(self, multiple: float) -> list[int]:
        """Blocks whose value per whole block is above that multiple of their price."""
        counts = []
        for candidate in self.sparse:
            price = multiple * float(self.prices @ candidate.per_block)
            index = candidate.curve.num_bins_above(price)
            number = int(candidate.curve.cumulative_counts[index])
            counts.append(max(number, candidate.least.num_blocks))
        return counts

    def _cost(self, counts: Sequence[int]) -> Costs:
        costs = [
            candidate.per_block * candidate.curve.prefix(number).size
            for candidate, number in zip(self.sparse, counts, strict=True)
        ]
        return _sum(costs, self.budgets)

    def _fits(self, counts: Sequence[int]) -> bool:
        return bool(np.all(self._cost(counts) <= self.budgets))

    def _completed(self, counts: list[int]) -> list[int]:
        """Add the blocks that come next, layer by layer, as many as still fit."""
        order = sorted(range(len(counts)), key=lambda i: -self._next_ratio(i, counts[i]))
        for index in order:
            counts[index] += self._num_more(index, counts)
        return counts

    def _next_ratio(self, index: int, number: int) -> float:
        candidate = self.sparse[index]
        curve = candidate.curve
        if number >= curve.num_blocks:
            return -np.inf
        place = int(np.searchsorted(curve.cumulative_counts, number, side="right")) - 1
        price = float(self.prices @ candidate.per_block)
        return float(curve.ratios[place]) / price if price > 0 else np.inf

    def _num_more(self, index: int, counts: list[int]) -> int:
        """Greatest number of further blocks of one layer that fits, by bisection."""
        fits, fails = 0, self.sparse[index].curve.num_blocks - counts[index] + 1
        while fails - fits > 1:
            middle = (fits + fails) // 2
            trial = [*counts[:index], counts[index] + middle, *counts[index + 1 :]]
            fits, fails = (middle, fails) if self._fits(trial) else (fits, middle)
        return fits
