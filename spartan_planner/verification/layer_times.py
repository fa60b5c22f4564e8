"""The layers of a file timed by the runtime's own profiler, beside what was predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from spartan_planner.export_metadata import ExportMetadata
from spartan_planner.planning.document import DENSE
from spartan_planner.profiling import Yardstick, quiet_rounds
from spartan_planner.runtimes import RunNode, Runtime
from spartan_planner.verification.inputs import Inputs
from spartan_planner.verification.layer_nodes import parts_of_layers, trace_layers
from spartan_planner.verification.results import REST, LayerTime

NUM_BURSTS = 10


@dataclass(frozen=True)
class LayerTimes:
    """Measured times of a file's layers.

    Attributes:
        layers_ms: median time of each layer and, last, of the rest.
        is_found: whether the runtime runs nodes of the layer's own.
    """

    layers_ms: NDArray[np.float64]
    is_found: tuple[bool, ...]


def time_layers(
    path: Path,
    model: ModelProto,
    metadata: ExportMetadata,
    inputs: Inputs,
    runtime: Runtime,
    num_threads: int,
    yardstick: Yardstick,
) -> LayerTimes | None:
    """Time the layers that a file tells of; ``None`` where the runtime does not tell them.

    Raises:
        ModelError: the runtime cannot run the file, or its record is incomplete.
    """
    traces = trace_layers(model.graph, [layer.nodes for layer in metadata.layers])
    parts: list[list[str]] = []

    def parts_of(run: Sequence[RunNode]) -> list[list[str]]:
        parts.extend(parts_of_layers(traces, len(metadata.layers), run))
        return parts

    timer = runtime.time_parts(path, num_threads, inputs, parts_of)
    if timer is None:
        return None
    yardstick_ms = []
    for _ in range(NUM_BURSTS):
        yardstick_ms.append(yardstick.time_ms())
        timer.burst()
    quiet = quiet_rounds(np.array(yardstick_ms))
    times = np.median(timer.times_ms()[quiet], axis=0)
    return LayerTimes(times, tuple(bool(part) for part in parts))


def judged_layers(
    times: LayerTimes, metadata: ExportMetadata, ratio: float | None, tolerance: float
) -> tuple[LayerTime, ...]:
    """Hold each layer's time against its prediction.

    A layer whose nodes the runtime has made part of others counts among the rest, on both sides.

    Args:
        times: as measured.
        metadata: of the file.
        ratio: by which predictions are multiplied; ``None`` where they do not compare.
        tolerance: share by which a prediction may be exceeded.
    """
    rest_ms = _predicted_rest_ms(times, metadata)
    found = [
        (layer.name, layer.layout, layer.predicted_ms, measured)
        for layer, measured, is_found in zip(
            metadata.layers, times.layers_ms[:-1], times.is_found[:-1], strict=True
        )
        if is_found
    ]
    rows = [*found, (REST, DENSE, rest_ms, times.layers_ms[-1])]
    return tuple(
        _judged(name, layout, predicted, float(measured), ratio, tolerance)
        for name, layout, predicted, measured in rows
    )


def _predicted_rest_ms(times: LayerTimes, metadata: ExportMetadata) -> float | None:
    if metadata.latency is None:
        return None
    hidden = (
        layer.predicted_ms or 0.0
        for layer, is_found in zip(metadata.layers, times.is_found[:-1], strict=True)
        if not is_found
    )
    return metadata.latency.rest + sum(hidden)


def _judged(
    name: str,
    layout: str,
    predicted_ms: float | None,
    measured_ms: float,
    ratio: float | None,
    tolerance: float,
) -> LayerTime:
    if predicted_ms is None or ratio is None:
        return LayerTime(name, layout, measured_ms, None, None)
    predicted_ms *= ratio
    ok = measured_ms <= predicted_ms * (1 + tolerance)
    return LayerTime(name, layout, measured_ms, predicted_ms, ok)
