"""The whole curve: what is retained at every budget from the given ones up to dense."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cost_models import (
    CostModel,
    DeviceProfile,
    Layout,
    LinearCost,
    cost_model,
    cost_model_names,
)
from cost_models.documents import document
from cost_models.errors import CostModelError
from spartan_planner.errors import UsageError
from spartan_planner.planning.allocation import Allocation, LayerChoice
from spartan_planner.planning.budget import Budget
from spartan_planner.planning.candidates import Costs
from spartan_planner.planning.forms import deciding_costs, executed_cost, is_lowered
from spartan_planner.planning.policies import Policy
from spartan_planner.planning.price_table import PriceTable
from spartan_planner.planning.pricing import layer_cost
from spartan_planner.planning.problem import PlanProblem

NUM_POINTS = 100


@document
@dataclass(frozen=True)
class SweepCost:
    """One cost at one point.

    Attributes:
        cost: name of the cost model.
        asked: the limit; ``None`` where the cost is only reported.
        predicted: cost of the whole planned model.
    """

    cost: str
    asked: float | None
    predicted: float


@document
@dataclass(frozen=True)
class SweepPoint:
    """One plan of the curve.

    Attributes:
        costs: the budgeted costs first, then all others that could be told.
        density: share of the weights of all layers that is kept.
        retained_value: share of the sum of absolute weights that is kept.
        duality_gap: share by which that may fall short of the best at most.
    """

    costs: tuple[SweepCost, ...]
    density: float
    retained_value: float
    duality_gap: float


@document
@dataclass(frozen=True)
class SweepUnit:
    """A cost of the dense model: name, unit and figure."""

    cost: str
    unit: str
    dense: float


@document
@dataclass(frozen=True)
class Curve:
    """What a model retains at every budget.

    Attributes:
        schema_version: version of this document.
        model: what the user called the model.
        profile: name of the device; empty without one.
        policy: how kept weights are spread over the layers.
        dense: every cost of the dense model.
        points: from the given budgets up to dense.
    """

    schema_version: int
    model: str
    profile: str
    policy: str
    dense: tuple[SweepUnit, ...]
    points: tuple[SweepPoint, ...]


def sweep(
    problem: PlanProblem,
    profile: DeviceProfile | None = None,
    *,
    policy: Policy = Policy.COST,
    num_points: int = NUM_POINTS,
) -> Curve:
    """Plan for budgets in equal steps from the given ones up to dense.

    Each point is the plan that its budgets would give on their own; the weights are read once, and
    the search for the prices starts at those of the point before.

    Args:
        problem: the model, what can become of its layers, and the budgets of the first point.
        profile: the device that it was prepared for.
        policy: how kept weights are spread over the layers.
        num_points: points of the curve, at least 2.

    Raises:
        UsageError: fewer than two points.
        InfeasibleBudgetError: no plan meets the given budgets.
    """
    if num_points < 2:
        raise UsageError(f"a curve of {num_points} points was asked for; it needs at least 2")
    table, pricing = PriceTable.of(problem.layers), _Pricing.of(problem, profile)
    points: list[SweepPoint] = []
    hint: Costs | None = None
    for share in np.linspace(0.0, 1.0, num_points).tolist():
        here = problem if share == 0 else problem.with_budgets(_between(problem, share))
        allocation = here.allocate(policy, table=table, hint=hint)
        hint = allocation.prices if np.any(allocation.prices > 0) else None
        points.append(_point(here, allocation, pricing))
    name = profile.name if profile else ""
    return Curve(
        1, problem.workload.model, name, policy.value, pricing.dense(problem), tuple(points)
    )


def _between(problem: PlanProblem, share: float) -> Sequence[Budget]:
    asked = problem.asked + share * np.maximum(problem.dense - problem.asked, 0.0)
    return [
        Budget(budget.cost, float(figure), is_relative=False)
        for budget, figure in zip(problem.budgets, asked, strict=True)
    ]


def _point(problem: PlanProblem, allocation: Allocation, pricing: "_Pricing") -> SweepPoint:
    value = sum(layer.value for layer in problem.layers)
    num_weights = [layer.num_weights for layer in problem.workload.layers]
    densities = [
        1.0
        if choice.candidate is None
        else choice.kept_size / choice.candidate.layout.num_whole_blocks(layer.shape.weight_shape)
        for choice, layer in zip(allocation.choices, problem.workload.layers, strict=True)
    ]
    asked = dict(zip(pricing.budgeted, problem.asked.tolist(), strict=True))
    return SweepPoint(
        tuple(
            SweepCost(cost, asked.get(cost), figure)
            for cost, figure in pricing.of_choice(allocation).items()
        ),
        min(1.0, float(np.dot(densities, num_weights)) / sum(num_weights)),
        min(1.0, allocation.value / max(value, 1e-300)),
        allocation.duality_gap,
    )


@dataclass(frozen=True)
class _Pricing:
    """All costs that can be told, the budgeted ones first, priced once for every layer and layout.

    Attributes:
        budgeted: names of the costs that budgets are on.
        models: the cost models.
        rests: what belongs to no layer, by cost.
        costs: by layer and layout (``dense`` under ``None``), then by cost.
    """

    budgeted: tuple[str, ...]
    models: tuple[CostModel, ...]
    rests: dict[str, float]
    costs: dict[tuple[str, Layout | None], dict[str, LinearCost]]

    @staticmethod
    def of(problem: PlanProblem, profile: DeviceProfile | None) -> "_Pricing":
        budgeted = tuple(budget.cost for budget in problem.budgets)
        known = [(m, *_priced(m, problem, profile)) for m in problem.models]
        for name in cost_model_names():
            try:
                model = cost_model(name)
                if name not in budgeted and (profile is not None or not model.needs_profile):
                    known.append((model, *_priced(model, problem, profile)))
            except CostModelError:
                # A plan names the reason; a curve shows what can be told.
                continue
        keys = known[0][2].keys()
        return _Pricing(
            budgeted,
            tuple(model for model, _, _ in known),
            {model.name: rest for model, rest, _ in known},
            {key: {model.name: costs[key] for model, _, costs in known} for key in keys},
        )

    def of_choice(self, allocation: Allocation) -> dict[str, float]:
        """Price a choice by every cost model, as a plan does: one form per layer for all costs."""
        deciding = deciding_costs(self.budgeted, self.rests.keys())
        layers = [self._of_layer(choice, deciding) for choice in allocation.choices]
        return {
            cost: rest + sum(figures[cost] for figures in layers)
            for cost, rest in self.rests.items()
        }

    def _of_layer(self, choice: LayerChoice, deciding: Sequence[str]) -> dict[str, float]:
        layout = choice.candidate.layout if choice.candidate else None
        costs = self.costs[choice.name, layout]
        if layout is None:
            return {cost: linear.dense for cost, linear in costs.items()}
        lowered = is_lowered(costs, choice.kept_size, deciding)
        return {
            cost: executed_cost(cost, linear, choice.kept_size, lowered=lowered)
            for cost, linear in costs.items()
        }

    def dense(self, problem: PlanProblem) -> tuple[SweepUnit, ...]:
        """Return every cost of the dense model, the budgeted ones first."""
        return tuple(
            SweepUnit(
                model.name,
                model.unit,
                self.rests[model.name]
                + sum(self.costs[layer.name, None][model.name].dense for layer in problem.layers),
            )
            for model in self.models
        )


_LayerCosts = dict[tuple[str, Layout | None], LinearCost]


def _priced(
    model: CostModel, problem: PlanProblem, profile: DeviceProfile | None
) -> tuple[float, _LayerCosts]:
    """What belongs to no layer, and every layer in every layout, by one cost model."""
    costs = {
        (layer.name, layout): layer_cost(model, layer, layout, profile)
        for layer, known in zip(problem.workload.layers, problem.layers, strict=True)
        for layout in (None, *(c.layout for c in known.sparse))
    }
    return model.rest(problem.workload, profile), costs


def curve_csv(curve: Curve) -> str:
    """Return the curve as comma-separated values, one line per point, units in the heading."""
    asked = [item for item in curve.points[0].costs if item.asked is not None]
    heading = [
        *(f"asked_{item.cost} ({_unit(curve, item.cost)})" for item in asked),
        *(f"predicted_{item.cost} ({item.unit})" for item in curve.dense),
        *("density", "retained_value", "duality_gap"),
    ]
    lines = [",".join(heading)]
    for point in curve.points:
        figures = [
            *(item.asked for item in point.costs if item.asked is not None),
            *(item.predicted for item in point.costs),
            *(point.density, point.retained_value, point.duality_gap),
        ]
        lines.append(",".join(repr(figure) for figure in figures))
    return "\n".join(lines) + "\n"


def _unit(curve: Curve, cost: str) -> str:
    return next(item.unit for item in curve.dense if item.cost == cost)
