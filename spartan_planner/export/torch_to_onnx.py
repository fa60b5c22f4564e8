"""torch's own exporter, quietly, with a batch of any size."""

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

import onnx_ir as ir
import torch
from torch import Tensor, nn

from spartan_planner.errors import ExportError
from spartan_planner.export.outputs import without_cache

OPSET = 20
MIN_OPSET, MAX_OPSET = 18, 23
"""torch's exporter writes 18 and converts it upwards, to what stock runtimes read by now; the check
that runs the file tells where the installed one does not."""


def torch_to_onnx(
    model: nn.Module,
    example_inputs: Sequence[Tensor],
    *,
    opset: int = OPSET,
    is_batch_dynamic: bool = True,
) -> ir.Model:
    """Export a model in evaluation mode.

    Args:
        model: the model.
        example_inputs: its positional arguments.
        opset: version of ONNX's operators, :data:`MIN_OPSET` to :data:`MAX_OPSET`.
        is_batch_dynamic: whether the first dimension of every input is a batch of any size; else
            the file runs at the shapes of the example inputs alone.

    Raises:
        ExportError: torch cannot export the model.
    """
    was_training = model.training
    model.eval()
    try:
        with _quiet(), without_cache(model):
            program = _export(model, example_inputs, opset, is_batch_dynamic)
    except (Exception, SystemExit) as error:
        reason = _first_sentence(str(_root_cause(error)) or repr(error))
        hint = _BATCH_HINT if is_batch_dynamic else ""
        raise ExportError(f"torch cannot export this model to ONNX: {reason}{hint}") from error
    finally:
        model.train(was_training)
    if program is None:
        raise ExportError("torch's exporter returned nothing")
    _require_opset(program.model, opset)
    return program.model


_BATCH_HINT = "; a model that computes otherwise with another batch size needs a fixed batch"


def _require_opset(graph: ir.Model, opset: int) -> None:
    # Where an operator cannot be converted the exporter only remarks that it left the graph alone.
    written = graph.opset_imports.get("")
    if written != opset:
        raise ExportError(
            f"torch writes this model with opset {written} and cannot convert it to {opset}; "
            f"ask for opset {written}"
        )


def _root_cause(error: BaseException) -> BaseException:
    """The exporter wraps what went wrong in pages of advice; the first cause says it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_sentence(text: str) -> str:
    """Up to the first full stop: pages of advice to the model's author follow."""
    return re.split(r"\.\s", " ".join(text.split()), maxsplit=1)[0].rstrip(".")[:300]


def _export(
    model: nn.Module, example_inputs: Sequence[Tensor], opset: int, is_batch_dynamic: bool
) -> torch.onnx.ONNXProgram | None:
    inputs, shapes = tuple(example_inputs), None
    if is_batch_dynamic:
        # A batch of one would be taken for a constant; two examples keep the dimension open.
        inputs = tuple(torch.cat([item, item]) for item in example_inputs)
        batch = torch.export.Dim("batch", min=1)
        shapes = tuple({0: batch} for _ in inputs)
    return torch.onnx.export(
        model, inputs, dynamo=True, opset_version=opset, dynamic_shapes=shapes, verbose=False
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the screen what the exporter remarks, or prints of a graph that it gives up."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
