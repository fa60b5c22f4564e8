"""Making a plan: candidates from a workload and values, an allocation, a document."""

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cost_models import (
    CostModel,
    DeviceProfile,
    LayerWorkload,
    Layout,
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
    least_cost,
)
from spartan_planner.planning.budget import Budget, base_unit
from spartan_planner.planning.candidates import LayerCandidates, SparseCandidate
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
from spartan_planner.planning.pricing import PricedModel, price_by_others, price_model

ROUNDING = 1e-12
"""Share of the budget left unused, so that no order of summation makes a plan exceed it."""

BlockValues = Callable[[LayerWorkload, Layout], NDArray[np.float64]]
"""Value of each block of a layer in a layout, in position order."""


def make_plan(
    workload: Workload,
    block_values: BlockValues,
    total_values: dict[str, float],
    budgets: Sequence[Budget],
    layouts: Callable[[LayerWorkload], Sequence[Layout]],
    *,
    profile: DeviceProfile | None = None,
    input_shapes: tuple[tuple[int, ...], ...] = (),
    input_dtypes: tuple[str, ...] = (),
    schedule: Schedule | None = None,
) -> Plan:
    """Plan which blocks of a model to keep.

    Args:
        workload: the model.
        block_values: values of the blocks of a layer in a layout.
        total_values: sum of absolute weights of every layer, by name.
        budgets: what the whole model may cost.
        layouts: layouts to consider for a layer, beside leaving it dense.
        profile: the device; needed for costs that depend on one.
        input_shapes: of the example inputs; written into the plan.
        input_dtypes: the same for their element types.
        schedule: how to train; the paper's by default.

    Raises:
        UsageError: not exactly one budget is given.
        CostModelError: a layer cannot be priced.
        PlanError: no layer can be pruned in any of the layouts.
        InfeasibleBudgetError: no plan meets the budget.
    """
    if len(budgets) != 1:
        raise UsageError(f"{len(budgets)} budgets were given; exactly one is supported at present")
    budget = budgets[0]
    model = cost_model(budget.cost)
    rest = model.rest(workload, profile)
    layers = [
        _candidates(layer, model, profile, block_values, total_values[layer.name], layouts(layer))
        for layer in workload.layers
    ]
    if not any(layer.sparse for layer in layers):
        raise PlanError(
            f"no layer of {workload.model} can be pruned in the layouts that are considered; "
            "block layouts need convolutions whose inputs are a multiple of 16 (at least 32) and "
            "whose outputs are a multiple of 32"
        )
    dense = rest + sum(layer.dense for layer in layers)
    asked = budget.asked(dense)
    allocation = _allocate(layers, asked, rest, dense, model, budget)
    chosen = [
        choice.candidate.layout if choice.candidate else None for choice in allocation.choices
    ]
    budgeted = price_model(model, workload, chosen, profile)
    others, not_priced = price_by_others(budgeted, workload, chosen, profile)
    planned = tuple(
        _plan_layer(layer, choice, {p.cost: p.layers[index] for p in (budgeted, *others)})
        for index, (layer, choice) in enumerate(
            zip(workload.layers, allocation.choices, strict=True)
        )
    )
    return Plan(
        schema_version=1,
        model=workload.model,
        model_fingerprint=workload.fingerprint,
        input_shapes=input_shapes,
        input_dtypes=input_dtypes,
        profile=_plan_profile(profile) if profile else None,
        budgets=(_total(budgeted, planned, asked, budget.is_relative),),
        totals=tuple(_total(priced, planned, None) for priced in others),
        not_priced=not_priced,
        unpriced_operations={item.op: item.num_calls for item in workload.unpriced},
        retained_value=min(1.0, allocation.value / max(sum(total_values.values()), 1e-300)),
        schedule=schedule or Schedule(),
        layers=planned,
        warnings=estimate_warnings(workload, planned, profile) if profile else (),
    )


def profile_fingerprint(profile: DeviceProfile) -> str:
    """Return the SHA-256 of the profile's document."""
    return hashlib.sha256(dump_document(profile).encode()).hexdigest()


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
    model: CostModel,
    profile: DeviceProfile | None,
    block_values: BlockValues,
    total_value: float,
    layouts: Sequence[Layout],
) -> LayerCandidates:
    costs = [(layout, model.linear_cost(layer, layout, profile)) for layout in layouts]
    sparse = [
        SparseCandidate(
            layout,
            _finite(layer, block_values(layer, layout)),
            layout.block_sizes(layer.shape.weight_shape),
            cost,
        )
        for layout, cost in costs
        # Where blocks cost nothing there is nothing to gain by pruning them.
        if layer.prunable and cost.per_block > 0
    ]
    return LayerCandidates(layer.name, total_value, model.dense_cost(layer, profile), tuple(sparse))


def _finite(layer: LayerWorkload, values: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.all(np.isfinite(values)):
        raise PlanError(
            f"the weights of layer {layer.name} hold NaN or infinity; give a sound checkpoint"
        )
    return values


def _allocate(
    layers: Sequence[LayerCandidates],
    asked: float,
    rest: float,
    dense: float,
    model: CostModel,
    budget: Budget,
) -> Allocation:
    if asked >= dense:
        return allocate(layers, math.inf)
    try:
        return allocate(layers, (asked - rest) * (1 - ROUNDING))
    except InfeasibleBudgetError as error:
        least = rest + least_cost(layers)
        raise InfeasibleBudgetError(
            f"{budget.cost} of {asked:.4g} {model.unit} cannot be reached: the least achievable is "
            f"{least:.4g} {model.unit} ({least / dense:.1%} of the dense {dense:.4g} "
            f"{model.unit}), held up by {dearest_layers(layers)}; ask for "
            f"{_hint(budget, model, least, dense)} or more"
        ) from error


def _hint(budget: Budget, model: CostModel, least: float, dense: float) -> str:
    """Return a budget, as users write it, that can just be met."""
    reachable = least / (1 - 2 * ROUNDING)
    if budget.is_relative:
        return f"{budget.cost}={math.ceil(reachable / dense * 100)}%"
    digit = 10.0 ** (math.floor(math.log10(reachable)) - 3)
    return f"{budget.cost}={math.ceil(reachable / digit) * digit:.4g}{base_unit(model)}"


def _plan_layer(
    layer: LayerWorkload, choice: LayerChoice, costs: dict[str, LinearCost]
) -> PlanLayer:
    if choice.candidate is None:
        return PlanLayer(layer.name, DENSE, layer.num_weights, 0, 0, 0.0, 1.0, costs)
    layout = choice.candidate.layout
    kept_size = float(np.sum(choice.candidate.sizes[choice.kept]))
    return PlanLayer(
        name=layer.name,
        layout=str(layout),
        num_weights=layer.num_weights,
        num_blocks=choice.kept.size,
        num_kept_blocks=int(np.count_nonzero(choice.kept)),
        kept_size=kept_size,
        density=min(1.0, kept_size / layout.num_whole_blocks(layer.shape.weight_shape)),
        costs=costs,
    )


def _total(
    priced: PricedModel,
    layers: Sequence[PlanLayer],
    asked: float | None,
    is_relative: bool = False,
) -> PlanBudget:
    dense = priced.rest + sum(layer.costs[priced.cost].dense for layer in layers)
    predicted = priced.rest + sum(layer.predicted(priced.cost) for layer in layers)
    return PlanBudget(priced.cost, priced.unit, dense, asked, predicted, priced.rest, is_relative)
