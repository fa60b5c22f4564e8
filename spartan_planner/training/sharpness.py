"""Beta from the schedule: the paper's rule, and one that carries over (docs/training.md)."""

import math

from spartan_planner.planning import Schedule

PAPERS_FIRST_BETA = 1.0
FIRST_SHARE = 0.1
"""Under the ``spread`` rule beta starts at this share of its target, as the paper's does (1 of
10)."""


def sharpness(schedule: Schedule, sharpened: float, block_elements: float, spread: float) -> float:
    """Return beta for values z, the means of |theta| over the elements of a block.

    ``paper``:   ``(1 + (beta - 1) sharpened) sqrt(block_elements)``
    ``spread``:  ``beta (0.1 + 0.9 sharpened) / spread``

    Under ``spread`` a block that lies one mean surplus above the price has the mask
    ``sigmoid(beta)`` at the end, whatever the scale of the weights and the size of blocks.

    Args:
        schedule: its ``beta`` and ``beta_rule``.
        sharpened: share of the way to the target, in [0, 1].
        block_elements: mean number of elements in a block.
        spread: mean of z of the kept blocks, less the price at which they are kept; positive.
    """
    if schedule.beta_rule == "paper":
        first = min(PAPERS_FIRST_BETA, schedule.beta)
        return (first + (schedule.beta - first) * sharpened) * math.sqrt(block_elements)
    return schedule.beta * (FIRST_SHARE + (1 - FIRST_SHARE) * sharpened) / spread


def mean_surplus(kept_value: float, kept_cost: float, price: float) -> float:
    """Return ``sum_kept v / sum_kept c - price``: how far kept blocks lie above it on average.

    The scale of the tail beyond the price, where the masks are decided: for values that decay
    exponentially it is their scale, whatever the density.  Where everything is kept the price is
    0.  Where that leaves no positive number (all kept values equal, or none kept) it is the price
    itself, or 1: all masks are equal then, whatever beta.

    Args:
        kept_value: sum of the values of what is kept.
        kept_cost: sum of their costs, in units of the mean cost.
        price: value per mean cost at the boundary.
    """
    floor = price if math.isfinite(price) else 0.0
    surplus = kept_value / kept_cost - floor if kept_cost > 0 else 0.0
    least = _LEAST_SHARE * abs(floor)
    return surplus if surplus > least else (floor if floor > 0 else 1.0)


_LEAST_SHARE = 1e-6
"""Surpluses below this share of the price are noise of sums in float32."""
