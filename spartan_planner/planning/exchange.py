"""Exchanging last blocks between layers: what a prefix leaves over on coarse blocks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spartan_planner.planning.candidates import Costs, SparseCandidate
from spartan_planner.planning.value_curves import ValueCurve

_MAX_GIVEN = 3
"""Blocks that one layer gives up at a time."""
_MAX_TAKEN = 16
"""Blocks that another takes for them."""
_MAX_EXCHANGES = 100
_LEAST_GAIN = 1e-9
"""Share of what is given up by which more must be gained."""

Figures = NDArray[np.float64]


def exchanged(sparse: Sequence[SparseCandidate], counts: Sequence[int], slack: Costs) -> list[int]:
    """Return counts that retain no less, by letting one layer give up blocks for another's.

    Args:
        sparse: the sparse layers.
        counts: blocks that each keeps.
        slack: ``[budgets]``, what is left of every budget; not negative.
    """
    result, left = list(counts), slack
    rows = [_rows(candidate, number) for candidate, number in zip(sparse, result, strict=True)]
    per_block = np.array([candidate.per_block for candidate in sparse])
    for _ in range(_MAX_EXCHANGES):
        best = _best_exchange(rows, per_block, left)
        if best is None:
            break
        giver, given, taker, taken = best
        freed = rows[giver].given_sizes[given] * per_block[giver]
        left = left + freed - rows[taker].taken_sizes[taken] * per_block[taker]
        result[giver] -= given + 1
        result[taker] += taken
        for index in (giver, taker):
            rows[index] = _rows(sparse[index], result[index])
    return result


@dataclass(frozen=True)
class _Rows:
    """What a layer could give up or take.

    Attributes:
        given_sizes, given_values: ``[_MAX_GIVEN]``, of one, two, ... given blocks; infinite where
            there are not so many.
        taken_sizes, taken_values: ``[1 + _MAX_TAKEN]``, of no, one, ... further blocks; sizes are
            infinite where there are not so many.
    """

    given_sizes: Figures
    given_values: Figures
    taken_sizes: Figures
    taken_values: Figures


def _rows(candidate: SparseCandidate, present: int) -> _Rows:
    first = max(candidate.least.num_blocks, present - _MAX_GIVEN)
    last = min(candidate.curve.num_blocks, present + _MAX_TAKEN)
    sizes, values = candidate.curve.prefixes(first, last)
    here = present - first
    given = [(sizes[here] - sizes[:here])[::-1], (values[here] - values[:here])[::-1]]
    taken = [sizes[here:] - sizes[here], values[here:] - values[here]]
    return _Rows(
        _padded(given[0], _MAX_GIVEN, np.inf),
        _padded(given[1], _MAX_GIVEN, np.inf),
        _padded(taken[0], 1 + _MAX_TAKEN, np.inf),
        _padded(taken[1], 1 + _MAX_TAKEN, 0.0),
    )


def _padded(figures: Figures, length: int, filling: float) -> Figures:
    padded = np.full(length, filling)
    padded[: figures.size] = figures
    return padded


def _best_exchange(
    rows: Sequence[_Rows], per_block: Figures, slack: Costs
) -> tuple[int, int, int, int] | None:
    """Return giver, index of what it gives, taker and number taken of the greatest gain."""
    sizes = np.array([row.given_sizes for row in rows])
    losses = np.array([row.given_values for row in rows]).reshape(-1)
    offers = np.flatnonzero(np.isfinite(losses))
    givers = offers // _MAX_GIVEN
    freed = sizes.reshape(-1)[offers, None] * per_block[givers]
    room = _room(slack + freed, per_block)
    taken_sizes = np.array([row.taken_sizes for row in rows])
    num_taken = (taken_sizes[None, :, 1:] <= room[:, :, None]).sum(axis=2)
    values = np.array([row.taken_values for row in rows])
    values = values[np.arange(len(rows)), num_taken]
    gains = np.where(
        values > losses[offers, None] * (1 + _LEAST_GAIN), values - losses[offers, None], 0.0
    )
    gains[np.arange(offers.size), givers] = 0.0
    if not gains.size or gains.max() <= 0.0:
        return None
    offer, taker = (int(place) for place in np.unravel_index(np.argmax(gains), gains.shape))
    index = int(offers[offer])
    return index // _MAX_GIVEN, index % _MAX_GIVEN, taker, int(num_taken[offer, taker])


def _room(left: Figures, per_block: Figures) -> Figures:
    """Return ``[offers, layers]``, the size that fits; what costs nothing limits nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(per_block > 0, left[:, None, :] / per_block, np.inf)
    room: Figures = ratios.min(axis=2)
    return room


def num_fitting(candidate: SparseCandidate, present: int, slack: Costs) -> int:
    """Return how many further blocks of a layer fit into what is left."""
    curve = candidate.curve
    pairs = zip(slack.tolist(), candidate.per_block.tolist(), strict=True)
    room = min((left / cost for left, cost in pairs if cost > 0), default=math.inf)
    left = curve.num_blocks - present
    # No block is larger than a whole one, so as many as whole ones fit.
    fits = left if room >= left else max(0, math.floor(room))
    if fits == left or not _has_room(curve, present, fits + 1, room):
        return fits
    fails = left + 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if _has_room(curve, present, middle, room):
            fits = middle
        else:
            fails = middle
    return fits


def _has_room(curve: ValueCurve, present: int, more: int, room: float) -> bool:
    return curve.prefix(present + more).size - curve.prefix(present).size <= room
