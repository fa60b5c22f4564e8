"""Budgets as users write them: ``latency=50%``, ``latency=12ms``, ``params=4M``."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cost_models import CostModel, cost_model
from spartan_planner.errors import UsageError

_AMOUNT = re.compile(r"(?P<figure>\d+(\.\d+)?([eE][+-]?\d+)?)\s*(?P<unit>[A-Za-zµ%]*)")
_SCALES: dict[str, dict[str, float]] = {
    "ms": {"s": 1e3, "ms": 1.0, "us": 1e-3, "µs": 1e-3},
    "FLOPs": {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12},
    "parameters": {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9},
    "bytes": {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "J": {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6},
}
_PERCENT = "%"

_COUNTS = ("FLOPs", "parameters")

MAX_SHARE = 100.0
"""A count without a unit up to this is a share that lacks its sign: no model is so small."""


@dataclass(frozen=True)
class Budget:
    """A limit on one cost of the whole model.

    Attributes:
        cost: name of the cost model.
        amount: the limit, in the cost model's unit, or as a share of dense.
        is_relative: whether ``amount`` is a share of the dense model's cost.
    """

    cost: str
    amount: float
    is_relative: bool

    def asked(self, dense: float) -> float:
        """Return the limit in the cost model's unit, given the dense model's cost."""
        return self.amount * dense if self.is_relative else self.amount


def parse_budget(text: str) -> Budget:
    """Read ``cost=amount``.

    Args:
        text: such as ``latency=50%``, ``latency=12ms``, ``flops=1.5G``.

    Raises:
        UsageError: the text has another form, or the unit is not one of the cost's.
        UnknownNameError: no cost model has that name.
    """
    name, separator, amount = text.partition("=")
    if not separator or not name.strip():
        raise UsageError(
            f"budget {text!r} is not understood; write cost=amount, such as latency=50%"
        )
    return budget_for(name.strip(), amount.strip())


def budget_for(cost: str, amount: str) -> Budget:
    """Read the amount of a budget on a named cost, such as ``40%`` or ``12ms``.

    Raises:
        UsageError: the amount is not positive or its unit is not one of the cost's.
        UnknownNameError: no cost model has that name.
    """
    model = cost_model(cost)
    match = _AMOUNT.fullmatch(amount)
    units = _units(model)
    unit = match["unit"] if match else ""
    if match is None or (unit != _PERCENT and unit not in units):
        known = " or ".join(f"{cost}=12{unit}" for unit in units)
        raise UsageError(
            f"budget {cost}={amount} is not understood; write a share such as {cost}=40%, or a "
            f"figure: {known}"
        )
    is_relative = unit == _PERCENT
    figure = float(match["figure"])
    amounts = figure / 100 if is_relative else figure * units[unit]
    if not 0 < amounts < math.inf:
        raise UsageError(
            f"budget {cost}={amount} must be positive and finite; write a share such as {cost}=40%"
        )
    if not unit and model.unit in _COUNTS and figure <= MAX_SHARE:
        raise UsageError(
            f"budget {cost}={amount} is {figure:g} {model.unit}, less than any model; did you mean "
            f"{cost}={figure * 100 if figure < 1 else figure:g}%?"
        )
    return Budget(cost, amounts, is_relative)


def parse_budgets(texts: Sequence[str]) -> list[Budget]:
    """Read several budgets, each on another cost.

    Raises:
        UsageError, UnknownNameError: as :func:`parse_budget`, or a cost is limited twice.
    """
    budgets = [parse_budget(text) for text in texts]
    names = [budget.cost for budget in budgets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"a budget on {twice} is given twice; give each cost one budget at most")
    return budgets


def base_unit(model: CostModel) -> str:
    """Return what to write behind a figure in the cost model's own unit."""
    return next(unit for unit, scale in _units(model).items() if scale == 1.0)


def _units(model: CostModel) -> dict[str, float]:
    return _SCALES.get(model.unit, {model.unit: 1.0, "": 1.0})
