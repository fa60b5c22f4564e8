"""Where the planner gets weights from; needs no torch.

Every source hands out runs of rows of the same length, so that the same weights make the same plan,
bit by bit, wherever they come from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cost_models import LayerWorkload, Layout
from spartan_planner.errors import PlanError
from spartan_planner.planning.streamed_sums import StreamedSums
from spartan_planner.planning.value_curves import ValueCurve
from spartan_planner.planning.weights_fingerprint import (
    checksum,
    joined,
    weights_fingerprint,
)

PIECE_ELEMENTS = 4 * 1024 * 1024
"""Read at a time: 16 MiB as float32, far below any limit."""

ReadRows = Callable[[int, int], NDArray[np.floating]]
"""Rows from the first to before the last, contiguous, in float32 or float64."""


@dataclass(frozen=True)
class LayerValues:
    """What a layer is worth.

    Attributes:
        total: sum of its absolute weights.
        curves: for each layout asked for, what it retains.
        checksum: of its elements, as ``weights_fingerprint`` says.
    """

    total: float
    curves: tuple[ValueCurve, ...]
    checksum: int


class Weights(Protocol):
    """Weights of a model, read once each."""

    def stored_shape(self, layer: LayerWorkload) -> tuple[int, ...]:
        """Return the shape in which a layer's weight can be read.

        Raises:
            PlanError: the weight is missing.
        """
        ...

    def rows(self, layer: LayerWorkload) -> ReadRows:
        """Return what reads rows of a layer's weight, in the shape that ``stored_shape`` says.

        Raises:
            PlanError: its weights are missing or hold no plain numbers.
        """
        ...

    def values(self, layer: LayerWorkload, layouts: Sequence[Layout]) -> LayerValues:
        """Return what a layer is worth in each layout.

        Raises:
            PlanError: its weights are missing, of another shape or not finite.
        """
        ...


@dataclass(frozen=True)
class ArrayWeights:
    """Weights held in memory, by layer name, ``[out, in, *kernel]`` as the layer's shape says."""

    arrays: Mapping[str, NDArray[np.floating]]

    def stored_shape(self, layer: LayerWorkload) -> tuple[int, ...]:
        """See :class:`Weights`."""
        if layer.name not in self.arrays:
            raise PlanError(f"the weights have no {layer.name!r}; give those of this model")
        return self.arrays[layer.name].shape

    def rows(self, layer: LayerWorkload) -> ReadRows:
        """See :class:`Weights`."""
        self.stored_shape(layer)
        return rows_of_array(self.arrays[layer.name])

    def values(self, layer: LayerWorkload, layouts: Sequence[Layout]) -> LayerValues:
        """See :class:`Weights`."""
        return values_of_rows(layer, self.stored_shape(layer), self.rows(layer), layouts)


def rows_of_array(weight: NDArray[np.generic]) -> ReadRows:
    """Return what reads rows of an array."""
    return lambda start, stop: widened(weight[start:stop])


def widened(piece: NDArray[np.generic]) -> NDArray[np.floating]:
    """Return contiguous float32, or float64 where the piece is; uint16 stands for bfloat16."""
    if piece.dtype == np.uint16:
        # A bfloat16 is the upper half of a float32.
        wide = piece.astype(np.uint32, order="C")
        np.left_shift(wide, 16, out=wide)
        return wide.view(np.float32)
    return np.ascontiguousarray(piece, np.float64 if piece.dtype == np.float64 else np.float32)


def values_of_rows(
    layer: LayerWorkload, shape: tuple[int, ...], read: ReadRows, layouts: Sequence[Layout]
) -> LayerValues:
    """Return what a weight is worth, from one pass over its rows.

    Args:
        layer: the layer.
        shape: of the weight as it is read.
        read: returns rows of it.
        layouts: the layouts.

    Raises:
        PlanError: the weight is not finite, or has not the layer's shape where layouts need it.
    """
    if layouts and shape != layer.shape.weight_shape:
        raise PlanError(
            f"the weight of layer {layer.name} has shape {shape}, the workload says "
            f"{layer.shape.weight_shape}; give the weights of this model"
        )
    sums, bits = StreamedSums(layouts, shape), 0
    num_rows = shape[0] if shape else 0
    row_elements = max(1, int(np.prod(shape[1:], dtype=object)))
    together = sums.num_rows_together
    step = max(1, PIECE_ELEMENTS // (row_elements * together)) * together
    for start in range(0, num_rows, step):
        piece = read(start, min(start + step, num_rows))
        sums.add(piece)
        bits = joined(bits, checksum(piece))
        if not np.isfinite(sums.total):
            raise PlanError(
                f"the weights of layer {layer.name} hold NaN or infinity; give a sound checkpoint"
            )
    return LayerValues(sums.total, sums.curves(), bits)


def fingerprint_of(layers: Sequence[LayerWorkload], weights: Weights) -> str:
    """Return the fingerprint of the weights of all layers; reads each once.

    Raises:
        PlanError: a weight is missing, cannot be read or is not finite.
    """
    return weights_fingerprint({layer.name: weights.values(layer, ()).checksum for layer in layers})
