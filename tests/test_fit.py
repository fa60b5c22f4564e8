"""Fitting a line to measured times."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from spartan_planner.profiling.fit import fit_linear

COUNTS = np.array([2.0, 4.0, 8.0, 12.0])
"""The numbers of kept blocks of a layer with 256 inputs at the densities that are measured."""

CONVERGENCE = 1e-6
"""Relative; the solver stops at changes of 1e-8 of its objective, which is quadratic in these."""

OUTLIER_INFLUENCE = {0.7: 0.20, 1.3: 0.12, 2.0: 0.30, 10.0: 0.02}
"""How far, relatively, the line may move at the three sound points when the fourth is this many
times too slow.  Four points and two unknowns leave little to outvote it; the worst case is the
point with the fewest blocks, doubled, on a line through the origin.  A gross error is ignored."""

POSITIVE = st.floats(1e-4, 1e3)
TIMES = st.lists(POSITIVE, min_size=4, max_size=4).map(np.array)


@given(st.just(0.0) | POSITIVE, st.just(0.0) | POSITIVE)
def test_exact_line_is_recovered(fixed, per_block):
    assume(fixed + per_block > 0)
    times = fixed + per_block * COUNTS
    fit = fit_linear(COUNTS, times)
    np.testing.assert_allclose(fit.fixed + fit.per_block * COUNTS, times, rtol=CONVERGENCE)
    np.testing.assert_allclose(fit.relative_errors, 0, atol=CONVERGENCE)
    assert fit.fixed == pytest.approx(fixed, abs=1e-4 * times.mean())


@pytest.mark.parametrize("line", [(1.0, 0.5), (0.2, 0.05), (0.0, 0.3), (0.5, 0.0), (1e-3, 1e-4)])
@pytest.mark.parametrize("disturbed", range(4))
@pytest.mark.parametrize("factor", OUTLIER_INFLUENCE)
def test_one_disturbed_point_moves_the_line_little(line, disturbed, factor):
    clean = line[0] + line[1] * COUNTS
    times = clean.copy()
    times[disturbed] *= factor
    fit = fit_linear(COUNTS, times)
    fitted = fit.fixed + fit.per_block * COUNTS
    others = np.delete(fitted / clean - 1, disturbed)
    assert np.max(np.abs(others)) <= OUTLIER_INFLUENCE[factor]


@given(TIMES)
def test_figures_are_finite_and_not_negative(times):
    fit = fit_linear(COUNTS, times)
    assert fit.fixed >= 0
    assert fit.per_block >= 0
    fitted = fit.fixed + fit.per_block * COUNTS
    assert np.all(np.isfinite(fitted))
    assert np.any(fitted > 0)


@given(TIMES)
def test_errors_are_those_of_the_line(times):
    fit = fit_linear(COUNTS, times)
    expected = (fit.fixed + fit.per_block * COUNTS) / times - 1
    np.testing.assert_allclose(fit.relative_errors, expected, rtol=CONVERGENCE, atol=CONVERGENCE)


def loss(fixed: float, per_block: float, times: np.ndarray) -> float:
    """The objective as it is documented, with the soft-L1 loss at 5 %."""
    residual = ((fixed + per_block * COUNTS) / times - 1) / 0.05
    return float(np.sum(np.sqrt(1 + residual**2) - 1))


@given(st.lists(st.floats(0.5, 20), min_size=4, max_size=4).map(np.array))
def test_no_line_of_a_fine_grid_is_better(times):
    fit = fit_linear(COUNTS, times)
    grid = [
        loss(fixed, per_block, times)
        for fixed in np.linspace(0, 2 * times.max(), 30)
        for per_block in np.linspace(0, times.max(), 30)
    ]
    # The objective is convex, so that a local minimum is the global one.
    assert loss(fit.fixed, fit.per_block, times) <= min(grid) + 1e-3


@given(TIMES, st.sampled_from([1e-6, 1e3]))
def test_unit_of_time_does_not_matter(times, unit):
    plain, other = fit_linear(COUNTS, times), fit_linear(COUNTS, times * unit)
    size = times.mean()
    assert other.fixed / unit == pytest.approx(plain.fixed, rel=1e-3, abs=1e-3 * size)
    assert other.per_block / unit == pytest.approx(plain.per_block, rel=1e-3, abs=1e-3 * size)


@pytest.mark.parametrize("times", [[1.0], [], [1.0, 0.0], [1.0, -1.0]])
def test_too_few_or_impossible_points_are_refused(times):
    with pytest.raises(ValueError, match="two points with positive times"):
        fit_linear(np.arange(1.0, len(times) + 1), np.array(times))
