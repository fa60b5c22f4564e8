"""Budget and sharpness over the course of training (DESIGN 4.5)."""

from dataclasses import dataclass

from spartan_planner.planning import Schedule


@dataclass(frozen=True)
class SchedulePoint:
    """Where training stands.

    Attributes:
        budget_share: 1 at the start, when all blocks are affordable; 0 once the budget is reached.
        sharpened: share of the way from the first beta to the target, in [0, 1].
        is_frozen: whether the mask stands still.
    """

    budget_share: float
    sharpened: float
    is_frozen: bool


def schedule_point(schedule: Schedule, step: int, total_steps: int) -> SchedulePoint:
    """Return the point that is reached after ``step`` of ``total_steps`` optimizer steps.

    The budget falls over ``budget_fraction`` of the steps, linearly, or as ``(1 - t)^3`` (Zhu and
    Gupta, arXiv 1710.01878) where ``budget_fall`` is ``cubic``; beta rises linearly over
    ``sharpening_fraction``, the mask freezes for the last ``frozen_fraction``.

    Raises:
        ValueError: a step outside ``[0, total_steps]``.
    """
    if not 0 <= step <= total_steps:
        raise ValueError(f"step {step} lies outside 0 to {total_steps}")
    progress = step / total_steps
    power = 3 if schedule.budget_fall == "cubic" else 1
    return SchedulePoint(
        budget_share=(1 - _ramp(progress, schedule.budget_fraction)) ** power,
        sharpened=_ramp(progress, schedule.sharpening_fraction),
        is_frozen=progress >= 1 - schedule.frozen_fraction,
    )


def _ramp(progress: float, fraction: float) -> float:
    return 1.0 if fraction == 0 else min(1.0, progress / fraction)
