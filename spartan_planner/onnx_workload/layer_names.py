"""What to call a layer whose weight the exporter has renamed."""

import re
from collections.abc import Iterable, Mapping, Sequence

from onnx import NodeProto

from spartan_planner.onnx_workload.tracing import ShapedGraph
from spartan_planner.onnx_workload.uses import WeightUse

_RENAMED = re.compile(r"val_\d+|onnx::\w+")
"""What torch's exporters call a parameter that they transposed, or joined with others."""

_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"
_LINEAR = "torch.nn.modules.linear.Linear"
_TEXTS = re.compile(r"'([^']*)'")


def layer_names(uses: Iterable[WeightUse], graph: ShapedGraph) -> dict[str, str]:
    """Return the layer's name for each initializer that is used.

    It is the initializer's own, unless an exporter of torch made that up (``val_86``) and wrote
    down which module the node belongs to: then the module's name and the parameter's
    (``enc.layers.0.linear1.weight``) where module or bias tell it, else the module's name and the
    initializer's (``lstm.val_202``).
    """
    nodes = {node.name or node.output[0]: node for node in graph.model.graph.node}
    first: dict[str, WeightUse] = {}
    for use in uses:
        first.setdefault(use.weight.name, use)
    told = {name: _told(use, nodes, graph) for name, use in first.items()}
    wanted = list(told.values())
    return {
        name: better
        if better == name or (wanted.count(better) == 1 and better not in graph.tensors)
        else name
        for name, better in told.items()
    }


def _told(use: WeightUse, nodes: Mapping[str, NodeProto], graph: ShapedGraph) -> str:
    name = use.weight.name
    node = nodes.get(use.node)
    if node is None or use.weight.is_quantized or not _RENAMED.fullmatch(name):
        return name
    module = _module(node)
    if not module:
        return name
    others = [nodes[other] for other in use.further_nodes if other in nodes]
    return f"{module}.{_parameter([node, *others], graph) or name}"


def _module(node: NodeProto) -> str:
    """Name of the module that a node belongs to; empty where nobody says."""
    scopes = _texts(node, _SCOPES)
    if scopes:
        return ["", *scopes][-2]
    # The older exporter names nodes /enc/layers.0/linear1/MatMul.
    return ".".join(node.name.split("/")[1:-1])


def _parameter(nodes: Sequence[NodeProto], graph: ShapedGraph) -> str:
    """Name of the weight beside the bias that the nodes add; empty where nobody says."""
    if _LINEAR in _texts(nodes[0], _CLASSES)[-2:]:
        return "weight"
    operands = [name for node in nodes for name in node.input if name in graph.tensors]
    biases = [last for name in operands if "bias" in (last := name.rpartition(".")[2])]
    return biases[0].replace("bias", "weight") if biases else ""


def _texts(node: NodeProto, key: str) -> list[str]:
    """A list of texts in the remarks of a node."""
    return next((_TEXTS.findall(item.value) for item in node.metadata_props if item.key == key), [])
