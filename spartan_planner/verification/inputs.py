"""Inputs made up for a file."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto, helper

from spartan_planner.errors import ModelError
from spartan_planner.export_metadata import ExportMetadata, InputRange

Inputs = dict[str, NDArray[np.generic]]

MAX_ELEMENTS = 2**28
"""A gigabyte of float32: no model of ours takes as much, and a hostile file may ask for it."""


def made_up_inputs(
    model: ModelProto, metadata: ExportMetadata | None, name: str, seed: int = 0
) -> Inputs:
    """Return inputs of the shapes that a file was exported with; open sizes are 1 otherwise.

    Floating point inputs are standard normal, integers uniform within the range of the example
    input (0 where it is not known), truth values true.

    Args:
        model: the file's model.
        metadata: what it says about itself.
        name: of the file, for messages.
        seed: of the generator.

    Raises:
        ModelError: the inputs are not those that were exported, too large, or of a type that
            cannot be made up.
    """
    constants = {item.name for item in model.graph.initializer}
    items = [item for item in model.graph.input if item.name not in constants]
    shapes = metadata.input_shapes if metadata else ()
    if shapes and len(items) != len(shapes):
        raise ModelError(f"{name} has {len(items)} inputs; {len(shapes)} were exported")
    ranges = metadata.input_ranges if metadata else ()
    generator = np.random.default_rng(seed)
    inputs: Inputs = {}
    for index, item in enumerate(items):
        shape = shapes[index] if shapes else _shape(item)
        if math.prod(shape) > MAX_ELEMENTS:
            raise ModelError(f"input {item.name} of {name} has the shape {shape}: too large to run")
        limits = ranges[index] if index < len(ranges) else None
        inputs[item.name] = _array(item, shape, limits, name, generator)
    return inputs


def _shape(item: ValueInfoProto) -> tuple[int, ...]:
    return tuple(max(1, size.dim_value) for size in item.type.tensor_type.shape.dim)


def _array(
    item: ValueInfoProto,
    shape: Sequence[int],
    limits: InputRange | None,
    name: str,
    generator: np.random.Generator,
) -> NDArray[np.generic]:
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type))
    except (KeyError, ValueError) as error:
        raise ModelError(f"input {item.name} of {name} is no tensor that can be made up") from error
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return np.ones(shape, np.bool_)
    if dtype.kind not in "iu":
        raise ModelError(f"input {item.name} of {name} of type {dtype} cannot be made up")
    low, high = (int(limits.low), int(limits.high)) if limits else (0, 0)
    return generator.integers(low, high, shape, endpoint=True).astype(dtype)
