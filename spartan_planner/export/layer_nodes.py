"""Which nodes of an exported graph compute which layer of the plan."""

from collections.abc import Iterable, Mapping

import onnx_ir as ir
from torch import nn

from spartan_planner.graph_skeleton import initializer_names

_PASSING = frozenset({"Transpose", "Reshape", "Cast", "Identity", "Squeeze", "Unsqueeze"})
"""What an exporter puts between a weight and the node that multiplies with it."""

_PRODUCTS = frozenset({"MatMul", "Gemm"})


def weight_names(model: nn.Module, graph: ir.Model, layers: Iterable[str]) -> dict[str, str]:
    """Return, by layer, the initializer that holds its weight; layers without one are left out.

    A tied weight has one name in the plan and may go by another in the graph.

    Args:
        model: what the graph was exported from, in the same element type.
        graph: not lowered yet.
        layers: names of weights, as the plan tells them.
    """
    aliases: dict[int, list[str]] = {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in parameters.items():
        aliases.setdefault(id(parameter), []).append(name)
    arrays = {name: item.detach().cpu().numpy() for name, item in parameters.items()}
    held = initializer_names(graph, arrays)
    found = {}
    for layer in layers:
        names = [held[alias] for alias in aliases[id(parameters[layer])] if alias in held]
        # The graph's own word for the weight before one that merely has its values.
        own = [name for name in names if name in parameters]
        if names:
            found[layer] = (own or names)[0]
    return found


def layer_nodes(graph: ir.Model, weights: Mapping[str, str]) -> dict[str, list[ir.Node]]:
    """Return, by layer, the nodes that multiply with its weight, with the addition of a bias.

    Args:
        graph: not lowered yet.
        weights: initializers by layer.
    """
    initializers = graph.graph.initializers
    return {
        layer: [
            node
            for reader in _readers(initializers[name])
            for node in (reader, *_bias_addition(reader))
        ]
        for layer, name in weights.items()
    }


def names_by_layer(
    graph: ir.Model, weights: Mapping[str, str], nodes: Mapping[str, Iterable[ir.Node]]
) -> dict[str, tuple[str, ...]]:
    """Return the names of the nodes of each layer, after lowering.

    Lowering leaves a layer's node in the graph, or replaces it; what it adds is named after the
    weight, ``WEIGHT.gather``.

    Args:
        graph: lowered or not.
        weights: initializers by layer.
        nodes: by layer, as they were before lowering.
    """
    present = {str(node.name) for node in graph.graph if node.name}
    return {
        layer: (
            *(str(node.name) for node in nodes[layer] if node.name in present),
            *sorted(name for name in present if name.startswith(f"{weight}.")),
        )
        for layer, weight in weights.items()
    }


def _readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value, seen through what only rearranges it."""
    found = []
    for use in value.uses():
        if use.node.op_type in _PASSING:
            found += _readers(use.node.outputs[0])
        else:
            found.append(use.node)
    return found


def _bias_addition(node: ir.Node) -> tuple[ir.Node, ...]:
    if node.op_type not in _PRODUCTS:
        return ()
    uses = [use.node for use in node.outputs[0].uses()]
    if len(uses) != 1 or uses[0].op_type != "Add":
        return ()
    others = (item for item in uses[0].inputs if item is not node.outputs[0])
    return (uses[0],) if any(item and item.is_initializer() for item in others) else ()
