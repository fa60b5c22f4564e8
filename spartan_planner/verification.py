"""Timing an exported file against its dense twin and against its promise; needs no torch."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spartan_planner.errors import ModelError, UsageError
from spartan_planner.export_metadata import ExportMetadata, read_metadata
from spartan_planner.onnx_sessions import Session, open_session, random_inputs, session_options
from spartan_planner.planning import Plan, PlanBudget, PlanMeasurement, plan_fingerprint
from spartan_planner.profiling import Yardstick, quiet_rounds
from spartan_planner.profiling.device import this_device, this_runtime
from spartan_planner.progress import Advance, no_progress

_NUM_BOOTSTRAP_SAMPLES = 2000
_MIN_ROUNDS = 5


@dataclass(frozen=True)
class VerifySettings:
    """How to verify.

    Attributes:
        num_rounds: interleaved rounds.
        num_threads: threads of the runtime; those of the profile by default, else one.
        tolerance: share by which the measured latency may exceed what was asked.
    """

    num_rounds: int = 60
    num_threads: int | None = None
    tolerance: float = 0.10

    def __post_init__(self) -> None:
        """Refuse settings that prove nothing."""
        if self.num_rounds < _MIN_ROUNDS:
            raise UsageError(f"at least {_MIN_ROUNDS} rounds are needed for a median")
        if self.num_threads is not None and self.num_threads < 1:
            raise UsageError("threads must be at least 1")
        if not 0 <= self.tolerance < math.inf:
            raise UsageError("tolerance must be a share such as 0.1")


@dataclass(frozen=True)
class Speedup:
    """How many times faster the sparse file is.

    Attributes:
        predicted: dense over predicted latency, as planned.
        measured: median over the quiet rounds of dense over sparse time.
        ci95: bootstrap interval of that median.
    """

    predicted: float | None
    measured: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Verification:
    """What was measured, beside what was promised.

    All latencies are in ms at the device's speed during verification: what was predicted, and
    what was asked as a share of dense, is multiplied by ``device_speed_ratio``.  A limit that was
    asked for in ms stays as it is.

    Attributes:
        sparse_ms: median latency of the file.
        dense_ms: median latency of the dense file, when one was given.
        asked_ms, predicted_ms: the promise, when the file makes one.
        speedup: of the sparse over the dense file, when one was given.
        device_speed_ratio: yardstick time now over its time in the profile; above 1 the device
            is slower now.  1 when there is no promise to compare with.
        num_rounds: rounds that were run; the half in which the device was quietest counts.
        num_threads: threads of the runtime.
        ok: whether the measured latency keeps the promise within the tolerance; ``None`` when
            the file makes none.
        notes: what a reader of the figures must know.
    """

    sparse_ms: float
    dense_ms: float | None
    asked_ms: float | None
    predicted_ms: float | None
    speedup: Speedup | None
    device_speed_ratio: float
    num_rounds: int
    num_threads: int
    ok: bool | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the figures as plain data."""
        speedup = self.speedup
        return {
            "latency_ms": {
                "dense": self.dense_ms,
                "sparse": self.sparse_ms,
                "asked": self.asked_ms,
                "predicted": self.predicted_ms,
            },
            "speedup": speedup
            and {
                "measured": speedup.measured,
                "ci95": list(speedup.ci95),
                "predicted": speedup.predicted,
            },
            "device_speed_ratio": self.device_speed_ratio,
            "num_rounds": self.num_rounds,
            "num_threads": self.num_threads,
            "ok": self.ok,
            "notes": list(self.notes),
        }


def verify(
    sparse: Path | str,
    plan: Plan | None = None,
    *,
    dense: Path | str | None = None,
    settings: VerifySettings | None = None,
    advance: Advance = no_progress,
) -> Verification:
    """Time an exported file, interleaved with its dense twin and the yardstick.

    Inputs have the shapes that the file was exported with.

    Args:
        sparse: the exported file.
        plan: the plan that the file must have been exported with.
        dense: the dense file to compare with.
        settings: how to verify.
        advance: called after each round.

    Raises:
        ModelError: a file cannot be read or run.
        UsageError: plan, dense file or number of threads do not belong to the file.
    """
    settings = settings or VerifySettings()
    paths = [Path(path) for path in (sparse, dense) if path is not None]
    metadata = read_metadata(paths[0])
    _require_same_plan(paths[0], metadata, plan)
    if len(paths) > 1:
        _require_same_model(metadata, paths[1])
    num_threads = _num_threads(settings, metadata)
    shapes = metadata.input_shapes if metadata else ()
    sessions = [_open(path, num_threads, shapes) for path in paths]
    times = _interleave(sessions, Yardstick(num_threads), settings.num_rounds, advance)
    return _judge(times, metadata, settings.tolerance, num_threads)


def _judge(
    times: NDArray[np.float64],
    metadata: ExportMetadata | None,
    tolerance: float,
    num_threads: int,
) -> Verification:
    """Hold measured times ``[rounds, yardstick + sparse (+ dense)]`` against the promise."""
    num_rounds = len(times)
    times = times[quiet_rounds(times[:, 0])]
    yardstick_ms, sparse_ms, *dense_ms = (float(figure) for figure in np.median(times, axis=0))
    profiled = _profiled(metadata)
    # Neither the promise nor the yardstick of another runtime compares with this one's times.
    compares = profiled is None or _is_of_this_runtime(profiled)
    promise = metadata.latency if metadata and compares else None
    ratio = yardstick_ms / profiled.yardstick_ms if profiled and compares else 1.0
    asked = promise.asked if promise else None
    if promise and asked is not None and promise.is_relative:
        asked *= ratio
    return Verification(
        sparse_ms=sparse_ms,
        dense_ms=dense_ms[0] if dense_ms else None,
        asked_ms=asked,
        predicted_ms=promise.predicted * ratio if promise else None,
        speedup=_speedup(times, promise) if dense_ms else None,
        device_speed_ratio=ratio,
        num_rounds=num_rounds,
        num_threads=num_threads,
        ok=None if asked is None else sparse_ms <= asked * (1 + tolerance),
        notes=_notes(profiled),
    )


def _profiled(metadata: ExportMetadata | None) -> PlanMeasurement | None:
    return metadata.profile.measurement if metadata and metadata.profile else None


def _is_of_this_runtime(profiled: PlanMeasurement) -> bool:
    return profiled.runtime.split(" ")[0] == this_runtime().name


def _notes(profiled: PlanMeasurement | None) -> tuple[str, ...]:
    if profiled is None:
        return ()
    here, runtime = this_device(profiled.num_threads).cpu, this_runtime()
    notes = []
    if here != profiled.cpu:
        notes.append(f"the profile is of another processor ({profiled.cpu}; this is {here})")
    if f"{runtime.name} {runtime.version}" != profiled.runtime:
        notes.append(
            f"the profile is of {profiled.runtime}; this is {runtime.name} {runtime.version}"
        )
    return tuple(notes)


def _open(path: Path, num_threads: int, shapes: Sequence[Sequence[int]]) -> Session:
    session = open_session(path, {}, session_options(num_threads))
    inputs = session.inference.get_inputs()
    if shapes and len(inputs) != len(shapes):
        raise ModelError(f"{path} has {len(inputs)} inputs; {len(shapes)} were exported")
    ready = Session(session.inference, random_inputs(session.inference, shapes))
    ready.run()
    return ready


def _num_threads(settings: VerifySettings, metadata: ExportMetadata | None) -> int:
    measurement = _profiled(metadata)
    profiled = measurement.num_threads if measurement else None
    asked = settings.num_threads
    if asked is not None and profiled is not None and asked != profiled:
        raise UsageError(
            f"the promise is for {profiled} thread(s), {asked} were asked for; profile the device "
            "with that number, plan and export again"
        )
    return asked or profiled or 1


def run_batch(path: Path, inputs: NDArray[np.generic]) -> NDArray[np.generic]:
    """Run a file of one input and return its first output."""
    session = open_session(path, {})
    name = session.inference.get_inputs()[0].name
    output: NDArray[np.generic] = session.inference.run(None, {name: inputs})[0]
    return output


def _require_same_plan(path: Path, metadata: ExportMetadata | None, plan: Plan | None) -> None:
    if plan is None:
        return
    if metadata is None or metadata.plan_fingerprint != plan_fingerprint(plan):
        raise UsageError(
            f"{path} was not exported with this plan for {plan.model}; give the plan that it was "
            "exported with"
        )


def _require_same_model(metadata: ExportMetadata | None, dense: Path) -> None:
    other = read_metadata(dense)
    if metadata and other and metadata.model_fingerprint != other.model_fingerprint:
        raise UsageError(
            f"{dense} was exported from another model ({other.model}) than the file to verify "
            f"({metadata.model})"
        )


def _interleave(
    sessions: list[Session], yardstick: Yardstick, num_rounds: int, advance: Advance
) -> NDArray[np.float64]:
    """Times ``[rounds, 1 + sessions]``, the yardstick's first."""
    rows = []
    for _ in range(num_rounds):
        rows.append([yardstick.time_ms(), *(session.burst_ms() for session in sessions)])
        advance("")
    return np.array(rows)


def _speedup(times: NDArray[np.float64], promise: PlanBudget | None) -> Speedup:
    ratios = times[:, 2] / times[:, 1]
    generator = np.random.default_rng(0)
    picks = generator.integers(0, len(ratios), (_NUM_BOOTSTRAP_SAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    predicted = promise.dense / promise.predicted if promise else None
    return Speedup(predicted, statistics.median(ratios.tolist()), (float(low), float(high)))
