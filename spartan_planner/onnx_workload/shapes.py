"""The shape of every value of a graph, at given sizes of its inputs."""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TypeProto, ValueInfoProto

from spartan_planner.errors import ModelError
from spartan_planner.graph_skeleton.noise import fill_with_noise, num_left_out_bytes
from spartan_planner.graph_skeleton.text import MAX_WEIGHT_BYTES
from spartan_planner.onnx_sessions import Session, open_session, random_inputs, session_options

Shape = tuple[int, ...]
_FATAL_ONLY = 4


def runtime_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """Return the inputs that must be fed: an initializer of the same name is only a default."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    return [item for item in model.graph.input if item.name not in defaults]


def input_shapes_of(model: ModelProto, given: Sequence[Sequence[int]] | None) -> tuple[Shape, ...]:
    """Return the shapes to price the model at: those given, or its own with an open batch of one.

    Raises:
        ModelError: the given shapes do not fit the inputs, or an input has another open dimension
            and no shapes are given.
    """
    inputs = runtime_inputs(model)
    if given is None:
        return tuple(_closed_shape(item) for item in inputs)
    if len(given) != len(inputs):
        raise ModelError(
            f"the model has {len(inputs)} inputs ({', '.join(item.name for item in inputs)}), "
            f"{len(given)} shapes were given; give one per input"
        )
    for item, shape in zip(inputs, given, strict=True):
        _require_fit(item, tuple(shape))
    return tuple(tuple(int(size) for size in shape) for shape in given)


def _dimensions(item: ValueInfoProto) -> list[int | None] | None:
    """Fixed sizes, ``None`` where a dimension is open; ``None`` where even the rank is."""
    tensor = item.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [size.dim_value if size.dim_value > 0 else None for size in tensor.shape.dim]


def _closed_shape(item: ValueInfoProto) -> Shape:
    sizes = _dimensions(item)
    if sizes is None or None in sizes[1:]:
        raise ModelError(
            f"input {item.name!r} of the model has open dimensions beside its batch; say at which "
            "sizes it is used: 'spartan-planner inspect FILE.onnx --input-shape 1,3,224,224 -o "
            "workload.yaml', and go on with that file"
        )
    return tuple(1 if size is None else size for size in sizes)


def _require_fit(item: ValueInfoProto, shape: Shape) -> None:
    sizes = _dimensions(item)
    if sizes is None:
        return
    fits = len(sizes) == len(shape) and all(
        size in (None, asked) for size, asked in zip(sizes, shape, strict=True)
    )
    if not fits or any(size < 1 for size in shape):
        allowed = ", ".join("any" if size is None else str(size) for size in sizes)
        raise ModelError(
            f"input {item.name!r} of the model takes ({allowed}), found {shape}; give a shape "
            "that fits"
        )


def value_shapes(model: ModelProto, input_shapes: Sequence[Shape]) -> dict[str, Shape]:
    """Return the shape of every value of the graph, by name.

    They are inferred; what inference leaves open (shapes that the graph itself computes) is
    observed in one run with noise for weights.

    Args:
        model: without weights.
        input_shapes: one per input.

    Raises:
        ModelError: shapes are left open and the model cannot be run.
    """
    fixed = _at_shapes(model, input_shapes)
    with _messages_off():
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for item in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        sizes = _dimensions_or_zero(item)
        if sizes is not None:
            shapes[item.name] = sizes
    open_values = [
        name for node in model.graph.node for name in node.output if name and name not in shapes
    ]
    return shapes | _observed(fixed, input_shapes, open_values) if open_values else shapes


def _dimensions_or_zero(item: ValueInfoProto) -> Shape | None:
    """Inferred sizes, a true zero included; ``None`` where one is open."""
    if not item.type.HasField("tensor_type") or not item.type.tensor_type.HasField("shape"):
        return None
    sizes = item.type.tensor_type.shape.dim
    return tuple(size.dim_value for size in sizes) if _all_fixed(item.type) else None


def _all_fixed(kind: TypeProto) -> bool:
    return all(
        size.HasField("dim_value") and size.dim_value >= 0 for size in kind.tensor_type.shape.dim
    )


def _at_shapes(model: ModelProto, input_shapes: Sequence[Shape]) -> ModelProto:
    """A copy whose inputs have these shapes, and nothing else is said about shapes."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.ClearField("value_info")
    for item, shape in zip(runtime_inputs(fixed), input_shapes, strict=True):
        item.type.tensor_type.shape.ClearField("dim")
        for size in shape:
            item.type.tensor_type.shape.dim.add(dim_value=size)
    for item in fixed.graph.output:
        if item.type.HasField("tensor_type"):
            item.type.tensor_type.ClearField("shape")
    return fixed


def _observed(
    model: ModelProto, input_shapes: Sequence[Shape], names: Sequence[str]
) -> dict[str, Shape]:
    if num_left_out_bytes(model) > MAX_WEIGHT_BYTES:
        raise ModelError(
            f"the shape of {names[0]!r} is computed by the model itself, which is too large to be "
            "run for it; fold its constants first (onnxsim, or an export with fixed shapes)"
        )
    fill_with_noise(model)
    del model.graph.output[:]
    model.graph.output.extend(ValueInfoProto(name=name) for name in names)
    options = session_options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = _FATAL_ONLY
    try:
        with _messages_off():
            session = open_session(model.SerializeToString(), {}, options)
            inputs = random_inputs(session.inference, input_shapes)
            outputs = Session(session.inference, inputs).run()
    except ModelError as error:
        raise ModelError(
            f"the shape of {names[0]!r} can only be found by running the model: {error}"
        ) from error
    return {name: _shape_of(output) for name, output in zip(names, outputs, strict=True)}


def _shape_of(output: object) -> Shape:
    """Shape of a tensor; of a sequence the number of all its elements."""
    if isinstance(output, list):
        return (sum(int(np.prod(_shape_of(item))) for item in output),)
    return output.shape if isinstance(output, np.ndarray) else (0,)


@contextmanager
def _messages_off() -> Iterator[None]:
    """Keep what the libraries print over an invalid graph, in C++ too, off the screen."""
    sys.stderr.flush()
    kept = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)
