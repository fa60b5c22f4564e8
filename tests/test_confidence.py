"""Intervals of medians, against counting and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spartan_planner.profiling.confidence import (
    CONFIDENCE,
    carriers,
    median_ranks,
    relative_half_widths,
)


def coverage(num_rounds: int, k: int) -> float:
    """Chance that the values of rank ``k`` and ``n - 1 - k`` lie on both sides of the median."""
    outside = sum(math.comb(num_rounds, i) for i in range(k + 1)) / 2**num_rounds
    return 1 - 2 * outside


@pytest.mark.parametrize("num_rounds", [*range(1, 30), 100, 301])
def test_ranks_are_the_narrowest_that_keep_the_confidence(num_rounds):
    ranks = median_ranks(num_rounds)
    if ranks is None:
        assert coverage(num_rounds, 0) < CONFIDENCE
        return
    low, high = ranks
    assert low + high == num_rounds - 1
    assert coverage(num_rounds, low) >= CONFIDENCE
    assert low + 1 > num_rounds / 2 or coverage(num_rounds, low + 1) < CONFIDENCE


def test_six_rounds_are_the_fewest():
    assert median_ranks(5) is None
    assert median_ranks(6) == (0, 5)


def test_intervals_hold_the_true_median_as_often_as_they_say():
    samples = np.random.default_rng(0).exponential(size=(25, 4000))
    low, high = median_ranks(25)
    ordered = np.sort(samples, axis=0)
    hits = np.mean((ordered[low] <= math.log(2)) & (math.log(2) <= ordered[high]))
    # 4000 trials: three standard errors below the confidence.
    assert hits >= CONFIDENCE - 3 * math.sqrt(0.05 * 0.95 / 4000)


def test_half_widths_of_a_small_table():
    values = np.array([[1.0, 2.0, 0.0]] * 3 + [[3.0, 2.0, 0.0]] * 3)
    np.testing.assert_array_equal(relative_half_widths(values), [0.5, 0.0, 0.0])
    assert np.all(np.isinf(relative_half_widths(values[:5])))


@given(st.lists(st.floats(0, 1e3, allow_subnormal=False), max_size=12), st.floats(0.1, 1.0))
def test_carriers_reach_the_share_and_none_is_needless(times, share):
    array = np.array(times, dtype=np.float64)
    chosen = carriers(array, share)
    total = math.fsum(times)
    if total <= 0:
        assert len(chosen) == 0
        return
    assert array[chosen].sum() >= share * total * (1 - 1e-12)
    assert array[chosen[:-1]].sum() < share * total * (1 + 1e-12)
    assert all(array[chosen].min() >= other for other in np.delete(array, chosen))
