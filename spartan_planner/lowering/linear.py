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

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
