"""Timing an exported file against its dense twin and against its promise; needs no torch."""

import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spartan_planner.errors import UsageError
from spartan_planner.export_metadata import ExportMetadata, read_metadata
from spartan_planner.onnx_sessions import Session, open_session, session_options
from spartan_planner.planning import Plan, PlanBudget
from spartan_planner.profiling import Yardstick
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
        if self.tolerance < 0:
            raise UsageError("tolerance must not be negative")


@dataclass(frozen=True)
class Speedup:
    """How many times faster the sparse file is.

    Attributes:
        predicted: dense over predicted latency, as planned.
        measured: median over rounds of dense over sparse time.
        ci95: bootstrap interval of that median.
    """

    predicted: float | None
    measured: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Verification:
    """What was measured, beside what was promised.

    All latencies are in ms at the device's speed during verification; the plan's figures are
    multiplied by ``device_speed_ratio``.

    Attributes:
        sparse_ms: median latency of the file.
        dense_ms: median latency of the dense file, when one was given.
        asked_ms, predicted_ms: the promise, when the file or the plan makes one.
        speedup: of the sparse over the dense file, when one was given.
        device_speed_ratio: yardstick time now over its time in the profile; above 1 the device
            is slower now.  1 when there is no promise to compare with.
        num_rounds: rounds behind the medians.
        num_threads: threads of the runtime.
        ok: whether the measured latency keeps the promise within the tolerance; true when there
            is none.
    """

    sparse_ms: float
    dense_ms: float | None
    asked_ms: float | None
    predicted_ms: float | None
    speedup: Speedup | None
    device_speed_ratio: float
    num_rounds: int
    num_threads: int
    ok: bool

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
        }


def verify(
    sparse: Path,
    *,
    dense: Path | None = None,
    plan: Plan | None = None,
    settings: VerifySettings | None = None,
    advance: Advance = no_progress,
) -> Verification:
    """Time an exported file, interleaved with its dense twin and the yardstick.

    Args:
        sparse: the exported file.
        dense: the dense file to compare with.
        plan: the plan that the file must belong to.
        settings: how to verify.
        advance: called after each round.

    Raises:
        ModelError: a file cannot be read or run.
        UsageError: the plan belongs to another model than the file.
    """
    settings = settings or VerifySettings()
    metadata = read_metadata(sparse)
    _require_same_model(sparse, metadata, plan)
    profile = metadata.profile if metadata else None
    num_threads = settings.num_threads or (profile.num_threads if profile else 1)
    sessions = [
        open_session(path, None, session_options(num_threads)) for path in (sparse, dense) if path
    ]
    yardstick = Yardstick(num_threads)
    times = _interleave(sessions, yardstick, settings.num_rounds, advance)
    sparse_ms, *dense_ms = (float(figure) for figure in np.median(times[:, 1:], axis=0))
    promise = _latency_promise(metadata)
    ratio = 1.0
    if profile is not None:
        ratio = float(np.median(times[:, 0])) / profile.yardstick_ms
    asked = promise.asked * ratio if promise and promise.asked is not None else None
    return Verification(
        sparse_ms=sparse_ms,
        dense_ms=dense_ms[0] if dense_ms else None,
        asked_ms=asked,
        predicted_ms=promise.predicted * ratio if promise else None,
        speedup=_speedup(times, promise) if dense_ms else None,
        device_speed_ratio=ratio,
        num_rounds=len(times),
        num_threads=num_threads,
        ok=asked is None or sparse_ms <= asked * (1 + settings.tolerance),
    )


def run_batch(path: Path, inputs: NDArray[np.generic]) -> NDArray[np.generic]:
    """Run a file of one input and return its first output."""
    session = open_session(path, {})
    name = session.inference.get_inputs()[0].name
    output: NDArray[np.generic] = session.inference.run(None, {name: inputs})[0]
    return output


def _require_same_model(sparse: Path, metadata: ExportMetadata | None, plan: Plan | None) -> None:
    if plan is None:
        return
    if metadata is None or metadata.model_fingerprint != plan.model_fingerprint:
        made_for = metadata.model if metadata else "no plan of this project"
        raise UsageError(
            f"{sparse} was exported for {made_for}, the plan is for {plan.model}; "
            "give the plan that it was exported with"
        )


def _latency_promise(metadata: ExportMetadata | None) -> PlanBudget | None:
    costs = metadata.costs if metadata else ()
    return next((cost for cost in costs if cost.cost == "latency"), None)


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
