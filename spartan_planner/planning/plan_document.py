"""What was decided, put into a document with every cost that can be told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cost_models import DeviceProfile, LayerWorkload, LinearCost, Workload, cost_model
from spartan_planner.planning.allocation import Allocation, LayerChoice
from spartan_planner.planning.document import DENSE, Plan, PlanBudget, PlanGroup, PlanLayer
from spartan_planner.planning.forms import deciding_costs
from spartan_planner.planning.plan_profile import plan_profile
from spartan_planner.planning.plan_warnings import plan_warnings
from spartan_planner.planning.pricing import PricedModel, price_by_others, price_model
from spartan_planner.planning.problem import PlanProblem
from spartan_planner.planning.request import PlanRequest


@dataclass(frozen=True)
class PlannedChannels:
    """What was decided about channels.

    Attributes:
        whole: the model before any went.
        value: sum of absolute weights of its layers.
        weights_fingerprint: of its weights.
        prices: ``[budgets]``, value per unit of cost at which units were just worth keeping.
        groups: what becomes of each group.
        retained_by: retained value, as a share, of each kind of plan within the budgets.
    """

    whole: Workload
    value: float
    weights_fingerprint: str
    prices: tuple[float, ...]
    groups: tuple[PlanGroup, ...]
    retained_by: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """What was decided.

    Attributes:
        problem: what there was to choose from, of the model that channels leave.
        allocation: the choice for each of its layers.
        profile: the device, as it is to be read for this model.
        channels: what becomes of channels; ``None`` where all stay.
    """

    problem: PlanProblem
    allocation: Allocation
    profile: DeviceProfile | None
    channels: PlannedChannels | None = None


def plan_document(
    planned: Planned,
    request: PlanRequest,
    *,
    input_shapes: tuple[tuple[int, ...], ...] = (),
    input_dtypes: tuple[str, ...] = (),
) -> Plan:
    """Put what was decided into a document.

    Args:
        planned: what was decided.
        request: what was asked.
        input_shapes: of the example inputs; written into the plan.
        input_dtypes: the same for their element types.

    Raises:
        CostModelError: a layer cannot be priced.
    """
    problem, allocation, channels = planned.problem, planned.allocation, planned.channels
    workload, profile = problem.workload, planned.profile
    chosen = [
        choice.candidate.layout if choice.candidate else None for choice in allocation.choices
    ]
    budgeted = [price_model(model, workload, chosen, profile) for model in problem.models]
    others, not_priced = price_by_others(budgeted, workload, chosen, profile)
    layers = tuple(
        _plan_layer(layer, choice, {p.cost: p.layers[index] for p in (*budgeted, *others)})
        for index, (layer, choice) in enumerate(
            zip(workload.layers, allocation.choices, strict=True)
        )
    )
    deciding = deciding_costs(
        [priced.cost for priced in budgeted], {priced.cost for priced in (*budgeted, *others)}
    )
    prices = channels.prices if channels else allocation.prices.tolist()
    value = channels.value if channels else sum(layer.value for layer in problem.layers)
    plan = Plan(
        schema_version=4,
        model=workload.model,
        model_fingerprint=workload.fingerprint,
        weights_fingerprint=(channels or problem).weights_fingerprint,
        input_shapes=input_shapes,
        input_dtypes=input_dtypes,
        profile=plan_profile(request.profile) if request.profile else None,
        policy=request.policy.value,
        budgets=tuple(
            _total(priced, layers, deciding, asked, budget.is_relative, price)
            for priced, asked, budget, price in zip(
                budgeted, problem.asked.tolist(), request.budgets, prices, strict=True
            )
        ),
        totals=tuple(_total(priced, layers, deciding, None) for priced in others),
        not_priced=not_priced,
        unpriced_operations={item.op: item.num_calls for item in workload.unpriced},
        retained_value=min(1.0, allocation.value / max(value, 1e-300)),
        duality_gap=None if channels else allocation.duality_gap,
        schedule=request.schedule,
        layers=layers,
    )
    dense = None
    if channels:
        plan = _with_channels(plan, channels, request.profile)
        dense = np.array([budget.dense for budget in plan.budgets])
    return replace(plan, warnings=plan_warnings(problem, plan.layers, profile, dense))


def _with_channels(plan: Plan, channels: PlannedChannels, profile: DeviceProfile | None) -> Plan:
    """Add what becomes of channels, and compare with the whole model instead of what is left."""
    whole = channels.whole
    names = [total.cost for total in plan.all_costs]
    dense = {
        name: price_model(cost_model(name), whole, [None] * len(whole.layers), profile)
        for name in names
    }
    cut_by = _groups_by_layer(channels)
    layers = tuple(
        replace(
            layer,
            num_removed_weights=before.num_weights - layer.num_weights,
            cut_by=cut_by[layer.name],
            whole_costs={name: dense[name].layers[index].dense for name in names},
        )
        if layer.name in cut_by
        else layer
        for index, (layer, before) in enumerate(zip(plan.layers, whole.layers, strict=True))
    )

    def total(item: PlanBudget) -> PlanBudget:
        priced = dense[item.cost]
        return replace(item, dense=priced.rest + sum(layer.dense for layer in priced.layers))

    return replace(
        plan,
        budgets=tuple(map(total, plan.budgets)),
        totals=tuple(map(total, plan.totals)),
        layers=layers,
        groups=channels.groups,
        retained_by=dict(channels.retained_by),
    )


def _groups_by_layer(channels: PlannedChannels) -> dict[str, tuple[str, ...]]:
    """By layer that loses channels, the groups that it loses them with."""
    shortened = {group.name for group in channels.groups if group.is_shortened}
    found: dict[str, list[str]] = {}
    for group in channels.whole.channel_groups:
        for item in group.slices if group.name in shortened else ():
            names = found.setdefault(item.tensor, [])
            if item.role != "vector" and group.name not in names:
                names.append(group.name)
    return {name: tuple(names) for name, names in found.items() if names}


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
