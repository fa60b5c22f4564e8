"""Fitting ``fixed + per_block * kept`` to measured times."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

OUTLIER_SCALE = 0.05
"""Relative residuals beyond this weigh less than quadratically: a disturbed point is an outlier."""

NEGLIGIBLE = 1e-6
"""A part of the line below this share of the measured times is the solver's rounding: zero."""


@dataclass(frozen=True)
class LinearFit:
    """A fitted line and how far the points lie from it.

    Attributes:
        fixed: value at no kept block, at least 0.
        per_block: slope, at least 0.
        relative_errors: ``fitted / measured - 1`` of every point.
    """

    fixed: float
    per_block: float
    relative_errors: NDArray[np.float64]


def fit_linear(num_kept_blocks: NDArray[np.float64], times: NDArray[np.float64]) -> LinearFit:
    """Fit a non-negative line to positive times, robustly, in relative terms.

    Minimises ``sum_i rho((fixed + per_block * n_i) / t_i - 1)`` with the soft-L1 loss ``rho``
    over ``fixed >= 0``, ``per_block >= 0``.

    Args:
        num_kept_blocks: ``[points]``.
        times: ``[points]``, positive.

    Raises:
        ValueError: fewer than two points or a time that is not positive.
    """
    if len(times) < 2 or np.any(times <= 0):
        raise ValueError("a fit needs at least two points with positive times")
    design = np.stack([np.ones_like(num_kept_blocks), num_kept_blocks], axis=1) / times[:, None]
    start, _ = nnls(design, np.ones_like(times))
    # The size that each figure would have alone: one that starts at zero can still grow.
    scale: NDArray[np.float64] = 1 / np.maximum(np.mean(design, axis=0), 1e-12)

    def residuals(scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        errors: NDArray[np.float64] = design @ (scaled * scale) - 1
        return errors

    solution = least_squares(
        residuals,
        start / scale,
        bounds=(0, np.inf),
        loss="soft_l1",
        f_scale=OUTLIER_SCALE,
    )
    fixed, per_block = np.where(solution.x < NEGLIGIBLE, 0.0, solution.x) * scale
    return LinearFit(float(fixed), float(per_block), design @ (fixed, per_block) - 1)
