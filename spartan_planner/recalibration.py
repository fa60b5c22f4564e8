"""A profile corrected by the measured times of one dense and one lowered model.

What a profile says of a whole model is a sum over its layers: ``A d + S s`` with the dense part
``A`` and the lowered part ``S`` of the profile, and two factors that two measurements determine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import geometric_mean

from cost_models import (
    DeviceProfile,
    LayerTiming,
    Layout,
    ModelTiming,
    RooflineClass,
    SparseTiming,
    Workload,
)
from cost_models.latency import LatencyCost
from cost_models.layer_work import LayerClass
from cost_models.roofline import roofline_class
from spartan_planner.errors import ProfileError
from spartan_planner.export_metadata import lowered_layers
from spartan_planner.planning import Plan

LOWERED_CLASSES: tuple[LayerClass, ...] = ("lowered", "lowered_linear")
_SUFFIX = " (recalibrated)"
"""Behind the name of a profile that is no longer what was measured layer by layer."""


def calibrated(profile: DeviceProfile, dense_factor: float, sparse_factor: float) -> DeviceProfile:
    """Return the profile with the times of dense forms and of lowered ones multiplied.

    Dense times, whole models, their rest and the overhead of a run are multiplied by the first
    factor; fixed and per-block times of lowered forms, with their samples, by the second.  The
    roofline's efficiencies, for layers that were not measured, are divided likewise.  Facts and the
    yardstick stay: the figures remain those of the device's speed while profiling.

    Args:
        profile: the profile.
        dense_factor: positive; of dense forms.
        sparse_factor: positive; of lowered forms.

    Raises:
        ProfileError: a factor is not positive, or times become none that a device can have.
    """
    if not (dense_factor > 0 and sparse_factor > 0):
        raise ProfileError(
            f"times cannot be multiplied by {dense_factor:.3g} (dense) and {sparse_factor:.3g} "
            "(lowered): factors must be positive; measure again on a quieter device"
        )
    try:
        return replace(
            profile,
            run_overhead_ms=profile.run_overhead_ms * dense_factor,
            roofline=replace(
                profile.roofline, classes=_classes(profile, dense_factor, sparse_factor)
            ),
            layers=tuple(_layer(item, dense_factor, sparse_factor) for item in profile.layers),
            models=tuple(_model(item, dense_factor) for item in profile.models),
        )
    except ValueError as error:
        raise ProfileError(f"profile {profile.name!r} cannot be recalibrated: {error}") from error


def _layer(layer: LayerTiming, dense_factor: float, sparse_factor: float) -> LayerTiming:
    return replace(
        layer,
        dense_ms=layer.dense_ms * dense_factor,
        sparse=tuple(_sparse(item, sparse_factor) for item in layer.sparse),
    )


def _sparse(timing: SparseTiming, factor: float) -> SparseTiming:
    return replace(
        timing,
        fixed_ms=timing.fixed_ms * factor,
        per_block_ms=timing.per_block_ms * factor,
        samples=tuple(
            replace(sample, latency_ms=sample.latency_ms * factor) for sample in timing.samples
        ),
    )


def _model(timing: ModelTiming, factor: float) -> ModelTiming:
    return replace(
        timing,
        dense_ms=timing.dense_ms * factor,
        layers_ms=timing.layers_ms * factor,
        rest_ms=timing.rest_ms * factor,
    )


def _classes(
    profile: DeviceProfile, dense_factor: float, sparse_factor: float
) -> tuple[RooflineClass, ...]:
    """Every class by its factor; lowered forms get a class of their own where they had none."""
    lowered = [
        replace(roofline_class(profile.roofline, name), layer_class=name)
        for name in LOWERED_CLASSES
    ]
    dense = [item for item in profile.roofline.classes if item.layer_class not in LOWERED_CLASSES]
    return (
        *(_slower(item, dense_factor) for item in dense),
        *(_slower(item, sparse_factor) for item in lowered),
    )


def _slower(item: RooflineClass, factor: float) -> RooflineClass:
    return replace(
        item,
        compute_efficiency=item.compute_efficiency / factor,
        bandwidth_efficiency=item.bandwidth_efficiency / factor,
        overhead_ms=item.overhead_ms * factor,
    )


def file_ms(
    workload: Workload, plan: Plan, kept_sizes: Mapping[str, float], profile: DeviceProfile
) -> float:
    """Return the latency that a profile predicts for the lowered file of a plan.

    Which layers are lowered is the plan's own choice, whatever this profile would choose.

    Args:
        workload: that the plan was made for.
        plan: the plan.
        kept_sizes: of its sparse layers, in whole blocks.
        profile: any profile.

    Raises:
        CostModelError: a layer cannot be priced.
    """
    latency, lowered = LatencyCost(), lowered_layers(plan, kept_sizes)
    total = latency.rest(workload, profile)
    for layer, planned in zip(workload.layers, plan.layers, strict=True):
        if planned.name in lowered:
            cost = latency.linear_cost(layer, Layout.parse(planned.layout), profile)
            total += cost.sparse(kept_sizes[planned.name])
        else:
            total += latency.dense_cost(layer, profile)
    return total


def dense_ms(workload: Workload, profile: DeviceProfile) -> float:
    """Return the latency that a profile predicts for the dense model."""
    latency = LatencyCost()
    layers = sum(latency.dense_cost(layer, profile) for layer in workload.layers)
    return latency.rest(workload, profile) + layers


@dataclass(frozen=True)
class Factors:
    """By what the times of a profile are to be multiplied.

    Attributes:
        dense: of dense forms.
        sparse: of lowered ones; ``None`` where nothing lowered was measured.
    """

    dense: float
    sparse: float | None


def measured_factors(
    profile: DeviceProfile,
    workload: Workload,
    plan: Plan,
    kept_sizes: Mapping[str, float],
    measured_dense_ms: float,
    measured_ms: float,
) -> Factors:
    """Return the factors by which a profile predicts what was measured for a plan's lowered file.

    The dense factor is measured over predicted dense latency; the sparse one makes ``file_ms`` of
    this plan the measured latency.

    Args:
        profile: any profile.
        workload: that the plan was made for.
        plan: that was measured.
        kept_sizes: of its sparse layers in the file, in whole blocks.
        measured_dense_ms: latency of the dense file, at the device's speed while profiling.
        measured_ms: the same of the lowered file.

    Raises:
        ProfileError: the lowered layers would have to take no time at all.
    """
    factor = measured_dense_ms / dense_ms(workload, profile)
    if not lowered_layers(plan, kept_sizes):
        return Factors(factor, None)
    once, twice = (
        file_ms(workload, plan, kept_sizes, calibrated(profile, factor, share))
        for share in (1.0, 2.0)
    )
    lowered_ms = twice - once
    left_ms = measured_ms - (once - lowered_ms)
    if left_ms <= 0:
        raise ProfileError(
            f"the file took {measured_ms:.4g} ms, no more than its dense layers alone should "
            f"({once - lowered_ms:.4g} ms, by the dense model's {measured_dense_ms:.4g} ms), so "
            "nothing is left for the lowered ones; profile this model on this device again"
        )
    return Factors(factor, left_ms / lowered_ms)


def averaged(factors: Sequence[Factors]) -> Factors:
    """Return the geometric means of several measurements' factors, at least one.

    What scatters from one measurement to the next is averaged out; what is always so stays.
    """
    sparse = [item.sparse for item in factors if item.sparse is not None]
    dense = geometric_mean([item.dense for item in factors])
    return Factors(dense, geometric_mean(sparse) if sparse else None)


def recalibrated_by(profile: DeviceProfile, factors: Factors) -> DeviceProfile:
    """Return the profile with its times multiplied; its name says that it was recalibrated.

    Lowered forms of which nothing was measured stay as they are.

    Raises:
        ProfileError: as ``calibrated``.
    """
    named = replace(profile, name=profile.name.removesuffix(_SUFFIX) + _SUFFIX)
    return calibrated(named, factors.dense, 1.0 if factors.sparse is None else factors.sparse)


def recalibrated(
    profile: DeviceProfile,
    workload: Workload,
    plan: Plan,
    kept_sizes: Mapping[str, float],
    measured_dense_ms: float,
    measured_ms: float,
) -> DeviceProfile:
    """Return the profile that predicts what was measured for a plan's lowered file.

    Arguments and errors are those of ``measured_factors``.
    """
    factors = measured_factors(profile, workload, plan, kept_sizes, measured_dense_ms, measured_ms)
    return recalibrated_by(profile, factors)
