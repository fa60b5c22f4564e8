"""``lower`` for files: read with suspicion, lowered, checked against the input, written whole."""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto, external_data_helper, inliner, numpy_helper
from onnx.shape_inference import InferenceError

from cost_models import DeviceProfile, DocumentError
from spartan_planner.errors import ExportError, ModelError
from spartan_planner.graph_skeleton.tensors import every_tensor, is_external, num_elements
from spartan_planner.lowering.any_model import LoweringReport, lower_model
from spartan_planner.lowering.choice import Measure
from spartan_planner.lowering.equality import RunShapes, require_same_outputs
from spartan_planner.lowering.weight_nodes import Shapes
from spartan_planner.onnx_workload.reading import read_hollow
from spartan_planner.onnx_workload.shapes import input_shapes_of, runtime_inputs, value_shapes

MAX_INLINE_BYTES = 1_800_000_000
"""Weights of more bytes are written to a file beside the model; protocol buffers end at 2 GB."""

MAX_ELEMENTS = 2**33
"""An activation of more elements than this is taken for a mistake, or an attack, in the file."""

_BROKEN = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError, EncodeError, InferenceError, onnx.checker.ValidationError),
)
"""What the libraries raise over files that parse and make no sense: any field may hold anything."""


@dataclass(frozen=True)
class LoweredFile:
    """What was written.

    Attributes:
        path: the file.
        report: what became of each layer.
        max_abs_error: largest difference between outputs of the two files on the check inputs.
        num_bytes_before, num_bytes_after: sizes, weights beside the files included.
    """

    path: Path
    report: LoweringReport
    max_abs_error: float
    num_bytes_before: int
    num_bytes_after: int


def lower_file(
    source: Path | str,
    target: Path | str,
    *,
    input_shapes: Sequence[Sequence[int]] | None = None,
    profile: DeviceProfile | None = None,
    measure: Measure | None = None,
    advance: Callable[[str], object] = lambda _: None,
) -> LoweredFile:
    """Write an ONNX file in which the zero blocks of another one's weights are skipped.

    The file appears only after ONNX Runtime has computed the same from both on several random
    inputs.  Weights of more than 1.8 GB are written beside it, to ``TARGET.data``.

    Args:
        source: the file to read; it stays as it is.
        target: the file to write.
        input_shapes: one per input, at which forms are chosen and outputs compared; those in the
            file by default, an open batch taken for one.
        profile: of the device, for the choice of forms.
        measure: measures forms on this device, for the choice.
        advance: called with the name of each layer that is done.

    Raises:
        ModelError: the file cannot be read, is not valid, or names data outside its folder.
        ExportError: the lowered graph computes something else: a defect of this project.
        DocumentError: the target cannot be written.
        CostModelError: the profile cannot price a layer.
    """
    source, target = Path(source), Path(target)
    shapes, runs = _shapes(source, input_shapes)
    model, num_bytes = _read(source)
    try:
        report = lower_model(model, shapes, profile, measure, advance)
    except _BROKEN as error:
        raise _not_valid(source, error) from error
    with _folder_beside(target) as folder:
        written = _save(model, folder / target.name)
        _check(source, written)
        difference = require_same_outputs(source, written, runs)
        size = sum(path.stat().st_size for path in folder.iterdir())
        _move(folder, target)
    return LoweredFile(target, report, difference, num_bytes, size)


def _not_valid(path: Path, error: BaseException) -> ModelError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return ModelError(f"{path} is not a valid ONNX model ({reason}); export it again")


def _shapes(path: Path, given: Sequence[Sequence[int]] | None) -> tuple[Shapes, RunShapes]:
    try:
        hollow = read_hollow(path)
        closed = input_shapes_of(hollow, given)
        shapes = value_shapes(hollow, closed)
    except _BROKEN as error:
        raise _not_valid(path, error) from error
    largest = max(shapes, key=lambda name: math.prod(shapes[name]), default="")
    if largest and math.prod(shapes[largest]) > MAX_ELEMENTS:
        raise ModelError(
            f"value {largest!r} of {path} would have {math.prod(shapes[largest]):,} elements; at "
            f"most {MAX_ELEMENTS:,} can be run: check the file, or give a smaller --input-shape"
        )
    return shapes, _runs(hollow, closed)


def _runs(model: ModelProto, closed: Sequence[tuple[int, ...]]) -> RunShapes:
    """The shapes to compare at: those to choose for, and two samples where the batch is open."""
    inputs = runtime_inputs(model)
    is_open = all(
        item.type.tensor_type.shape.dim and not item.type.tensor_type.shape.dim[0].dim_value
        for item in inputs
    )
    doubled = tuple((2 * shape[0], *shape[1:]) for shape in closed) if is_open and inputs else ()
    return RunShapes(tuple(closed), doubled)


def _read(path: Path) -> tuple[ir.Model, int]:
    try:
        proto = onnx.load(str(path), load_external_data=False)
        num_bytes = path.stat().st_size + _external_bytes(proto, path)
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
        external_data_helper.load_external_data_for_model(proto, str(path.parent))
        _make_dense(proto)
        return ir.from_proto(proto), num_bytes
    except _BROKEN as error:
        raise _not_valid(path, error) from error


def _make_dense(proto: ModelProto) -> None:
    """Write sparse initializers as dense ones, as runtimes do when they load them."""
    for sparse in proto.graph.sparse_initializer:
        shape, values = tuple(sparse.dims), numpy_helper.to_array(sparse.values)
        indices = numpy_helper.to_array(sparse.indices)
        if math.prod(shape) > MAX_ELEMENTS or (indices.size and indices.min() < 0):
            raise ValueError(f"sparse tensor {sparse.values.name!r} has impossible dimensions")
        dense = np.zeros(shape, values.dtype)
        dense[np.unravel_index(indices, shape) if indices.ndim == 1 else tuple(indices.T)] = values
        proto.graph.initializer.append(numpy_helper.from_array(dense, sparse.values.name))
    proto.graph.ClearField("sparse_initializer")


def _external_bytes(proto: ModelProto, path: Path) -> int:
    """Bytes of the files that hold weights, each of which must lie in the model's folder."""
    folder = path.parent.resolve()
    files = {
        _external_file(tensor, folder) for tensor in every_tensor(proto) if is_external(tensor)
    }
    return sum(file.stat().st_size for file in files)


def _external_file(tensor: TensorProto, folder: Path) -> Path:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = str(entries.get("location", ""))
    file = (folder / location).resolve()
    if not location or not file.is_relative_to(folder) or not file.is_file():
        raise ModelError(
            f"tensor {tensor.name!r} is said to lie in {location!r}, which is no file in the "
            "model's folder; keep all files of a model in one folder"
        )
    end = int(entries.get("offset", 0)) + int(entries.get("length", 0) or num_elements(tensor) // 2)
    if not 0 <= end <= file.stat().st_size:
        raise ModelError(
            f"tensor {tensor.name!r} is said to end at byte {end} of {location!r}, which has "
            f"{file.stat().st_size}; copy the files of the model again"
        )
    return file


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise DocumentError(f"{target} cannot be written: {error.strerror or error}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _save(model: ir.Model, path: Path) -> Path:
    num_bytes = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    external = f"{path.name}.data" if num_bytes > MAX_INLINE_BYTES else None
    try:
        ir.save(model, path, external_data=external)
    except OSError as error:
        raise DocumentError(f"{path.name} cannot be written: {error.strerror or error}") from error
    return path


def _check(source: Path, written: Path) -> None:
    try:
        onnx.checker.check_model(str(written))
    except (onnx.checker.ValidationError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"{source}, lowered, is not valid ONNX: {reason}") from error


def _move(folder: Path, target: Path) -> None:
    """Put the finished files in place, the model last: it is what others look for."""
    try:
        for path in sorted(folder.iterdir(), key=lambda path: path.name == target.name):
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            path.replace(target.parent / path.name)
    except OSError as error:
        raise DocumentError(f"{target} cannot be written: {error.strerror or error}") from error
