"""Counts of channels under budgets: the cheapest value goes first, at its true marginal cost.

Costs of channels are bilinear and rise in vector steps, so that no price settles them in one go.
Instead, from the whole model, the step that gives up least value per cost saved goes, every
marginal being looked at anew, until every budget holds (DESIGN 4.9: linearise, select, repeat).
Then whatever still fits is put back, and pairs of groups exchange steps while that gains value.
Nothing here knows weights or devices: :class:`Terms` tells values and true costs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spartan_planner.errors import InfeasibleBudgetError
from spartan_planner.planning.candidates import Costs
from spartan_planner.planning.channel_terms import Figures, Levels, Terms

_JUMPS = (1, 2, 4, 8, 16)
"""Steps that a group may go at once: one step alone may save nothing on a plateau of the cost."""

_EXCHANGES = (1, 2, 4)
"""Steps that either of two groups may go in an exchange."""

_MAX_EXCHANGES = 200
_LEAST_GAIN = 1e-6
"""Share of the value below which no further exchange is worth its time."""

_NO_LOSS = 1e-300


@dataclass(frozen=True)
class Found:
    """Levels within the budgets.

    Attributes:
        levels: of every group.
        value: that they retain.
        cost: ``[budgets]``.
    """

    levels: Levels
    value: float
    cost: Costs


@dataclass(frozen=True)
class _Step:
    """One group on its way to another level."""

    group: int
    level: int
    value: float
    cost: Costs


def search(terms: Terms, tops: Sequence[int], limits: Costs) -> Found:
    """Return levels that retain much value within the limits.

    Args:
        terms: value and cost.
        tops: ``[groups]``, the greatest level of each; the least is 0.
        limits: ``[budgets]``.

    Raises:
        InfeasibleBudgetError: even the least levels cost more.
    """
    bottom = (0,) * len(tops)
    starts = [_shrunk(terms, tops, _start(terms, tuple(tops)), limits)]
    least = _start(terms, bottom)
    if np.all(least.cost <= limits):
        starts.append(least)
    found = [
        _exchanged(terms, tops, _filled(terms, tops, start, limits), limits)
        for start in starts
        if start is not None
    ]
    if not found:
        raise InfeasibleBudgetError("even the least number of channels costs more")
    best = max(found, key=lambda item: item.value)
    return _start(terms, best.levels)


def _start(terms: Terms, levels: Levels) -> Found:
    return Found(levels, *terms.total(levels))


class _Steps:
    """The steps that every group may take from a state; those of a change's neighbours anew."""

    def __init__(self, terms: Terms, jumps: Sequence[int], tops: Sequence[int]) -> None:
        self._terms, self._jumps, self._tops = terms, jumps, tops
        self._known: dict[int, list[_Step]] = {}

    def of(self, levels: Levels) -> list[_Step]:
        """Return all steps from these levels."""
        for group, top in enumerate(self._tops):
            if group not in self._known:
                self._known[group] = list(_steps(self._terms, levels, group, self._jumps, top))
        return [step for group in range(len(self._tops)) for step in self._known[group]]

    def forget(self, changed: int) -> None:
        """Forget what a change of one group makes wrong."""
        for group in self._terms.shared[changed] | {changed}:
            self._known.pop(group, None)


def _shrunk(terms: Terms, tops: Sequence[int], state: Found, limits: Costs) -> Found | None:
    """Give up the value that is cheapest per cost until every limit holds."""
    known = _Steps(terms, [-jump for jump in _JUMPS], tops)
    while np.any(state.cost > limits):
        steps = known.of(state.levels)
        losses = _losses_per_saving(steps, np.maximum(state.cost - limits, 0.0))
        if not steps or losses.min() == np.inf:
            return None
        chosen = steps[int(np.argmin(losses))]
        cost = state.cost + chosen.cost
        state = Found(_moved(state.levels, chosen), state.value + chosen.value, cost)
        known.forget(chosen.group)
        if np.all(cost <= limits):
            # Summed anew, lest many small changes add up to a wrong total.
            state = _start(terms, state.levels)
    return state


def _losses_per_saving(steps: Sequence[_Step], excess: Costs) -> NDArray[np.float64]:
    """Value lost per share of the excess that is saved; saving beyond the excess counts nothing."""
    if not steps:
        return np.zeros(0)
    over = excess > 0
    saved = np.minimum(-_costs(steps)[:, over], excess[over]) / excess[over]
    total = saved.sum(axis=1)
    losses = np.maximum(-_values(steps), _NO_LOSS)
    return np.where(total > 0, losses / np.where(total > 0, total, 1.0), np.inf)


def _filled(terms: Terms, tops: Sequence[int], state: Found, limits: Costs) -> Found:
    """Put back what fits, the most value per cost first, until nothing fits."""
    known = _Steps(terms, _JUMPS, tops)
    while True:
        steps = known.of(state.levels)
        if not steps:
            return state
        rates = _gains_per_room(steps, state.cost, limits)
        if rates.max() <= 0:
            return state
        chosen = steps[int(np.argmax(rates))]
        state = _applied(terms, state, chosen)
        known.forget(chosen.group)


def _gains_per_room(steps: Sequence[_Step], cost: Costs, limits: Costs) -> NDArray[np.float64]:
    """Value gained per share of the room that is taken; nothing for steps that do not fit."""
    values, costs = _values(steps), _costs(steps)
    room = np.maximum(limits - cost, _NO_LOSS)
    taken = np.max(costs / room, axis=1)
    rates = np.where(taken > 0, values / np.where(taken > 0, taken, 1.0), np.inf)
    fits = np.all(cost + costs <= limits, axis=1) & (values > 0)
    return np.where(fits, rates, 0.0)


def _exchanged(terms: Terms, tops: Sequence[int], state: Found, limits: Costs) -> Found:
    """Let pairs of groups exchange steps, the pair that gains most first, until none gains."""
    for _ in range(_MAX_EXCHANGES):
        better = _best_pair(terms, tops, state, limits)
        if better is None:
            return state
        state = _filled(terms, tops, _start(terms, better), limits)
    return state


def _best_pair(terms: Terms, tops: Sequence[int], state: Found, limits: Costs) -> Levels | None:
    downs = _all_steps(terms, state.levels, [-step for step in _EXCHANGES], tops)
    ups = _all_steps(terms, state.levels, _EXCHANGES, tops)
    if not downs or not ups:
        return None
    # In one go for the pairs that have no term in common, the others one by one.
    gains = _values(downs)[:, None] + _values(ups)[None, :]
    costs = _costs(downs)[:, None, :] + _costs(ups)[None, :, :]
    for i, down in enumerate(downs):
        for j, up in enumerate(ups):
            if up.group == down.group:
                gains[i, j] = -np.inf
            elif up.group in terms.shared[down.group]:
                levels = _moved(state.levels, down)
                value, cost = terms.change(levels, up.group, up.level)
                gains[i, j], costs[i, j] = down.value + value, down.cost + cost
    gains[np.any(state.cost + costs > limits, axis=2)] = -np.inf
    i, j = divmod(int(np.argmax(gains)), len(ups))
    if gains[i, j] <= _LEAST_GAIN * abs(state.value):
        return None
    return _moved(_moved(state.levels, downs[i]), ups[j])


def _all_steps(
    terms: Terms, levels: Levels, jumps: Sequence[int], tops: Sequence[int]
) -> list[_Step]:
    return [
        step
        for group in range(terms.num_groups)
        for step in _steps(terms, levels, group, jumps, tops[group])
    ]


def _steps(
    terms: Terms, levels: Levels, group: int, jumps: Sequence[int], top: int
) -> Iterator[_Step]:
    """The steps of one group; beyond its ends it goes as far as it can."""
    now, seen = levels[group], set[int]()
    for jump in jumps:
        level = min(max(0, now + jump), top)
        if level == now or level in seen:
            continue
        seen.add(level)
        yield _Step(group, level, *terms.change(levels, group, level))


def _applied(terms: Terms, state: Found, step: _Step) -> Found:
    # Summed anew: what is filled up to a limit may not be over it by rounding.
    return _start(terms, _moved(state.levels, step))


def _moved(levels: Levels, step: _Step) -> Levels:
    return (*levels[: step.group], step.level, *levels[step.group + 1 :])


def _values(steps: Sequence[_Step]) -> NDArray[np.float64]:
    return np.array([step.value for step in steps])


def _costs(steps: Sequence[_Step]) -> NDArray[np.float64]:
    return np.array([step.cost for step in steps])


def marginals(
    terms: Terms, levels: Levels, tops: Sequence[int]
) -> list[tuple[Figures | None, Figures | None]]:
    """Return for each group value and cost of its last step kept and of the next one not kept."""
    result = []
    for group, (level, top) in enumerate(zip(levels, tops, strict=True)):
        down = terms.change(levels, group, level - 1) if level else None
        up = terms.change(levels, group, level + 1) if level < top else None
        result.append((None if down is None else (-down[0], -down[1]), up))
    return result
