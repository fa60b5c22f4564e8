"""Two files compared by running both on random inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spartan_planner.errors import ExportError, ModelError
from spartan_planner.onnx_sessions import Session, open_session, random_inputs

NUM_RUNS = 3

RELATIVE_TOLERANCES = {"float16": 3e-2, "float32": 1e-3, "float64": 1e-6}
"""Largest difference relative to the largest output: rounding in another order of summation stays
well below through a hundred layers, a wrong graph does not."""

Feed = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class RunShapes:
    """Input shapes to compare at.

    Attributes:
        closed: one per input.
        doubled: the same with a batch twice as large, where the batch is open; else empty.
    """

    closed: tuple[tuple[int, ...], ...]
    doubled: tuple[tuple[int, ...], ...] = ()


def require_same_outputs(before: Path, after: Path, runs: RunShapes) -> float:
    """Run both files on the same random inputs and return the largest absolute difference.

    Normal noise; random zeros and ones where integers are taken (indices, masks).

    Raises:
        ModelError: the first file cannot be run.
        ExportError: the second cannot, or computes something else.
    """
    sessions = open_session(before, {}), open_session(after, {})
    worst = 0.0
    for seed in range(NUM_RUNS):
        feed = _feed(sessions[0], runs.closed, seed)
        worst = max(worst, _difference(sessions, feed, Session(sessions[0].inference, feed).run()))
    if runs.doubled:
        feed = _feed(sessions[0], runs.doubled, NUM_RUNS)
        try:
            expected = Session(sessions[0].inference, feed).run()
        except ModelError:
            # The file says that its batch is open, and does not keep to it.
            return worst
        worst = max(worst, _difference(sessions, feed, expected))
    return worst


def _feed(session: Session, shapes: Sequence[Sequence[int]], seed: int) -> Feed:
    feed = random_inputs(session.inference, shapes, seed)
    generator = np.random.default_rng(seed)
    return {
        name: generator.integers(0, 2, array.shape).astype(array.dtype)
        if array.dtype.kind in "iu"
        else array
        for name, array in feed.items()
    }


def _difference(
    sessions: tuple[Session, Session], feed: Feed, expected: Sequence[NDArray[np.generic]]
) -> float:
    try:
        actual = Session(sessions[1].inference, feed).run()
    except ModelError as error:
        raise ExportError(f"the lowered file cannot be run: {error}") from error
    names = [item.name for item in sessions[0].inference.get_outputs()]
    return max((_compare(*item) for item in zip(names, expected, actual, strict=True)), default=0.0)


def _compare(name: str, expected: object, actual: object) -> float:
    left, right = np.asarray(expected), np.asarray(actual)
    if left.shape != right.shape or left.dtype != right.dtype:
        raise ExportError(
            f"output {name!r} of the lowered file is {right.dtype} {right.shape}, of the given one "
            f"{left.dtype} {left.shape}; this is a defect, please report it"
        )
    tolerance = RELATIVE_TOLERANCES.get(str(left.dtype))
    if tolerance is None or not left.size:
        if not np.array_equal(left, right):
            raise ExportError(f"output {name!r} of the lowered file differs from the given one's")
        return 0.0
    same_nan = np.array_equal(np.isfinite(left), np.isfinite(right))
    finite = np.isfinite(left)
    figures = left[finite].astype(np.float64)
    error = float(np.max(np.abs(figures - right[finite].astype(np.float64)), initial=0.0))
    allowed = tolerance * float(np.max(np.abs(figures), initial=0.0))
    if not same_nan or not error <= allowed:
        raise ExportError(
            f"output {name!r} of the lowered file differs by {error:.3g}, allowed is "
            f"{allowed:.3g}; this is a defect, please report it with the file"
        )
    return error
