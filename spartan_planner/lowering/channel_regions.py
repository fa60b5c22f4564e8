"""Which channels of which activations are one and the same, through a whole graph.

A channel that a layer writes goes on through all that carries it on; an addition makes one channel
of two, concatenation, split and shuffle put it elsewhere.  All places of a channel live and die
together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from spartan_planner.lowering.carriers import as_carrier
from spartan_planner.lowering.channel_sets import ChannelSets
from spartan_planner.lowering.routes import Carrier
from spartan_planner.lowering.structure import Indices
from spartan_planner.lowering.weight_nodes import Shapes, WeightNode, find_weight_nodes


@dataclass(frozen=True)
class Activation:
    """The channels of an activation.

    Attributes:
        axis: of the channels.
        channels: number of each within its region, ``[channels]``, the same wherever it goes.
    """

    axis: int
    channels: Indices


@dataclass
class Region:
    """Activations that share channels, and all that reads or writes them.

    Attributes:
        pinned: ``[region's channels]``, true of those that something reads which is no layer.
        activations: by value.
        writers, readers: layers.
        carriers: what stands between.
    """

    pinned: NDArray[np.bool_]
    activations: dict[ir.Value, Activation] = field(default_factory=dict)
    writers: list[WeightNode] = field(default_factory=list)
    readers: list[WeightNode] = field(default_factory=list)
    carriers: list[Carrier] = field(default_factory=list)

    def layers(self) -> list[tuple[WeightNode, Indices | None, Indices | None]]:
        """Return each layer with the channels that it writes, and those that it reads."""
        writers, readers = ({item.node for item in part} for part in (self.writers, self.readers))
        both = {layer.node: layer for layer in (*self.writers, *self.readers)}
        return [
            (
                layer,
                self.activations[layer.output].channels if node in writers else None,
                self.activations[layer.source].channels if node in readers else None,
            )
            for node, layer in both.items()
        ]


def channel_regions(graph: ir.Graph, shapes: Shapes) -> list[Region]:
    """Return all activations that layers write, by the channels that they share."""
    layers = {layer.node: layer for layer in find_weight_nodes(graph, shapes)}
    walk = _Walk(shapes)
    biases = {layer.bias_node for layer in layers.values() if layer.bias_node}
    for node in graph:
        layer = layers.get(node)
        if layer is not None:
            walk.read(layer)
            walk.write(layer)
        elif node not in biases:
            walk.pass_through(node)
    walk.pin_what_leaves(graph)
    return walk.regions(list(layers.values()))


class _Walk:
    """Numbers channels while going through a graph in its order."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._sets = ChannelSets()
        self._activations: dict[ir.Value, Activation] = {}
        self._carriers: list[Carrier] = []

    def read(self, layer: WeightNode) -> None:
        source = self._activations.get(layer.source)
        if source is not None and not _fits(layer, source):
            self._sets.pin(source.channels)

    def write(self, layer: WeightNode) -> None:
        axis = layer.channel_axis % len(layer.source_shape)
        self._activations[layer.output] = Activation(axis, self._sets.new(len(layer.weight)))

    def pass_through(self, node: ir.Node) -> None:
        """Carry on the channels that a node carries on; pin those that it reads otherwise."""
        tracked = {index: value for index, value in enumerate(node.inputs) if self._knows(value)}
        for index, value in tracked.items():
            assert value is not None
            carrier = as_carrier(node, index, self._activations[value].axis, self._shapes)
            if carrier is not None and self._carry(carrier):
                self._pin(item for i, item in tracked.items() if i not in carrier.sources)
                return
        self._pin(tracked.values())

    def pin_what_leaves(self, graph: ir.Graph) -> None:
        """Keep channels of the graph's outputs, and those that subgraphs read."""
        own = set(graph)
        for value in self._activations:
            if value.is_graph_output() or not own.issuperset(value.consumers()):
                self._pin([value])

    def regions(self, layers: Sequence[WeightNode]) -> list[Region]:
        roots, pinned = self._sets.roots(), self._sets.pinned()
        region_of, members = self._divided()
        found = []
        for part in members:
            numbers = np.unique(np.concatenate([self._roots(roots, value) for value in part]))
            region = Region(pinned[numbers])
            for value in part:
                channels = np.searchsorted(numbers, self._roots(roots, value))
                region.activations[value] = Activation(self._activations[value].axis, channels)
            found.append(region)
        for layer in layers:
            found[region_of[layer.output]].writers.append(layer)
            source = self._activations.get(layer.source)
            if source is not None and _fits(layer, source):
                found[region_of[layer.source]].readers.append(layer)
        for carrier in self._carriers:
            found[region_of[carrier.outlets[0].value]].carriers.append(carrier)
        return found

    def _knows(self, value: ir.Value | None) -> bool:
        return value is not None and value in self._activations

    def _pin(self, values: Iterable[ir.Value | None]) -> None:
        for value in values:
            assert value is not None
            self._sets.pin(self._activations[value].channels)

    def _carry(self, carrier: Carrier) -> bool:
        values = [carrier.node.inputs[index] for index in carrier.sources]
        axes = {self._activations[value].axis for value in values if value and self._knows(value)}
        if axes != {carrier.axis}:
            return False
        sources = [self._channels(value, carrier.axis) for value in values]
        for outlet in carrier.outlets:
            channels = np.full(len(outlet.origins[0]), -1, np.int64)
            for origin, source in zip(outlet.origins, sources, strict=True):
                here = np.flatnonzero(origin >= 0)
                both = here[channels[here] >= 0]
                self._sets.unite(channels[both], source[origin[both]])
                channels[here] = source[origin[here]]
            self._activations[outlet.value] = Activation(outlet.axis, channels)
        self._carriers.append(carrier)
        return True

    def _channels(self, value: ir.Value | None, axis: int) -> Indices:
        """The channels of an activation; such that no layer wrote are all needed."""
        assert value is not None
        known = self._activations.get(value)
        if known is not None:
            return known.channels
        new = self._sets.new(self._shapes[str(value.name)][axis])
        self._sets.pin(new)
        return new

    def _roots(self, roots: Indices, value: ir.Value) -> Indices:
        found: Indices = roots[self._activations[value].channels]
        return found

    def _divided(self) -> tuple[dict[ir.Value, int], list[list[ir.Value]]]:
        """Activations by region: those that a carrier reads and writes stand in one."""
        values = list(self._activations)
        place = {value: index for index, value in enumerate(values)}
        joined = ChannelSets()
        joined.new(len(values))
        for carrier in self._carriers:
            tied = [place[outlet.value] for outlet in carrier.outlets]
            sources = (carrier.node.inputs[index] for index in carrier.sources)
            tied += [place[value] for value in sources if value is not None and value in place]
            joined.unite(np.full(len(tied), tied[0]), np.array(tied))
        numbers = {root: number for number, root in enumerate(np.unique(joined.roots()).tolist())}
        members: list[list[ir.Value]] = [[] for _ in numbers]
        region_of = {}
        for value, root in zip(values, joined.roots().tolist(), strict=True):
            region_of[value] = numbers[root]
            members[numbers[root]].append(value)
        return region_of, members


def _fits(layer: WeightNode, source: Activation) -> bool:
    """Whether a layer reads channels where they stand, and as many as there are."""
    axis = layer.channel_axis % len(layer.source_shape)
    return source.axis == axis and len(source.channels) == layer.weight.shape[1]
