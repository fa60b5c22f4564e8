"""What a user should know before training to a plan."""

from collections.abc import Sequence

from cost_models import DeviceProfile, Layout
from spartan_planner.planning.candidates import Costs
from spartan_planner.planning.document import PlanLayer
from spartan_planner.planning.estimate_warnings import estimate_warnings
from spartan_planner.planning.fixed_layers import fixed_layers_warning
from spartan_planner.planning.problem import PlanProblem


def plan_warnings(
    problem: PlanProblem,
    planned: Sequence[PlanLayer],
    profile: DeviceProfile | None,
    dense: Costs | None = None,
) -> tuple[str, ...]:
    """Return sentences about budgets, layouts, and layers: fixed, estimated, thin, masked.

    Args:
        problem: what there was to choose from.
        planned: what became of it.
        profile: the device, where one is needed.
        dense: ``[budgets]``, cost of the dense model, where channels went before.
    """
    estimated = estimate_warnings(problem.workload, planned, profile) if profile else ()
    return (
        *_budgets_above_dense(problem, problem.dense if dense is None else dense),
        *_layouts_that_never_pay(problem),
        *fixed_layers_warning(problem.workload),
        *estimated,
        *thin_layers_warning(planned),
        *_masked_warnings(planned),
    )


THIN_DENSITY = 0.02
"""A layer of which less is kept lets hardly anything through."""

MAX_NAMED = 5
"""Layers that a warning names."""


def thin_layers_warning(planned: Sequence[PlanLayer]) -> tuple[str, ...]:
    """Return a sentence about sparse layers of less than ``THIN_DENSITY``, where there are some.

    A plan keeps what is worth most per cost over the whole model; where the weights of one layer
    are small throughout, little of it is left, though it may be the only way through the model.
    """
    thin = [layer for layer in planned if layer.whole_density < THIN_DENSITY]
    if not thin:
        return ()
    names = ", ".join(f"{layer.name} ({layer.whole_density:.1%})" for layer in thin[:MAX_NAMED])
    more = f" and {len(thin) - MAX_NAMED} more" if len(thin) > MAX_NAMED else ""
    return (
        f"less than {THIN_DENSITY:.0%} is kept of {names}{more}, which may cut the model off "
        f"there: --min-density '{thin[0].name}=5%' keeps more, --min-density '*=5%' of every layer",
    )


def _budgets_above_dense(problem: PlanProblem, all_dense: Costs) -> list[str]:
    return [
        f"the budget on {budget.cost} does not bind: it allows {asked:.4g} {model.unit}, the dense "
        f"model needs {dense:.4g}"
        for budget, model, asked, dense in zip(
            problem.budgets, problem.models, problem.asked, all_dense, strict=True
        )
        if asked > dense * (1 + ABOVE)
    ]


ABOVE = 1e-9
"""Rounding of sums, beyond which a budget of 100 % is above the dense model's cost."""


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
