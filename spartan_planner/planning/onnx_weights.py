"""Weights of an ONNX file; those in files beside it are mapped into memory and read in pieces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from cost_models import LayerWorkload, Layout
from spartan_planner.errors import PlanError
from spartan_planner.graph_skeleton.tensors import is_external, named_tensors, num_elements
from spartan_planner.onnx_workload import WeightUse, weight_uses_of_onnx
from spartan_planner.planning.onnx_quantization import Quantization, quantizations_of
from spartan_planner.planning.weights import (
    LayerValues,
    ReadRows,
    rows_of_array,
    values_of_rows,
)

_TYPES: dict[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16,
    TensorProto.BFLOAT16: np.uint16,
    TensorProto.INT8: np.int8,
    TensorProto.UINT8: np.uint8,
}
_NAMES = "float, double, float16, bfloat16, int8, uint8"


@dataclass(frozen=True)
class OnnxWeights:
    """Weights of an ONNX file, by the names that its workload gives to the layers.

    Attributes:
        path: the file.
        tensors: initializers and constants by layer; external ones without their data.
        uses: the nodes that consume each of them.
        quantizations: what the integers of quantized ones stand for, where the file says.
    """

    path: Path
    tensors: Mapping[str, TensorProto]
    uses: Mapping[str, Sequence[WeightUse]]
    quantizations: Mapping[str, Quantization]

    @staticmethod
    def of(path: Path, input_shapes: Sequence[Sequence[int]] | None = None) -> "OnnxWeights":
        """Read a file; weights in further files are not read yet.

        Raises:
            ModelError: the file cannot be read or is not valid.
        """
        uses: dict[str, list[WeightUse]] = {}
        for use in weight_uses_of_onnx(path, input_shapes):
            uses.setdefault(use.layer, []).append(use)
        # What is not an ONNX model was refused above.
        model = onnx.load(str(path), load_external_data=False)
        stored = dict(named_tensors(model))
        quantizations = quantizations_of(model, stored, path.parent)
        names = {layer: found[0].weight.name for layer, found in uses.items()}
        tensors = {layer: stored[name] for layer, name in names.items() if name in stored}
        return OnnxWeights(path, tensors, uses, quantizations)

    def stored_shape(self, layer: LayerWorkload) -> tuple[int, ...]:
        """Return the shape of a layer's tensor, outputs first where it is stored transposed.

        Raises:
            PlanError: the file has no such tensor.
        """
        dims = tuple(self._tensor(layer.name).dims)
        return dims[::-1] if self._is_transposed(layer.name) else dims

    def values(self, layer: LayerWorkload, layouts: Sequence[Layout]) -> LayerValues:
        """Return what a layer is worth in each layout, a quantized one by what it stands for.

        Raises:
            PlanError: its weight is missing, of another shape, of a type that holds no plain
                numbers, quantized without its scale, cannot be read or is not finite.
        """
        return values_of_rows(layer, self.stored_shape(layer), self.rows(layer), layouts)

    def rows(self, layer: LayerWorkload) -> ReadRows:
        """Return what reads rows of a layer's tensor, outputs first where it is stored transposed.

        Raises:
            PlanError: as ``values``.
        """
        array = self._array(layer.name, self._tensor(layer.name))
        if self.uses[layer.name][0].weight.is_quantized:
            array = self._dequantized(layer.name, array)
        return rows_of_array(array.T if self._is_transposed(layer.name) else array)

    def _tensor(self, name: str) -> TensorProto:
        if name not in self.tensors:
            raise PlanError(
                f"{self.path} has no weight called {name!r}; give the file of this model"
            )
        return self.tensors[name]

    def _is_transposed(self, name: str) -> bool:
        """Whether every product reads the weight, a matrix, the other way round."""
        products = [use for use in self.uses[name] if use.shape.op == "linear"]
        is_matrix = len(self._tensor(name).dims) == 2
        return is_matrix and bool(products) and all(use.is_stored_transposed for use in products)

    def _dequantized(self, name: str, integers: NDArray[np.generic]) -> NDArray[np.generic]:
        if name not in self.quantizations:
            raise PlanError(
                f"weight {name!r} of {self.path} is quantized and no scale is stored beside it, so "
                "that nobody can tell what it is worth; plan the model as it was before it was "
                "quantized"
            )
        try:
            return self.quantizations[name].dequantized(integers)
        except (ValueError, IndexError) as error:
            raise PlanError(
                f"the scales of the quantized weight {name!r} of {self.path} do not fit it "
                f"({error}); export the file again"
            ) from error

    def _array(self, name: str, tensor: TensorProto) -> NDArray[np.generic]:
        if tensor.data_type not in _TYPES and not self._is_held_integer(name, tensor):
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
            raise PlanError(f"weight {name!r} is of type {kind}; {_NAMES} can be read")
        try:
            return self._mapped(tensor) if is_external(tensor) else numpy_helper.to_array(tensor)
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise PlanError(
                f"the data of weight {name!r} of {self.path} cannot be read ({reason}); keep all "
                "files of a model in one folder"
            ) from error

    def _is_held_integer(self, name: str, tensor: TensorProto) -> bool:
        """Whether it is quantized to a type that numpy reads; one below a byte inside the file."""
        return self.uses[name][0].weight.is_quantized and not is_external(tensor)

    def _mapped(self, tensor: TensorProto) -> NDArray[np.generic]:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        folder = self.path.parent.resolve()
        file = (folder / entries["location"]).resolve()
        if not file.is_relative_to(folder):
            raise ValueError(f"{entries['location']!r} is outside the model's folder")
        shape, offset = tuple(tensor.dims), int(entries.get("offset", 0))
        dtype = np.dtype(_TYPES[tensor.data_type])
        expected = num_elements(tensor) * dtype.itemsize
        if int(entries.get("length", expected)) != expected:
            raise ValueError(f"it has {entries['length']} bytes, not {expected}")
        return np.memmap(file, dtype, "r", offset, shape)
