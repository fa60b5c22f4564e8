"""Weights stored as their non-zero elements: ONNX's ``sparse_initializer``."""

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, SparseTensorProto, TensorProto, numpy_helper

BYTES_PER_INDEX = 8
"""The standard allows int64 indices only."""

_FLOATING = frozenset(
    int(TensorProto.DataType.Value(name)) for name in ("FLOAT", "FLOAT16", "DOUBLE")
)


def store_sparse(model: ModelProto) -> int:
    """Turn, in place, every initializer that gets smaller into a sparse one.

    An element of ``b`` bytes takes ``b + 8`` bytes sparse, so float32 weights gain below a density
    of a third.

    Args:
        model: a model that holds its weights.

    Returns:
        The bytes saved.
    """
    graph, saved = model.graph, 0
    for index in reversed(range(len(graph.initializer))):
        tensor = graph.initializer[index]
        gain = _store(graph, tensor) if tensor.data_type in _FLOATING else 0
        if gain:
            saved += gain
            del graph.initializer[index]
    _forget_types(graph)
    return saved


def _forget_types(graph: GraphProto) -> None:
    """Remove the remarks that these initializers are dense, which are wrong now."""
    names = {item.values.name for item in graph.sparse_initializer}
    for index in reversed(range(len(graph.value_info))):
        if graph.value_info[index].name in names:
            del graph.value_info[index]


def _store(graph: GraphProto, tensor: TensorProto) -> int:
    """Append the sparse form of a tensor where it is smaller, and return what it saves."""
    array = numpy_helper.to_array(tensor)
    positions = np.flatnonzero(array)
    if array.ndim > 0 and positions.size == 0:
        # No element at all is not valid: a tensor of zeros keeps its first.
        positions = np.zeros(1, np.int64)
    gain = array.nbytes - positions.size * (array.itemsize + BYTES_PER_INDEX)
    if array.ndim == 0 or gain <= 0:
        return 0
    graph.sparse_initializer.append(_sparse(tensor.name, array, positions))
    return int(gain)


def _sparse(
    name: str, array: NDArray[np.generic], positions: NDArray[np.int64]
) -> SparseTensorProto:
    """The tensor's name is that of its values; indices count elements in row-major order."""
    return SparseTensorProto(
        values=numpy_helper.from_array(np.ascontiguousarray(array.reshape(-1)[positions]), name),
        indices=numpy_helper.from_array(positions.astype(np.int64), f"{name}.positions"),
        dims=array.shape,
    )
