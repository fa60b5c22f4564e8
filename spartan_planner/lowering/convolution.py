"""The lowered form of a convolution whose groups of outputs read different inputs.

Outputs are taken in groups of ``group_size``.  A group reads only the input channels at which one
of its filters has a non-zero, so the convolution equals a gather of each group's channels followed
by one convolution with as many groups: standard operators that skip every zero block.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.floating]


@dataclass(frozen=True)
class PackedConvolution:
    """A convolution with its zero blocks taken out.

    Attributes:
        weight: ``[num_groups * group_size, num_inputs_per_group, *kernel]``; filters beyond
            ``num_outputs`` are zero.
        inputs: ``[num_groups * num_inputs_per_group]`` int64, the channels to gather.
        num_groups: groups of the lowered convolution.
        num_outputs: outputs of the original convolution.
    """

    weight: Weights
    inputs: NDArray[np.int64]
    num_groups: int
    num_outputs: int

    @property
    def num_inputs_per_group(self) -> int:
        """Channels that each group reads, padding included."""
        return int(self.weight.shape[1])

    @property
    def has_padded_outputs(self) -> bool:
        """Whether outputs were added to fill the last group."""
        return int(self.weight.shape[0]) > self.num_outputs


def kept_inputs(weight: Weights, group_size: int) -> list[NDArray[np.int64]]:
    """Return, for each group of ``group_size`` outputs, the inputs with a non-zero weight.

    Args:
        weight: ``[out, in, *kernel]``.
        group_size: outputs per group; the last group may have fewer.
    """
    used = weight.reshape(weight.shape[0], weight.shape[1], -1).any(axis=2)
    starts = np.arange(0, weight.shape[0], group_size)
    return [np.flatnonzero(row) for row in np.logical_or.reduceat(used, starts, axis=0)]


def pack_convolution(weight: Weights, group_size: int, step: int = 1) -> PackedConvolution:
    """Take the zero blocks out of a convolution's weight.

    Every group is padded to the inputs of the longest one, rounded up to a multiple of ``step``
    (the vector width of the runtime's kernels), but never beyond all inputs.  Padding reads
    channels that the group does not use, with zero weights.

    Args:
        weight: ``[out, in, *kernel]``.
        group_size: outputs per group.
        step: what the number of inputs per group is a multiple of.

    Raises:
        ValueError: sizes that are not positive.
    """
    if group_size < 1 or step < 1:
        raise ValueError("group_size and step must be at least 1")
    num_outputs, num_inputs, *kernel = weight.shape
    groups = kept_inputs(weight, group_size)
    longest = max(1, *(len(group) for group in groups))
    width = min(num_inputs, math.ceil(longest / step) * step)
    filled = np.zeros((len(groups) * group_size, *weight.shape[1:]), weight.dtype)
    filled[:num_outputs] = weight
    packed = np.empty((len(groups) * group_size, width, *kernel), weight.dtype)
    inputs = np.empty((len(groups), width), np.int64)
    for index, group in enumerate(groups):
        inputs[index] = _pad_inputs(group, width, num_inputs)
        rows = slice(index * group_size, (index + 1) * group_size)
        packed[rows] = filled[rows][:, inputs[index]]
    return PackedConvolution(packed, inputs.reshape(-1), len(groups), num_outputs)


def _pad_inputs(group: NDArray[np.int64], width: int, num_inputs: int) -> NDArray[np.int64]:
    unused = np.setdiff1d(np.arange(num_inputs), group)[: width - len(group)]
    return np.sort(np.concatenate([group, unused]))
