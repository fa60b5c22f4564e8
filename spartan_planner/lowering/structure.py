"""What the zeros of a weight leave to do: inputs nobody reads, outputs that are constant, groups.

A weight is ``[out, in, *kernel]`` throughout; of a linear layer there is no kernel.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spartan_planner.lowering.convolution import Weights, kept_inputs

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class ZeroStructure:
    """Inputs and outputs of a layer that its weight leaves alive.

    Attributes:
        inputs: at which some output has a non-zero weight, ascending.
        outputs: with a non-zero weight at some input, ascending; all others are constant.
        density: non-zero share of the weight's elements.
    """

    inputs: Indices
    outputs: Indices
    density: float


def zero_structure(weight: Weights) -> ZeroStructure:
    """Return which inputs and outputs of a weight carry anything."""
    used = np.any(weight.reshape(*weight.shape[:2], -1) != 0, axis=2)
    density = np.count_nonzero(weight) / weight.size if weight.size else 0.0
    return ZeroStructure(
        np.flatnonzero(np.any(used, axis=0)), np.flatnonzero(np.any(used, axis=1)), density
    )


def group_widths(weight: Weights, group_size: int) -> tuple[int, ...]:
    """Return how many inputs each group of ``group_size`` consecutive outputs reads."""
    return tuple(len(group) for group in kept_inputs(weight, group_size))


def padded_width(weight: Weights, group_size: int, step: int) -> int:
    """Return the inputs per group of the lowered form: the widest group's, in whole steps."""
    widest = max(1, *group_widths(weight, group_size))
    return min(int(weight.shape[1]), math.ceil(widest / step) * step)
