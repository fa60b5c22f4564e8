"""A plan tried out before any training: pruned in one shot, exported, measured, planned again."""

import copy
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from cost_models import DeviceProfile, Workload
from spartan_planner.errors import (
    InfeasibleBudgetError,
    PlanError,
    ProfileError,
    UsageError,
)
from spartan_planner.export import Form, export_onnx, prune_one_shot
from spartan_planner.export.kept_sizes import kept_sizes
from spartan_planner.export_metadata import LOWERED, metadata_of
from spartan_planner.extraction import extract_workload, inputs_for
from spartan_planner.planning import Plan, PlanBudget
from spartan_planner.profiling.device import this_device, this_runtime
from spartan_planner.progress import Advance, no_progress
from spartan_planner.recalibration import averaged, measured_factors, recalibrated_by
from spartan_planner.trial_rounds import Trial, TrialRound
from spartan_planner.verification import VerifySettings, verify

MakePlan = Callable[[DeviceProfile], Plan]
"""Plans by a profile, everything else as before."""


@dataclass(frozen=True)
class TrialSettings:
    """How to try a plan.

    Attributes:
        tolerance: share by which measured may differ from predicted latency, dense and pruned.
        max_rounds: how often to plan and measure at most.
        verify: how to measure.
    """

    tolerance: float = 0.05
    max_rounds: int = 5
    verify: VerifySettings = field(default_factory=VerifySettings)

    def __post_init__(self) -> None:
        """Refuse tolerances that nothing meets, and trials without a round."""
        if not 0 < self.tolerance < math.inf:
            raise UsageError(
                f"tolerance {self.tolerance:g} of a trial must be a positive share such as 0.05"
            )
        if self.max_rounds < 1:
            raise UsageError(f"a trial needs at least 1 round, not {self.max_rounds}")


@dataclass(frozen=True)
class MeasuredPlan:
    """What the dense and the lowered file of a plan took.

    Attributes:
        dense_ms: latency of the dense file, at the device's speed while profiling.
        speedup: of the lowered over the dense file, timed in turn.
        kept_sizes: what the lowered file keeps of each sparse layer, in whole blocks.
        scatter: half the 95 % interval of the speed-up, over the speed-up.
        device_speed_ratio: yardstick time now over its time in the profile.
    """

    dense_ms: float
    speedup: float
    kept_sizes: Mapping[str, float]
    scatter: float
    device_speed_ratio: float


Measure = Callable[[Plan], MeasuredPlan]
"""Measures a plan's files."""


def try_plan(
    model: nn.Module,
    example_inputs: Sequence[Tensor] | Tensor,
    make_plan: MakePlan,
    profile: DeviceProfile | None,
    settings: TrialSettings | None = None,
    advance: Advance = no_progress,
) -> Trial:
    """Plan, measure what the plan would give, and correct the profile until both agree.

    In each round a copy of the model is pruned to the plan in one shot and exported lowered, and
    timed in turn with the dense model and the yardstick, as ``verify`` does.  Where measured and
    predicted latency differ by more than the tolerance the profile is recalibrated and the plan
    made anew.

    Args:
        model: the model; it is not changed.
        example_inputs: positional arguments, batch first, as the plan is made for.
        make_plan: plans by a profile.
        profile: of this device.
        settings: how to try.
        advance: called after each round of measuring; ``max_rounds`` times ``num_rounds`` at most.

    Returns:
        The last plan and the profile behind it; where they do not agree, the reason.

    Raises:
        UsageError: no torch model, or no profile.
        InfeasibleBudgetError: the given profile says that the budget cannot be met.
        ExportError: the model cannot be exported, or not lowered in the planned layouts.
        SpartanPlannerError: as planning and exporting do.
    """
    settings = settings or TrialSettings()
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"only torch models can be tried, since the plan has to be exported, and this is "
            f"{type(model).__name__}; give torchvision:NAME or package.module:factory"
        )
    if profile is None:
        raise UsageError(
            "a trial compares what is measured with what a profile predicts; give the profile of "
            "this device"
        )
    obstacle = why_not_comparable(profile)
    if obstacle:
        return Trial(make_plan(profile), profile, (), obstacle)
    inputs = inputs_for(model, example_inputs)
    workload = extract_workload(model, inputs, type(model).__name__)
    with tempfile.TemporaryDirectory() as folder:
        files = _Files(model, inputs, Path(folder), settings.verify, advance)
        return converge(make_plan, files.measure, workload, profile, settings)


def why_not_comparable(profile: DeviceProfile) -> str | None:
    """Return why this device's times do not compare with the profile's, or ``None``.

    Another version of the same runtime does not matter: it runs the yardstick as well.
    """
    taken = profile.measurement
    if taken is None:
        return (
            f"profile {profile.name!r} holds facts and no measurement, so nothing measured here "
            "compares with it; profile this device"
        )
    here, runtime = this_device(taken.device.num_threads).cpu, this_runtime()
    if taken.device.cpu != here:
        return (
            f"profile {profile.name!r} is of another device ({taken.device.cpu}; this is {here}), "
            "so nothing measured here compares with it; try the plan there, or profile this device"
        )
    if (taken.runtime.name, taken.runtime.provider) != (runtime.name, runtime.provider):
        return (
            f"profile {profile.name!r} is of {taken.runtime.name} with {taken.runtime.provider} "
            f"and a trial runs {runtime.name} with {runtime.provider}; profile this device with "
            f"{runtime.name}"
        )
    return None


def converge(
    make_plan: MakePlan,
    measure: Measure,
    workload: Workload,
    profile: DeviceProfile,
    settings: TrialSettings,
) -> Trial:
    """Plan, measure and recalibrate in turn, until predicted and measured latency agree.

    The given profile is recalibrated by the mean of what all rounds so far have found, so that
    measurements that scatter do not drive the plans to and fro.

    Args:
        make_plan: plans by a profile.
        measure: measures a plan.
        workload: that the plans are made for.
        profile: to begin with.
        settings: when to end.

    Raises:
        PlanError: the first plan is infeasible, or a plan tells no latency.
    """
    given, plan = profile, make_plan(profile)
    plans, rounds, measurements = list[Plan](), list[TrialRound](), list[MeasuredPlan]()
    while True:
        plans.append(plan)
        measurements.append(measure(plan))
        rounds.append(_round(plan, measurements))
        if rounds[-1].worst_error <= settings.tolerance:
            return Trial(plan, profile, tuple(rounds), None)
        if len(rounds) == settings.max_rounds:
            return Trial(plan, profile, tuple(rounds), _why_not(rounds, settings.tolerance))
        try:
            better = _better(given, workload, plans, measurements)
            plan, profile = make_plan(better), better
        except InfeasibleBudgetError as error:
            reason = f"by what was measured the budget cannot be met: {error}"
            return Trial(plan, profile, tuple(rounds), reason)
        except ProfileError as error:
            return Trial(plan, profile, tuple(rounds), str(error))


def _better(
    given: DeviceProfile,
    workload: Workload,
    plans: Sequence[Plan],
    measurements: Sequence[MeasuredPlan],
) -> DeviceProfile:
    dense_ms = statistics.median(item.dense_ms for item in measurements)
    factors = [
        measured_factors(given, workload, plan, item.kept_sizes, dense_ms, dense_ms / item.speedup)
        for plan, item in zip(plans, measurements, strict=True)
    ]
    return recalibrated_by(given, averaged(factors))


def _round(plan: Plan, measurements: Sequence[MeasuredPlan]) -> TrialRound:
    """The last measurement; of the dense file, which never changes, all measurements count."""
    last = measurements[-1]
    promise = _latency(plan, last.kept_sizes)
    all_dense_ms = [item.dense_ms for item in measurements]
    dense_ms = statistics.median(all_dense_ms)
    return TrialRound(
        asked_ms=promise.asked,
        predicted_ms=promise.predicted,
        measured_ms=dense_ms / last.speedup,
        predicted_dense_ms=promise.dense,
        measured_dense_ms=dense_ms,
        scatter=max(last.scatter, (max(all_dense_ms) - min(all_dense_ms)) / 2 / dense_ms),
        device_speed_ratio=last.device_speed_ratio,
    )


def _latency(plan: Plan, kept: Mapping[str, float]) -> PlanBudget:
    promise = metadata_of(plan, kept, LOWERED).latency
    if promise is None:
        raise PlanError(
            "the plan cannot be tried, since its latency cannot be told: "
            f"{plan.not_priced.get('latency', 'the profile is of no device')}"
        )
    return promise


def _why_not(rounds: Sequence[TrialRound], tolerance: float) -> str:
    last = rounds[-1]
    found = (
        f"after {len(rounds)} round(s) measured and predicted latency still differ by "
        f"{last.worst_error:.1%}, and {tolerance:.1%} is allowed"
    )
    if last.scatter > tolerance:
        return (
            f"{found}; the figures scatter by {last.scatter:.1%}: try again when the device is "
            "quiet, or with a greater tolerance"
        )
    return f"{found}; its layers' times do not move together: profile this model here again"


@dataclass
class _Files:
    """The files of a model on this device."""

    model: nn.Module
    inputs: Sequence[Tensor]
    folder: Path
    settings: VerifySettings
    advance: Advance
    dense: Path | None = None

    def measure(self, plan: Plan) -> MeasuredPlan:
        """Export and time what the plan would give."""
        pruned = copy.deepcopy(self.model)
        if self.dense is None:
            self.dense = self.folder / "dense.onnx"
            export_onnx(pruned, None, self.inputs, self.dense)
        prune_one_shot(pruned, plan)
        path = self.folder / "lowered.onnx"
        export_onnx(pruned, plan, self.inputs, path, form=Form.LOWERED)
        settings = replace(self.settings, is_detailed=False)
        found = verify(path, plan, dense=self.dense, settings=settings, advance=self.advance)
        assert found.dense_ms is not None
        assert found.speedup is not None
        low, high = found.speedup.ci95
        ratio = found.device_speed_ratio
        return MeasuredPlan(
            found.dense_ms / ratio,
            found.speedup.measured,
            kept_sizes(pruned, plan),
            (high - low) / 2 / found.speedup.measured,
            ratio,
        )
