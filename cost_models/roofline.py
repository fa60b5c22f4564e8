"""Times of layers that nobody measured: work, divided by what the device can do.

    time = launches + overhead + flops / (e_c peak) + bytes / (e_b bandwidth)

Peak, bandwidth and launch overhead are the device's facts; the efficiencies ``e_c`` and ``e_b`` and
the further overhead belong to the class of the layer.  The two parts add up instead of overlapping:
that told held-out layers better than their maximum (docs/roofline.md), and it makes the time of a
lowered form linear in what is kept.
"""

from cost_models.device_facts import DeviceFacts, Roofline, RooflineClass
from cost_models.errors import CostModelError
from cost_models.layer_work import (
    LayerClass,
    LayerWork,
    bytes_per_number,
    is_lowerable,
    layer_class,
    layer_work,
    lowered_class,
    lowered_work,
)
from cost_models.layout import Layout, LayoutKind
from cost_models.workload import LayerShape

ANY_CLASS = "any"
"""The class in a profile that stands for every class it does not name."""

_RELATED: dict[LayerClass, tuple[LayerClass, ...]] = {
    "conv": (),
    "pointwise": ("conv",),
    "depthwise": ("grouped", "conv"),
    "grouped": ("conv",),
    "linear": ("pointwise", "conv"),
    "vector": ("linear",),
    "embedding": ("vector",),
    "transposed": ("conv",),
    "lowered": ("grouped",),
    "lowered_linear": ("lowered",),
}


def roofline_class(roofline: Roofline, name: LayerClass) -> RooflineClass:
    """Return the efficiencies of a class, or of the nearest class that the profile knows.

    Raises:
        CostModelError: the profile knows neither it, nor a related class, nor ``any``.
    """
    known = {item.layer_class: item for item in roofline.classes}
    for candidate in (name, *_related(name), ANY_CLASS):
        if candidate in known:
            return known[candidate]
    raise CostModelError(
        f"the profile's roofline has no efficiencies for layers of class {name} (it has "
        f"{', '.join(known)}); add the class, or one called {ANY_CLASS}"
    )


def roofline_ms(
    work: LayerWork, coefficients: RooflineClass, facts: DeviceFacts, dtype: str
) -> float:
    """Return the estimated time of one call: the formula at the top of this module.

    Raises:
        CostModelError: the device's peak rate for the element type is not known.
    """
    launches = work.num_operations * facts.launch_overhead_us.value * 1e-3
    overhead = launches + coefficients.overhead_ms
    # Divided one by one: a product of two tiny figures could be zero.
    moves = work.num_bytes / facts.bandwidth_gb_per_s.value / coefficients.bandwidth_efficiency
    compute = 0.0
    if work.num_flops:
        peak = peak_gflop_per_s(facts, dtype)
        compute = work.num_flops / peak / coefficients.compute_efficiency
    return overhead + (compute + moves) * 1e-6


def peak_gflop_per_s(facts: DeviceFacts, dtype: str) -> float:
    """Return the peak rate of arithmetic for an element type.

    Raises:
        CostModelError: it is not known.
    """
    if dtype not in facts.peak_gflop_per_s:
        raise CostModelError(
            f"the profile states no peak rate for {dtype}, only for "
            f"{', '.join(facts.peak_gflop_per_s)}; add it to the facts with its source"
        )
    return facts.peak_gflop_per_s[dtype].value


def dense_ms(shape: LayerShape, roofline: Roofline, facts: DeviceFacts) -> float:
    """Return the estimated time of one call of a layer, dense.

    Raises:
        CostModelError: the layer cannot be estimated from these facts.
    """
    coefficients = roofline_class(roofline, layer_class(shape))
    return roofline_ms(layer_work(shape), coefficients, facts, shape.dtype)


def lowered_ms(
    shape: LayerShape, layout: Layout, share: float, roofline: Roofline, facts: DeviceFacts
) -> float:
    """Return the estimated time of the lowered form with a share of the inputs kept.

    Raises:
        CostModelError: the layer cannot be estimated from these facts.
    """
    work = lowered_work(shape, layout, share)
    return roofline_ms(work, roofline_class(roofline, lowered_class(shape)), facts, shape.dtype)


def skips_zeros(shape: LayerShape, layout: Layout, facts: DeviceFacts | None = None) -> bool:
    """Whether a runtime can be made to skip the zero blocks of a layer.

    Plain convolutions and linear layers in balanced tiles have a lowered form for any runtime; an
    n:m pattern counts where the facts state that the device has hardware for it.  Everything else
    is exported masked: dense tensors with zeros, stored and multiplied like any other number.
    """
    if layout.kind is LayoutKind.N_M:
        has_pattern = facts is not None and str(layout) in facts.sparse_speedups
        return has_pattern and layout.fits(shape.weight_shape) and is_n_m_op(shape)
    return layout.balanced_step > 0 and is_lowerable(shape)


def is_n_m_op(shape: LayerShape) -> bool:
    """Whether a layer is a product over consecutive inputs, which n:m hardware works on."""
    return shape.op == "linear" or is_lowerable(shape)


def n_m_ms(shape: LayerShape, pattern: str, roofline: Roofline, facts: DeviceFacts) -> float | None:
    """Return the estimated time of a layer pruned in an n:m pattern, such as ``2:4``.

    Arithmetic is faster by the device's stated factor and a share ``n / m`` of the weights is read,
    beside two bits of index for each.

    Returns:
        The time; ``None`` where the device has no hardware for the pattern.

    Raises:
        CostModelError: the layer cannot be estimated from these facts.
    """
    speedup = facts.sparse_speedups.get(pattern)
    if speedup is None:
        return None
    kept, _, of = pattern.partition(":")
    work, share = layer_work(shape), int(kept) / int(of)
    index_share = _INDEX_BITS / (8 * bytes_per_number(shape.dtype))
    pruned = LayerWork(
        work.num_flops / speedup.value,
        work.num_weight_bytes * share * (1 + index_share),
        work.num_input_bytes,
        work.num_output_bytes,
    )
    return roofline_ms(pruned, roofline_class(roofline, layer_class(shape)), facts, shape.dtype)


_INDEX_BITS = 2


def _related(name: LayerClass) -> list[LayerClass]:
    """Related classes, nearest first, and what is related to those."""
    found: list[LayerClass] = []
    queue = list(_RELATED[name])
    while queue:
        item = queue.pop(0)
        if item not in found and item != name:
            found.append(item)
            queue += _RELATED[item]
    return found
