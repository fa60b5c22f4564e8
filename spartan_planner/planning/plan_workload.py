"""Planning for a workload and its weights, wherever they come from; needs no torch."""

from collections.abc import Mapping, Sequence

from cost_models import DeviceProfile, Layout, Workload
from spartan_planner.planning.bounds import Bound
from spartan_planner.planning.budget import Budget
from spartan_planner.planning.document import Plan, Schedule
from spartan_planner.planning.plan import make_plan
from spartan_planner.planning.policies import Policy
from spartan_planner.planning.request import PlanRequest, as_budgets, as_layouts
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
    schedule: Schedule | None = None,
    input_shapes: tuple[tuple[int, ...], ...] = (),
    input_dtypes: tuple[str, ...] = (),
) -> Plan:
    """Plan which blocks of a model to keep: ``make_plan`` with its request as keywords.

    Args and errors are those of ``PlanRequest`` and ``make_plan``; budgets may be given as text,
    such as ``{"params": "40%"}``, layouts as well.
    """
    request = PlanRequest(
        as_budgets(budgets),
        profile,
        as_layouts(layouts),
        bounds,
        policy,
        schedule or Schedule(),
    )
    return make_plan(
        workload, weights, request, input_shapes=input_shapes, input_dtypes=input_dtypes
    )
