"""Budgets as users write them."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models import UnknownNameError
from spartan_planner.errors import UsageError
from spartan_planner.planning import Budget, parse_budget
from spartan_planner.planning.budget import parse_budgets


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("latency=50%", Budget("latency", 0.5, is_relative=True)),
        ("latency=12ms", Budget("latency", 12.0, is_relative=False)),
        ("latency = 1.5 ms ", Budget("latency", 1.5, is_relative=False)),
        ("latency=2s", Budget("latency", 2e3, is_relative=False)),
        ("latency=500us", Budget("latency", 0.5, is_relative=False)),
        ("latency=500µs", Budget("latency", 0.5, is_relative=False)),
        ("flops=1.5G", Budget("flops", 1.5e9, is_relative=False)),
        ("flops=1e9", Budget("flops", 1e9, is_relative=False)),
        ("flops=12.5%", Budget("flops", 0.125, is_relative=True)),
        ("params=4M", Budget("params", 4e6, is_relative=False)),
        ("params=100%", Budget("params", 1.0, is_relative=True)),
    ],
)
def test_budget_is_understood(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("50%", "write cost=amount, such as latency=50%"),
        ("=50%", "write cost=amount"),
        ("latency=", "or a figure: latency=12s or latency=12ms"),
        ("latency=12", "or a figure: latency=12s or latency=12ms"),
        ("latency=12MB", "or a figure: latency=12s or latency=12ms"),
        ("latency=fast", "write a share such as latency=40%"),
        ("latency=-5ms", "is not understood"),
        ("latency=nan%", "is not understood"),
        ("latency=1,5ms", "is not understood"),
        ("flops=1E", "flops=12 or flops=12K"),
        ("flops=50", "did you mean flops=50%"),
        ("params=0.4", "did you mean params=40%"),
        ("flops=nan", "is not understood; write a share such as flops=40%"),
        ("params=0", "must be positive and finite"),
        ("params=0%", "must be positive and finite"),
        ("flops=1e999", "must be positive and finite"),
        ("flops=1e308G", "must be positive and finite"),
        ("params=1e-999", "must be positive and finite"),
    ],
)
def test_what_is_no_budget_is_refused(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        parse_budget(text)
    assert text.strip() in str(caught.value)


def test_a_cost_has_one_budget_at_most():
    assert [item.cost for item in parse_budgets(["flops=50%", "params=50%"])] == ["flops", "params"]
    with pytest.raises(UsageError, match="a budget on flops is given twice"):
        parse_budgets(["flops=50%", "params=50%", "flops=1G"])


def test_unknown_cost_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="known are: latency, flops, params"):
        parse_budget("joules=50%")


@pytest.mark.parametrize(
    ("budget", "asked"),
    [
        (Budget("latency", 0.25, is_relative=True), 2.0),
        (Budget("latency", 0.25, is_relative=False), 0.25),
    ],
)
def test_asked_amount(budget, asked):
    assert budget.asked(8.0) == asked


@given(st.text(max_size=20))
def test_no_text_raises_anything_else(amount):
    with suppress(UsageError):
        assert parse_budget(f"latency={amount}").amount > 0
