"""Weights read from a safetensors checkpoint as a stream: a model larger than memory is planned.

A file is an eight-byte little-endian length, a JSON header with type, shape and place of every
tensor, and the tensors one after the other.  A sharded checkpoint is a folder of such files with
an index.  Tensors are mapped into memory and read in pieces of a few rows.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cost_models import LayerWorkload, Layout
from spartan_planner.errors import PlanError
from spartan_planner.planning.weights import (
    LayerValues,
    ReadRows,
    rows_of_array,
    values_of_rows,
)

_MAX_HEADER_BYTES = 100 * 1024 * 1024
_TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        path: the file.
        dtype: safetensors' name of its type.
        shape: its shape.
        offset: of its first byte in the file.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def rows(self) -> NDArray[np.generic]:
        """Map the tensor into memory, as stored."""
        if 0 in self.shape:
            return np.zeros(self.shape, _TYPES[self.dtype])
        return np.memmap(self.path, _TYPES[self.dtype], "r", self.offset, self.shape)


def read_index(checkpoint: Path) -> dict[str, StoredTensor]:
    """Return where every tensor of a file, or of all files of a folder, lies.

    Raises:
        PlanError: nothing there, or a file that is damaged or not of this format.
    """
    if checkpoint.is_dir():
        files = sorted(checkpoint.glob("*.safetensors"))
        if not files:
            raise PlanError(f"{checkpoint} holds no .safetensors file; give a checkpoint's folder")
    else:
        files = [checkpoint]
    tensors: dict[str, StoredTensor] = {}
    for path in files:
        for name, tensor in _read_header(path).items():
            if name in tensors:
                raise PlanError(f"tensor {name!r} is in {tensors[name].path} and again in {path}")
            tensors[name] = tensor
    return tensors


def _read_header(path: Path) -> dict[str, StoredTensor]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        return dict(_entries(path, header, 8 + length, size))
    except (OSError, ValueError, struct.error, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PlanError(f"{path} is not a sound safetensors file: {reason}") from error


def _entries(
    path: Path, header: object, start: int, size: int
) -> Iterator[tuple[str, StoredTensor]]:
    if not isinstance(header, dict):
        raise TypeError("its header is not an object")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (int(figure) for figure in entry["data_offsets"])
        shape = tuple(int(figure) for figure in entry["shape"])
        dtype = str(entry["dtype"])
        if not 0 <= begin <= end <= size - start or any(figure < 0 for figure in shape):
            raise ValueError(f"tensor {name!r} reaches beyond the file")
        if dtype in _TYPES:
            expected = int(np.prod(shape, dtype=object)) * np.dtype(_TYPES[dtype]).itemsize
            if end - begin != expected:
                raise ValueError(f"tensor {name!r} has {end - begin} bytes, not {expected}")
        yield name, StoredTensor(path, dtype, shape, start + begin)


@dataclass(frozen=True)
class SafetensorsWeights:
    """Weights of a checkpoint, read piece by piece.

    A layer's tensor has the layer's name, or is the only one whose name ends with it after a dot:
    a model is often saved inside another.

    Attributes:
        tensors: where they lie, by name.
    """

    tensors: Mapping[str, StoredTensor]

    def stored_shape(self, layer: LayerWorkload) -> tuple[int, ...]:
        """Return the shape of a layer's tensor.

        Raises:
            PlanError: it is missing, or of a type that holds no plain numbers.
        """
        return self._tensor(layer.name).shape

    def values(self, layer: LayerWorkload, layouts: Sequence[Layout]) -> LayerValues:
        """Return what a layer is worth in each layout.

        Raises:
            PlanError: its weight is missing, of another shape, of a type that holds no plain
                numbers, or not finite.
        """
        return values_of_rows(layer, self.stored_shape(layer), self.rows(layer), layouts)

    def rows(self, layer: LayerWorkload) -> ReadRows:
        """Return what reads rows of a layer's tensor, mapped into memory.

        Raises:
            PlanError: it is missing, or of a type that holds no plain numbers.
        """
        return rows_of_array(self._tensor(layer.name).rows())

    def _tensor(self, name: str) -> StoredTensor:
        found = [name] if name in self.tensors else self._ending_with(name)
        if len(found) != 1:
            some = ", ".join(found or list(self.tensors)[:3])
            what = "several tensors called" if found else "no"
            raise PlanError(
                f"the checkpoint has {what} {name!r} (it has {some}, ...); give the checkpoint of "
                "this model"
            )
        tensor = self.tensors[found[0]]
        if tensor.dtype not in _TYPES:
            raise PlanError(
                f"tensor {found[0]!r} is of type {tensor.dtype}; {', '.join(_TYPES)} can be read"
            )
        return tensor

    def _ending_with(self, name: str) -> list[str]:
        return [stored for stored in self.tensors if stored.endswith(f".{name}")]
