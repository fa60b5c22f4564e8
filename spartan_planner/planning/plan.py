"""Making a plan: an allocation put into a document, with every cost that can be told."""

from collections.abc import Sequence

from cost_models import LayerWorkload, LinearCost, Workload
from spartan_planner.planning.allocation import LayerChoice
from spartan_planner.planning.document import DENSE, Plan, PlanBudget, PlanLayer
from spartan_planner.planning.forms import deciding_costs
from spartan_planner.planning.plan_profile import plan_profile
from spartan_planner.planning.plan_warnings import plan_warnings
from spartan_planner.planning.pricing import PricedModel, price_by_others, price_model
from spartan_planner.planning.problem import PlanProblem, prepare
from spartan_planner.planning.request import PlanRequest
from spartan_planner.planning.weights import Weights


def make_plan(
    workload: Workload,
    weights: Weights,
    request: PlanRequest,
    *,
    input_shapes: tuple[tuple[int, ...], ...] = (),
    input_dtypes: tuple[str, ...] = (),
) -> Plan:
    """Plan which blocks of a model to keep.

    Args:
        workload: the model.
        weights: its weights, such as ``ArrayWeights``, ``SafetensorsWeights`` or ``OnnxWeights``.
        request: what is asked of the plan.
        input_shapes: of the example inputs; written into the plan.
        input_dtypes: the same for their element types.

    Raises:
        UsageError, CostModelError, PlanError: as ``prepare``.
        InfeasibleBudgetError: no plan meets the budgets.
    """
    problem = prepare(workload, weights, request)
    allocation = problem.allocate(request.policy)
    chosen = [
        choice.candidate.layout if choice.candidate else None for choice in allocation.choices
    ]
    profile = request.profile
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
        schema_version=3,
        model=workload.model,
        model_fingerprint=workload.fingerprint,
        weights_fingerprint=problem.weights_fingerprint,
        input_shapes=input_shapes,
        input_dtypes=input_dtypes,
        profile=plan_profile(profile) if profile else None,
        policy=request.policy.value,
        budgets=_budgets(problem, budgeted, others, planned, allocation.prices.tolist()),
        totals=tuple(
            _total(priced, planned, _deciding(budgeted, others), None) for priced in others
        ),
        not_priced=not_priced,
        unpriced_operations={item.op: item.num_calls for item in workload.unpriced},
        retained_value=min(1.0, allocation.value / max(value, 1e-300)),
        duality_gap=allocation.duality_gap,
        warnings=plan_warnings(problem, planned, profile),
        schedule=request.schedule,
        layers=planned,
    )


def _plan_layer(
    layer: LayerWorkload, choice: LayerChoice, costs: dict[str, LinearCost]
) -> PlanLayer:
    candidate = choice.candidate
    if candidate is None:
        return PlanLayer(layer.name, DENSE, layer.num_weights, 0, 0, 0.0, 1.0, costs)
    layout, shape = candidate.layout, layer.shape.weight_shape
    is_bound = candidate.min_size > 0 or layout.balanced_step > 0
    return PlanLayer(
        name=layer.name,
        layout=str(layout),
        num_weights=layer.num_weights,
        num_blocks=layout.num_blocks(shape),
        num_kept_blocks=choice.num_kept_blocks,
        kept_size=choice.kept_size,
        density=min(1.0, choice.kept_size / layout.num_whole_blocks(shape)),
        costs=costs,
        min_kept_blocks=candidate.least.num_blocks if is_bound else 0,
    )


def _budgets(
    problem: PlanProblem,
    budgeted: Sequence[PricedModel],
    others: Sequence[PricedModel],
    planned: Sequence[PlanLayer],
    prices: Sequence[float],
) -> tuple[PlanBudget, ...]:
    deciding = _deciding(budgeted, others)
    return tuple(
        _total(priced, planned, deciding, asked, budget.is_relative, price)
        for priced, asked, budget, price in zip(
            budgeted, problem.asked.tolist(), problem.budgets, prices, strict=True
        )
    )


def _deciding(budgeted: Sequence[PricedModel], others: Sequence[PricedModel]) -> Sequence[str]:
    names = [priced.cost for priced in budgeted]
    return deciding_costs(names, {priced.cost for priced in (*budgeted, *others)})


def _total(
    priced: PricedModel,
    layers: Sequence[PlanLayer],
    deciding: Sequence[str],
    asked: float | None,
    is_relative: bool = False,
    price: float = 0.0,
) -> PlanBudget:
    dense = priced.rest + sum(layer.costs[priced.cost].dense for layer in layers)
    predicted = priced.rest + sum(
        layer.predicted(priced.cost, lowered=layer.is_lowered(deciding)) for layer in layers
    )
    return PlanBudget(
        priced.cost, priced.unit, dense, asked, predicted, priced.rest, is_relative, price
    )
