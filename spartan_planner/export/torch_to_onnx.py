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

OPSET = 20


def torch_to_onnx(model: nn.Module, example_inputs: Sequence[Tensor]) -> ir.Model:
    """Export a model in evaluation mode; the first dimension of every input is the batch.

    Raises:
        ExportError: torch cannot export the model.
    """
    was_training = model.training
    model.eval()
    try:
        with _quiet():
            program = _export(model, example_inputs)
    except (Exception, SystemExit) as error:
        reason = _first_sentence(str(_root_cause(error)) or repr(error))
        raise ExportError(f"torch cannot export this model to ONNX: {reason}") from error
    finally:
        model.train(was_training)
    if program is None:
        raise ExportError("torch's exporter returned nothing")
    return program.model


def _root_cause(error: BaseException) -> BaseException:
    """The exporter wraps what went wrong in pages of advice; the first cause says it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_sentence(text: str) -> str:
    """Up to the first full stop: pages of advice to the model's author follow."""
    return re.split(r"\.\s", " ".join(text.split()), maxsplit=1)[0].rstrip(".")[:300]


def _export(model: nn.Module, example_inputs: Sequence[Tensor]) -> torch.onnx.ONNXProgram | None:
    # A batch of one would be taken for a constant; two examples keep the dimension open.
    doubled = tuple(torch.cat([item, item]) for item in example_inputs)
    batch = torch.export.Dim("batch", min=1)
    return torch.onnx.export(
        model,
        doubled,
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=tuple({0: batch} for _ in doubled),
        verbose=False,
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
