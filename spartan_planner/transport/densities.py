"""Densities per layer: uniform, and Erdos-Renyi-Kernel as in RigL (Evci et al. 2020, App. A).

Pure functions of shapes; a density is the kept fraction of a layer's elements.
"""

import math
from collections.abc import Sequence

from spartan_planner.errors import TransportError


def uniform_densities(
    shapes: Sequence[Sequence[int]], density: float, dense_layers: Sequence[int] = ()
) -> tuple[float, ...]:
    """Return the same density for every layer, 1 for those listed in ``dense_layers``.

    Raises:
        TransportError: A density outside [0, 1], or a dense layer that is not there.
    """
    _check_density(density)
    _check_layers(dense_layers, len(shapes))
    dense = frozenset(dense_layers)
    return tuple(1.0 if index in dense else density for index in range(len(shapes)))


def erk_densities(
    shapes: Sequence[Sequence[int]], density: float, dense_layers: Sequence[int] = ()
) -> tuple[float, ...]:
    """Return densities in proportion to ``sum(shape) / prod(shape)`` that keep ``density`` overall.

    Layers whose share would exceed 1, and those listed in ``dense_layers``, are left dense, and
    the others share what remains.  Kept elements over all layers are ``density`` times all.

    Raises:
        TransportError: A density outside [0, 1], or one that the dense layers alone exceed, or a
            dense layer that is not there.
    """
    _check_density(density)
    _check_layers(dense_layers, len(shapes))
    sizes = [math.prod(shape) for shape in shapes]
    ratios = [sum(shape) / size if size else 0.0 for shape, size in zip(shapes, sizes, strict=True)]
    dense = set(dense_layers)
    while True:
        left = density * sum(sizes) - sum(sizes[index] for index in dense)
        if left < 0.0:
            raise TransportError(
                f"A density of {density} is less than the layers that are to stay dense hold."
            )
        shares = sum(
            ratio * size
            for index, (ratio, size) in enumerate(zip(ratios, sizes, strict=True))
            if index not in dense
        )
        scale = left / shares if shares else 0.0
        over = {i for i, ratio in enumerate(ratios) if i not in dense and scale * ratio > 1.0}
        if not over:
            return tuple(1.0 if i in dense else scale * ratio for i, ratio in enumerate(ratios))
        # RigL makes the layer of the greatest share dense and starts again.
        dense.add(max(over, key=lambda index: ratios[index]))


def _check_density(density: float) -> None:
    """Refuse a density that is no fraction."""
    if not 0.0 <= density <= 1.0:
        raise TransportError(f"A density of {density} was asked for; it must lie in [0, 1].")


def _check_layers(dense_layers: Sequence[int], num_layers: int) -> None:
    """Refuse the index of a layer that is not there."""
    missing = [index for index in dense_layers if not 0 <= index < num_layers]
    if missing:
        raise TransportError(
            f"Layers {missing} are to stay dense, but layers are counted from 0 to "
            f"{num_layers - 1}."
        )
