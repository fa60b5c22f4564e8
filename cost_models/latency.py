"""Cost in milliseconds: measured where the profile holds a timing, else estimated by its roofline.

Every :class:`LinearCost` says which (``source``).  An estimate is off by a factor within the
roofline's ``error_band``, most often.
"""

import math

from cost_models.channel_latency import relative_dense_ms
from cost_models.device_profile import DeviceProfile
from cost_models.errors import CostModelError
from cost_models.layer_timing import LayerTiming
from cost_models.layer_work import LayerWork, bytes_per_number
from cost_models.layout import Layout, LayoutKind
from cost_models.linear_cost import CostSource, LinearCost
from cost_models.roofline import (
    dense_ms,
    lowered_ms,
    n_m_ms,
    roofline_class,
    roofline_ms,
    skips_zeros,
)
from cost_models.workload import (
    ActivationProduct,
    LayerShape,
    LayerWorkload,
    UnpricedOperation,
    Workload,
)

FUSED_OPERATIONS = frozenset({"batch_norm", "clip", "dropout", "relu"})
"""Operations that runtimes fold into the layer before, as ONNX Runtime did with every one of them
in ResNet-50 and MobileNetV2: their time is that of the layer (docs/roofline.md)."""

FOLDED_INTO_CONVOLUTIONS = frozenset({"add"})
"""Folded as well in networks of convolutions; linear layers take no addition of activations."""

_OPERATION_NAMES = {
    "Add": "add",
    "BatchNormalization": "batch_norm",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "native_batch_norm": "batch_norm",
    "Clip": "clip",
    "clamp": "clip",
    "hardtanh": "clip",
    "relu6": "clip",
    "Dropout": "dropout",
    "native_dropout": "dropout",
    "Relu": "relu",
}
"""What ONNX and torch call one operation: the same model costs the same from either."""

MOVES_PER_ELEMENT = 5
"""Numbers moved per element that any other operation writes: two reads, a write, and the transposes
and copies around it, which a workload does not list.  Of ViT-B/16: 4.9 (docs/roofline.md)."""


class LatencyCost:
    """Time of one forward pass at the batch size of the workload."""

    name = "latency"
    unit = "ms"
    needs_profile = True

    def dense_cost(self, layer: LayerWorkload, profile: DeviceProfile | None) -> float:
        """Time of the dense form, summed over the uses of the weight."""
        known = _require(profile)
        return sum(_dense_ms(layer, shape, known) for shape in layer.uses)

    def linear_cost(
        self, layer: LayerWorkload, layout: Layout, profile: DeviceProfile | None
    ) -> LinearCost:
        """Time of the lowered form, summed over the uses of the weight.

        Where no lowering skips the zeros of a layout, its fixed part is the dense time.
        """
        known = _require(profile)
        uses = [_use_cost(layer, shape, layout, known) for shape in layer.uses]
        return LinearCost(
            dense=sum(use.dense for use in uses),
            fixed=sum(use.fixed for use in uses),
            per_block=sum(use.per_block for use in uses),
            unit=self.unit,
            source=_joint_source([use.source for use in uses]),
        )

    def source(self, layer: LayerWorkload, profile: DeviceProfile | None) -> CostSource:
        """Whether the time of the dense form is measured or estimated."""
        return latency_source(layer, _require(profile))

    def rest_source(self, workload: Workload, profile: DeviceProfile | None) -> CostSource:
        """Whether the time that belongs to no layer is measured or estimated."""
        return "measured" if _require(profile).model_timing(workload) else "estimated"

    def rest(self, workload: Workload, profile: DeviceProfile | None) -> float:
        """Time of one run that belongs to no layer; never zero.

        What the whole model's measurement left beside its layers; where it was not measured at
        these input shapes, the
        overhead of a run, the products of activations and what else writes activations, estimated.
        """
        known = _require(profile)
        timing = known.model_timing(workload)
        return timing.rest_ms if timing else _estimated_rest_ms(workload, known)


def latency_source(layer: LayerWorkload, profile: DeviceProfile) -> CostSource:
    """Return whether the profile measured the layer at each of its shapes, dense."""
    return _joint_source(
        ["measured" if profile.timing(shape) else "estimated" for shape in layer.uses]
    )


def num_calls_beside_layers(workload: Workload) -> int:
    """Return the operations of one pass that belong to no layer and are not folded into one."""
    products = sum(product.num_calls for product in workload.products)
    return products + sum(item.num_calls for item in _unfolded(workload))


def operation_name(name: str) -> str:
    """Return one name for what torch, in place or not, and ONNX call differently."""
    functional = name.rstrip("_")
    return _OPERATION_NAMES.get(functional, functional)


def _joint_source(sources: list[CostSource]) -> CostSource:
    return "measured" if all(source == "measured" for source in sources) else "estimated"


def _require(profile: DeviceProfile | None) -> DeviceProfile:
    if profile is None:
        raise CostModelError(
            "latency depends on the device; give a profile made by 'spartan-planner profile', or "
            "the name of a bundled one ('spartan-planner profiles' lists them)"
        )
    return profile


def _dense_ms(layer: LayerWorkload, shape: LayerShape, profile: DeviceProfile) -> float:
    timing = profile.timing(shape)
    if timing:
        return timing.dense_ms
    relatives = profile.relatives(shape)
    if not relatives:
        return _estimated_dense_ms(layer, shape, profile)
    try:
        time_ms = relative_dense_ms(shape, relatives, profile.roofline, profile.facts)
        return _finite(time_ms or 0.0)
    except CostModelError as error:
        raise CostModelError(f"layer {layer.name}: {error}") from error


def _estimated_dense_ms(layer: LayerWorkload, shape: LayerShape, profile: DeviceProfile) -> float:
    try:
        return _finite(dense_ms(shape, profile.roofline, profile.facts))
    except CostModelError as error:
        raise CostModelError(f"layer {layer.name}: {error}") from error


def _use_cost(
    layer: LayerWorkload, shape: LayerShape, layout: Layout, profile: DeviceProfile
) -> LinearCost:
    timing = profile.timing(shape)
    measured = _measured_cost(timing, layout) if timing else None
    if measured is not None:
        return measured
    dense = _dense_ms(layer, shape, profile)
    if not skips_zeros(shape, layout, profile.facts):
        return LinearCost(dense, dense, 0.0, "ms", "measured" if timing else "estimated")
    estimated = _estimated_dense_ms(layer, shape, profile)
    if layout.kind is LayoutKind.N_M:
        return _n_m_cost(shape, layout, profile, dense, scale=dense / estimated)
    return _lowered_cost(shape, layout, profile, dense, scale=dense / estimated)


def _measured_cost(timing: LayerTiming, layout: Layout) -> LinearCost | None:
    for sparse in timing.sparse:
        if sparse.layout == str(layout):
            fit = timing.linear_cost(sparse)
            return LinearCost(fit.dense, fit.fixed, fit.per_block, fit.unit, "measured")
    return None


def _lowered_cost(
    shape: LayerShape, layout: Layout, profile: DeviceProfile, dense: float, scale: float
) -> LinearCost:
    """The estimated lowered form, as much off as the dense estimate was where that is known."""
    none, everything = (
        _finite(scale * lowered_ms(shape, layout, share, profile.roofline, profile.facts))
        for share in (0.0, 1.0)
    )
    per_block = (everything - none) / layout.num_whole_blocks(shape.weight_shape)
    return LinearCost(dense, none, per_block, "ms", "estimated")


def _n_m_cost(
    shape: LayerShape, layout: Layout, profile: DeviceProfile, dense: float, scale: float
) -> LinearCost:
    """The estimated time of the pattern, as a share for each kept rank: all N are always kept."""
    time_ms = n_m_ms(shape, str(layout), profile.roofline, profile.facts)
    assert time_ms is not None  # the device has the pattern: it skips zeros
    return LinearCost(dense, 0.0, _finite(scale * time_ms) / layout.num_kept, "ms", "estimated")


def _estimated_rest_ms(workload: Workload, profile: DeviceProfile) -> float:
    dtype = workload.layers[0].shape.dtype if workload.layers else "float32"
    run_ms = max(profile.run_overhead_ms, profile.facts.launch_overhead_us.value * 1e-3)
    products = sum(_product_ms(product, dtype, profile) for product in workload.products)
    others = sum(_operation_ms(item, dtype, profile) for item in _unfolded(workload))
    return _finite(run_ms + products + others)


def _product_ms(product: ActivationProduct, dtype: str, profile: DeviceProfile) -> float:
    """Products of activations run like linear layers whose weights are activations."""
    left, right = product.left_shape, product.right_shape
    size, num_columns = bytes_per_number(dtype), right[-1] if right else 1
    num_outputs = math.prod(left[:-1]) * num_columns
    work = LayerWork(
        num_flops=2.0 * math.prod(left) * num_columns,
        num_weight_bytes=float(size * math.prod(right)),
        num_input_bytes=float(size * math.prod(left)),
        num_output_bytes=float(size * num_outputs),
    )
    coefficients = roofline_class(profile.roofline, "linear")
    return product.num_calls * roofline_ms(work, coefficients, profile.facts, dtype)


def _unfolded(workload: Workload) -> list[UnpricedOperation]:
    folded = FUSED_OPERATIONS | (FOLDED_INTO_CONVOLUTIONS if _is_convolutional(workload) else set())
    return [item for item in workload.unpriced if operation_name(item.op) not in folded]


def _is_convolutional(workload: Workload) -> bool:
    """Whether convolutions do most of the arithmetic."""
    macs = sum(layer.macs for layer in workload.layers if layer.shape.is_convolution)
    return 2 * macs > workload.macs


def _operation_ms(item: UnpricedOperation, dtype: str, profile: DeviceProfile) -> float:
    launch_ms = profile.facts.launch_overhead_us.value * 1e-3
    num_bytes = item.num_output_elements * MOVES_PER_ELEMENT * bytes_per_number(dtype)
    return item.num_calls * launch_ms + num_bytes / (profile.facts.bandwidth_gb_per_s.value * 1e6)


def _finite(time_ms: float) -> float:
    if not 0 < time_ms < math.inf:
        raise CostModelError(
            f"the roofline estimates a time of {time_ms} ms; check the facts and efficiencies of "
            "the profile"
        )
    return time_ms
