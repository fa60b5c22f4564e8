"""What channels are worth, and the weights that are left when some are gone; needs no torch.

The value of a unit is the sum of absolute weights over its slices in the layers' weights (what it
holds of norms and biases is left out).  Units are kept in the order of value, ties by position.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_models import ChannelGroup, LayerWorkload, Layout, Workload
from spartan_planner.errors import PlanError
from spartan_planner.planning.weights import (
    PIECE_ELEMENTS,
    LayerValues,
    ReadRows,
    Weights,
    values_of_rows,
)
from spartan_planner.planning.weights_fingerprint import checksum, joined

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class LayerSums:
    """Sums of absolute weights of one layer.

    Attributes:
        total: over the whole weight.
        by_axis: for each axis of the stored weight that a group cuts, over all others.
        checksum: of its elements, as ``weights_fingerprint`` says.
    """

    total: float
    by_axis: Mapping[int, Vector]
    checksum: int


def read_sums(layer: LayerWorkload, weights: Weights, axes: Sequence[int]) -> LayerSums:
    """Read a layer's weight once and sum it up along axes.

    Raises:
        PlanError: the weight is missing, has fewer axes or is not finite.
    """
    shape, read = weights.stored_shape(layer), weights.rows(layer)
    if any(axis >= len(shape) for axis in axes):
        raise PlanError(
            f"the weight of layer {layer.name} has shape {shape}, its channel groups cut axis "
            f"{max(axes)}; give the weights of this model"
        )
    sums = {axis: np.zeros(shape[axis]) for axis in axes}
    total, bits = 0.0, 0
    step = max(1, PIECE_ELEMENTS // max(1, int(np.prod(shape[1:], dtype=object))))
    for start in range(0, shape[0], step):
        piece = read(start, min(start + step, shape[0]))
        bits = joined(bits, checksum(piece))
        absolute = np.abs(piece)
        total += float(absolute.sum(dtype=np.float64))
        for axis in axes:
            others = tuple(other for other in range(len(shape)) if other != axis)
            along = absolute.sum(axis=others, dtype=np.float64)
            rows = slice(start, start + len(piece)) if axis == 0 else slice(None)
            sums[axis][rows] += along
    if not np.isfinite(total):
        raise PlanError(
            f"the weights of layer {layer.name} hold NaN or infinity; give a sound checkpoint"
        )
    return LayerSums(total, sums, bits)


def read_all_sums(workload: Workload, weights: Weights) -> dict[str, LayerSums]:
    """Read every layer once; see :func:`read_sums`."""
    axes: dict[str, set[int]] = {layer.name: set() for layer in workload.layers}
    for group in workload.channel_groups:
        for item in group.slices:
            if item.tensor in axes and item.role != "vector":
                axes[item.tensor].add(item.dim)
    return {
        layer.name: read_sums(layer, weights, sorted(axes[layer.name])) for layer in workload.layers
    }


def slice_values(
    group: ChannelGroup, sums: Mapping[str, LayerSums]
) -> dict[tuple[str, int], Vector]:
    """Return by layer and axis ``[num_units]``, what each unit holds there.

    Raises:
        PlanError: a weight is too small for the group.
    """
    found = {}
    for item in group.slices:
        if item.role == "vector" or item.tensor not in sums:
            continue
        along = sums[item.tensor].by_axis[item.dim]
        indices = np.array(item.indices)
        if indices.max() >= len(along):
            raise PlanError(
                f"channel group {group.name} reaches beyond the {len(along)} entries of "
                f"{item.tensor}; give the weights of this model"
            )
        found[item.tensor, item.dim] = along[indices].sum(axis=1)
    return found


def unit_values(group: ChannelGroup, sums: Mapping[str, LayerSums]) -> Vector:
    """Return ``[num_units]``: the sum of absolute weights over each unit's slices."""
    values = np.zeros(group.num_units)
    for held in slice_values(group, sums).values():
        values += held
    return values


def by_value(values: Vector) -> NDArray[np.intp]:
    """Return the units, the most valuable first, ties by position."""
    return np.argsort(-values, kind="stable")


def kept_units(values: Vector, num_kept: int) -> tuple[int, ...]:
    """Return the units that are kept, ascending."""
    return tuple(sorted(by_value(values)[:num_kept].tolist()))


@dataclass(frozen=True)
class ReducedWeights:
    """The weights that are left of a model.

    Attributes:
        whole: the weights of the whole model.
        layers: its layers by name, as they were.
        kept: for layers that lose something, by axis of the stored weight what stays, ascending.
    """

    whole: Weights
    layers: Mapping[str, LayerWorkload]
    kept: Mapping[str, Mapping[int, NDArray[np.intp]]]

    @staticmethod
    def of(
        workload: Workload, weights: Weights, units: Mapping[str, Sequence[int]]
    ) -> "ReducedWeights":
        """Return what is left when these units of each group are kept; others stay whole."""
        layers = {layer.name: layer for layer in workload.layers}
        gone: dict[str, dict[int, list[int]]] = {}
        for group in workload.channel_groups:
            removed = set(range(group.num_units)) - set(
                units.get(group.name, range(group.num_units))
            )
            for item in group.slices if removed else ():
                if item.tensor in layers and item.role != "vector":
                    axes = gone.setdefault(item.tensor, {})
                    axes.setdefault(item.dim, []).extend(item.elements(sorted(removed)))
        kept = {
            name: {
                axis: np.setdiff1d(np.arange(weights.stored_shape(layers[name])[axis]), elements)
                for axis, elements in axes.items()
            }
            for name, axes in gone.items()
        }
        return ReducedWeights(weights, layers, kept)

    def stored_shape(self, layer: LayerWorkload) -> tuple[int, ...]:
        """See :class:`~spartan_planner.planning.Weights`."""
        whole = self.whole.stored_shape(self.layers[layer.name])
        kept = self.kept.get(layer.name, {})
        return tuple(len(kept[axis]) if axis in kept else size for axis, size in enumerate(whole))

    def rows(self, layer: LayerWorkload) -> ReadRows:
        """See :class:`~spartan_planner.planning.Weights`."""
        read = self.whole.rows(self.layers[layer.name])
        kept = self.kept.get(layer.name)
        if not kept:
            return read
        rows = kept.get(0, np.arange(self.stored_shape(layer)[0]))
        others = [(axis, places) for axis, places in kept.items() if axis]

        def read_kept(start: int, stop: int) -> NDArray[np.floating]:
            wanted = rows[start:stop]
            piece = read(int(wanted[0]), int(wanted[-1]) + 1)[wanted - wanted[0]]
            for axis, places in others:
                piece = np.take(piece, places, axis=axis)
            return np.ascontiguousarray(piece)

        return read_kept

    def values(self, layer: LayerWorkload, layouts: Sequence[Layout]) -> LayerValues:
        """See :class:`~spartan_planner.planning.Weights`."""
        return values_of_rows(layer, self.stored_shape(layer), self.rows(layer), layouts)
