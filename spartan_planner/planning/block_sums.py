"""Values of the blocks of a weight held as an array; needs no torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cost_models import Layout, LayoutKind
from spartan_planner.planning.value_curves import ValueCurve, value_curve

Array = NDArray[np.floating]


def kernel_sums(weight: Array) -> Array:
    """Return ``[out, in]``, the sums of absolute weights over the kernel, in float32 or wider.

    Args:
        weight: ``[out, in, *kernel]``.
    """
    absolute = np.abs(weight)
    if weight.ndim == 2:
        return absolute
    wide = np.promote_types(weight.dtype, np.float32)
    sums: Array = absolute.reshape(*weight.shape[:2], -1).sum(axis=2, dtype=wide)
    return sums


def block_values(weight: Array, layout: Layout) -> Array:
    """Return the value of each block, sums of absolute weights, in position order.

    Args:
        weight: ``[out, in, *kernel]``.
        layout: the layout.
    """
    if layout.kind is LayoutKind.ELEMENT:
        return np.abs(weight).reshape(-1)
    return values_of_sums(kernel_sums(weight), layout)


def values_of_sums(sums: Array, layout: Layout) -> Array:
    """Return the value of each tile or rank slice, given ``[out, in]`` sums over the kernel."""
    rows = added_up(sums, min(layout.tile_outputs, sums.shape[0]), axis=0)
    if not layout.balanced_step:
        return added_up(rows, min(layout.tile_inputs, sums.shape[1]), axis=1).reshape(-1)
    ranked = np.sort(rows, axis=1)[:, ::-1].sum(axis=0, dtype=np.float64)
    return added_up(ranked, min(layout.balanced_step, ranked.size), axis=0)


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


def block_curves(weight: Array, layouts: Sequence[Layout]) -> tuple[ValueCurve, ...]:
    """Return what each layout retains, from one read of the weight.

    Raises:
        ValueError: weights that are not finite.
    """
    shape = weight.shape
    tiles = [layout for layout in layouts if layout.kind is not LayoutKind.ELEMENT]
    sums = kernel_sums(weight) if tiles else None
    return tuple(
        _curve(
            np.abs(weight).reshape(-1)
            if sums is None or layout not in tiles
            else values_of_sums(sums, layout),
            layout,
            shape,
        )
        for layout in layouts
    )


def _curve(values: Array, layout: Layout, shape: tuple[int, ...]) -> ValueCurve:
    if layout.kind is LayoutKind.ELEMENT:
        return value_curve(values, np.ones(1))
    return value_curve(values, layout.block_sizes(shape))
