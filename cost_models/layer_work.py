"""Work of one call of a layer, whatever the device: operations and bytes, dense and lowered."""

import math
from dataclasses import dataclass
from typing import Literal

from cost_models.errors import CostModelError
from cost_models.flops import FLOPS_PER_MAC
from cost_models.layout import Layout
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
    "lowered_linear",
]
"""``conv``: a kernel of more than one element; ``pointwise``: of one; ``linear`` has many rows,
``vector`` one; ``lowered``: a gather of inputs and a grouped convolution, as lowering emits;
``lowered_linear``: the same of a linear layer, its activations turned features-major and back."""

MIN_TURNED_ROWS = 8
"""From so many rows of activations on, in one sample, a lowered linear layer turns them
features-major; fewer are multiplied as they are, and the bias is added afterwards."""

LOWERED_LINEAR_RANKS = (2, 3, 4, 5)
"""Dimensions of activations that a lowered linear layer can read: turned features-major they are
those of a convolution over one to three dimensions."""

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
    if shape.op == "linear":
        return len(shape.input_shape) in LOWERED_LINEAR_RANKS
    return shape.op in ("conv1d", "conv2d", "conv3d") and shape.groups == 1


def lowered_class(shape: LayerShape) -> LayerClass:
    """Return the class whose efficiencies the lowered form of a layer has."""
    return "lowered_linear" if shape.op == "linear" else "lowered"


def lowered_work(shape: LayerShape, layout: Layout, share: float) -> LayerWork:
    """Return the work of the lowered form of a convolution or a linear layer.

    Outputs stand in groups of ``tile_outputs``; each reads a share of the inputs of its own.  A
    gather reads and writes those of all groups, a grouped convolution follows; where the last group
    is ragged it is filled up and the surplus sliced off again, which copies the output once more.
    A linear layer of many rows is transposed before and after, once each; one of few rows is a
    batched product.

    Args:
        shape: a convolution without groups, or a linear layer.
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
    copied = dense.num_output_bytes if filled > 1 else 0.0
    turned = num_source_bytes + dense.num_output_bytes if is_turned(shape) else 0.0
    is_biased_after = shape.op == "linear" and shape.has_bias and not is_turned(shape)
    copied += dense.num_output_bytes * is_biased_after
    return LayerWork(
        num_flops=dense.num_flops * filled * share,
        num_weight_bytes=dense.num_weight_bytes * filled * share,
        num_input_bytes=gathered + dense.num_input_bytes * num_groups * share + copied + turned,
        num_output_bytes=gathered + dense.num_output_bytes * filled + copied + turned,
        num_operations=2 + (filled > 1) + 2 * is_turned(shape) + is_biased_after,
    )


def is_turned(shape: LayerShape) -> bool:
    """Whether the lowered form transposes the activations of a layer, and back."""
    return shape.op == "linear" and has_many_rows(shape.input_shape)


def has_many_rows(input_shape: tuple[int, ...]) -> bool:
    """Whether there are so many rows in one sample that turning them features-major pays.

    Args:
        input_shape: of a linear layer, features last.  Of three dimensions or fewer rows stand in
            the longest, of more in all but the first.
    """
    is_grid = len(input_shape) > 3
    rows = math.prod(input_shape[1:-1]) if is_grid else max(input_shape[:-1])
    return rows >= MIN_TURNED_ROWS


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
