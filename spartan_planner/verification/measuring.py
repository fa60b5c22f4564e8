"""Timing an exported file, interleaved with its dense twin and the yardstick."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from spartan_planner.errors import ModelError, SpartanPlannerError, UsageError
from spartan_planner.export_metadata import ExportMetadata, metadata_in
from spartan_planner.onnx_sessions import open_session
from spartan_planner.planning import Plan, plan_fingerprint
from spartan_planner.profiling import Yardstick
from spartan_planner.progress import Advance, no_progress
from spartan_planner.runtimes import Runtime, load_runtime
from spartan_planner.verification.agreement import (
    allowed_error,
    holds_same_weights,
    max_abs_error,
)
from spartan_planner.verification.inputs import Inputs, made_up_inputs
from spartan_planner.verification.judging import device_notes, judge, profiled_by
from spartan_planner.verification.layer_times import judged_layers, time_layers
from spartan_planner.verification.reading import read_checked
from spartan_planner.verification.results import LayerTime, Verification
from spartan_planner.verification.settings import VerifySettings
from spartan_planner.verification.sizes import file_size

_NUM_COMPARED = 3
"""Sets of inputs on which two files of the same weights are compared."""


def verify(
    sparse: Path | str,
    plan: Plan | None = None,
    *,
    dense: Path | str | None = None,
    settings: VerifySettings | None = None,
    advance: Advance = no_progress,
) -> Verification:
    """Time an exported file, interleaved with its dense twin and the yardstick.

    Inputs have the shapes that the file was exported with.  Where both files hold the same weights
    (one masked, one lowered) their outputs are compared as well.

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
    files = [_read(Path(path)) for path in (sparse, dense) if path is not None]
    metadata = files[0].metadata
    _require_same_plan(files[0], plan)
    if len(files) > 1:
        _require_same_model(*files)
    num_threads, runtime = _num_threads(settings, metadata), load_runtime(settings.runtime)
    yardstick = Yardstick(num_threads, runtime)
    sessions = [_open(file, runtime, num_threads) for file in files]
    error, agreement, notes = _compare(files, runtime, num_threads)
    times = _interleave(sessions, yardstick, settings.num_rounds, advance)
    found = judge(times, metadata, settings.tolerance, runtime.name)
    sizes = [file_size(file.files, settings.is_detailed) for file in files]
    layers = _layers(files[0], runtime, num_threads, yardstick, settings, found.ratio)
    return Verification(
        sparse_ms=found.sparse_ms,
        dense_ms=found.dense_ms,
        asked_ms=found.asked_ms,
        predicted_ms=found.predicted_ms,
        speedup=found.speedup,
        device_speed_ratio=1.0 if found.ratio is None else found.ratio,
        num_rounds=settings.num_rounds,
        num_threads=num_threads,
        ok=False if agreement is False else found.ok,
        notes=(*device_notes(profiled_by(metadata), runtime), *notes),
        runtime=f"{runtime.name} {runtime.version}",
        max_abs_error=error,
        sparse_size=sizes[0],
        dense_size=sizes[1] if len(sizes) > 1 else None,
        layers=layers,
    )


def run_batch(path: Path, inputs: NDArray[np.generic]) -> NDArray[np.generic]:
    """Run a file of one input and return its first output."""
    session = open_session(path, {})
    name = session.inference.get_inputs()[0].name
    output: NDArray[np.generic] = session.inference.run(None, {name: inputs})[0]
    return output


@dataclass(frozen=True)
class _File:
    """A model on disk.

    Attributes:
        path: the file.
        model: without weights that are kept beside it.
        metadata: what it says about itself.
        files: it and its external data.
    """

    path: Path
    model: ModelProto
    metadata: ExportMetadata | None
    files: tuple[Path, ...]

    def inputs(self, seed: int = 0) -> Inputs:
        """Return inputs to run it on."""
        return made_up_inputs(self.model, self.metadata, str(self.path), seed)


def _read(path: Path) -> _File:
    model, data = read_checked(path)
    return _File(path, model, metadata_in(model, path), (path, *data))


def _open(file: _File, runtime: Runtime, num_threads: int, seed: int = 0) -> Any:  # noqa: ANN401
    """A session of the runtime that has run once; its ``run`` returns the outputs."""
    session = cast("Any", runtime.open(file.path, num_threads, file.inputs(seed)))
    _run(file, session)
    return session


def _run(file: _File, session: Any) -> list[NDArray[np.generic]]:  # noqa: ANN401
    try:
        outputs: list[NDArray[np.generic]] = session.run()
    except SpartanPlannerError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{file.path} cannot be run: {reason}") from error
    return outputs


def _compare(
    files: Sequence[_File], runtime: Runtime, num_threads: int
) -> tuple[float | None, bool | None, tuple[str, ...]]:
    """The largest difference between two files of the same weights, and whether it is rounding."""
    if len(files) < 2:
        return None, None, ()
    sparse, dense = files
    if not holds_same_weights(sparse.metadata, dense.metadata):
        note = (
            "outputs are not compared: the two files hold other weights; export the same weights "
            "with --form masked to compare"
        )
        return None, None, (note,)
    errors, agrees = [], True
    for seed in range(_NUM_COMPARED):
        left, right = (
            _run(file, _open(file, runtime, num_threads, seed)) for file in (sparse, dense)
        )
        errors.append(max_abs_error(left, right))
        agrees &= errors[-1] <= allowed_error(left, right)
    worst = max(errors)
    notes = () if agrees else (f"the outputs of the two files differ by {worst:.3g}: not rounding",)
    return worst, agrees, notes


def _layers(
    file: _File,
    runtime: Runtime,
    num_threads: int,
    yardstick: Yardstick,
    settings: VerifySettings,
    ratio: float | None,
) -> tuple[LayerTime, ...]:
    if file.metadata is None or not file.metadata.layers or not settings.is_detailed:
        return ()
    found = time_layers(
        file.path, file.model, file.metadata, file.inputs(), runtime, num_threads, yardstick
    )
    return judged_layers(found, file.metadata, ratio, settings.tolerance) if found else ()


def _num_threads(settings: VerifySettings, metadata: ExportMetadata | None) -> int:
    measurement = profiled_by(metadata)
    profiled = measurement.num_threads if measurement else None
    asked = settings.num_threads
    if asked is not None and profiled is not None and asked != profiled:
        raise UsageError(
            f"the promise is for {profiled} thread(s), {asked} were asked for; profile the device "
            "with that number, plan and export again"
        )
    return asked or profiled or 1


def _require_same_plan(file: _File, plan: Plan | None) -> None:
    if plan is None:
        return
    if file.metadata is None or file.metadata.plan_fingerprint != plan_fingerprint(plan):
        raise UsageError(
            f"{file.path} was not exported with this plan for {plan.model}; give the plan that it "
            "was exported with"
        )


def _require_same_model(sparse: _File, dense: _File) -> None:
    one, other = sparse.metadata, dense.metadata
    if one and other and one.model_fingerprint != other.model_fingerprint:
        raise UsageError(
            f"{dense.path} was exported from another model ({other.model}) than the file to verify "
            f"({one.model})"
        )


def _interleave(
    sessions: Sequence[Any], yardstick: Yardstick, num_rounds: int, advance: Advance
) -> NDArray[np.float64]:
    """Times ``[rounds, 1 + sessions]``, the yardstick's first."""
    rows = []
    for _ in range(num_rounds):
        rows.append([yardstick.time_ms(), *(session.burst_ms() for session in sessions)])
        advance("")
    return np.array(rows)
