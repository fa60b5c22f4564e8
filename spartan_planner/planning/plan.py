"""Making a plan: candidates from a workload and its weights, an allocation, a document."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cost_models import (
    CostModel,
    DeviceProfile,
    LayerWorkload,
    Layout,
    LayoutKind,
    LinearCost,
    Workload,
    cost_model,
)
from cost_models.documents import dump_document
from spartan_planner.errors import InfeasibleBudgetError, PlanError, UsageError
from spartan_planner.planning.allocation import (
    Allocation,
    LayerChoice,
    allocate,
    dearest_layers,
    least_costs,
)
from spartan_planner.planning.bounds import Bound, LayerBound, bounds_of, require_matches
from spartan_planner.planning.budget import Budget, base_unit
from spartan_planner.planning.candidates import Costs, LayerCandidates, SparseCandidate
from spartan_planner.planning.document import (
    DENSE,
    Plan,
    PlanBudget,
    PlanLayer,
    PlanMeasurement,
    PlanProfile,
    Schedule,
)
from spartan_planner.planning.estimate_warnings import estimate_warnings
from spartan_planner.planning.layouts import rows_are_outputs
from spartan_planner.planning.policies import Policy, allocate_by_policy
from spartan_planner.planning.price_table import PriceTable
from spartan_planner.planning.pricing import PricedModel, price_by_others, price_model
from spartan_planner.planning.value_curves import ValueCurve
from spartan_planner.planning.weights import Weights

ROUNDING = 1e-12
"""Share of the budget left unused, so that no order of summation makes a plan exceed it."""

Layouts = Callable[[LayerWorkload], Sequence[Layout]]
"""Layouts to consider for a layer, beside leaving it dense."""


def make_plan(
    workload: Workload,
    weights: Weights,
    budgets: Sequence[Budget],
    layouts: Layouts,
    *,
    profile: DeviceProfile | None = None,
    bounds: Sequence[Bound] = (),
    policy: Policy = Policy.COST,
    input_shapes: tuple[tuple[int, ...], ...] = (),
    input_dtypes: tuple[str, ...] = (),
    schedule: Schedule | None = None,
) -> Plan:
    """Plan which blocks of a model to keep.

    Args:
        workload: the model.
        weights: its weights.
        budgets: what the whole model may cost, one or several, each on another cost.
        layouts: layouts to consider for a layer, beside leaving it dense.
        profile: the device; needed for costs that depend on one.
        bounds: what may become of which layers.
        policy: how kept weights are spread over the layers.
        input_shapes: of the example inputs; written into the plan.
        input_dtypes: the same for their element types.
        schedule: how to train; the paper's by default.

    Raises:
        UsageError: no budget, two budgets on one cost, or a bound that matches no layer.
        CostModelError: a layer cannot be priced.
        PlanError: no layer can be pruned in any of the layouts, or weights are not finite.
        InfeasibleBudgetError: no plan meets the budgets.
    """
    problem = prepare(workload, weights, budgets, layouts, profile=profile, bounds=bounds)
    allocation = problem.allocate(policy)
    chosen = [
        choice.candidate.layout if choice.candidate else None for choice in allocation.choices
    ]
    budgeted = [price_model(model, workload, chosen, profile) for model in problem.models]
    others, not_priced = price_by_others(budgeted, workload, chosen, profile)
    planned = tuple(
        _plan_layer(layer, choice, {p.cost: p.layers[index] for p in (*budgeted, *others)})
        for index, (layer, choice) in enumerate(
            zip(workload.layers, allocation.choices, strict=True)
        )
    )
    value = sum(layer.value for layer in problem.layers)
    return Plan(
        schema_version=2,
        model=workload.model,
        model_fingerprint=workload.fingerprint,
        input_shapes=input_shapes,
        input_dtypes=input_dtypes,
        profile=_plan_profile(profile) if profile else None,
        policy=policy.value,
        budgets=tuple(
            _total(priced, planned, float(asked), budget.is_relative, float(price))
            for priced, asked, budget, price in zip(
                budgeted, problem.asked, budgets, allocation.prices, strict=True
            )
        ),
        totals=tuple(_total(priced, planned, None) for priced in others),
        not_priced=not_priced,
        unpriced_operations={item.op: item.num_calls for item in workload.unpriced},
        retained_value=min(1.0, allocation.value / max(value, 1e-300)),
        duality_gap=allocation.duality_gap,
        warnings=_warnings(problem, planned, profile),
        schedule=schedule or Schedule(),
        layers=planned,
    )


@dataclass(frozen=True)
class PlanProblem:
    """What there is to choose from, and the limits.

    Attributes:
        workload: the model.
        budgets: the limits as asked.
        models: the cost model of each budget.
        layers: what can become of each layer.
        rest: ``[budgets]``, cost that belongs to no layer.
        asked: ``[budgets]``, the limits in the cost models' units.
    """

    workload: Workload
    budgets: tuple[Budget, ...]
    models: tuple[CostModel, ...]
    layers: tuple[LayerCandidates, ...]
    rest: Costs
    asked: Costs

    @property
    def dense(self) -> Costs:
        """``[budgets]``, cost of the dense model."""
        total: Costs = self.rest + np.sum([layer.dense for layer in self.layers], axis=0)
        return total

    def with_budgets(self, budgets: Sequence[Budget]) -> "PlanProblem":
        """Return the same problem with other limits on the same costs."""
        asked = [b.asked(float(d)) for b, d in zip(budgets, self.dense, strict=True)]
        return replace(self, budgets=tuple(budgets), asked=np.array(asked))

    def allocate(
        self,
        policy: Policy = Policy.COST,
        *,
        table: PriceTable | None = None,
        hint: Costs | None = None,
    ) -> Allocation:
        """Choose within the budgets.

        Args:
            policy: how kept weights are spread over the layers.
            table: the layers as a table, where there is one already.
            hint: ``[budgets]``, prices near which to look first.

        Raises:
            InfeasibleBudgetError: nothing meets them; the message gives the least achievable
                figure of each and the layers that hold it up.
        """
        if np.all(self.asked >= self.dense):
            return _all_dense(self.layers)
        limits = np.minimum(self.asked, self.dense) - self.rest
        limits = limits - np.abs(self.asked) * ROUNDING
        try:
            if policy is not Policy.COST:
                return allocate_by_policy(policy, self.workload.layers, self.layers, limits)
            return allocate(self.layers, limits, table=table, hint=hint)
        except InfeasibleBudgetError as error:
            raise InfeasibleBudgetError(_infeasible(self)) from error


def prepare(
    workload: Workload,
    weights: Weights,
    budgets: Sequence[Budget],
    layouts: Layouts,
    *,
    profile: DeviceProfile | None = None,
    bounds: Sequence[Bound] = (),
) -> PlanProblem:
    """Read the weights once and price every layer in every layout; arguments as ``make_plan``.

    Raises:
        UsageError, CostModelError, PlanError: as ``make_plan``.
    """
    names = [budget.cost for budget in budgets]
    if not names or len(set(names)) < len(names):
        raise UsageError(
            f"budgets on {', '.join(names) or 'nothing'} were given; give at least one, and at "
            "most one on each cost"
        )
    require_matches(workload.layers, bounds)
    models = tuple(cost_model(name) for name in names)
    rest = np.array([model.rest(workload, profile) for model in models])
    layers = tuple(
        _candidates(layer, models, profile, weights, layouts(layer), bounds)
        for layer in workload.layers
    )
    if not any(layer.sparse for layer in layers):
        raise PlanError(
            f"no layer of {workload.model} can be pruned in the layouts that are considered; "
            "block layouts need convolutions whose inputs are a multiple of 16 (at least 32) and "
            "whose outputs are a multiple of 32"
        )
    problem = PlanProblem(workload, tuple(budgets), models, layers, rest, np.zeros(len(names)))
    return problem.with_budgets(budgets)


def _all_dense(layers: Sequence[LayerCandidates]) -> Allocation:
    choices = tuple(
        LayerChoice(layer.name, None, 0, 0.0, layer.dense, layer.value) for layer in layers
    )
    cost = np.sum([layer.dense for layer in layers], axis=0)
    value = sum(layer.value for layer in layers)
    return Allocation(choices, cost, value, np.zeros_like(cost), value)


def profile_fingerprint(profile: DeviceProfile) -> str:
    """Return the SHA-256 of the profile's document."""
    return hashlib.sha256(dump_document(profile).encode()).hexdigest()


def require_profile(plan: Plan, profile: DeviceProfile) -> None:
    """Refuse a plan that was made with another profile.

    Raises:
        PlanError: naming both.
    """
    if plan.profile is None or plan.profile.fingerprint != profile_fingerprint(profile):
        made = "without a profile" if plan.profile is None else f"with {plan.profile.name!r}"
        raise PlanError(
            f"the plan was made {made}, not with this profile of {profile.name!r}, so its figures "
            "hold elsewhere; plan again with this profile"
        )


def _plan_profile(profile: DeviceProfile) -> PlanProfile:
    taken = profile.measurement
    measurement = None
    if taken is not None:
        measurement = PlanMeasurement(
            taken.device.cpu,
            f"{taken.runtime.name} {taken.runtime.version}",
            taken.device.num_threads,
            taken.provenance.yardstick_ms,
        )
    return PlanProfile(profile.name, profile_fingerprint(profile), measurement)


def _candidates(
    layer: LayerWorkload,
    models: Sequence[CostModel],
    profile: DeviceProfile | None,
    weights: Weights,
    layouts: Sequence[Layout],
    bounds: Sequence[Bound],
) -> LayerCandidates:
    bound = bounds_of(layer.name, bounds)
    dense = np.array([model.dense_cost(layer, profile) for model in models])
    is_as_used = rows_are_outputs(layer, weights.stored_shape(layer))
    wanted = [
        layout
        for layout in layouts
        if layer.prunable and is_as_used and bound.allows(layout) and _keeps(layout, bound)
    ]
    priced = [(layout, _costs(models, layer, layout, profile)) for layout in wanted]
    # Where blocks cost nothing there is nothing to gain by pruning them.
    priced = [(layout, costs) for layout, costs in priced if np.any(costs[1] > 0)]
    values = weights.values(layer, [layout for layout, _ in priced])
    sparse = tuple(
        _candidate(layout, curve, costs, bound.min_density)
        for (layout, costs), curve in zip(priced, values.curves, strict=True)
    )
    return LayerCandidates(layer.name, values.total, dense, sparse)


def _keeps(layout: Layout, bound: LayerBound) -> bool:
    """Whether a layout can keep as much as a layer must: n:m keeps no more than its share."""
    return layout.kind is not LayoutKind.N_M or (
        layout.num_kept >= bound.min_density * layout.num_of
    )


def _candidate(
    layout: Layout, curve: ValueCurve, costs: tuple[Costs, Costs], min_density: float
) -> SparseCandidate:
    if layout.kind is LayoutKind.N_M:
        kept = curve.head(layout.num_kept)
        return SparseCandidate(layout, kept, *costs, min_size=kept.size)
    return SparseCandidate(layout, curve, *costs, min_size=min_density * curve.size)


def _costs(
    models: Sequence[CostModel], layer: LayerWorkload, layout: Layout, profile: DeviceProfile | None
) -> tuple[Costs, Costs]:
    costs = [model.linear_cost(layer, layout, profile) for model in models]
    return np.array([c.fixed for c in costs]), np.array([c.per_block for c in costs])


def _infeasible(problem: PlanProblem) -> str:
    least, dense = problem.rest + least_costs(problem.layers), problem.dense
    short = np.flatnonzero(least > problem.asked * (1 - ROUNDING))
    if not short.size:
        names = " and ".join(budget.cost for budget in problem.budgets)
        figures = ", ".join(
            f"{b.cost} at least {figure:.4g} {m.unit}"
            for b, m, figure in zip(problem.budgets, problem.models, least, strict=True)
        )
        return (
            f"the budgets on {names} cannot be met together, though each can alone ({figures}); "
            "loosen one of them"
        )
    reasons = [
        f"{budget.cost} of {problem.asked[i]:.4g} {model.unit} cannot be reached: the least "
        f"achievable is {least[i]:.4g} {model.unit} ({least[i] / dense[i]:.1%} of the dense "
        f"{dense[i]:.4g} {model.unit}), held up by {dearest_layers(problem.layers, i)}; ask for "
        f"{_hint(budget, model, float(least[i]), float(dense[i]))} or more"
        for i, (budget, model) in enumerate(zip(problem.budgets, problem.models, strict=True))
        if i in short
    ]
    return "; and ".join(reasons)


def _hint(budget: Budget, model: CostModel, least: float, dense: float) -> str:
    """Return a budget, as users write it, that can just be met."""
    reachable = least / (1 - 4 * ROUNDING)
    if budget.is_relative:
        return f"{budget.cost}={math.ceil(reachable / dense * 100)}%"
    digit = 10.0 ** (math.floor(math.log10(reachable)) - 3)
    return f"{budget.cost}={math.ceil(reachable / digit) * digit:.4g}{base_unit(model)}"


def _plan_layer(
    layer: LayerWorkload, choice: LayerChoice, costs: dict[str, LinearCost]
) -> PlanLayer:
    if choice.candidate is None:
        return PlanLayer(layer.name, DENSE, layer.num_weights, 0, 0, 0.0, 1.0, costs)
    layout, shape = choice.candidate.layout, layer.shape.weight_shape
    return PlanLayer(
        name=layer.name,
        layout=str(layout),
        num_weights=layer.num_weights,
        num_blocks=layout.num_blocks(shape),
        num_kept_blocks=choice.num_kept_blocks,
        kept_size=choice.kept_size,
        density=min(1.0, choice.kept_size / layout.num_whole_blocks(shape)),
        costs=costs,
    )


def _total(
    priced: PricedModel,
    layers: Sequence[PlanLayer],
    asked: float | None,
    is_relative: bool = False,
    price: float = 0.0,
) -> PlanBudget:
    dense = priced.rest + sum(layer.costs[priced.cost].dense for layer in layers)
    predicted = priced.rest + sum(layer.predicted(priced.cost) for layer in layers)
    return PlanBudget(
        priced.cost, priced.unit, dense, asked, predicted, priced.rest, is_relative, price
    )


def _warnings(
    problem: PlanProblem, planned: Sequence[PlanLayer], profile: DeviceProfile | None
) -> tuple[str, ...]:
    """What a user should know before training."""
    found = []
    for index, budget in enumerate(problem.budgets):
        layouts = {str(c.layout) for layer in problem.layers for c in layer.sparse}
        paying = {
            str(c.layout)
            for layer in problem.layers
            for c in layer.sparse
            if c.cost(c.least.size)[index] < layer.dense[index]
        }
        found += [
            f"layout {name} saves no {budget.cost} in any layer, however little is kept"
            for name in sorted(layouts - paying)
        ]
    estimated = estimate_warnings(problem.workload, planned, profile) if profile else ()
    return (*found, *estimated, *_masked_warnings(planned))


def _masked_warnings(planned: Sequence[PlanLayer]) -> tuple[str, ...]:
    names = sorted({layer.layout for layer in planned if layer.is_sparse})
    masked = [name for name in names if not Layout.parse(name).balanced_step]
    if not masked:
        return ()
    return (
        f"layers in {' and '.join(masked)} are exported masked (--form masked), zeros and all: "
        "what is saved is what hardware or a runtime that skips zeros would save",
        *(
            f"layers in {name} can be pruned in one shot (export --one-shot), not trained yet"
            for name in masked
            if Layout.parse(name).num_of
        ),
    )
