"""What is asked of a plan, whatever the model is and wherever its weights are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cost_models import DeviceProfile, LayerWorkload, Layout
from spartan_planner.errors import UsageError
from spartan_planner.planning.bounds import Bound
from spartan_planner.planning.budget import Budget, budget_for
from spartan_planner.planning.channel_groups import CHANNEL_KINDS, ChannelWish
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
        channels: what may become of channels and heads; ``None`` where they all stay.
    """

    budgets: Sequence[Budget]
    profile: DeviceProfile | None = None
    layouts: Sequence[Layout] | Layouts = ()
    bounds: Sequence[Bound] = ()
    policy: Policy = Policy.COST
    schedule: Schedule = field(default_factory=Schedule)
    channels: ChannelWish | None = None

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


AUTO = "auto"
"""Text that stands for every layout: channels, heads, and those taken where none is named."""


def read_layouts(
    layouts: Sequence[Layout | str], multiple: int | None = None
) -> tuple[tuple[Layout, ...], ChannelWish | None]:
    """Return layouts of single weights, and what may become of channels, read from text.

    ``channel`` and ``head`` alone prune nothing else; beside other layouts, or as ``auto``, what
    is left of the model may be pruned in those too.

    Args:
        layouts: layouts and texts, such as ``channel``, ``tile:64x1@16`` or ``auto``.
        multiple: channels that a group may keep are a multiple of it; ``None`` for the device's
            step.

    Raises:
        UnknownNameError: a text is no layout.
        UsageError: a multiple that is none, or without channels.
    """
    texts = [item for item in layouts if isinstance(item, str)]
    is_auto = AUTO in texts
    kinds = frozenset(CHANNEL_KINDS) if is_auto else frozenset(texts) & frozenset(CHANNEL_KINDS)
    others = tuple(
        Layout.parse(item) if isinstance(item, str) else item
        for item in layouts
        if item not in (*CHANNEL_KINDS, AUTO)
    )
    if multiple is not None and (multiple < 1 or not kinds):
        raise UsageError(
            f"a channel multiple of {multiple} was given; it must be at least 1, and needs layout "
            "channel or auto"
        )
    if not kinds:
        return others, None
    return others, ChannelWish(kinds, multiple, with_tiles=is_auto or bool(others))
