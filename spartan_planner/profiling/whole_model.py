"""The whole model of a workload, ready to run."""

from onnx import ModelProto

from cost_models import Workload
from spartan_planner.graph_skeleton import graph_of_text


def whole_model(workload: Workload) -> bytes:
    """Return the workload's graph with noise for weights, at fixed input shapes, serialized.

    Every node has a name of its own, by which a profiler tells it.

    Raises:
        DocumentError: the graph is damaged or too large to fill.
    """
    refilled = graph_of_text(workload.graph)
    return prepared(refilled.model, refilled.input_shapes)


def prepared(model: ModelProto, input_shapes: tuple[tuple[int, ...], ...]) -> bytes:
    """Fix the shapes of a model's inputs, give every node a name of its own, and serialize it."""
    _fix_inputs(model, input_shapes)
    _name_nodes(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def _fix_inputs(model: ModelProto, shapes: tuple[tuple[int, ...], ...]) -> None:
    constants = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in constants]
    for item, shape in zip(inputs, shapes, strict=True):
        dimensions = item.type.tensor_type.shape
        dimensions.ClearField("dim")
        for size in shape:
            dimensions.dim.add(dim_value=size)


def _name_nodes(model: ModelProto) -> None:
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"node{index}.{node.name}"
        seen.add(node.name)
