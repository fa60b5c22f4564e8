"""The lowered form of a linear layer whose groups of outputs read different inputs.

    y = x W^T + b        W: [out, in], x: [..., rows, in]

Outputs are taken in groups of ``group_size``; a group reads only the inputs at which one of its
rows of W has a non-zero.  With features in the place of channels (*features-major*, ``[batch, in,
rows]``) reading them is a gather of whole rows, and all groups together are a convolution over the
rows with a kernel of one and as many groups.  One transpose leads into this order and one out of
it; neighbouring layers need none between them (:mod:`spartan_planner.lowering.transposes`).  A
layer with a single row needs none at all: its form is a gather and one batched product.

Everything here is what a layer's shape decides; :mod:`spartan_planner.lowering.emitting` writes
the operators.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_models import LayerShape, Layout
from cost_models.layer_work import LayerWork, bytes_per_number
from spartan_planner.lowering.convolution import Weights, pack_convolution


@dataclass(frozen=True)
class PackedLinear:
    """A linear layer with its zero blocks taken out.

    Attributes:
        weight: ``[num_groups, group_size, width]``; rows beyond ``num_outputs`` are zero.
        inputs: ``[num_groups, width]`` int64, what each group reads, ascending.
        num_outputs: outputs of the original layer.
    """

    weight: Weights
    inputs: NDArray[np.int64]
    num_outputs: int

    @property
    def num_groups(self) -> int:
        """Groups of the convolution or of the batched product."""
        return int(self.weight.shape[0])

    @property
    def group_size(self) -> int:
        """Outputs per group."""
        return int(self.weight.shape[1])

    @property
    def width(self) -> int:
        """Inputs that each group reads, padding included."""
        return int(self.weight.shape[2])

    @property
    def has_padded_outputs(self) -> bool:
        """Whether outputs were added to fill the last group."""
        return self.num_groups * self.group_size > self.num_outputs


def pack_linear(weight: Weights, group_size: int, step: int = 1) -> PackedLinear:
    """Take the zero blocks out of a linear layer's weight ``[out, in]``.

    Every group is padded to the inputs of the widest one, rounded up to a multiple of ``step``, but
    never beyond all inputs.

    Raises:
        ValueError: sizes that are not positive.
    """
    packed = pack_convolution(weight, group_size, step)
    width = packed.num_inputs_per_group
    return PackedLinear(
        packed.weight.reshape(packed.num_groups, group_size, width),
        packed.inputs.reshape(packed.num_groups, width),
        packed.num_outputs,
    )


def num_rows(shape: LayerShape) -> int:
    """Return the rows of activations that one call of a linear layer multiplies."""
    return math.prod(shape.input_shape[:-1])


def linear_lowered_work(
    shape: LayerShape, group_size: int, width: int, num_transposes: int = 2
) -> LayerWork:
    """Return the work of the lowered form of a linear layer.

    Operators, in order: transpose, gather, grouped convolution with the bias, (slice), transpose;
    for a single row: gather, batched product, (slice), (bias).

    Args:
        shape: of the dense layer.
        group_size: outputs per group.
        width: inputs that each group reads.
        num_transposes: those that remain: 2 alone, 1 at either end of a chain, 0 inside one.

    Raises:
        CostModelError: the element type is not known.
    """
    rows, (outputs, inputs) = num_rows(shape), shape.weight_shape
    num_groups = math.ceil(outputs / group_size)
    num_filled = num_groups * group_size
    transposes = num_transposes if rows > 1 else 0
    # The first transpose moves the inputs, the second the outputs.
    transposed = rows * (inputs * (transposes > 0) + outputs * (transposes > 1))
    gathered = num_groups * width * rows
    cut = outputs * rows if num_filled > outputs else 0
    biased = outputs if shape.has_bias and rows == 1 else 0
    size = bytes_per_number(shape.dtype)
    return LayerWork(
        num_flops=2.0 * num_filled * width * rows,
        num_weight_bytes=float(size * num_filled * width),
        num_input_bytes=float(size * (transposed + 2 * gathered + cut + biased)),
        num_output_bytes=float(size * (transposed + gathered + num_filled * rows + cut + biased)),
        num_operations=2 + transposes + (cut > 0) + (biased > 0),
    )


def linear_layout_work(
    shape: LayerShape, layout: Layout, num_kept_blocks: int, num_transposes: int = 2
) -> LayerWork:
    """Return the work of a linear layer pruned in a balanced tile layout, lowered.

    Args:
        shape: of the dense layer.
        layout: such as ``tile:64x1@16``.
        num_kept_blocks: rank slices kept; at least one is stored.
        num_transposes: as for :func:`linear_lowered_work`.

    Raises:
        ValueError: the layout is not balanced, so that its groups need not be equally wide.
    """
    if not layout.balanced_step:
        raise ValueError(f"layout {layout} is not balanced; write one such as tile:64x1@16")
    width = min(shape.weight_shape[1], max(1, num_kept_blocks) * layout.balanced_step)
    return linear_lowered_work(shape, layout.tile_outputs, width, num_transposes)
