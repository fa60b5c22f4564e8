"""Whether the parts of a layer's shape fit together: no layer can have a shape that contradicts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cost_models.workload import LayerShape

WEIGHT_TYPES = frozenset(
    {
        *("float64", "float32", "float16", "bfloat16", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
        *("float4_e2m1fn", "float4_e2m1fn_x2", "complex32"),
        *("int64", "int32", "int16", "int8", "int4", "int2"),
        *("uint64", "uint32", "uint16", "uint8", "uint4", "uint2", "bool"),
    }
)
"""Element types of weights, as numpy, ml_dtypes and torch call them."""

_CHANNELS = 2
"""Dimensions in front of the spatial ones: of a weight outputs and inputs, of an activation batch
and channels."""


def require_consistent(shape: "LayerShape") -> None:
    """Refuse a shape whose parts contradict each other.

    Raises:
        ValueError: saying what contradicts what.
    """
    if shape.dtype not in WEIGHT_TYPES:
        known = ", ".join(sorted(WEIGHT_TYPES))
        raise ValueError(f"dtype {shape.dtype!r} is not known; known are: {known}")
    if shape.is_convolution:
        _require_ranks(shape)
        _require_channels(shape)
        _require_room(shape)
    else:
        _require_matrix(shape)


def _require_matrix(shape: "LayerShape") -> None:
    if len(shape.weight_shape) != _CHANNELS:
        raise ValueError(
            f"weight_shape of {shape.op} must have 2 dimensions, found {list(shape.weight_shape)}"
        )
    if shape.groups != 1 or shape.stride or shape.padding or shape.dilation:
        raise ValueError(f"{shape.op} has no groups, stride, padding or dilation")
    if not shape.input_shape:
        raise ValueError(f"input_shape of {shape.op} must have at least one dimension")
    num_inputs = shape.weight_shape[1]
    if shape.op == "linear" and shape.input_shape[-1] != num_inputs:
        raise ValueError(
            f"input_shape of linear must end in {num_inputs}, the inputs of its weight, found "
            f"{list(shape.input_shape)}"
        )


def _num_spatial(shape: "LayerShape") -> int:
    return int(shape.op[-2])


def _require_ranks(shape: "LayerShape") -> None:
    num_spatial = _num_spatial(shape)
    for name in ("weight_shape", "input_shape"):
        if len(getattr(shape, name)) != _CHANNELS + num_spatial:
            raise ValueError(
                f"{name} of {shape.op} must have {_CHANNELS + num_spatial} dimensions, found "
                f"{list(getattr(shape, name))}"
            )
    for name in ("stride", "padding", "dilation"):
        if len(getattr(shape, name)) not in (0, num_spatial):
            raise ValueError(
                f"{name} of {shape.op} must be empty or have {num_spatial} figures, found "
                f"{list(getattr(shape, name))}"
            )


def _require_channels(shape: "LayerShape") -> None:
    is_transposed = "transpose" in shape.op
    first, second = shape.weight_shape[:2]
    # A plain weight is [out, in / groups, ...], a transposed one [in, out / groups, ...].
    if first % shape.groups:
        raise ValueError(
            f"groups must divide {first}, the first size of weight_shape, found {shape.groups}"
        )
    num_inputs = first if is_transposed else second * shape.groups
    if shape.input_shape[1] != num_inputs:
        raise ValueError(
            f"input_shape must have {num_inputs} channels to fit weight_shape and groups, found "
            f"{list(shape.input_shape)}"
        )


def _require_room(shape: "LayerShape") -> None:
    ones = (1,) * _num_spatial(shape)
    sliding = zip(
        shape.input_shape[_CHANNELS:],
        shape.weight_shape[_CHANNELS:],
        shape.stride or ones,
        shape.padding or (0,) * len(ones),
        shape.dilation or ones,
        strict=True,
    )
    for size, kernel, stride, padding, dilation in sliding:
        reach = dilation * (kernel - 1) + 1
        if "transpose" in shape.op:
            # Output padding, which a shape does not hold, may add up to this much.
            most = (size - 1) * stride - 2 * padding + reach + max(stride, dilation) - 1
            if most < 1:
                raise ValueError(f"padding {padding} leaves no output of an input of {size}")
        elif reach > size + 2 * padding:
            raise ValueError(
                f"a kernel that reaches over {reach} does not fit an input of {size} with padding "
                f"{padding}"
            )
