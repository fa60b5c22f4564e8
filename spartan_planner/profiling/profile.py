"""Making a device profile from a workload."""

import datetime
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cost_models import (
    Device,
    DeviceFacts,
    DeviceProfile,
    LayerTiming,
    Measurement,
    Provenance,
    Workload,
    write_document,
)
from cost_models import Runtime as RuntimeFacts
from cost_models.latency import num_calls_beside_layers
from spartan_planner.profiling.assembly import fit_errors, in_situ, layer_timings, scaled
from spartan_planner.profiling.device import package_versions, this_device
from spartan_planner.profiling.facts import device_category, facts_of_layers, measure_facts
from spartan_planner.profiling.measurement_plan import Batch, plan_measurements
from spartan_planner.profiling.measuring import Measuring, Tell, tell_nobody
from spartan_planner.profiling.partial_file import SUFFIX, PartialFile, belonging
from spartan_planner.profiling.pinning import pinned
from spartan_planner.profiling.roofline_fit import fit_roofline
from spartan_planner.profiling.rounds import Figures, Round, figures_of, half_widths_that_count
from spartan_planner.profiling.run_overhead import measure_run_overhead_ms
from spartan_planner.profiling.settings import ProfileSettings
from spartan_planner.progress import Advance, no_progress
from spartan_planner.runtimes import Runtime, load_runtime

LEAST_DURATION_S = 1e-3
"""Left for rounds where the facts took the whole time: the least number of them is run anyway."""


def make_profile(
    workload: Workload,
    settings: ProfileSettings | None = None,
    advance: Advance = no_progress,
    *,
    partial: Path | None = None,
    tell: Tell = tell_nobody,
) -> DeviceProfile:
    """Measure every distinct layer shape of a workload on this device, and the whole model.

    Before the rounds, on the same cores and out of the same time, ONNX Runtime measures the facts
    of the processor.  Dense and lowered networks, the whole model and the yardstick are run in
    turn, round after round; each figure is the median, over the quiet half of the rounds, of its
    time in terms of the yardstick's in the same round, times the yardstick's median.  Rounds end
    when the figures
    are certain enough or the time is up.

    Args:
        workload: what to measure.
        settings: how to measure.
        advance: called after each round with the state of the figures.
        partial: file in which rounds are kept; when it holds some, the run goes on from there.
        tell: called with what the user should know.

    Raises:
        ProfileError: the workload has no layer that can be measured, or the partial file belongs
            to something else.
        UnknownNameError, UsageError: the runtime cannot be used here.
        DocumentError: the workload's graph cannot be run.
    """
    settings = settings or ProfileSettings()
    runtime = load_runtime(settings.runtime, settings.provider)
    device = this_device(settings.num_threads)
    has_model = _has_model(workload, settings, runtime, tell)
    with_channels = settings.with_channels or bool(workload.channel_groups)
    batches = plan_measurements(workload, has_model, with_channels=with_channels)
    kept = PartialFile(partial, belonging(workload, settings, runtime, device)) if partial else None
    described = RuntimeFacts(runtime.name, runtime.version, runtime.provider)
    with pinned(settings.num_threads) if settings.is_pinned else nullcontext(()) as cores:
        begun = time.monotonic()
        overhead_ms = measure_run_overhead_ms(settings.num_threads, runtime)
        # The benchmarks of facts run on the CPU; another device is bounded by its fastest layers.
        facts = measure_facts(settings.num_threads) if _is_cpu(described) else None
        left_s = max(settings.max_duration_s - (time.monotonic() - begun), LEAST_DURATION_S)
        remaining = replace(settings, max_duration_s=left_s)
        run = Measuring(workload, remaining, runtime, batches, kept, advance, tell)
        rounds = run.measure()
    place = _Place(device, described, cores, overhead_ms, facts)
    return _assemble(workload, settings.name, run, rounds, place, tell)


def write_profile(
    workload: Workload,
    out: Path,
    settings: ProfileSettings | None = None,
    advance: Advance = no_progress,
    tell: Tell = tell_nobody,
) -> DeviceProfile:
    """Make a profile and write it; an interrupted call goes on where it was when called again.

    Rounds are kept beside the profile, in ``<out>.partial``, until it is written.

    Args:
        workload: what to measure.
        out: file of the profile.
        settings: how to measure.
        advance: called after each round with the state of the figures.
        tell: called with what the user should know.

    Raises:
        SpartanPlannerError: as :func:`make_profile`, or the file cannot be written.
    """
    partial = out.with_name(out.name + SUFFIX)
    profile = make_profile(workload, settings, advance, partial=partial, tell=tell)
    write_document(out, profile)
    partial.unlink(missing_ok=True)
    return profile


def _has_model(workload: Workload, settings: ProfileSettings, runtime: Runtime, tell: Tell) -> bool:
    if not settings.whole_model:
        return False
    if not workload.graph:
        tell("the workload holds no graph, so layers are measured without the whole model")
        return False
    if not runtime.runs_onnx:
        tell(f"{runtime.name} runs no ONNX, so layers are measured without the whole model")
        return False
    return True


@dataclass(frozen=True)
class _Place:
    """Where the rounds were measured."""

    device: Device
    runtime: RuntimeFacts
    cores: tuple[int, ...]
    run_overhead_ms: float
    facts: DeviceFacts | None


def _is_cpu(runtime: RuntimeFacts) -> bool:
    """Whether the runtime computes on the processor."""
    return runtime.provider.upper().startswith("CPU")


def _assemble(
    workload: Workload,
    name: str,
    run: Measuring,
    rounds: Sequence[Sequence[Round]],
    place: _Place,
    tell: Tell,
) -> DeviceProfile:
    figures = [figures_of(done) for done in rounds]
    yardstick_ms = float(np.median(np.concatenate([item.yardstick_ms for item in figures])))
    layers = layer_timings(run.batches, figures, yardstick_ms)
    least_ms = _least_rest_ms(workload, place)
    whole = in_situ(workload, layers, run.batches, figures, yardstick_ms, least_ms)
    if whole and whole.note:
        tell(whole.note)
    factors = whole.factors if whole else {}
    layers = [scaled(layer, factors) for layer in layers]
    duration_s = sum(item.duration_s for done in rounds for item in done)
    provenance = _provenance(run.batches, figures, layers, duration_s, yardstick_ms, factors, place)
    facts = place.facts or facts_of_layers(layers, place.run_overhead_ms)
    return DeviceProfile(
        schema_version=2,
        name=name,
        category=device_category() if _is_cpu(place.runtime) else "unknown",
        facts=facts,
        roofline=fit_roofline(layers, facts),
        measurement=Measurement(place.device, place.runtime, provenance),
        run_overhead_ms=place.run_overhead_ms,
        layers=tuple(layers),
        models=(whole.timing,) if whole else (),
    )


def _least_rest_ms(workload: Workload, place: _Place) -> float:
    """What a run takes besides its layers at least: a call, and its other operations' launches."""
    launch_us = place.facts.launch_overhead_us.value if place.facts else 0.0
    return max(place.run_overhead_ms, num_calls_beside_layers(workload) * launch_us * 1e-3)


def _provenance(
    batches: Sequence[Batch],
    figures: Sequence[Figures],
    layers: Sequence[LayerTiming],
    duration_s: float,
    yardstick_ms: float,
    factors: dict[str, float],
    place: _Place,
) -> Provenance:
    errors = fit_errors(layers)
    widths = [half_widths_that_count(b, f) for b, f in zip(batches, figures, strict=True)]
    widest = max(float(np.max(item, initial=0.0)) for item in widths)
    return Provenance(
        source="measured",
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=package_versions(place.runtime.name),
        num_rounds=min(item.num_rounds for item in figures),
        duration_s=round(duration_s, 1),
        yardstick_ms=float(f"{yardstick_ms:.5g}"),
        median_fit_error=float(f"{np.median(errors):.5g}") if errors else None,
        max_fit_error=float(f"{max(errors):.5g}") if errors else None,
        in_situ_factors=factors,
        widest_half_width=float(f"{widest:.5g}") if np.isfinite(widest) else None,
        pinned_cores=place.cores,
    )
