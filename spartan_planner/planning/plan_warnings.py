"""What a user should know before training to a plan."""

from collections.abc import Sequence

from cost_models import DeviceProfile, Layout
from spartan_planner.planning.document import PlanLayer
from spartan_planner.planning.estimate_warnings import estimate_warnings
from spartan_planner.planning.fixed_layers import fixed_layers_warning
from spartan_planner.planning.problem import PlanProblem


def plan_warnings(
    problem: PlanProblem, planned: Sequence[PlanLayer], profile: DeviceProfile | None
) -> tuple[str, ...]:
    """Return sentences about layouts that do not pay, fixed layers, estimates, masked layers."""
    estimated = estimate_warnings(problem.workload, planned, profile) if profile else ()
    return (
        *_layouts_that_never_pay(problem),
        *fixed_layers_warning(problem.workload),
        *estimated,
        *_masked_warnings(planned),
    )


def _layouts_that_never_pay(problem: PlanProblem) -> list[str]:
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
    return found


def _masked_warnings(planned: Sequence[PlanLayer]) -> tuple[str, ...]:
    names = sorted({layer.layout for layer in planned if layer.is_sparse})
    masked = [name for name in names if not Layout.parse(name).balanced_step]
    if not masked:
        return ()
    return (
        f"layers in {' and '.join(masked)} are exported masked (--form masked), zeros and all: "
        "what is saved is what hardware or a runtime that skips zeros would save",
    )
