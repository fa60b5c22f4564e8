"""``plan --try``: its options, and what it prints."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cost_models import DeviceProfile, write_document
from spartan_planner.cli.options import EXIT_MISSED, require_output
from spartan_planner.console import show
from spartan_planner.errors import UsageError
from spartan_planner.planning import Plan
from spartan_planner.progress import progress_bar
from spartan_planner.trial_rounds import Trial

if TYPE_CHECKING:
    from torch import Tensor, nn

    from spartan_planner.trial import TrialSettings

Try = Annotated[
    bool,
    typer.Option(
        "--try", help="Measure what the plan would give, and plan again until both agree."
    ),
]
TryTolerance = Annotated[
    float | None,
    typer.Option("--try-tolerance", help="Share by which they may differ; 0.05 by default."),
]
TryProfile = Annotated[
    Path | None,
    typer.Option("--try-profile", help="Write the profile behind the last plan (YAML) here."),
]


@dataclass(frozen=True)
class TrialWish:
    """How the user wants the plan to be tried.

    Attributes:
        settings: of the trial.
        out: where to write the profile behind the last plan, if anywhere.
    """

    settings: "TrialSettings"
    out: Path | None


def trial_wish(
    is_tried: bool, tolerance: float | None, out: Path | None, profile: str | None
) -> TrialWish | None:
    """Check the options before any work; ``None`` where nothing is to be tried.

    Raises:
        UsageError: options that need ``--try`` without it, ``--try`` without a profile, or a
            tolerance or file that cannot be.
    """
    if not is_tried:
        if tolerance is not None or out is not None:
            raise UsageError("--try-tolerance and --try-profile belong to --try; give that too")
        return None
    if profile is None:
        raise UsageError(
            "--try compares what is measured with what a profile predicts; give --profile"
        )
    if out is not None:
        require_output(out)
    from spartan_planner.trial import TrialSettings

    settings = TrialSettings() if tolerance is None else TrialSettings(tolerance=tolerance)
    return TrialWish(settings, out)


def try_out(
    wish: TrialWish | None,
    model: "nn.Module",
    examples: "tuple[Tensor, ...]",
    make_plan: Callable[[DeviceProfile], Plan],
    profile: DeviceProfile | None,
) -> Trial | None:
    """Try the plan, where that is wished, and write the profile behind it.

    Raises:
        SpartanPlannerError: as ``spartan_planner.trial.try_plan``.
    """
    if wish is None:
        return None
    from spartan_planner.trial import try_plan

    settings = wish.settings
    with progress_bar("trying", settings.max_rounds * settings.verify.num_rounds) as advance:
        trial = try_plan(model, examples, make_plan, profile, settings, advance)
    if wish.out is not None:
        write_document(wish.out, trial.profile)
    return trial


def trial_json(trial: Trial | None) -> dict[str, Any]:
    """Return what ``plan --try --json`` prints beside the plan."""
    return {} if trial is None else {"trial": trial.to_json()}


def show_trial(trial: Trial | None) -> None:
    """Print what was measured in each round, and why that does not suffice where it does not."""
    if trial is None:
        return
    from spartan_planner.report import trial_table

    if trial.rounds:
        show(trial_table(trial))
    if trial.agrees:
        show("what was measured agrees with the plan")
    else:
        show(f"warning: what was measured does not agree with the plan: {trial.reason}")


def exit_by(trial: Trial | None) -> None:
    """End with exit code 1 where a plan was tried and does not agree with what was measured."""
    if trial is not None and not trial.agrees:
        raise typer.Exit(EXIT_MISSED)
