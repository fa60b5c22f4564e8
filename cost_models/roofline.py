"""Times of layers that nobody measured: work, divided by what the device can do.

    time = launches + overhead + flops / (e_c peak) + bytes / (e_b bandwidth)

Peak, bandwidth and launch overhead are the device's facts; the efficiencies ``e_c`` and ``e_b`` and
the further overhead belong to the class of the layer.  The two parts add up instead of overlapping:
that told held-out layers better than their maximum (docs/roofline.md), and it makes the time of a
lowered form linear in what is kept.
"""

import math
from dataclasses import dataclass
from typing import Literal

from cost_models.device_facts import DeviceFacts, Roofline, RooflineClass
from cost_models.errors import CostModelError
from cost_models.flops import FLOPS_PER_MAC
from cost_models.layout import Layout, LayoutKind
from cost_models.workload import LayerShape

LayerClass = Literal[
    "conv",
    "pointwise",
    "depthwise",
    "grouped",
    "linear",
    "vector",
    "embedding",
    "transposed",
    "lowered",
]
"""``conv``: a kernel of more than one element; ``pointwise``: of one; ``linear`` has many rows,
``vector`` one; ``lowered``: a gather of inputs and a grouped convolution, as lowering emits."""

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
}

_BYTES_PER_INDEX = 8
_BYTES: dict[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "bool": 1,
}


@dataclass(frozen=True)
class LayerWork:
    """What one call of a layer has to do, whatever the device.

    Attributes:
        num_flops: operations, two per multiply-add.
        num_weight_bytes: bytes of weights that it reads.
        num_input_bytes: bytes of activations that it reads.
        num_output_bytes: bytes that it writes.
        num_operations: operations that the runtime launches for it.
    """

    num_flops: float
    num_weight_bytes: float
    num_input_bytes: float
    num_output_bytes: float
    num_operations: int = 1

    @property
    def num_bytes(self) -> float:
        """All bytes that it moves."""
        return self.num_weight_bytes + self.num_input_bytes + self.num_output_bytes


def bytes_per_number(dtype: str) -> int:
    """Return the bytes of one number of an element type.

    Raises:
        CostModelError: the type is not known.
    """
    if dtype not in _BYTES:
        known = ", ".join(_BYTES)
        raise CostModelError(f"element type {dtype!r} is not known; known are: {known}")
    return _BYTES[dtype]


def layer_class(shape: LayerShape) -> LayerClass:
    """Return the class whose efficiencies a layer of this shape has."""
    if shape.op == "embedding":
        return "embedding"
    if shape.op == "linear":
        return "vector" if math.prod(shape.input_shape[:-1]) == 1 else "linear"
    if shape.op.startswith("conv_transpose"):
        return "transposed"
    if shape.groups > 1:
        return "depthwise" if shape.weight_shape[1] == 1 else "grouped"
    return "pointwise" if math.prod(shape.weight_shape[2:]) == 1 else "conv"


def output_shape(shape: LayerShape) -> tuple[int, ...]:
    """Return the shape of the activation that a layer writes, batch first.

    Of a convolution ``(in + 2 padding - dilation (kernel - 1) - 1) // stride + 1`` positions per
    dimension; of a transposed one ``(in - 1) stride - 2 padding + dilation (kernel - 1) + 1``
    (output padding is not part of a layer's shape).

    Raises:
        CostModelError: the input does not fit the weight.
    """
    if shape.op == "linear":
        return (*shape.input_shape[:-1], shape.weight_shape[0])
    if shape.op == "embedding":
        return (*shape.input_shape, *shape.weight_shape[1:])
    return (shape.input_shape[0], _num_outputs(shape), *_positions(shape))


def layer_work(shape: LayerShape) -> LayerWork:
    """Return the work of one call of a layer, dense.

    Every weight, every output and every input that some kernel touches counts once; of an embedding
    only the rows that are looked up.

    Raises:
        CostModelError: the input does not fit the weight, or the element type is not known.
    """
    num_outputs = math.prod(output_shape(shape))
    size = bytes_per_number(shape.dtype)
    if shape.op == "embedding":
        indices = math.prod(shape.input_shape) * _BYTES_PER_INDEX
        return LayerWork(0.0, float(size * num_outputs), float(indices), float(size * num_outputs))
    return LayerWork(
        num_flops=float(FLOPS_PER_MAC * shape.num_weights * _num_uses_per_weight(shape)),
        num_weight_bytes=float(size * shape.num_weights),
        num_input_bytes=float(size * _num_inputs_read(shape)),
        num_output_bytes=float(size * num_outputs),
    )


def is_lowerable(shape: LayerShape) -> bool:
    """Whether lowering has a form for this layer that skips zero blocks."""
    return shape.op in ("conv1d", "conv2d", "conv3d") and shape.groups == 1


def lowered_work(shape: LayerShape, layout: Layout, share: float) -> LayerWork:
    """Return the work of the lowered form of a convolution.

    Outputs stand in groups of ``tile_outputs``; each reads a share of the inputs of its own.  A
    gather reads and writes those of all groups, a grouped convolution follows; where the last group
    is ragged it is filled up and the surplus sliced off again, which copies the output once more.

    Args:
        shape: a convolution without groups.
        layout: a tile layout.
        share: of its inputs that each group keeps, 0 to 1.

    Raises:
        CostModelError: the input does not fit the weight.
    """
    dense, outputs = layer_work(shape), shape.weight_shape[0]
    num_groups = math.ceil(outputs / layout.tile_outputs)
    filled = num_groups * layout.tile_outputs / outputs
    num_source_bytes = bytes_per_number(shape.dtype) * math.prod(shape.input_shape)
    gathered = num_source_bytes * num_groups * share
    cut = dense.num_output_bytes if filled > 1 else 0.0
    return LayerWork(
        num_flops=dense.num_flops * filled * share,
        num_weight_bytes=dense.num_weight_bytes * filled * share,
        num_input_bytes=gathered + dense.num_input_bytes * num_groups * share + cut,
        num_output_bytes=gathered + dense.num_output_bytes * filled + cut,
        num_operations=3 if filled > 1 else 2,
    )


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
    return roofline_ms(work, roofline_class(roofline, "lowered"), facts, shape.dtype)


def skips_zeros(shape: LayerShape, layout: Layout, facts: DeviceFacts | None = None) -> bool:
    """Whether a runtime can be made to skip the zero blocks of a layer.

    Plain convolutions in balanced tiles have a lowered form for any runtime; an n:m pattern counts
    where the facts state that the device has hardware for it.  Everything else is exported masked:
    dense tensors with zeros, stored and multiplied like any other number.
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


def _num_outputs(shape: LayerShape) -> int:
    if layer_class(shape) == "transposed":
        return shape.weight_shape[1] * shape.groups
    return shape.weight_shape[0]


def _num_uses_per_weight(shape: LayerShape) -> int:
    """Multiply-adds of each weight element in one call, the batch included."""
    if shape.op == "linear":
        return math.prod(shape.input_shape[:-1])
    places = shape.input_shape[2:] if layer_class(shape) == "transposed" else _positions(shape)
    return shape.input_shape[0] * math.prod(places)


def _num_inputs_read(shape: LayerShape) -> int:
    """Inputs that some kernel touches: a stride beyond the kernel skips some."""
    if shape.op == "linear" or layer_class(shape) == "transposed":
        return math.prod(shape.input_shape)
    touched = [
        min(size, count * kernel)
        for size, count, kernel in zip(
            shape.input_shape[2:], _positions(shape), shape.weight_shape[2:], strict=True
        )
    ]
    return math.prod(shape.input_shape[:2]) * math.prod(touched)


def _positions(shape: LayerShape) -> tuple[int, ...]:
    kernel, sizes = shape.weight_shape[2:], shape.input_shape[2:]
    num_dimensions = len(kernel)
    stride = shape.stride or (1,) * num_dimensions
    padding = shape.padding or (0,) * num_dimensions
    dilation = shape.dilation or (1,) * num_dimensions
    if not len(sizes) == len(stride) == len(padding) == len(dilation) == num_dimensions:
        raise _contradiction(shape)
    position = _after_transposed if layer_class(shape) == "transposed" else _after_convolution
    found = tuple(map(position, sizes, kernel, stride, padding, dilation))
    if any(count < 1 for count in found):
        raise _contradiction(shape)
    return found


def _after_convolution(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _after_transposed(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1


def _contradiction(shape: LayerShape) -> CostModelError:
    return CostModelError(
        f"layer shape {shape.label()} contradicts itself: input {shape.input_shape}, stride "
        f"{shape.stride}, padding {shape.padding} and dilation {shape.dilation} leave no output; "
        "make the workload anew with 'spartan-planner inspect'"
    )
