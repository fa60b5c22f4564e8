"""Planning for a workload and its weights, wherever they come from; needs no torch."""

from collections.abc import Mapping, Sequence

from cost_models import DeviceProfile, Layout, Workload
from spartan_planner.planning.bounds import Bound
from spartan_planner.planning.budget import Budget
from spartan_planner.planning.document import Plan, Schedule
from spartan_planner.planning.plan import make_plan
from spartan_planner.planning.policies import Policy
from spartan_planner.planning.request import PlanRequest, as_budgets, read_layouts
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
    channel_multiple: int | None = None,
    input_shapes: tuple[tuple[int, ...], ...] = (),
    input_dtypes: tuple[str, ...] = (),
) -> Plan:
    """Plan which blocks of a model to keep: ``make_plan`` with its request as keywords.

    Args and errors are those of ``PlanRequest`` and ``make_plan``; budgets may be given as text,
    such as ``{"params": "40%"}``, layouts as well: ``tile:64x1@16``, ``channel``, ``auto``.
    """
    others, channels = read_layouts(layouts, channel_multiple)
    request = PlanRequest(
        as_budgets(budgets),
        profile,
        others,
        bounds,
        policy,
        schedule or Schedule(),
        channels,
    )
    return make_plan(
        workload, weights, request, input_shapes=input_shapes, input_dtypes=input_dtypes
    )
