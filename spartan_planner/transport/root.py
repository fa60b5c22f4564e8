"""The root of the budget equation in one scalar, the price (DESIGN 4.1).

Pure functions of numbers: whoever calls says how the sums over the blocks are evaluated.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from spartan_planner.transport.results import Price


@dataclass(frozen=True)
class Sums:
    """What one read of the values tells about F at a price, costs c normalised by their mean.

    ``mass`` = sum c m, ``spread`` = sum c m (1 - m) = -F', ``skew`` = sum c m (1 - m)(1 - 2 m)
    = F'', the derivatives with respect to the logit offset.
    """

    mass: float
    spread: float
    skew: float


@dataclass(frozen=True)
class RootProblem:
    """F(price) = budget, with F falling from ``total`` to 0 and ``0 < budget < total``.

    ``bracket`` holds two prices, low and high, between which the root lies.
    """

    evaluate: Callable[[Price], Sums]
    total: float
    budget: float
    beta: float
    bracket: tuple[float, float]


@dataclass(frozen=True)
class Root:
    """A price, the reads it took, and the relative budget error.

    ``verified`` says that the error was measured at this very price and is within tolerance;
    otherwise the error is that of the last price that was evaluated.
    """

    price: Price
    num_iterations: int
    relative_budget_error: float
    verified: bool


# Beyond this offset the anchor is moved: rounding in beta (z - anchor) - offset then stays
# below 1e3 * 2**-53 in logits.
_REANCHOR_LOGITS = 1.0e3
# Newton on the logit scale must at least halve the mismatch, or bisection takes over.
_REQUIRED_PROGRESS = 0.5


def logit_mismatch(mass: float, budget: float, total: float) -> float:
    """Return ``logit(mass / total) - logit(budget / total)``, +-inf at the two ends.

    On this scale F is almost a straight line in the price (exactly one when all z are equal),
    which is why Newton needs so few steps.
    """
    if mass <= 0.0:
        return -math.inf
    if mass >= total:
        return math.inf
    return _log_ratio(mass, budget) - _log_ratio(total - mass, total - budget)


def _log_ratio(part: float, whole: float) -> float:
    """Return log(part / whole), with all digits when the two are close."""
    excess = (part - whole) / whole
    return math.log1p(excess) if abs(excess) < 0.5 else math.log(part) - math.log(whole)


def logit_step(sums: Sums, budget: float, total: float) -> float:
    """Return Halley's step of the logit offset, NaN where the slope says nothing.

    With phi = logit(F / total) - logit(budget / total) and R = total - F:
    phi' = -spread (1/F + 1/R),  phi'' = skew (1/F + 1/R) + spread**2 (1/R**2 - 1/F**2).
    """
    mass, rest = sums.mass, total - sums.mass
    if not (mass > 0.0 and rest > 0.0 and sums.spread > 0.0):
        return math.nan
    mismatch = logit_mismatch(mass, budget, total)
    kept, dropped = sums.spread / mass, sums.spread / rest
    first = -(kept + dropped)
    second = sums.skew / mass + sums.skew / rest + dropped * dropped - kept * kept
    newton = -mismatch / first
    curved = 2.0 * first * first - mismatch * second
    # Halley only bends the step; where it would more than double or reverse it, Newton is safer.
    halley = -2.0 * mismatch * first / curved if curved > first * first else newton
    return halley if math.isfinite(halley) else math.nan


def _moved_anchor(price: Price, low: float, high: float, beta: float) -> tuple[Price, float, float]:
    """Move the anchor to the price itself when the offset has grown large; shift the bracket."""
    anchor = price.value(beta)
    if abs(price.offset) <= _REANCHOR_LOGITS or anchor == price.anchor:
        return price, low, high
    shift = beta * (anchor - price.anchor)
    return Price(anchor, price.offset - shift), low - shift, high - shift


def find_root(
    problem: RootProblem, start: float, tolerance: float, limit: int, trust: float = 0.0
) -> Root:
    """Solve F = budget by Halley's iteration on the logit scale inside a shrinking bracket.

    ``start`` is a price (clamped into the bracket).  Stops when ``|F - budget| <= tolerance *
    budget``, or after ``limit`` evaluations.  With ``trust > 0`` a step from a logit mismatch
    below ``trust`` is handed back unverified: the cubic convergence makes it good, and the caller
    measures the error with the read that it has to do anyway.
    """
    beta, budget, total = problem.beta, problem.budget, problem.total
    anchor = min(max(start, problem.bracket[0]), problem.bracket[1])
    low, high = (beta * (edge - anchor) for edge in problem.bracket)
    price, previous, error = Price(anchor), math.inf, math.inf
    for iteration in range(1, limit + 1):
        sums = problem.evaluate(price)
        error = (sums.mass - budget) / budget
        if abs(error) <= tolerance:
            return Root(price, iteration, abs(error), verified=True)
        low, high = (price.offset, high) if error > 0.0 else (low, price.offset)
        mismatch = abs(logit_mismatch(sums.mass, budget, total))
        offset = price.offset + logit_step(sums, budget, total)
        stalled = mismatch > _REQUIRED_PROGRESS * previous
        if not low < offset < high or stalled:
            offset = 0.5 * (low + high)
        previous = math.inf if stalled else mismatch
        price, low, high = _moved_anchor(Price(price.anchor, offset), low, high, beta)
        if mismatch <= trust:
            return Root(price, iteration, abs(error), verified=False)
    return Root(price, limit, abs(error), verified=False)


def price_bracket(
    extremes: tuple[float, float], budget: float, total: float, beta: float
) -> tuple[float, float]:
    """Return two prices between which the root lies, from the least and greatest z.

    Were all z equal to z0, the price would be z0 - logit(budget / total) / beta; F is monotone in
    z, so the extremes bracket it.  A margin of a thousandth of a logit covers rounding.
    """
    shift = (math.log(budget) - math.log(total - budget)) / beta
    low, high = extremes[0] - shift, extremes[1] - shift
    margin = 1.0e-3 / beta + 1.0e-12 * max(abs(low), abs(high))
    return low - margin, high + margin
