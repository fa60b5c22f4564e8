"""Keeping blocks under fixed treatments: the order of value per price, while the budgets last."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spartan_planner.planning.candidates import Costs, LayerCandidates, SparseCandidate
from spartan_planner.planning.exchange import exchanged, num_fitting
from spartan_planner.planning.value_curves import Prefix

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
    floor: float = -math.inf,
) -> Filled | None:
    """Keep the longest prefix of the blocks, ordered by value per price, within every budget.

    Then whatever later blocks still fit.  Every sparse layer keeps its least.

    Args:
        layers: the layers.
        chosen: for each the layout, or ``None`` where it stays dense.
        prices: ``[budgets]``; they order the blocks.
        budgets: ``[budgets]``.
        with_exchange: whether layers then exchange last blocks.
        floor: a value that something else retains already.

    Returns:
        What is kept, or ``None`` where even the least is too much, or where no choice under these
        treatments retains more than ``floor``.
    """
    sparse = [candidate for candidate in chosen if candidate is not None]
    base = _sum(
        [layer.dense for layer, c in zip(layers, chosen, strict=True) if c is None]
        + [candidate.fixed for candidate in sparse],
        budgets,
    )
    if np.any(base > budgets):
        return None
    dense = sum(layer.value for layer, c in zip(layers, chosen, strict=True) if c is None)
    filling = _Filling(sparse, prices, budgets - base, floor - dense)
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
    floor: float

    def counts(self) -> list[int] | None:
        """Return how many blocks each layer keeps; ``None`` as ``fill``."""
        least = [candidate.least for candidate in self.sparse]
        if not self._fits(least):
            return None
        everything = [c.curve.prefix(c.curve.num_blocks) for c in self.sparse]
        if self._fits(everything):
            return [kept.num_blocks for kept in everything]
        low, high, more, kept = 0.0, 1.0, everything, self._kept_at(1.0)
        if self._is_below_floor(kept, high):
            return None
        while not self._fits(kept):
            low, high, more = high, high * 2, kept
            if high > _GREATEST_MULTIPLE:
                return self._completed(least)
            kept = self._kept_at(high)
        for _ in range(_NUM_BISECTIONS):
            middle = (low + high) / 2
            if middle in (low, high) or self._are_neighbours(kept, more):
                break
            trial = self._kept_at(middle)
            if self._is_below_floor(trial, middle):
                return None
            if self._fits(trial):
                high, kept = middle, trial
            else:
                low, more = middle, trial
        return None if self._is_below_floor(kept, high) else self._completed(kept)

    def _is_below_floor(self, kept: Sequence[Prefix], multiple: float) -> bool:
        """Whether no choice retains more than the floor.

        By weak duality none is worth more than what is kept at any multiple of the prices, and the
        price of what that leaves.
        """
        if math.isinf(self.floor):
            return False
        left = float((self.prices * (self.budgets - self._cost(kept))).sum())
        return sum(item.value for item in kept) + multiple * left <= self.floor

    def slack(self, counts: Sequence[int]) -> Costs:
        """Return what is left of the budgets."""
        kept = [c.curve.prefix(n) for c, n in zip(self.sparse, counts, strict=True)]
        return self.budgets - self._cost(kept)

    @cached_property
    def _per_block(self) -> NDArray[np.float64]:
        return np.array([candidate.per_block for candidate in self.sparse])

    @cached_property
    def _block_prices(self) -> list[float]:
        prices: list[float] = (self._per_block * self.prices).sum(axis=1).tolist()
        return prices

    def _kept_at(self, multiple: float) -> list[Prefix]:
        """Blocks whose value per whole block is above that multiple of their price."""
        found = []
        for candidate, price in zip(self.sparse, self._block_prices, strict=True):
            kept, least = candidate.curve.above(multiple * price), candidate.least
            found.append(kept if kept.num_blocks > least.num_blocks else least)
        return found

    def _are_neighbours(self, fewer: Sequence[Prefix], more: Sequence[Prefix]) -> bool:
        """Whether they differ in one bin of one layer, so that there is nothing in between."""
        pairs = enumerate(zip(fewer, more, strict=True))
        different = [index for index, (one, other) in pairs if one.num_blocks != other.num_blocks]
        if len(different) != 1:
            return False
        (index,) = different
        curve = self.sparse[index].curve
        first, last = (curve.bin_of(kept[index].num_blocks) for kept in (fewer, more))
        return last - first <= 1

    def _cost(self, kept: Sequence[Prefix]) -> Costs:
        sizes = np.array([item.size for item in kept])
        total: Costs = (self._per_block * sizes[:, None]).sum(axis=0)
        return total

    def _fits(self, kept: Sequence[Prefix]) -> bool:
        return bool(np.all(self._cost(kept) <= self.budgets))

    def _completed(self, kept: Sequence[Prefix]) -> list[int]:
        """Add the blocks that come next, layer by layer, as many as still fit."""
        counts = [item.num_blocks for item in kept]
        order = sorted(range(len(counts)), key=lambda i: -self._next_ratio(i, counts[i]))
        left = self.budgets - self._cost(kept)
        for index in order:
            more = num_fitting(self.sparse[index], counts[index], left)
            if more:
                curve = self.sparse[index].curve
                added = curve.prefix(counts[index] + more).size - curve.prefix(counts[index]).size
                left = left - self.sparse[index].per_block * added
                counts[index] += more
        return counts

    def _next_ratio(self, index: int, number: int) -> float:
        curve, price = self.sparse[index].curve, self._block_prices[index]
        if number >= curve.num_blocks:
            return -np.inf
        ratio = -curve.rising[curve.bin_of(number)]
        return ratio / price if price > 0 else np.inf
