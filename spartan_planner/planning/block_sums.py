"""Sums of absolute weights over parts of a weight held as an array; needs no torch."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def kernel_sums(absolute: Array) -> Array:
    """Return ``[out, in]``, the sums over the kernel, in float32 or wider.

    Args:
        absolute: ``[out, in, *kernel]``, absolute weights.
    """
    if absolute.ndim == 2:
        return absolute
    wide = np.promote_types(absolute.dtype, np.float32)
    sums: Array = absolute.reshape(*absolute.shape[:2], -1).sum(axis=2, dtype=wide)
    return sums


def added_up(array: Array, step: int, axis: int) -> Array:
    """Add runs of ``step`` entries along an axis; the last may be shorter."""
    length = array.shape[axis]
    if step == 1:
        return array
    wide = np.promote_types(array.dtype, np.float32)
    if length % step:
        added: Array = np.add.reduceat(array, range(0, length, step), axis=axis, dtype=wide)
        return added
    shape = (*array.shape[:axis], length // step, step, *array.shape[axis + 1 :])
    whole: Array = array.reshape(shape).sum(axis=axis + 1, dtype=wide)
    return whole


def sums_by_rank(groups: Array) -> NDArray[np.float64]:
    """Sort ``[rows, ranks, ...]`` along the ranks, greatest first, and sum over all else."""
    ordered = np.sort(groups, axis=1)[:, ::-1]
    sums: NDArray[np.float64] = (
        np.moveaxis(ordered, 1, 0).reshape(ordered.shape[1], -1).sum(axis=1, dtype=np.float64)
    )
    return sums
