"""The linear cost of a layer and its break-even density."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cost_models import LinearCost

FIGURES = st.floats(0, 1e9)
ROUNDING = 1e-9
"""Relative; a handful of float64 operations, with room for cancellation of like figures."""


@pytest.mark.parametrize(
    ("dense", "fixed", "per_block", "num_blocks", "density"),
    [
        (10, 2, 1, 16, 0.5),
        (10, 2, 1, 8, 1.0),
        (10, 2, 1, 4, 1.0),
        (10, 10, 1, 4, 0.0),
        (10, 12, 0, 4, 0.0),
        (10, 0, 0, 4, 1.0),
        (0, 0, 0, 4, 0.0),
    ],
)
def test_break_even_density(dense, fixed, per_block, num_blocks, density):
    cost = LinearCost(dense, fixed, per_block, "ms")
    assert cost.break_even_density(num_blocks) == pytest.approx(density)


@given(FIGURES, FIGURES, FIGURES, st.integers(1, 1000), st.floats(0, 1))
def test_sparse_pays_exactly_below_break_even(dense, fixed, per_block, num_blocks, density):
    cost = LinearCost(dense, fixed, per_block, "ms")
    limit = cost.break_even_density(num_blocks)
    assert 0 <= limit <= 1
    assume(abs(density - limit) > ROUNDING)
    sparse = cost.sparse(density * num_blocks)
    if density < limit:
        assert sparse <= dense * (1 + ROUNDING)
    else:
        assert sparse >= dense * (1 - ROUNDING)


@given(FIGURES, FIGURES, FIGURES, st.floats(0, 1000), st.floats(0, 1000))
def test_best_is_monotone_and_never_above_dense(dense, fixed, per_block, some, others):
    cost = LinearCost(dense, fixed, per_block, "ms")
    fewer, more = sorted((some, others))
    assert cost.best(fewer) <= cost.best(more) <= dense


@pytest.mark.parametrize("name", ["dense", "fixed", "per_block"])
@pytest.mark.parametrize("figure", [-1.0, math.nan, math.inf])
def test_what_is_no_cost_is_refused(name, figure):
    figures = {"dense": 1.0, "fixed": 1.0, "per_block": 1.0, name: figure}
    with pytest.raises(ValueError, match=f"{name} must be a finite figure"):
        LinearCost(**figures, unit="ms")
