import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spartan_planner.planning import Schedule
from spartan_planner.training.sharpness import mean_surplus, sharpness

SAMPLING = 0.02
"""Of a million exponential values, of which one in fifty is kept: 20 000 numbers."""


@pytest.mark.parametrize(
    ("beta", "sharpened", "elements", "expected"),
    [
        (10.0, 0.0, 1.0, 1.0),
        (10.0, 0.5, 1.0, 5.5),
        (10.0, 1.0, 1.0, 10.0),
        (10.0, 1.0, 64.0, 80.0),
        (0.5, 0.0, 1.0, 0.5),
    ],
)
def test_the_papers_rule(beta, sharpened, elements, expected):
    schedule = Schedule(beta=beta, beta_rule="paper")
    assert sharpness(schedule, sharpened, elements, 123.0) == pytest.approx(expected)


@pytest.mark.parametrize(("sharpened", "expected"), [(0.0, 0.3), (1.0, 3.0)])
def test_a_block_one_surplus_above_the_price_gets_the_same_mask_at_any_scale(sharpened, expected):
    schedule = Schedule(beta=3.0, beta_rule="spread")
    for spread in (1e-4, 1.0, 1e3):
        beta = sharpness(schedule, sharpened, 64.0, spread)
        assert beta * spread == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("density", [0.02, 0.1, 0.5])
def test_the_mean_surplus_of_exponential_values_is_their_scale_at_any_density(scale, density):
    generator = torch.Generator().manual_seed(0)
    values = torch.empty(1_000_000).exponential_(1 / scale, generator=generator)
    kept = values.topk(int(density * len(values))).values
    surplus = mean_surplus(float(kept.sum()), float(len(kept)), float(kept.min()))
    assert surplus == pytest.approx(scale, rel=SAMPLING)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6) | st.just(math.inf))
def test_the_surplus_is_always_usable(value, cost, price):
    surplus = mean_surplus(value, cost, price)
    assert surplus > 0
    assert math.isfinite(surplus) or cost < 1e-300


def test_where_all_is_kept_the_price_is_nothing():
    assert mean_surplus(6.0, 3.0, -math.inf) == 2.0
