"""Which channels of a region to keep, so that the layers that share them cost least."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spartan_planner.lowering.channel_regions import Region
from spartan_planner.lowering.forms import GROUP_SIZES
from spartan_planner.lowering.structure import Indices
from spartan_planner.lowering.weight_nodes import Shapes, WeightNode

Price = Callable[[WeightNode, tuple[int, ...]], float]
"""The cost of a layer with an output of that shape."""

Alive = NDArray[np.bool_]
"""Of each channel of a region, whether it is kept."""


def kept_channels(region: Region, shapes: Shapes, price: Price) -> Alive | None:
    """Return the channels to keep; ``None`` where all are.

    Single channels may go, or only whole aligned runs of them: a group of outputs that read the
    same inputs is worth more whole than narrower.
    """
    needed = needed_channels(region)
    if needed.all() or not region.readers:
        return None
    best, least = None, _price(region, np.ones_like(needed), shapes, price)
    for run in (1, *GROUP_SIZES):
        alive = _nowhere_empty(region, _whole_runs(region, needed, run))
        if alive.all():
            continue
        cost = _price(region, alive, shapes, price)
        # Equal cost counts as gain: what is not there need not be stored.
        if cost < least or (best is None and cost <= least):
            best, least = alive, cost
    return best


def needed_channels(region: Region) -> Alive:
    """Return the channels that anything reads; a layer reads where its weight is not zero."""
    needed = region.pinned.copy()
    for layer in region.readers:
        used = layer.weight.reshape(*layer.weight.shape[:2], -1).any(axis=(0, 2))
        needed[region.activations[layer.source].channels[used]] = True
    return needed


def narrowed(
    layer: WeightNode, written: Indices | None, read: Indices | None, alive: Alive
) -> WeightNode:
    """Return a layer without the outputs, and inputs, that are not kept.

    Args:
        layer: the layer.
        written: the region's channels that are its outputs, if any.
        read: those that are its inputs, if any.
        alive: the region's channels that are kept.
    """
    weight, bias, shape = layer.weight, layer.bias, list(layer.source_shape)
    if written is not None:
        weight, bias = weight[alive[written]], None if bias is None else bias[alive[written]]
    if read is not None:
        weight = weight[:, alive[read]]
        shape[layer.channel_axis] = weight.shape[1]
    return replace(layer, weight=weight, bias=bias, source_shape=tuple(shape))


def _whole_runs(region: Region, needed: Alive, run: int) -> Alive:
    """Fill up runs of each writer's outputs, of which any is needed."""
    alive = needed.copy()
    for layer in region.writers if run > 1 else ():
        channels = region.activations[layer.output].channels
        starts = np.arange(0, len(channels), run)
        whole = np.repeat(np.logical_or.reduceat(needed[channels], starts), run)
        alive[channels[whole[: len(channels)]]] = True
    return alive


def _nowhere_empty(region: Region, alive: Alive) -> Alive:
    """Keep a channel of each activation: runtimes have no activations without any."""
    for activation in region.activations.values():
        if not alive[activation.channels].any():
            alive[activation.channels[0]] = True
    return alive


def _price(region: Region, alive: Alive, shapes: Shapes, price: Price) -> float:
    total = 0.0
    for layer, written, read in region.layers():
        shape = shapes.get(str(layer.output.name))
        if shape is None:
            continue
        rest = narrowed(layer, written, read, alive)
        axis = layer.channel_axis % len(shape)
        total += price(rest, (*shape[:axis], len(rest.weight), *shape[axis + 1 :]))
    return total
