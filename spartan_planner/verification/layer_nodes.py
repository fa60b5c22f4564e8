"""Which nodes that a runtime runs belong to which layer of the plan.

A runtime fuses what follows a layer into it, renames it, puts reorderings around it.  What stays
are the names of values: a fused node computes the last value of what it replaces.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import GraphProto, NodeProto

from spartan_planner.runtimes import RunNode

MAX_FUSED = 8
"""So many nodes behind a layer are taken for what may be fused into it (GELU has five)."""


@dataclass(frozen=True)
class LayerTrace:
    """What of the file's graph tells a layer's nodes.

    Attributes:
        names: of its nodes and of the values that they compute.
        followers: values behind it that a fused node may compute, with the operation that computes
            each when nothing is fused.
    """

    names: frozenset[str]
    followers: Mapping[str, str]


def trace_layers(graph: GraphProto, layers: Sequence[Sequence[str]]) -> list[LayerTrace]:
    """Return the trace of each layer.

    Args:
        graph: of the file.
        layers: for each layer the names of its nodes.
    """
    nodes = {node.name: node for node in graph.node}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    taken = {name for names in layers for name in names}
    return [
        _trace([nodes[name] for name in names if name in nodes], readers, taken) for names in layers
    ]


def _trace(
    nodes: Sequence[NodeProto], readers: Mapping[str, Sequence[NodeProto]], taken: set[str]
) -> LayerTrace:
    names = {name for node in nodes for name in (node.name, *node.output)}
    followers: dict[str, str] = {}
    for value in [name for node in nodes for name in node.output]:
        while len(followers) < MAX_FUSED:
            following = [node for node in readers.get(value, ()) if node.name not in taken]
            if len(following) != 1 or len(readers[value]) != 1:
                break
            value = following[0].output[0]
            followers[value] = following[0].op_type
    return LayerTrace(frozenset(names), followers)


def parts_of_layers(traces: Sequence[LayerTrace], run: Sequence[RunNode]) -> list[list[str]]:
    """Return, for each layer and then for all the rest, the names of the nodes that are run.

    A layer without nodes is one that the runtime has made part of something else.

    Args:
        traces: of the layers.
        run: what the runtime runs.
    """
    owner: dict[str, int] = {}
    for index, trace in enumerate(traces):
        for node in run:
            if node.origins & trace.names:
                owner.setdefault(node.name, index)
    found = set(owner.values())
    for index, trace in enumerate(traces):
        if index not in found:
            for node in run:
                if node.name not in owner and _is_fused(node, trace):
                    owner[node.name] = index
    return [
        *([node.name for node in run if owner.get(node.name) == i] for i in range(len(traces))),
        [node.name for node in run if node.name not in owner],
    ]


def _is_fused(node: RunNode, trace: LayerTrace) -> bool:
    """Whether a node computes a value behind the layer by another operation than its own."""
    return any(trace.followers.get(name, node.op) != node.op for name in node.origins)
