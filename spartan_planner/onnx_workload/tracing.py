"""Where a value comes from: the weight behind it, and what is known before the model runs."""

import math
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir
from onnx import ModelProto, NodeProto, TensorProto

from spartan_planner.graph_skeleton.tensors import num_elements
from spartan_planner.onnx_workload.shapes import Shape

_SAME_ELEMENTS = frozenset(
    {
        *("Transpose", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
        *("Cast", "DequantizeLinear", "QuantizeLinear"),
    }
)
_SOME_ELEMENTS = frozenset({"Slice", "Split", "Gather"})
_SIZES = frozenset({"Shape", "Size"})

MAX_STEPS = 1024
"""A value is taken apart in so many steps: gates and directions are a few dozen pieces."""


@dataclass(frozen=True)
class Weight:
    """A tensor of the file behind an operand.

    Attributes:
        name: of the initializer.
        num_elements: of the initializer.
        dtype: of the initializer, such as ``float32``.
        is_quantized: whether it holds integers.
        is_reordered: whether it is transposed between the file and the operation.
    """

    name: str
    num_elements: int
    dtype: str
    is_quantized: bool
    is_reordered: bool


@dataclass(frozen=True)
class Part:
    """What a value takes from one weight.

    Attributes:
        weight: the weight.
        num_elements: of the weight that the value holds.
        row_length: last dimension of the pieces.
    """

    weight: Weight
    num_elements: int
    row_length: int


@dataclass(frozen=True)
class ShapedGraph:
    """A graph without weights, and the shape of every value in it.

    Attributes:
        model: without weights.
        shapes: by name of the value.
        batch_size: first dimension of the first input.
    """

    model: ModelProto
    shapes: dict[str, Shape]
    batch_size: int

    @cached_property
    def tensors(self) -> dict[str, TensorProto]:
        """Initializers by name."""
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    @cached_property
    def producers(self) -> dict[str, NodeProto]:
        """The node that writes each value."""
        return {name: node for node in self.model.graph.node for name in node.output if name}

    @cached_property
    def readers(self) -> dict[str, list[NodeProto]]:
        """The nodes that read each value; the graph's outputs have none."""
        found: dict[str, list[NodeProto]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def outputs(self) -> set[str]:
        """Names of the graph's outputs."""
        return {item.name for item in self.model.graph.output}

    @cached_property
    def settled(self) -> set[str]:
        """Values that do not depend on what the inputs hold: constants, sizes, and their sums."""
        known = {"", *self.tensors}
        for node in self.model.graph.node:
            has_graph = any(item.HasField("g") or item.graphs for item in node.attribute)
            is_drawn = node.op_type.startswith(("Random", "Bernoulli", "Multinomial"))
            if has_graph or is_drawn:
                continue
            if node.op_type in _SIZES or all(name in known for name in node.input):
                known.update(node.output)
        return known

    def weight_computed_from(self, value: str) -> Weight | None:
        """Return the largest weight from which a value is computed, the same in every run."""
        if value not in self.settled:
            return None
        seen, queue = {value}, [value]
        for name in queue:
            node = self.producers.get(name)
            further = [item for item in node.input if item and item not in seen] if node else []
            seen.update(further)
            queue += further
        found = [weight for name in queue if (weight := self._weight(name, is_reordered=False))]
        return max(found, key=lambda weight: weight.num_elements, default=None)

    def weight_behind(self, value: str) -> Weight | None:
        """Return the weight that a value consists of, as it is, reshaped, transposed or sliced."""
        is_reordered = False
        seen = 0
        while value not in self.tensors:
            node = self.producers.get(value)
            seen += 1
            if node is None or not node.input or seen > len(self.producers):
                return None
            if node.op_type not in _SAME_ELEMENTS | _SOME_ELEMENTS or node.domain:
                return None
            is_reordered ^= node.op_type == "Transpose"
            value = node.input[0]
        return self._weight(value, is_reordered=is_reordered)

    def parts_behind(self, value: str) -> tuple[Part, ...]:
        """Return the weights that a value is put together from; empty where it holds more.

        An exporter that changes the order of a recurrent weight's gates slices it and joins the
        slices, and joins the weights of the two directions.  ``num_elements`` sums up to the
        elements of the value.
        """
        counts: dict[tuple[Weight, int], int] = {}
        for piece in self._pieces(value):
            weight, shape = self.weight_behind(piece), self.shapes[piece]
            if weight is None or not shape:
                return ()
            key = (weight, shape[-1])
            counts[key] = counts.get(key, 0) + math.prod(shape)
        return tuple(Part(weight, count, length) for (weight, length), count in counts.items())

    def _pieces(self, value: str) -> list[str]:
        """The values that are joined to a value, each of them whole."""
        queue: list[str] = [value]
        pieces: list[str] = []
        for _ in range(MAX_STEPS):
            if not queue:
                break
            name = queue.pop()
            node = self.producers.get(name)
            if self._is_joined(name):
                assert node is not None
                joined = node.input if node.op_type == "Concat" else node.input[:1]
                queue += reversed(joined)
            else:
                pieces.append(name)
        return pieces + queue

    def _is_joined(self, value: str) -> bool:
        """Whether it is a ``Concat``, or one behind nodes that keep all elements."""
        for _ in self.producers:
            node = self.producers.get(value)
            if node is None or node.domain or not node.input:
                return False
            if node.op_type == "Concat":
                return True
            if node.op_type not in _SAME_ELEMENTS:
                return False
            value = node.input[0]
        return False

    def _weight(self, name: str, *, is_reordered: bool) -> Weight | None:
        """The initializer of that name, if it holds numbers that a model learns."""
        tensor = self.tensors.get(name)
        if tensor is None:
            return None
        dtype = ir.DataType(tensor.data_type)
        is_quantized = dtype.is_integer() and dtype.bitwidth <= 8
        if not (dtype.is_floating_point() or is_quantized):
            return None
        type_name = dtype.numpy().name
        return Weight(name, num_elements(tensor), type_name, is_quantized, is_reordered)
