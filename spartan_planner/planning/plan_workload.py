"""Planning for a workload and its weights, wherever they come from; needs no torch."""

from collections.abc import Mapping, Sequence

from cost_models import DeviceProfile, LayerWorkload, Layout, Workload
from spartan_planner.planning.bounds import Bound
from spartan_planner.planning.budget import Budget, budget_for
from spartan_planner.planning.document import Plan, Schedule
from spartan_planner.planning.layouts import layouts_of
from spartan_planner.planning.plan import Layouts, make_plan
from spartan_planner.planning.policies import Policy
from spartan_planner.planning.weights import Weights


def plan_workload(
    workload: Workload,
    weights: Weights,
    budgets: Mapping[str, str] | Sequence[Budget],
    *,
    profile: DeviceProfile | None = None,
    layouts: Sequence[Layout | str] = (),
    bounds: Sequence[Bound] = (),
    policy: Policy = Policy.COST,
    input_shapes: tuple[tuple[int, ...], ...] = (),
    input_dtypes: tuple[str, ...] = (),
    schedule: Schedule | None = None,
) -> Plan:
    """Plan which blocks of a model to keep.

    Args:
        workload: the model.
        weights: its weights, such as ``ArrayWeights``, ``SafetensorsWeights`` or ``OnnxWeights``.
        budgets: what the whole model may cost, such as ``{"params": "40%"}``.
        profile: the device; needed for costs that depend on one.
        layouts: layouts to choose from; by default as ``layouts_of`` says.
        bounds: what may become of which layers.
        policy: how kept weights are spread over the layers.
        input_shapes: of the example inputs; written into the plan.
        input_dtypes: the same for their element types.
        schedule: how to train; the paper's by default.

    Raises:
        UsageError, UnknownNameError, CostModelError, PlanError, InfeasibleBudgetError: as
            ``make_plan``.
    """
    return make_plan(
        workload,
        weights,
        as_budgets(budgets),
        chosen_from(profile, layouts),
        profile=profile,
        bounds=bounds,
        policy=policy,
        input_shapes=input_shapes,
        input_dtypes=input_dtypes,
        schedule=schedule,
    )


def as_budgets(budgets: Mapping[str, str] | Sequence[Budget]) -> Sequence[Budget]:
    """Return budgets, read where they are given as text."""
    if isinstance(budgets, Mapping):
        return [budget_for(cost, amount) for cost, amount in budgets.items()]
    return budgets


def chosen_from(profile: DeviceProfile | None, layouts: Sequence[Layout | str] = ()) -> Layouts:
    """Return, as a function of a layer, the layouts to consider."""
    wanted = tuple(Layout.parse(item) if isinstance(item, str) else item for item in layouts)

    def choose(layer: LayerWorkload) -> tuple[Layout, ...]:
        return layouts_of(layer, profile, wanted)

    return choose
