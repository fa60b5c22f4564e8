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

_REORDERING = "Reorder"
"""How runtimes name what moves values between memory layouts."""


@dataclass(frozen=True)
class NodeTrace:
    """What of the file's graph tells a node of a layer.

    Attributes:
        layer: index of the layer.
        names: of the node and of the values that it computes.
        followers: values behind it that a fused node may compute, the nearest first, with the
            operation that computes each when nothing is fused.
    """

    layer: int
    names: frozenset[str]
    followers: Mapping[str, str]


def trace_layers(graph: GraphProto, layers: Sequence[Sequence[str]]) -> list[NodeTrace]:
    """Return the trace of each node of each layer.

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
        NodeTrace(
            index,
            frozenset({name, *nodes[name].output}),
            _followers(nodes[name], readers, taken),
        )
        for index, names in enumerate(layers)
        for name in names
        if name in nodes
    ]


def _followers(
    node: NodeProto, readers: Mapping[str, Sequence[NodeProto]], taken: set[str]
) -> dict[str, str]:
    followers: dict[str, str] = {}
    value = node.output[0]
    while len(followers) < MAX_FUSED:
        following = readers.get(value, ())
        if len(following) != 1 or following[0].name in taken:
            break
        value = following[0].output[0]
        followers[value] = following[0].op_type
    return followers


def parts_of_layers(
    traces: Sequence[NodeTrace], num_layers: int, run: Sequence[RunNode]
) -> list[list[str]]:
    """Return, for each layer and then for all the rest, the names of the nodes that are run.

    Reorderings belong to the layer that they serve.  A layer without nodes is one that the runtime
    has made part of something else.

    Args:
        traces: of the nodes of all layers.
        num_layers: number of layers.
        run: what the runtime runs, in order.
    """
    owner: dict[str, int] = {}
    unmatched = []
    for trace in traces:
        found = [item.name for item in run if item.origins & trace.names and not _reorders(item)]
        owner |= dict.fromkeys(found, trace.layer)
        if not found:
            unmatched.append(trace)
    for trace in unmatched:
        fused = _fused(trace, run, owner)
        if fused:
            owner[fused] = trace.layer
    _give_reorderings(run, owner)
    parts = [[item.name for item in run if owner.get(item.name) == i] for i in range(num_layers)]
    return [*parts, [item.name for item in run if item.name not in owner]]


def _fused(trace: NodeTrace, run: Sequence[RunNode], owner: Mapping[str, int]) -> str | None:
    """The node that computes the nearest value behind the layer by another operation than usual."""
    for value, op in trace.followers.items():
        for item in run:
            is_free = item.name not in owner and not _reorders(item)
            if is_free and value in item.origins and item.op != op:
                return item.name
    return None


def _give_reorderings(run: Sequence[RunNode], owner: dict[str, int]) -> None:
    readers: dict[str, list[str]] = {}
    for item in run:
        for source in item.sources:
            readers.setdefault(source, []).append(item.name)
    for item in reversed(run):
        owners = {owner.get(name) for name in readers.get(item.name, ())}
        served = owners.pop() if len(owners) == 1 else None
        if _reorders(item) and served is not None:
            owner[item.name] = served


def _reorders(item: RunNode) -> bool:
    return item.op.startswith(_REORDERING)
