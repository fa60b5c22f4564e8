"""What the integers of a quantized weight in an ONNX file stand for: ``(q - zero) * scale``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from spartan_planner.graph_skeleton.tensors import graphs_of

_SCALED_BY = {
    "DequantizeLinear": (0, 1, 2),
    "QLinearConv": (3, 4, 5),
    "QLinearMatMul": (3, 4, 5),
}
"""For each operation the places of the weight, its scale and its zero point."""
_FIRST_AXIS, _SECOND_AXIS = 0, 1
"""A convolution's scales are those of its outputs; DequantizeLinear's of axis 1 by default."""


@dataclass(frozen=True)
class Quantization:
    """How integers become numbers.

    Attributes:
        scale: one figure, one per index of the axis, or one per block.
        zero: the integer that stands for 0, as many as scales; ``None`` for 0.
        axis: along which scales differ.
        block_size: indices along the axis that share a scale; 0 where there are no blocks.
    """

    scale: NDArray[np.float32]
    zero: NDArray[np.float32] | None
    axis: int
    block_size: int

    def dequantized(self, integers: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return the numbers, in float32.

        Raises:
            ValueError: the scales do not fit the integers.
        """
        numbers = integers.astype(np.float32)
        if self.zero is not None:
            numbers -= self._spread(self.zero, numbers.shape)
        numbers *= self._spread(self.scale, numbers.shape)
        return numbers

    def _spread(self, figures: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
        if figures.size == 1:
            return figures.reshape(())
        if self.block_size:
            repeated = np.repeat(figures, self.block_size, axis=self.axis)
            return np.take(repeated, range(shape[self.axis]), axis=self.axis)
        sizes = [1] * len(shape)
        sizes[self.axis] = figures.size
        return figures.reshape(sizes)


def quantizations_of(
    model: ModelProto, tensors: Mapping[str, TensorProto], folder: Path
) -> dict[str, Quantization]:
    """Return how the integers of weights are to be read, by the weight's name.

    Weights whose scale is not stored beside them (those of ``MatMulInteger``) are left out.

    Args:
        model: the model; data in further files need not be read.
        tensors: its initializers and constants by name.
        folder: of the further files.
    """
    found = {}
    for node in (node for graph in graphs_of(model) for node in graph.node):
        if node.op_type not in _SCALED_BY:
            continue
        weight, scale, _ = _SCALED_BY[node.op_type]
        names = list(node.input)
        if names[weight] in tensors and names[scale] in tensors:
            found[names[weight]] = _quantization(node, tensors, folder)
    return found


def _quantization(
    node: NodeProto, tensors: Mapping[str, TensorProto], folder: Path
) -> Quantization:
    _, scale, zero = _SCALED_BY[node.op_type]
    names = [*node.input, ""]
    given = {item.name: item.i for item in node.attribute}
    default = _SECOND_AXIS if node.op_type != "QLinearConv" else _FIRST_AXIS
    has_zero = len(node.input) > zero and names[zero] in tensors
    return Quantization(
        _figures(tensors[names[scale]], folder),
        _figures(tensors[names[zero]], folder) if has_zero else None,
        given.get("axis", default),
        given.get("block_size", 0),
    )


def _figures(tensor: TensorProto, folder: Path) -> NDArray[np.float32]:
    return numpy_helper.to_array(tensor, str(folder)).astype(np.float32)
