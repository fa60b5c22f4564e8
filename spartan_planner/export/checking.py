"""An exported file held against the torch model that it was exported from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spartan_planner.errors import ExportError
from spartan_planner.export.outputs import output_arrays, without_cache
from spartan_planner.extraction import inputs_for
from spartan_planner.onnx_sessions import Session, open_session

RELATIVE_TOLERANCE = 1e-3
"""Largest difference between torch and ONNX Runtime, relative to the largest output: float32
rounding in another order of summation stays well below, a wrong graph does not."""

HALF_RELATIVE_TOLERANCE = 2e-2
"""The same for float16, whose every rounding is off by up to 5e-4: some forty of them in a row."""

_NARROW = (torch.float16, torch.bfloat16)

Batches = Sequence[Sequence[Tensor]]


def check_batches(inputs: Sequence[Tensor], is_batch_dynamic: bool) -> list[tuple[Tensor, ...]]:
    """Return inputs to compare on: the examples, and rearrangements of their elements.

    Rearranged elements are still what the model takes: token ids of its vocabulary, masks of zeros
    and ones.  Where the batch may be of any size one of the batches is three times as large.
    """
    moved = tuple(item.roll(1, -1) if item.ndim else item for item in inputs)
    mirrored = tuple(item.flip(-1) if item.ndim else item for item in inputs)
    if not is_batch_dynamic:
        return [tuple(inputs), moved, mirrored]
    joined = tuple(torch.cat(items) for items in zip(inputs, moved, mirrored, strict=True))
    return [tuple(inputs), joined]


def require_valid(path: Path, infers_types: bool = True) -> None:
    """Refuse a file that is not valid ONNX.

    Args:
        path: the file.
        infers_types: whether the types of all values are checked; onnx's inference does not know
            that a runtime reads a sparse initializer as a dense tensor.

    Raises:
        ExportError: onnx.checker does not accept the file.
    """
    try:
        onnx.checker.check_model(str(path), full_check=infers_types)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error


@torch.no_grad()
def max_abs_error(
    model: nn.Module, path: Path, batches: Batches, dtype: torch.dtype | None
) -> float:
    """Return the largest difference between the outputs of torch and of ONNX Runtime.

    Args:
        model: what the file was exported from.
        path: the file.
        batches: inputs to run both on, each the positional arguments of the model.
        dtype: of the file's floating point inputs; the inputs' own where ``None``.

    Raises:
        ExportError: the difference is above the tolerance, or shapes differ.
        ModelError: ONNX Runtime cannot load or run the file.
    """
    session = open_session(path, {})
    names = [item.name for item in session.inference.get_inputs()]
    was_training = model.training
    model.eval()
    try:
        with without_cache(model):
            return max(_error(model, session, names, batch, dtype) for batch in batches)
    finally:
        model.train(was_training)


def _error(
    model: nn.Module,
    session: Session,
    names: Sequence[str],
    batch: Sequence[Tensor],
    dtype: torch.dtype | None,
) -> float:
    inputs = inputs_for(model, batch)
    expected = output_arrays(model(*inputs))
    fed = [item.to(dtype) if dtype and item.is_floating_point() else item for item in inputs]
    if len(names) != len(fed):
        raise ExportError(
            f"the exported graph has {len(names)} inputs and the model was called with {len(fed)}; "
            "leave out arguments that the model does not use"
        )
    feed = {name: item.cpu().numpy() for name, item in zip(names, fed, strict=True)}
    actual = Session(session.inference, feed).run()
    if len(expected) != len(actual):
        raise ExportError(
            f"ONNX Runtime returns {len(actual)} outputs, torch {len(expected)}; let the model "
            "return tensors in the order in which it computes them"
        )
    narrow = dtype in _NARROW or any(item.dtype in _NARROW for item in model.parameters())
    tolerance = HALF_RELATIVE_TOLERANCE if narrow else RELATIVE_TOLERANCE
    pairs = zip(expected, actual, strict=True)
    return max((_compared(left, right, tolerance) for left, right in pairs), default=0.0)


def _compared(
    expected: NDArray[np.generic], actual: NDArray[np.generic], tolerance: float
) -> float:
    if expected.shape != actual.shape:
        raise ExportError(f"ONNX Runtime returns shape {actual.shape}, torch {expected.shape}")
    left, right = expected.astype(np.float64), actual.astype(np.float64)
    error = float(np.max(np.abs(left - right), initial=0.0))
    allowed = tolerance * max(1.0, float(np.max(np.abs(left), initial=0.0)))
    if not error <= allowed:
        raise ExportError(
            f"ONNX Runtime computes another result than torch: they differ by {error:.3g}, "
            f"allowed is {allowed:.3g}"
        )
    return error
