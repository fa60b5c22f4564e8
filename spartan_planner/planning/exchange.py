"""Exchanging last blocks between layers: what a prefix leaves over on coarse blocks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from spartan_planner.planning.candidates import Costs, SparseCandidate

_MAX_GIVEN = 3
"""Blocks that one layer gives up at a time."""
_MAX_EXCHANGES = 100


@dataclass(frozen=True)
class _Exchange:
    gain: float
    giver: int
    num_given: int
    taker: int
    num_taken: int
    slack: Costs


def exchanged(sparse: Sequence[SparseCandidate], counts: Sequence[int], slack: Costs) -> list[int]:
    """Return counts that retain no less, by letting one layer give up blocks for another's.

    Args:
        sparse: the sparse layers.
        counts: blocks that each keeps.
        slack: ``[budgets]``, what is left of every budget; not negative.
    """
    result, left = list(counts), slack
    for _ in range(_MAX_EXCHANGES):
        best = max(_improvements(sparse, result, left), key=lambda e: e.gain, default=None)
        if best is None:
            break
        result[best.giver] -= best.num_given
        result[best.taker] += best.num_taken
        left = best.slack
    return result


def _improvements(
    sparse: Sequence[SparseCandidate], counts: Sequence[int], slack: Costs
) -> Iterator[_Exchange]:
    for giver, number in enumerate(counts):
        room = number - sparse[giver].least.num_blocks
        for given in range(1, min(_MAX_GIVEN, room) + 1):
            freed, loss = _difference(sparse[giver], number - given, number)
            for taker, present in enumerate(counts):
                if taker != giver:
                    taken = _num_fitting(sparse[taker], present, slack + freed)
                    cost, gain = _difference(sparse[taker], present, present + taken)
                    if gain > loss * (1 + 1e-9):
                        left = slack + freed - cost
                        yield _Exchange(gain - loss, giver, given, taker, taken, left)


def _difference(candidate: SparseCandidate, fewer: int, more: int) -> tuple[Costs, float]:
    """Return cost and value of the blocks from ``fewer`` to ``more``."""
    low, high = candidate.curve.prefix(fewer), candidate.curve.prefix(more)
    return candidate.per_block * (high.size - low.size), high.value - low.value


def _num_fitting(candidate: SparseCandidate, present: int, slack: Costs) -> int:
    """Return how many further blocks fit; whole blocks first, a ragged one where that is next."""
    more = 0
    left = candidate.curve.num_blocks - present
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(candidate.per_block > 0, slack / candidate.per_block, np.inf)
    limit = float(np.min(ratios))
    more = int(min(left, max(0.0, np.floor(limit)))) if np.isfinite(limit) else left
    while more < left and np.all(_difference(candidate, present, present + more + 1)[0] <= slack):
        more += 1
    return more
