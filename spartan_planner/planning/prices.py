"""The prices of budgets: the dual of the planning problem (DESIGN 4.7, 4.8).

At prices ``lambda`` (one per budget, value per unit of cost) every layer takes the treatment with
the highest score

    sparse:  sum_b max(v_b - lambda.s size_b, 0) - lambda.fixed
    dense:   sum_b v_b - lambda.dense

and ``g(lambda) = sum of the best scores + lambda.budget`` bounds the value of every choice within
the budgets from above.  ``g`` is convex; its least value gives the prices and the tightest bound.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from spartan_planner.planning.candidates import Costs, SparseCandidate
from spartan_planner.planning.price_table import PriceTable, Scores
from spartan_planner.planning.value_curves import Prefix

_NUM_CUTS = 80
_RELATIVE_GAP = 1e-6
"""The prices are near enough when no others could lower the bound by more than this share."""
_GREATEST_MULTIPLE = 1e15
"""Beyond this multiple of value per cost every treatment is as cheap as it can be."""
_NEAR = 1.25
"""Factor by which prices of neighbouring budgets are expected to differ at most."""
_NUM_BISECTIONS = 1100
"""Bisections end where two doubles have none between them, after some sixty of them."""
_LEAST_SHARE = 1e-6
"""Share of the price that a budget without a price of its own gets, so that it orders blocks that
cost nothing else."""


@dataclass(frozen=True)
class Treatment:
    """One thing that can become of a layer at given prices.

    Attributes:
        candidate: the layout, or ``None`` where the layer stays dense.
        kept: what is kept; ``None`` where the layer stays dense.
        cost: ``[budgets]``.
        value: what it retains.
        score: value less the price of its cost.
    """

    candidate: SparseCandidate | None
    kept: Prefix | None
    cost: Costs
    value: float
    score: float


@dataclass(frozen=True)
class Priced:
    """All layers at given prices.

    Attributes:
        prices: ``[budgets]``.
        best: for each layer the treatment with the highest score; ties go to the cheaper.
        others: for each layer the treatments that were not chosen.
    """

    prices: Costs
    best: tuple[Treatment, ...]
    others: tuple[tuple[Treatment, ...], ...]


def at_prices(table: PriceTable, prices: Costs) -> Priced:
    """Score every treatment of every layer."""
    scores = table.at(prices)
    ends = np.append(table.starts[1:], len(table.treatments))
    best, others = [], []
    for start, end, chosen in zip(table.starts, ends, scores.best, strict=True):
        best.append(_treatment(table, scores, int(chosen)))
        rest = [index for index in range(start, end) if index != chosen]
        others.append(tuple(_treatment(table, scores, index) for index in rest))
    return Priced(prices, tuple(best), tuple(others))


def _treatment(table: PriceTable, scores: Scores, index: int) -> Treatment:
    return Treatment(
        table.treatments[index],
        table.kept(scores, index),
        scores.costs[index],
        float(scores.values[index]),
        float(scores.scores[index]),
    )


def _bound(scores: Scores, prices: Costs, budgets: Costs) -> float:
    return float(scores.scores[scores.best].sum() + (prices * budgets).sum())


def find_prices(
    table: PriceTable, budgets: Costs, hint: Costs | None = None
) -> tuple[Priced, float] | None:
    """Return the layers at prices that meet every budget, and the least upper bound found.

    The prices are a multiple of the ones that minimise the bound, the least at which the chosen
    treatments meet all budgets; ``None`` where no multiple does.

    Args:
        table: the treatments of all layers.
        budgets: ``[budgets]``.
        hint: ``[budgets]``, prices near which to look first; what is found does not depend on them.
    """
    free = table.at(np.zeros_like(budgets))
    if np.all(free.cost <= budgets):
        return at_prices(table, np.zeros_like(budgets)), _bound(free, 0.0 * budgets, budgets)
    direction, bound = _direction(table, budgets)
    prices = _least_multiple(table, direction, budgets, hint)
    if prices is None:
        return None
    return at_prices(table, prices), min(bound, _bound(table.at(prices), prices, budgets))


def _direction(table: PriceTable, budgets: Costs) -> tuple[Costs, float]:
    if budgets.size == 1:
        return np.ones(1), np.inf
    prices, bound = _cutting_planes(table, budgets)
    worth = prices * budgets
    return np.maximum(worth, _LEAST_SHARE * max(float(worth.sum()), 1e-300)) / budgets, bound


def _cutting_planes(table: PriceTable, budgets: Costs) -> tuple[Costs, float]:
    """Minimise the bound by Kelley's method, in prices of whole budgets."""
    limit = 1e3 * max(sum(layer.value for layer in table.layers), 1e-300)
    slopes, heights = [], []
    worth, best, best_bound = np.zeros_like(budgets), np.zeros_like(budgets), np.inf
    for _ in range(_NUM_CUTS):
        scores = table.at(worth / budgets)
        bound = _bound(scores, worth / budgets, budgets)
        slope = 1.0 - scores.cost / budgets
        slopes.append(slope)
        heights.append(bound - float((slope * worth).sum()))
        if bound < best_bound:
            best, best_bound = worth, bound
        worth, floor = _lowest_cut(np.array(slopes), np.array(heights), limit)
        if best_bound - floor <= _RELATIVE_GAP * max(abs(best_bound), 1e-300):
            break
    return best / budgets, best_bound


def _lowest_cut(
    slopes: NDArray[np.float64], heights: NDArray[np.float64], limit: float
) -> tuple[Costs, float]:
    """Minimise the greatest of the cuts ``height + slope.x`` over ``0 <= x <= limit``."""
    num = slopes.shape[1]
    scale = float(np.max(np.abs(heights))) or 1.0
    result = linprog(
        np.append(np.zeros(num), 1.0),
        A_ub=np.hstack([slopes, -np.ones((len(slopes), 1))]),
        b_ub=-heights / scale,
        bounds=[(0.0, limit / scale)] * num + [(None, None)],
        method="highs",
    )
    # Cuts over a box always have a lowest point.
    assert result.x is not None
    assert result.fun is not None
    point: NDArray[np.float64] = result.x[:num] * scale
    return point, float(result.fun) * scale


def _least_multiple(
    table: PriceTable, direction: Costs, budgets: Costs, hint: Costs | None
) -> Costs | None:
    value = sum(layer.value for layer in table.layers)
    spent = float((direction * np.sum([layer.dense for layer in table.layers], axis=0)).sum())
    start = value / spent if value > 0 and spent > 0 else 1.0

    def fits(multiple: float) -> bool:
        return bool(np.all(table.at(multiple * direction).cost <= budgets))

    low, high = _bracket(fits, start, _hinted(direction, hint))
    if not np.isfinite(high):
        return None
    for _ in range(_NUM_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high * direction


def _hinted(direction: Costs, hint: Costs | None) -> float:
    return 0.0 if hint is None else float(np.max(hint / direction))


def _bracket(fits: Callable[[float], bool], start: float, hint: float) -> tuple[float, float]:
    """Return a multiple that costs too much and one that fits; infinity where none does."""
    if hint > 0 and fits(hint * _NEAR):
        below = hint / _NEAR
        return (0.0, below) if fits(below) else (below, hint * _NEAR)
    low, high = 0.0, start
    while not fits(high):
        low, high = high, high * 2
        if high > _GREATEST_MULTIPLE * start:
            return low, np.inf
    return low, high
