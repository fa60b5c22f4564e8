"""Measured times held against a promise."""

import statistics
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spartan_planner.export_metadata import ExportMetadata
from spartan_planner.planning import PlanBudget, PlanMeasurement
from spartan_planner.profiling import quiet_rounds
from spartan_planner.profiling.device import this_device
from spartan_planner.runtimes import Runtime
from spartan_planner.verification.results import Speedup

_NUM_BOOTSTRAP_SAMPLES = 2000


@dataclass(frozen=True)
class Judgement:
    """Times of the whole, at the device's speed now.

    Attributes:
        sparse_ms, dense_ms: medians over the quiet rounds.
        asked_ms, predicted_ms: the promise, where it compares with what was measured.
        speedup: of the sparse over the dense file.
        ratio: yardstick time now over its time in the profile; ``None`` where nothing compares.
        ok: whether the promise is kept; ``None`` where there is none.
    """

    sparse_ms: float
    dense_ms: float | None
    asked_ms: float | None
    predicted_ms: float | None
    speedup: Speedup | None
    ratio: float | None
    ok: bool | None


def judge(
    times: NDArray[np.float64], metadata: ExportMetadata | None, tolerance: float, runtime: str
) -> Judgement:
    """Hold times against the promise of a file.

    Args:
        times: ``[rounds, 1 + files]``, the yardstick's first, then the sparse file's.
        metadata: of the sparse file.
        tolerance: share by which what was asked may be exceeded.
        runtime: name of the one that measured; another one's promise does not compare.
    """
    times = times[quiet_rounds(times[:, 0])]
    yardstick_ms, sparse_ms, *dense_ms = (float(x) for x in np.median(times, axis=0))
    profiled = profiled_by(metadata)
    compares = profiled is None or is_of_runtime(profiled, runtime)
    promise = metadata.latency if metadata and compares else None
    ratio = yardstick_ms / profiled.yardstick_ms if profiled and compares else None
    asked = promise.asked if promise else None
    if promise and asked is not None and promise.is_relative:
        asked *= ratio or 1.0
    return Judgement(
        sparse_ms=sparse_ms,
        dense_ms=dense_ms[0] if dense_ms else None,
        asked_ms=asked,
        predicted_ms=promise.predicted * (ratio or 1.0) if promise else None,
        speedup=_speedup(times, promise) if dense_ms else None,
        ratio=ratio,
        ok=None if asked is None else sparse_ms <= asked * (1 + tolerance),
    )


def profiled_by(metadata: ExportMetadata | None) -> PlanMeasurement | None:
    """Return how the profile behind a file was taken, where there is one with timings."""
    return metadata.profile.measurement if metadata and metadata.profile else None


def is_of_runtime(profiled: PlanMeasurement, runtime: str) -> bool:
    """Whether timings were taken with a runtime of this name, whatever its version."""
    return profiled.runtime.split(" ")[0] == runtime


def device_notes(profiled: PlanMeasurement | None, runtime: Runtime) -> tuple[str, ...]:
    """Return in what this device differs from the one that was profiled."""
    if profiled is None:
        return ()
    here, name = this_device(profiled.num_threads).cpu, f"{runtime.name} {runtime.version}"
    notes = []
    if here != profiled.cpu:
        notes.append(f"the profile is of another processor ({profiled.cpu}; this is {here})")
    if name != profiled.runtime:
        notes.append(f"the profile is of {profiled.runtime}; this is {name}")
    return tuple(notes)


def _speedup(times: NDArray[np.float64], promise: PlanBudget | None) -> Speedup:
    ratios = times[:, 2] / times[:, 1]
    generator = np.random.default_rng(0)
    picks = generator.integers(0, len(ratios), (_NUM_BOOTSTRAP_SAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    predicted = promise.dense / promise.predicted if promise else None
    return Speedup(predicted, statistics.median(ratios.tolist()), (float(low), float(high)))
