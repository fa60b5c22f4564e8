"""Where the planner gets weights from; needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cost_models import LayerWorkload, Layout
from spartan_planner.errors import PlanError
from spartan_planner.planning.block_sums import block_curves
from spartan_planner.planning.value_curves import ValueCurve


@dataclass(frozen=True)
class LayerValues:
    """What a layer is worth.

    Attributes:
        total: sum of its absolute weights.
        curves: for each layout asked for, what it retains.
    """

    total: float
    curves: tuple[ValueCurve, ...]


class Weights(Protocol):
    """Weights of a model, read once each."""

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

    def values(self, layer: LayerWorkload, layouts: Sequence[Layout]) -> LayerValues:
        """See :class:`Weights`."""
        if layer.name not in self.arrays:
            raise PlanError(f"the weights have no {layer.name!r}; give those of this model")
        return values_of_array(layer, self.arrays[layer.name], layouts)


def values_of_array(
    layer: LayerWorkload, weight: NDArray[np.floating], layouts: Sequence[Layout]
) -> LayerValues:
    """Return what a weight is worth.

    Raises:
        PlanError: the weight is not finite, or has not the layer's shape where layouts need it.
    """
    total = float(np.abs(weight).sum(dtype=np.float64))
    if not np.isfinite(total):
        raise PlanError(
            f"the weights of layer {layer.name} hold NaN or infinity; give a sound checkpoint"
        )
    if layouts and weight.shape != layer.shape.weight_shape:
        raise PlanError(
            f"the weight of layer {layer.name} has shape {weight.shape}, the workload says "
            f"{layer.shape.weight_shape}; give the weights of this model"
        )
    return LayerValues(total, block_curves(weight, layouts))
