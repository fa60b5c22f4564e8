"""Making a device profile from a workload."""

import datetime
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_models import (
    DeviceProfile,
    LayerShape,
    LayerTiming,
    Layout,
    Measurement,
    Provenance,
    Sample,
    SparseTiming,
    Workload,
)
from spartan_planner.errors import ProfileError
from spartan_planner.runtimes.benchmark_network import (
    BenchmarkNetwork,
    dense_network,
    lowered_network,
)
from spartan_planner.profiling.device import package_versions, this_device, this_runtime
from spartan_planner.profiling.facts import facts_of_layers, uncalibrated_roofline
from spartan_planner.profiling.fit import fit_linear
from spartan_planner.runtimes.node_times import ProfiledNetwork
from spartan_planner.profiling.run_overhead import measure_run_overhead_ms
from spartan_planner.profiling.treatments import (
    DENSITIES,
    GROUP_SIZES,
    candidate_layouts,
    kept_block_counts,
)
from spartan_planner.profiling.yardstick import Yardstick, quiet_rounds
from spartan_planner.progress import Advance, no_progress

MAX_NETWORK_BYTES = 256 * 1024 * 1024
BYTES_PER_WEIGHT = 4
"""Profiles are measured in float32."""


@dataclass(frozen=True)
class ProfileSettings:
    """How to measure.

    Attributes:
        name: what to call the device.
        num_threads: threads of the runtime.
        num_rounds: interleaved rounds at most.
        max_duration_s: time after which no further round begins; at least ``min_rounds`` are run.
        min_rounds: rounds below which no median is trusted.
    """

    name: str = "this-device"
    num_threads: int = 1
    num_rounds: int = 60
    max_duration_s: float = 120.0
    min_rounds: int = 10

    def __post_init__(self) -> None:
        """Refuse settings that measure nothing."""
        if self.num_threads < 1 or self.min_rounds < 1 or self.max_duration_s <= 0:
            raise ProfileError("threads, rounds and duration must be positive")
        if self.num_rounds < self.min_rounds:
            raise ProfileError(f"at least {self.min_rounds} rounds are needed for a median")


def make_profile(
    workload: Workload,
    settings: ProfileSettings | None = None,
    advance: Advance = no_progress,
) -> DeviceProfile:
    """Measure every distinct layer shape of a workload on this device.

    Dense and lowered networks and the yardstick are run in turn, round after round; each figure
    is the median, over the quiet half of the rounds, of its time in terms of the yardstick's in
    the same round, times the yardstick's median.

    Args:
        workload: what to measure.
        settings: how to measure.
        advance: called after each round; a large workload is measured in several batches, of
            which only the first calls it.

    Raises:
        ProfileError: the workload has no layer that can be measured.
    """
    settings = settings or ProfileSettings()
    batches = list(_batches(workload.shape_counts()))
    if not batches:
        raise ProfileError(f"workload {workload.model} has no layer to measure")
    start = time.monotonic()
    device = this_device(settings.num_threads)
    yardstick = Yardstick(settings.num_threads)
    measured = [
        _measure(_plan_networks(batch), yardstick, settings, len(batches), advance)
        for batch in batches
    ]
    yardstick_ms = float(np.median(np.concatenate([m.yardstick_ms for m in measured])))
    layers = [layer for m in measured for layer in _layer_timings(m, yardstick_ms)]
    provenance = _provenance(
        layers, min(m.num_rounds for m in measured), time.monotonic() - start, yardstick_ms
    )
    run_overhead_ms = measure_run_overhead_ms(settings.num_threads)
    return DeviceProfile(
        schema_version=2,
        name=settings.name,
        category="unknown",
        facts=facts_of_layers(layers, run_overhead_ms),
        roofline=uncalibrated_roofline(),
        measurement=Measurement(device, this_runtime(), provenance),
        run_overhead_ms=run_overhead_ms,
        layers=tuple(layers),
    )


@dataclass(frozen=True)
class _Measured:
    """One network's part in a batch: which layer, in which form, is which column of times."""

    shapes: tuple[LayerShape, ...]
    layout: Layout | None
    num_kept_blocks: tuple[int, ...]
    network: BenchmarkNetwork


@dataclass(frozen=True)
class _Times:
    """Times in terms of the yardstick: for each network ``[quiet rounds, layers]``."""

    networks: list[_Measured]
    relative: list[NDArray[np.float64]]
    yardstick_ms: NDArray[np.float64]
    num_rounds: int


def _batches(counts: dict[LayerShape, int]) -> Iterator[list[LayerShape]]:
    """Split the shapes so that a dense network of each batch stays within the size limit."""
    batch: list[LayerShape] = []
    size = 0
    for shape, count in counts.items():
        num_bytes = shape.num_weights * BYTES_PER_WEIGHT
        copies = max(1, min(count, (MAX_NETWORK_BYTES // 4) // num_bytes))
        if batch and size + copies * num_bytes > MAX_NETWORK_BYTES:
            yield batch
            batch, size = [], 0
        batch += [shape] * copies
        size += copies * num_bytes
    if batch:
        yield batch


def _plan_networks(shapes: Sequence[LayerShape]) -> list[_Measured]:
    everything = tuple(shapes)
    networks = [_Measured(everything, None, (), dense_network(everything))]
    layouts = {layout for shape in shapes for layout in candidate_layouts(shape)}
    for layout in sorted(layouts, key=lambda item: GROUP_SIZES.index(item.tile_outputs)):
        fitting = tuple(shape for shape in shapes if layout in candidate_layouts(shape))
        for density in DENSITIES:
            kept = tuple(kept_block_counts(shape, layout, (density,))[0] for shape in fitting)
            networks.append(
                _Measured(fitting, layout, kept, lowered_network(fitting, layout, kept))
            )
    return networks


def _measure(
    networks: list[_Measured],
    yardstick: Yardstick,
    settings: ProfileSettings,
    num_batches: int,
    advance: Advance,
) -> _Times:
    profiled = [ProfiledNetwork(n.network, settings.num_threads) for n in networks]
    deadline = time.monotonic() + settings.max_duration_s / num_batches
    yardstick_ms: list[float] = []
    while len(yardstick_ms) < settings.num_rounds:
        if len(yardstick_ms) >= settings.min_rounds and time.monotonic() > deadline:
            break
        yardstick_ms.append(yardstick.time_ms())
        for network in profiled:
            network.burst()
        advance("")
    reference = np.array(yardstick_ms)
    quiet = quiet_rounds(reference)
    reference = reference[quiet]
    times = [network.layer_times_ms()[quiet] / reference[:, None] for network in profiled]
    return _Times(networks, times, reference, len(quiet))


def _layer_timings(measured: _Times, yardstick_ms: float) -> Iterator[LayerTiming]:
    points: dict[tuple[LayerShape, Layout | None], dict[int, list[NDArray[np.float64]]]] = {}
    for network, relative in zip(measured.networks, measured.relative, strict=True):
        for index, shape in enumerate(network.shapes):
            kept = network.num_kept_blocks[index] if network.layout else 0
            by_count = points.setdefault((shape, network.layout), {})
            by_count.setdefault(kept, []).append(relative[:, index] * yardstick_ms)
    for (shape, layout), by_count in points.items():
        if layout is None:
            dense = np.concatenate(by_count[0])
            yield LayerTiming(
                shape=shape,
                dense_ms=_round(float(np.median(dense))),
                relative_spread=_round(_relative_spread(dense)),
                sparse=tuple(
                    _sparse_timing(other, counts)
                    for (same, other), counts in points.items()
                    if same == shape and other is not None
                ),
            )


def _sparse_timing(layout: Layout, by_count: dict[int, list[NDArray[np.float64]]]) -> SparseTiming:
    counts = sorted(by_count)
    medians = [float(np.median(np.concatenate(by_count[count]))) for count in counts]
    if len(counts) == 1:
        # One block in all: the form has a single point and no slope to tell apart.
        fixed, per_block, error = medians[0], 0.0, 0.0
    else:
        fit = fit_linear(np.array(counts, float), np.array(medians))
        fixed, per_block = fit.fixed, fit.per_block
        error = float(np.max(np.abs(fit.relative_errors)))
    samples = tuple(Sample(n, _round(t)) for n, t in zip(counts, medians, strict=True))
    return SparseTiming(str(layout), _round(fixed), _round(per_block), _round(error), samples)


def _provenance(
    layers: list[LayerTiming], num_rounds: int, duration_s: float, yardstick_ms: float
) -> Provenance:
    errors = [
        abs(
            (sparse.fixed_ms + sparse.per_block_ms * sample.num_kept_blocks) / sample.latency_ms - 1
        )
        for layer in layers
        for sparse in layer.sparse
        for sample in sparse.samples
    ]
    return Provenance(
        source="measured",
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=package_versions(),
        num_rounds=num_rounds,
        duration_s=round(duration_s, 1),
        yardstick_ms=_round(yardstick_ms),
        median_fit_error=_round(float(np.median(errors))) if errors else 0.0,
        max_fit_error=_round(max(errors, default=0.0)),
    )


def _relative_spread(times: NDArray[np.float64]) -> float:
    low, median, high = np.percentile(times, [25, 50, 75])
    return float((high - low) / 2 / median)


def _round(figure: float) -> float:
    """Keep five significant digits: more would be noise."""
    if figure == 0 or not math.isfinite(figure):
        return figure
    return float(f"{figure:.5g}")
