"""Calibrating a roofline: efficiencies of each class of layers from the layers that were measured.

The roofline is linear in ``x = (overhead, 1 / compute efficiency, 1 / bandwidth efficiency)``:

    time = launches + overhead + x_c flops / peak + x_b bytes / bandwidth

so each class is a robust linear fit in relative terms.  Layers of one class often leave a part of
``x`` open (all limited by arithmetic, say); a weak pull towards the fit of all layers together
settles that, where a free fit would send a new layer anywhere (docs/roofline.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from cost_models import DeviceFacts, LayerShape, LayerTiming, Layout, Roofline, RooflineClass
from cost_models.layer_work import LayerWork, layer_class, layer_work, lowered_class, lowered_work
from cost_models.roofline import ANY_CLASS, peak_gflop_per_s, skips_zeros

MIN_SHAPES = 4
"""Distinct shapes below which a class has no fit of its own: one more than it has unknowns."""

PRIOR_WEIGHT = 0.1
"""Pull of a coefficient towards the pooled fit: a coefficient off by its own size weighs as much
as one measured time off by 10 %."""

OUTLIER_SCALE = 0.1
"""Relative residuals beyond this weigh less than quadratically.  The roofline itself is off by
about this much; what lies further off has a reason that it does not know."""

TYPICAL = (0.0, 2.0, 1.0)
"""Overhead (ms) and inverse efficiencies that the pooled fit is pulled towards in its turn: half
the peak, the whole bandwidth."""

MAX_COMPUTE_EFFICIENCY = 2.0
"""Above 1, since a peak that was measured in a disturbed moment is too low."""

MAX_BANDWIDTH_EFFICIENCY = 50.0
"""Caches are that much faster than memory."""

BAND_PERCENTILES = (5.0, 95.0)
TYPICAL_BAND = (1 / 3, 3.0)
"""The least band where fewer than ``MIN_SHAPES`` shapes were left out."""

_Vector = NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """A time, and what the roofline says that was fitted without the layer's shape.

    Attributes:
        shape: the layer.
        layer_class: of the form that was measured.
        layout: the layout of a lowered form; empty where dense.
        measured_ms: measured.
        estimated_ms: estimated without any time of this shape.
    """

    shape: LayerShape
    layer_class: str
    layout: str
    measured_ms: float
    estimated_ms: float

    @property
    def relative_error(self) -> float:
        """``|estimated / measured - 1|``."""
        return abs(self.estimated_ms / self.measured_ms - 1)


def fit_roofline(layers: Sequence[LayerTiming], facts: DeviceFacts) -> Roofline:
    """Fit the efficiencies of every class that was measured, and how far to trust them.

    The band spans the 5th to the 95th percentile of measured over estimated, each shape left out of
    the fit that estimates it.

    Args:
        layers: measured layers; their lowered forms calibrate ``lowered`` and ``lowered_linear``.
        facts: the bounds of the device that measured them.

    Raises:
        ValueError: there are no layers.
        CostModelError: a shape contradicts itself, or the facts lack its element type.
    """
    if not layers:
        raise ValueError("a roofline needs at least one measured layer")
    points = _points(layers, facts)
    held_out = _leave_one_out(points)
    ratios = np.array([item.measured_ms / item.estimated_ms for item in held_out])
    low, high = np.percentile(ratios, BAND_PERCENTILES)
    if len(layers) < MIN_SHAPES:
        low, high = min(low, TYPICAL_BAND[0]), max(high, TYPICAL_BAND[1])
    classes = tuple(
        _coefficients(name, solution, is_pooled)
        for name, (solution, is_pooled) in _fit_classes(points).items()
    )
    return Roofline(
        classes=classes,
        is_calibrated=True,
        error_band=(_round(min(1.0, float(low))), _round(max(1.0, float(high)))),
        median_error=_round(float(np.median([item.relative_error for item in held_out]))),
    )


def held_out_estimates(layers: Sequence[LayerTiming], facts: DeviceFacts) -> tuple[HeldOut, ...]:
    """Estimate every measured time by a roofline fitted without the times of its shape.

    Of a lowered form the sample of median error stands for all its densities.

    Raises:
        CostModelError: a shape contradicts itself, or the facts lack its element type.
    """
    return tuple(_leave_one_out(_points(layers, facts)))


@dataclass(frozen=True)
class _Point:
    """A measured time and what the roofline multiplies its coefficients with."""

    shape: LayerShape
    layer_class: str
    layout: str
    features: tuple[float, float, float]
    launch_ms: float
    measured_ms: float

    def estimated_ms(self, solution: _Vector) -> float:
        return self.launch_ms + float(np.dot(self.features, solution))


def _points(layers: Sequence[LayerTiming], facts: DeviceFacts) -> list[_Point]:
    points = []
    for layer in layers:
        shape, work = layer.shape, layer_work(layer.shape)
        points.append(_point(shape, layer_class(shape), "", work, facts, layer.dense_ms))
        for sparse in layer.sparse:
            layout = Layout.parse(sparse.layout)
            if not skips_zeros(shape, layout):
                continue
            num_blocks = layout.num_whole_blocks(shape.weight_shape)
            for sample in sparse.samples:
                share = min(1.0, sample.num_kept_blocks / num_blocks)
                work = lowered_work(shape, layout, share)
                name, time_ms = lowered_class(shape), sample.latency_ms
                points.append(_point(shape, name, sparse.layout, work, facts, time_ms))
    return points


def _point(
    shape: LayerShape,
    name: str,
    layout: str,
    work: LayerWork,
    facts: DeviceFacts,
    measured_ms: float,
) -> _Point:
    peak = peak_gflop_per_s(facts, shape.dtype) if work.num_flops else 1.0
    features = (1.0, work.num_flops / peak * 1e-6, work.num_bytes / _bytes_per_ms(facts))
    launch_ms = work.num_operations * facts.launch_overhead_us.value * 1e-3
    return _Point(shape, name, layout, features, launch_ms, measured_ms)


def _bytes_per_ms(facts: DeviceFacts) -> float:
    return facts.bandwidth_gb_per_s.value * 1e6


def _fit_classes(points: Sequence[_Point]) -> dict[str, tuple[_Vector, bool]]:
    """Solution of each class and whether it is pooled; the pooled one stands for all others."""
    pooled = _pooled(points)
    fits = {
        name: _fit_class([point for point in points if point.layer_class == name], pooled)
        for name in sorted({point.layer_class for point in points})
    }
    return {**fits, ANY_CLASS: (pooled, True)}


def _pooled(points: Sequence[_Point]) -> _Vector:
    # Without a single dense layer left the lowered ones are better than nothing.
    dense = [point for point in points if not point.layout] or list(points)
    return _solve(dense, np.array(TYPICAL)) if dense else np.array(TYPICAL)


def _fit_class(points: Sequence[_Point], pooled: _Vector) -> tuple[_Vector, bool]:
    if len({point.shape for point in points}) >= MIN_SHAPES:
        return _solve(points, pooled), False
    if not points:
        return pooled, True
    ratios = [point.measured_ms / point.estimated_ms(pooled) for point in points]
    return _bounded(pooled * float(np.median(ratios))), True


def _leave_one_out(points: Sequence[_Point]) -> list[HeldOut]:
    found = []
    for shape in dict.fromkeys(point.shape for point in points):
        left_out = [point for point in points if point.shape == shape]
        others = [point for point in points if point.shape != shape]
        pooled = _pooled(others)
        for name in dict.fromkeys(point.layer_class for point in left_out):
            solution, _ = _fit_class([p for p in others if p.layer_class == name], pooled)
            found += _by_form([p for p in left_out if p.layer_class == name], solution)
    return found


def _by_form(points: Sequence[_Point], solution: _Vector) -> list[HeldOut]:
    """One estimate for each layout: the sample of median ratio."""
    found = []
    for layout in dict.fromkeys(point.layout for point in points):
        samples = sorted(
            (point for point in points if point.layout == layout),
            key=lambda point: point.measured_ms / point.estimated_ms(solution),
        )
        point = samples[len(samples) // 2]
        estimated = point.estimated_ms(solution)
        found.append(HeldOut(point.shape, point.layer_class, layout, point.measured_ms, estimated))
    return found


def _solve(points: Sequence[_Point], prior: _Vector) -> _Vector:
    """Minimise ``sum rho(estimated / measured - 1) + sum rho(weight (x / prior - 1))``, bounded.

    Works in units of the prior; an overhead whose prior is zero is measured against the median
    time, and pulled towards zero.
    """
    measured = np.array([point.measured_ms for point in points])
    launch = np.array([point.launch_ms for point in points])
    design = np.array([point.features for point in points]) / measured[:, None]
    scale = np.where(prior > 0, prior, float(np.median(measured)))
    towards = np.where(prior > 0, 1.0, 0.0)
    # One row per time and one per coefficient; the rows of the latter are the pull.
    matrix = np.concatenate([design * scale, PRIOR_WEIGHT * np.eye(len(scale))])
    wanted = np.concatenate([1 - launch / measured, PRIOR_WEIGHT * towards])
    lower = _bounded(np.zeros(3)) / scale

    def residuals(scaled: _Vector) -> _Vector:
        errors: _Vector = matrix @ scaled - wanted
        return errors

    def jacobian(_: _Vector) -> _Vector:
        return matrix

    solution = least_squares(
        residuals,
        np.maximum(towards, lower + 1e-3),
        jac=jacobian,
        bounds=(lower, np.inf),
        loss="soft_l1",
        f_scale=OUTLIER_SCALE,
    )
    return np.asarray(solution.x * scale, np.float64)


def _bounded(solution: _Vector) -> _Vector:
    least = (0.0, 1 / MAX_COMPUTE_EFFICIENCY, 1 / MAX_BANDWIDTH_EFFICIENCY)
    bounded: _Vector = np.maximum(solution, np.array(least))
    return bounded


def _coefficients(name: str, solution: _Vector, is_pooled: bool) -> RooflineClass:
    overhead, compute, bandwidth = map(float, solution)
    return RooflineClass(
        name, _round(1 / compute), _round(1 / bandwidth), _round(overhead), is_pooled
    )


def _round(figure: float) -> float:
    """Keep four significant digits: more would be noise."""
    return float(f"{figure:.4g}")
