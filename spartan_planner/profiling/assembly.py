"""From rounds to the figures of a profile."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cost_models import LayerShape, LayerTiming, Layout, ModelTiming, Sample, SparseTiming, Workload
from cost_models.shapes_digest import shapes_digest
from spartan_planner.profiling.fit import fit_linear
from spartan_planner.profiling.lowered_model import lowered_choice
from spartan_planner.profiling.measurement_plan import Batch
from spartan_planner.profiling.rounds import Figures
from spartan_planner.runtimes import LAYER_CLASSES, layer_class

LOWERED = "lowered"
"""Key of the factor by which lowered forms differ inside a lowered model, beside their class's."""

_PLAUSIBLE_FACTORS = (0.5, 1.5)
"""Beyond these the lowered model's time is a disturbance's."""

ALL_CLASSES = "all"
"""Key of a factor that holds for layers of every class."""


@dataclass(frozen=True)
class InSitu:
    """The whole model beside its layers measured apart from it.

    Attributes:
        timing: of the model.
        factors: by class of layer, the time of the class inside the model over the sum of its
            layers' times apart.
        note: what the user should know of the sharing; empty where the parts fit the whole.
    """

    timing: ModelTiming
    factors: dict[str, float]
    note: str = ""


def layer_timings(
    batches: Sequence[Batch], figures: Sequence[Figures], yardstick_ms: float
) -> list[LayerTiming]:
    """Return the times of every shape as measured apart from the model.

    Args:
        batches: what was measured.
        figures: of each batch.
        yardstick_ms: time of the yardstick to express times at.
    """
    return [
        timing
        for batch, measured in zip(batches, figures, strict=True)
        for timing in _timings_of_batch(batch, measured.relative * yardstick_ms)
    ]


def in_situ(
    workload: Workload,
    layers: Sequence[LayerTiming],
    batches: Sequence[Batch],
    figures: Sequence[Figures],
    yardstick_ms: float,
    least_rest_ms: float,
) -> InSitu | None:
    """Return the whole model's times, or ``None`` when it was not run.

    The sum of layers timed alone exceeds the whole by 5-15 %: inside a model the processor's
    caches hold what the layer before has written, and the runtime joins operations.  So each class
    of layers gets one factor by which the times of its layers, dense and lowered, are multiplied;
    then ``sum over layers of dense_ms = layers_ms`` and ``layers_ms + rest_ms = dense_ms``.

    Args:
        workload: that was measured.
        layers: its layers, apart from the model.
        batches: what was measured.
        figures: of each batch.
        yardstick_ms: time of the yardstick to express times at.
        least_rest_ms: see :func:`compose`.
    """
    for batch, measured in zip(batches, figures, strict=True):
        if batch.has_model:
            medians = np.median(measured.relative[:, len(batch.forms) :], axis=0) * yardstick_ms
            inside_ms = _classes(medians[1:-1])
            found = compose(workload, layers, float(medians[0]), inside_ms, least_rest_ms)
            if medians[-1] <= 0:
                return found
            dense = [scaled(layer, found.factors) for layer in layers]
            factor = lowered_factor(workload, dense, found.timing.rest_ms, float(medians[-1]))
            return replace(found, factors={**found.factors, LOWERED: _round(factor)})
    return None


def lowered_factor(
    workload: Workload, layers: Sequence[LayerTiming], rest_ms: float, lowered_ms: float
) -> float:
    """Return the time of lowered layers inside a lowered model over their times apart from it.

    Args:
        workload: that was measured.
        layers: its layers, dense times as inside the model.
        rest_ms: what belongs to no layer.
        lowered_ms: time of the model lowered as :func:`lowered_choice` says.
    """
    known = {layer.shape: layer for layer in layers}
    chosen = lowered_choice(workload)
    dense_ms = sparse_ms = 0.0
    for layer in workload.layers:
        if layer.name not in chosen:
            dense_ms += sum(known[shape].dense_ms for shape in layer.uses)
            continue
        layout, kept = chosen[layer.name]
        timing = next(t for t in known[layer.shape].sparse if t.layout == str(layout))
        sparse_ms += layer.num_uses * (timing.fixed_ms + timing.per_block_ms * kept)
    low, high = _PLAUSIBLE_FACTORS
    return min(high, max(low, (lowered_ms - rest_ms - dense_ms) / sparse_ms))


def compose(
    workload: Workload,
    layers: Sequence[LayerTiming],
    whole_ms: float,
    inside_ms: Mapping[str, float],
    least_rest_ms: float = 0.0,
) -> InSitu:
    """Share the whole model's time out between its layers and the rest.

    Where the runtime tells the time of each class, that is what its layers take; where the classes
    do not match (a runtime that turns one kind of operation into another), their sum is.  Where it
    tells nothing, the layers take what they took apart, as far as the whole has room for it.

    Args:
        workload: that was measured.
        layers: its layers, apart from the model.
        whole_ms: the whole model's time.
        inside_ms: by class, the time of its operations inside the model; all zero when unknown.
        least_rest_ms: what the run itself and its other operations take at least.  Layers get no
            more than the whole without it, half the whole at least; the note says when they had to
            be cut.
    """
    apart_ms = _apart_by_class(workload, layers)
    inside = {name: inside_ms[name] for name in apart_ms if inside_ms.get(name, 0.0) > 0}
    total_apart, total_inside = sum(apart_ms.values()), sum(inside_ms.values())
    parts_ms = total_inside if total_inside > 0 else total_apart
    layers_ms = min(parts_ms, max(whole_ms - least_rest_ms, whole_ms / 2))
    if total_inside > 0 and set(inside) == set(apart_ms) == _positive(inside_ms):
        room = layers_ms / total_inside
        factors = {name: room * inside[name] / apart_ms[name] for name in apart_ms}
    else:
        factors = {ALL_CLASSES: layers_ms / total_apart}
    timing = ModelTiming(
        workload.model,
        workload.fingerprint,
        dense_ms=_round(whole_ms),
        layers_ms=_round(layers_ms),
        rest_ms=_round(whole_ms - layers_ms),
        shapes_digest=shapes_digest(workload),
    )
    rounded = {name: _round(factor) for name, factor in factors.items()}
    return InSitu(timing, rounded, _note(timing, parts_ms) if parts_ms > layers_ms else "")


def scaled(layer: LayerTiming, factors: Mapping[str, float]) -> LayerTiming:
    """Return the times of a layer, dense and lowered, multiplied by its class's factor."""
    factor = factors.get(layer_class(layer.shape), factors.get(ALL_CLASSES, 1.0))
    return replace(
        layer,
        dense_ms=_round(layer.dense_ms * factor),
        sparse=tuple(
            _scaled_sparse(item, factor * factors.get(LOWERED, 1.0)) for item in layer.sparse
        ),
    )


def fit_errors(layers: Sequence[LayerTiming]) -> list[float]:
    """Return ``|fitted / measured - 1|`` of every sample that a fit could miss.

    A line through two points meets both, unless it is held at zero: it has no error to tell.
    """
    return [
        abs(
            (sparse.fixed_ms + sparse.per_block_ms * sample.num_kept_blocks) / sample.latency_ms - 1
        )
        for layer in layers
        for sparse in layer.sparse
        if len(sparse.samples) > (sparse.fixed_ms > 0) + (sparse.per_block_ms > 0)
        for sample in sparse.samples
    ]


def _note(timing: ModelTiming, parts_ms: float) -> str:
    return (
        f"the layers of {timing.model} take {parts_ms:.4g} ms together, which leaves too little of "
        f"the whole model's {timing.dense_ms:.4g} ms for what belongs to no layer; they were "
        f"scaled to {timing.layers_ms:.4g} ms, so that {timing.rest_ms:.4g} ms stay for it"
    )


def _classes(times_ms: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(LAYER_CLASSES, times_ms.tolist(), strict=True))


def _positive(times_ms: Mapping[str, float]) -> set[str]:
    return {name for name, figure in times_ms.items() if figure > 0}


def _apart_by_class(workload: Workload, layers: Sequence[LayerTiming]) -> dict[str, float]:
    dense = {layer.shape: layer.dense_ms for layer in layers}
    sums: dict[str, float] = {}
    for shape, count in workload.shape_counts().items():
        kind = layer_class(shape)
        sums[kind] = sums.get(kind, 0.0) + count * dense[shape]
    return sums


def _timings_of_batch(batch: Batch, times_ms: NDArray[np.float64]) -> Iterator[LayerTiming]:
    sparse: dict[LayerShape, dict[Layout, dict[int, float]]] = {}
    dense: dict[LayerShape, NDArray[np.float64]] = {}
    for place, form in enumerate(batch.forms):
        if form.layout is None:
            dense[form.shape] = times_ms[:, place]
        else:
            counts = sparse.setdefault(form.shape, {}).setdefault(form.layout, {})
            counts[form.num_kept_blocks] = float(np.median(times_ms[:, place]))
    for shape, times in dense.items():
        yield LayerTiming(
            shape=shape,
            dense_ms=_round(float(np.median(times))),
            relative_spread=_round(_relative_spread(times)),
            sparse=tuple(
                _sparse_timing(layout, counts) for layout, counts in sparse.get(shape, {}).items()
            ),
        )


def _sparse_timing(layout: Layout, times_ms: Mapping[int, float]) -> SparseTiming:
    counts = sorted(times_ms)
    medians = [times_ms[count] for count in counts]
    if len(counts) == 1:
        # One block in all: the form has a single point and no slope to tell apart.
        fixed, per_block, error = medians[0], 0.0, 0.0
    else:
        fit = fit_linear(np.array(counts, float), np.array(medians))
        fixed, per_block = fit.fixed, fit.per_block
        error = float(np.max(np.abs(fit.relative_errors)))
    samples = tuple(Sample(n, _round(t)) for n, t in zip(counts, medians, strict=True))
    return SparseTiming(str(layout), _round(fixed), _round(per_block), _round(error), samples)


def _scaled_sparse(sparse: SparseTiming, factor: float) -> SparseTiming:
    return replace(
        sparse,
        fixed_ms=_round(sparse.fixed_ms * factor),
        per_block_ms=_round(sparse.per_block_ms * factor),
        samples=tuple(
            Sample(item.num_kept_blocks, _round(item.latency_ms * factor))
            for item in sparse.samples
        ),
    )


def _relative_spread(times: NDArray[np.float64]) -> float:
    low, median, high = np.percentile(times, [25, 50, 75])
    return float((high - low) / 2 / median)


def _round(figure: float) -> float:
    """Keep five significant digits: more would be noise."""
    if figure == 0 or not math.isfinite(figure):
        return figure
    return float(f"{figure:.5g}")
