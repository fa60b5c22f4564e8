"""Noise in the place of weights, such that activations stay finite."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from spartan_planner.graph_skeleton.tensors import is_hollow, named_tensors, nodes_of, num_elements

_SMALL = 0.02
"""Standard deviation of biases and the like: far from zero for a processor, close to it for
activations of size one."""


@dataclass(frozen=True)
class Consumer:
    """A node that reads a tensor, and at which of its inputs."""

    node: NodeProto
    slot: int


def fill_with_noise(model: ModelProto, seed: int = 0) -> None:
    """Fill every tensor whose data were left out, in place.

    Weights of products and convolutions are normal with variance 1 / fan-in, so activations keep
    their size from layer to layer; scales and variances are one; everything else is small.
    Integers, which quantized weights are made of, fill half of their range.

    Args:
        model: a skeleton.
        seed: of the generator; equal seeds give equal weights.
    """
    generator = np.random.default_rng(seed)
    consumers = consumers_of(model)
    for name, tensor in named_tensors(model):
        if is_hollow(tensor):
            shape = tuple(tensor.dims)
            dtype = ir.DataType(tensor.data_type)
            values = _noise(shape, dtype, consumers.get(name, ()), generator)
            tensor.raw_data = ir.tensor(values, dtype=dtype).tobytes()


def consumers_of(model: ModelProto) -> Mapping[str, Sequence[Consumer]]:
    """Return the readers of every value by its name."""
    found: dict[str, list[Consumer]] = {}
    for node in nodes_of(model):
        for slot, name in enumerate(node.input):
            found.setdefault(name, []).append(Consumer(node, slot))
    return found


def _noise(
    shape: tuple[int, ...],
    dtype: ir.DataType,
    consumers: Sequence[Consumer],
    generator: np.random.Generator,
) -> NDArray[np.generic]:
    if dtype.is_integer():
        middle = 0 if dtype.is_signed() else 1 << dtype.bitwidth - 1
        half = 1 << dtype.bitwidth - 2
        integers = generator.integers(middle - half, middle + half, shape, np.int16)
        return integers.astype(dtype.numpy())
    reader = consumers[0] if consumers else None
    level = None if reader is None else _level(reader)
    if level is not None:
        return np.full(shape, level).astype(dtype.numpy())
    noise = generator.standard_normal(shape, np.float32)
    noise *= np.float32(_deviation(reader, shape))
    return noise.astype(dtype.numpy(), copy=False)


_NORMALIZATIONS = (
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
)

_ONES = {
    "BatchNormalization": (1, 4),
    **dict.fromkeys(_NORMALIZATIONS, (1,)),
    **dict.fromkeys(("Mul", "Div", "Pow"), (0, 1)),
    **dict.fromkeys(("Sqrt", "Reciprocal", "Log"), (0,)),
}
"""Inputs that scale: a one leaves activations as they are."""

_STEPS = {"DequantizeLinear": (1,), "QuantizeLinear": (1,)}
"""Inputs that are the step of a quantization: small and above zero."""


def _level(reader: Consumer) -> float | None:
    """One where the input scales, a small number where it is a step, else ``None``."""
    if reader.slot in _ONES.get(reader.node.op_type, ()):
        return 1.0
    return 1 / 256 if reader.slot in _STEPS.get(reader.node.op_type, ()) else None


def _deviation(reader: Consumer | None, shape: tuple[int, ...]) -> float:
    is_matrix = sum(size > 1 for size in shape) > 1
    return 1 / math.sqrt(_fan_in(reader, shape)) if is_matrix else _SMALL


def _fan_in(reader: Consumer | None, shape: tuple[int, ...]) -> int:
    """Return how many products are summed; where that is unknown, the most that can be."""
    op, slot = ("", 0) if reader is None else (reader.node.op_type, reader.slot)
    if op == "Conv":
        return max(1, math.prod(shape[1:]))
    if op == "MatMul":
        return shape[-2] if slot == 1 else shape[-1]
    if op == "Gemm" and reader is not None and slot < 2:
        flag = ("transA", "transB")[slot]
        is_transposed = any(item.name == flag and item.i for item in reader.node.attribute)
        return shape[1 - slot] if not is_transposed else shape[slot]
    return max(shape[0], math.prod(shape[1:]), 1)


def num_left_out_bytes(model: ModelProto) -> int:
    """Return the bytes that all tensors without data will take once they are filled."""
    return sum(_num_bytes(tensor) for _, tensor in named_tensors(model) if is_hollow(tensor))


def _num_bytes(tensor: TensorProto) -> int:
    num_bits = num_elements(tensor) * int(ir.DataType(tensor.data_type).bitwidth)
    return -(-num_bits // 8)
