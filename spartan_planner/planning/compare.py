"""One model on several devices: a plan for each, and what it would cost on the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cost_models import CostModelError, DeviceProfile, Layout, Workload, cost_model
from cost_models.channel_cost import reduce
from spartan_planner.errors import InfeasibleBudgetError, UsageError
from spartan_planner.planning.document import Plan
from spartan_planner.planning.pricing import layer_cost


@dataclass(frozen=True)
class DevicePlan:
    """A plan for one device.

    Attributes:
        profile: name of the device.
        plan: the plan.
        density: share of the weights of all layers that is kept.
        elsewhere: by device and cost, what the plan costs there; ``None`` where nobody can tell.
    """

    profile: str
    plan: Plan
    density: float
    elsewhere: dict[str, dict[str, float | None]]


def compare(
    workload: Workload,
    profiles: Sequence[DeviceProfile],
    plan_for: Callable[[DeviceProfile], Plan],
) -> tuple[DevicePlan, ...]:
    """Plan for each device, and price every plan on every other one.

    Args:
        workload: the model.
        profiles: the devices, of different names.
        plan_for: makes the plan for one of them.

    Raises:
        UsageError: two profiles of one name.
        InfeasibleBudgetError: no plan meets the budgets on one of the devices, which is named.
    """
    names = [profile.name for profile in profiles]
    if len(set(names)) < len(names):
        raise UsageError(
            f"the profiles are called {', '.join(names)}; give profiles of different names"
        )
    found = []
    for profile in profiles:
        try:
            plan = plan_for(profile)
        except InfeasibleBudgetError as error:
            raise InfeasibleBudgetError(f"on {profile.name}: {error}") from error
        elsewhere = {
            other.name: {
                item.cost: cost_of_plan(plan, workload, item.cost, other) for item in plan.all_costs
            }
            for other in profiles
            if other is not profile
        }
        found.append(DevicePlan(profile.name, plan, _density(plan), elsewhere))
    return tuple(found)


def cost_of_plan(plan: Plan, workload: Workload, cost: str, profile: DeviceProfile) -> float | None:
    """Return what a planned model costs on some device; ``None`` where that cannot be told.

    A layer has one form for all costs: lowered where that saves, on this device, a cost that
    decides on forms.
    """
    try:
        models = {name: cost_model(name) for name in {cost, *plan.deciding_costs}}
        if plan.kept_units:
            left = reduce(workload, plan.kept_units, profile)
            workload, profile = left.workload, left.profile or profile
        total = models[cost].rest(workload, profile)
        for planned in plan.layers:
            layout = Layout.parse(planned.layout) if planned.is_sparse else None
            layer = workload.layer(planned.name)
            costs = {name: layer_cost(m, layer, layout, profile) for name, m in models.items()}
            there = replace(planned, costs=costs)
            total += there.predicted(cost, lowered=there.is_lowered(plan.deciding_costs))
    except CostModelError:
        return None
    return total


def _density(plan: Plan) -> float:
    kept = sum(layer.density * layer.num_weights for layer in plan.layers)
    return kept / sum(layer.num_weights for layer in plan.layers)
