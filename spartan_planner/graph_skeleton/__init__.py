"""A model's ONNX graph without its weights, as text: what a workload carries to the target.

Needs no torch.
"""

from spartan_planner.graph_skeleton.names import initializer_names
from spartan_planner.graph_skeleton.text import (
    RefilledGraph,
    graph_of_text,
    graph_text,
    graph_text_of_proto,
    layer_initializers,
    require_own_graph,
)

__all__ = [
    "RefilledGraph",
    "graph_of_text",
    "graph_text",
    "graph_text_of_proto",
    "initializer_names",
    "layer_initializers",
    "require_own_graph",
]
