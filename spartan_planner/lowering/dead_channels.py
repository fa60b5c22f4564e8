"""Channels that are dead between layers, taken out of all layers at once.

Forward: an output whose weights are all zero is constant; what elementwise operations and
normalisations make of it is too, and the layers that read it can take it into their biases.  Behind
a padded convolution that would be wrong at the border, where zeros stand instead; there all
constant channels are gathered into one of them, which is exact
(:mod:`spartan_planner.lowering.folding`).

Backward: channels that no layer reads are removed from every layer that writes them and from all
that stands between (:mod:`spartan_planner.lowering.channel_regions`, ``kept_channels``,
``narrowing``).
"""

from dataclasses import dataclass, field

import onnx_ir as ir

from spartan_planner.lowering.channel_regions import channel_regions
from spartan_planner.lowering.folding import fold_constants
from spartan_planner.lowering.kept_channels import Price, kept_channels
from spartan_planner.lowering.narrowing import narrow_region
from spartan_planner.lowering.weight_nodes import Shapes


@dataclass
class RemovedChannels:
    """What was taken out.

    Attributes:
        num_channels: channels that no longer exist, by the weight that wrote them.
        num_folded: layers whose weights took constant inputs in.
        shapes: of the values that are narrower now.
    """

    num_channels: dict[str, int] = field(default_factory=dict)
    num_folded: int = 0
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def shapes_after(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all values as they are now."""
        return {**shapes, **self.shapes}


def remove_dead_channels(graph: ir.Graph, shapes: Shapes, price: Price) -> RemovedChannels:
    """Take dead channels out of a graph, in place; its outputs stay the same within rounding.

    Args:
        graph: the graph.
        shapes: of its values.
        price: what a layer with an output of a certain shape costs in its best form; channels
            are removed where that makes the layers that share them cheaper together.
    """
    removed = RemovedChannels()
    removed.num_folded = fold_constants(graph, shapes)
    while _remove_unread(graph, removed.shapes_after(shapes), removed, price):
        pass
    return removed


def _remove_unread(graph: ir.Graph, shapes: Shapes, removed: RemovedChannels, price: Price) -> bool:
    """Narrow the regions that have unread channels; return whether there was one."""
    touched: set[ir.Node] = set()
    for region in channel_regions(graph, shapes):
        nodes = {layer.node for layer in (*region.writers, *region.readers)}
        alive = None if nodes & touched else kept_channels(region, shapes, price)
        if alive is None:
            continue
        # Layers hold what their nodes were: a node is changed once before all are read anew.
        touched |= nodes
        gone, changed = narrow_region(graph, region, alive, shapes)
        removed.shapes.update(changed)
        for name, count in gone.items():
            removed.num_channels[name] = removed.num_channels.get(name, 0) + count
    return bool(touched)
