"""Making a plan, for a model as it is or with channels that may go."""

from cost_models import Workload
from spartan_planner.planning.channel_plan import plan_with_channels
from spartan_planner.planning.document import Plan
from spartan_planner.planning.plan_document import Planned, plan_document
from spartan_planner.planning.problem import prepare
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
    if request.channels is None:
        problem = prepare(workload, weights, request)
        planned = Planned(problem, problem.allocate(request.policy), request.profile)
    else:
        planned = plan_with_channels(workload, weights, request, request.channels)
    return plan_document(planned, request, input_shapes=input_shapes, input_dtypes=input_dtypes)
