"""What one use of a weight computes and moves, from its shape alone; the batch is included.

A workload counts multiply-adds per sample; time and energy belong to one forward pass at the batch
that the shapes hold.
"""

import math

from cost_models.workload import LayerShape


def output_sizes(shape: LayerShape) -> tuple[int, ...]:
    """Return the spatial sizes that a convolution writes; empty for other operations.

    ``(in + 2 padding - dilation (kernel - 1) - 1) // stride + 1`` per dimension; of a transposed
    convolution ``(in - 1) stride - 2 padding + dilation (kernel - 1) + 1``.
    """
    if not shape.is_convolution:
        return ()
    sizes, kernel = shape.input_shape[2:], shape.weight_shape[2:]
    strides = shape.stride or (1,) * len(sizes)
    paddings = shape.padding or (0,) * len(sizes)
    dilations = shape.dilation or (1,) * len(sizes)
    per_dimension = zip(sizes, kernel, strides, paddings, dilations, strict=True)
    if shape.op.startswith("conv_transpose"):
        return tuple((n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in per_dimension)
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in per_dimension)


def num_rows(shape: LayerShape) -> int:
    """Return at how many places each weight element is used: positions times batch."""
    if not shape.is_convolution:
        return math.prod(shape.input_shape if shape.op == "embedding" else shape.input_shape[:-1])
    if shape.op.startswith("conv_transpose"):
        return shape.input_shape[0] * math.prod(shape.input_shape[2:])
    return shape.input_shape[0] * math.prod(output_sizes(shape))


def num_macs(shape: LayerShape) -> int:
    """Return the multiply-adds of one use: elements times rows; none for a table look-up."""
    return 0 if shape.op == "embedding" else shape.num_weights * num_rows(shape)


def num_output_elements(shape: LayerShape) -> int:
    """Return how many elements one use writes."""
    if shape.op == "embedding":
        return num_rows(shape) * shape.weight_shape[1]
    if shape.op == "linear":
        return num_rows(shape) * shape.weight_shape[0]
    is_transposed = shape.op.startswith("conv_transpose")
    channels = shape.weight_shape[1] * shape.groups if is_transposed else shape.weight_shape[0]
    return shape.input_shape[0] * channels * math.prod(output_sizes(shape))
