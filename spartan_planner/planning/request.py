"""What is asked of a plan, whatever the model is and wherever its weights are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cost_models import DeviceProfile, LayerWorkload, Layout
from spartan_planner.planning.bounds import Bound
from spartan_planner.planning.budget import Budget, budget_for
from spartan_planner.planning.document import Schedule
from spartan_planner.planning.layouts import layouts_of
from spartan_planner.planning.policies import Policy

Layouts = Callable[[LayerWorkload], Sequence[Layout]]
"""Layouts to consider for a layer, beside leaving it dense."""


@dataclass(frozen=True)
class PlanRequest:
    """What a plan has to do.

    Attributes:
        budgets: what the whole model may cost, one or several, each on another cost.
        profile: the device; needed for costs that depend on one.
        layouts: layouts to choose from, or a function that returns those of a layer; empty for
            those that ``layouts_of`` says.
        bounds: what may become of which layers.
        policy: how kept weights are spread over the layers.
        schedule: how training comes to the budget; :class:`Schedule` says its defaults.
    """

    budgets: Sequence[Budget]
    profile: DeviceProfile | None = None
    layouts: Sequence[Layout] | Layouts = ()
    bounds: Sequence[Bound] = ()
    policy: Policy = Policy.COST
    schedule: Schedule = field(default_factory=Schedule)

    def layouts_of(self, layer: LayerWorkload) -> Sequence[Layout]:
        """Return the layouts to consider for a layer, beside leaving it dense."""
        if callable(self.layouts):
            return self.layouts(layer)
        return layouts_of(layer, self.profile, self.layouts)


def as_budgets(budgets: Mapping[str, str] | Sequence[Budget]) -> Sequence[Budget]:
    """Return budgets, read where they are given as text.

    Raises:
        UsageError, UnknownNameError: as ``budget_for``.
    """
    if isinstance(budgets, Mapping):
        return [budget_for(cost, amount) for cost, amount in budgets.items()]
    return budgets


def as_layouts(layouts: Sequence[Layout | str]) -> tuple[Layout, ...]:
    """Return layouts, read where they are given as text.

    Raises:
        UnknownNameError: a text is no layout.
    """
    return tuple(Layout.parse(item) if isinstance(item, str) else item for item in layouts)
