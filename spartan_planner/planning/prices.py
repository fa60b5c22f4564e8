"""The prices of budgets: the dual of the planning problem (DESIGN 4.7, 4.8).

At prices ``lambda`` (one per budget, value per unit of cost) every layer takes the treatment with
the highest score

    sparse:  sum_b max(v_b - lambda.s size_b, 0) - lambda.fixed
    dense:   sum_b v_b - lambda.dense

and ``g(lambda) = sum of the best scores + lambda.budget`` bounds the value of every choice within
the budgets from above.  ``g`` is convex; its least value gives the prices and the tightest bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from spartan_planner.planning.candidates import Costs, LayerCandidates, SparseCandidate
from spartan_planner.planning.value_curves import Prefix

_NUM_BISECTIONS = 80
_NUM_CUTS = 80
_RELATIVE_GAP = 1e-6
"""The prices are near enough when no others could lower the bound by more than this share."""
_GREATEST_MULTIPLE = 1e15
"""Beyond this multiple of value per cost every treatment is as cheap as it can be."""
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

    @property
    def cost(self) -> Costs:
        """``[budgets]``, cost of the best treatments."""
        total: Costs = np.sum([t.cost for t in self.best], axis=0)
        return total

    def bound(self, budgets: Costs) -> float:
        """Return ``g``: no choice within the budgets retains more."""
        return float(sum(t.score for t in self.best) + self.prices @ budgets)


def at_prices(layers: Sequence[LayerCandidates], prices: Costs) -> Priced:
    """Score every treatment of every layer."""
    best, others = [], []
    for layer in layers:
        treatments = [_dense(layer, prices), *(_sparse(c, prices) for c in layer.sparse)]
        chosen = max(treatments, key=lambda t: (t.score, -float(prices @ t.cost), -t.cost.sum()))
        best.append(chosen)
        others.append(tuple(t for t in treatments if t is not chosen))
    return Priced(prices, tuple(best), tuple(others))


def _dense(layer: LayerCandidates, prices: Costs) -> Treatment:
    score = layer.value - float(prices @ layer.dense)
    return Treatment(None, None, layer.dense, layer.value, score)


def _sparse(candidate: SparseCandidate, prices: Costs) -> Treatment:
    curve = candidate.curve
    index = curve.num_bins_above(float(prices @ candidate.per_block))
    kept = Prefix(
        int(curve.cumulative_counts[index]),
        float(curve.cumulative_sizes[index]),
        float(curve.cumulative_values[index]),
    )
    least = candidate.least
    if kept.num_blocks < least.num_blocks:
        kept = least
    cost = candidate.cost(kept.size)
    return Treatment(candidate, kept, cost, kept.value, kept.value - float(prices @ cost))


def find_prices(layers: Sequence[LayerCandidates], budgets: Costs) -> tuple[Priced, float] | None:
    """Return the layers at prices that meet every budget, and the least upper bound found.

    The prices are a multiple of the ones that minimise the bound, the least at which the chosen
    treatments meet all budgets; ``None`` where no multiple does.
    """
    free = at_prices(layers, np.zeros_like(budgets))
    if np.all(free.cost <= budgets):
        return free, free.bound(budgets)
    direction, bound = _direction(layers, budgets)
    priced = _least_multiple(layers, direction, budgets)
    return None if priced is None else (priced, min(bound, priced.bound(budgets)))


def _direction(layers: Sequence[LayerCandidates], budgets: Costs) -> tuple[Costs, float]:
    if budgets.size == 1:
        return np.ones(1), np.inf
    prices, bound = _cutting_planes(layers, budgets)
    worth = prices * budgets
    return np.maximum(worth, _LEAST_SHARE * max(float(worth.sum()), 1e-300)) / budgets, bound


def _cutting_planes(layers: Sequence[LayerCandidates], budgets: Costs) -> tuple[Costs, float]:
    """Minimise the bound by Kelley's method, in prices of whole budgets."""
    limit = 1e3 * max(sum(layer.value for layer in layers), 1e-300)
    slopes, heights = [], []
    worth, best, best_bound = np.zeros_like(budgets), np.zeros_like(budgets), np.inf
    for _ in range(_NUM_CUTS):
        priced = at_prices(layers, worth / budgets)
        bound = priced.bound(budgets)
        slope = 1.0 - priced.cost / budgets
        slopes.append(slope)
        heights.append(bound - float(slope @ worth))
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
    layers: Sequence[LayerCandidates], direction: Costs, budgets: Costs
) -> Priced | None:
    value = sum(layer.value for layer in layers)
    spent = float(direction @ np.sum([layer.dense for layer in layers], axis=0))
    start = value / spent if value > 0 and spent > 0 else 1.0
    low, high = 0.0, start
    priced = at_prices(layers, high * direction)
    while not np.all(priced.cost <= budgets):
        low, high = high, high * 2
        if high > _GREATEST_MULTIPLE * start:
            return None
        priced = at_prices(layers, high * direction)
    for _ in range(_NUM_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        trial = at_prices(layers, middle * direction)
        if np.all(trial.cost <= budgets):
            high, priced = middle, trial
        else:
            low = middle
    return priced
