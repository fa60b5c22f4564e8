"""What reading a node yields."""

from dataclasses import dataclass

from cost_models import LayerShape
from spartan_planner.onnx_workload.shapes import Shape
from spartan_planner.onnx_workload.tracing import Weight


@dataclass(frozen=True)
class WeightUse:
    """One node that consumes a weight.

    Attributes:
        node: the node's name; where it has none, the name of its first output.
        weight: the weight.
        shape: the layer in the convention of the workload, outputs first.
        num_rows: places at which the weight is applied, over the whole batch.
        num_repeats: how often the layer of that shape is run by this node.
        is_stored_transposed: whether the file holds the weight of a product as ``[in, out]``.
        not_prunable_because: why it may not be pruned, where the node tells; empty otherwise.
        further_nodes: nodes that belong to the layer, such as the addition of its bias.
        layer: name of the layer; the weight's where the reading of the whole graph says no other.
    """

    node: str
    weight: Weight
    shape: LayerShape
    num_rows: int
    num_repeats: int = 1
    is_stored_transposed: bool = False
    not_prunable_because: str = ""
    further_nodes: tuple[str, ...] = ()
    layer: str = ""


@dataclass(frozen=True)
class Product:
    """A product of two activations.

    Attributes:
        op: the operation's name.
        left_shape, right_shape: of its factors.
        macs: multiply-adds over the whole batch.
    """

    op: str
    left_shape: Shape
    right_shape: Shape
    macs: int


Reading = tuple[WeightUse | Product, ...]
"""What one node does; empty where it cannot be priced."""
