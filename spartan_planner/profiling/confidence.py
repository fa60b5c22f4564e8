"""How well medians are known after so many rounds."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

CONFIDENCE = 0.95
SHARE_THAT_COUNTS = 0.95
"""Figures that make up less than the rest of a network's time may stay uncertain."""


def median_ranks(num_rounds: int, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """Return the ranks (from 0) of the order statistics that bound the median.

    Of ``n`` independent values the number below the median is binomial, so the median lies
    between the values of rank ``k`` and ``n - 1 - k`` with probability
    ``1 - 2 P(Binomial(n, 1/2) <= k)``; the largest ``k`` that keeps the confidence is taken.
    ``None`` when even the extremes do not bound it so surely.
    """
    k = int(binom.ppf((1 - confidence) / 2, num_rounds, 0.5))
    while k >= 0 and 2 * float(binom.cdf(k, num_rounds, 0.5)) > 1 - confidence:
        k -= 1
    return (k, num_rounds - 1 - k) if k >= 0 else None


def relative_half_widths(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return half the width of the median's interval over the median, ``[figures]``.

    Infinite where there are too few rounds; 0 for a figure that is always zero.

    Args:
        values: ``[rounds, figures]``.
    """
    ranks = median_ranks(len(values))
    if ranks is None:
        return np.full(values.shape[1], np.inf)
    ordered = np.sort(values, axis=0)
    widths = (ordered[ranks[1]] - ordered[ranks[0]]) / 2
    medians = np.median(values, axis=0)
    relative: NDArray[np.float64] = np.zeros_like(widths)
    np.divide(widths, medians, out=relative, where=medians > 0)
    return relative


def carriers(times: NDArray[np.float64], share: float = SHARE_THAT_COUNTS) -> NDArray[np.intp]:
    """Return the fewest indices whose times make up ``share`` of the sum, greatest first.

    Args:
        times: ``[figures]``, not negative.
        share: of the sum.
    """
    order = np.argsort(-times, kind="stable")
    reached = np.cumsum(times[order])
    if len(order) == 0 or reached[-1] <= 0:
        return order[:0]
    return order[: int(np.searchsorted(reached, share * reached[-1])) + 1]
