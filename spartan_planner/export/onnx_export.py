"""Exporting: masked or lowered ONNX, checked before it appears."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cost_models import Layout, LayoutKind
from cost_models.documents import write_atomically
from spartan_planner.errors import ExportError, PlanError
from spartan_planner.export.kept_sizes import kept_sizes
from spartan_planner.export.torch_to_onnx import torch_to_onnx
from spartan_planner.export_metadata import (
    LOWERED,
    METADATA_KEY,
    ExportMetadata,
    dump_metadata,
    lowered_layers,
    metadata_of,
    metadata_of_dense,
)
from spartan_planner.extraction import inputs_for, model_fingerprint
from spartan_planner.lowering import LoweredLayer, lower_graph
from spartan_planner.onnx_sessions import Session, open_session
from spartan_planner.planning import Plan

RELATIVE_TOLERANCE = 1e-3
"""Largest difference between torch and ONNX Runtime, relative to the largest output: float32
rounding in another order of summation stays well below, a wrong graph does not."""


class Form(Enum):
    """How zero blocks appear in the file."""

    MASKED = "masked"
    LOWERED = LOWERED


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: the file.
        metadata: what the file says about itself.
        lowered: the layers that were rewritten.
        max_abs_error: largest difference between torch and ONNX Runtime on the check inputs.
        num_bytes: size of the file.
    """

    path: Path
    metadata: ExportMetadata
    lowered: tuple[LoweredLayer, ...]
    max_abs_error: float
    num_bytes: int


def export_onnx(
    model: nn.Module,
    plan: Plan | None,
    example_inputs: Sequence[Tensor] | Tensor,
    path: Path | str,
    *,
    form: Form = Form.LOWERED,
    check_inputs: Sequence[Sequence[Tensor]] = (),
) -> ExportReport:
    """Write a model as ONNX, its zero blocks lowered where the plan says that it pays.

    The file appears only after onnx.checker has accepted it and ONNX Runtime has computed the
    same as torch on the example inputs and on every set of check inputs.

    Args:
        model: holds the sparse weights.
        plan: the plan that they were trained to; without one the model is written as it is.
        example_inputs: one tensor or the positional arguments of the model, batch first; with a
            plan, of the shapes that it was made for.
        path: the file to write.
        form: how zero blocks appear.
        check_inputs: further inputs to compare on.

    Raises:
        PlanError: the plan belongs to another model.
        ExportError: the weights cost more than the plan allows, torch cannot export the model, or
            the exported graph computes something else.
    """
    path = Path(path)
    inputs = inputs_for(model, example_inputs)
    metadata = _promise(model, plan, inputs, form) if plan else _dense(model, inputs)
    graph = torch_to_onnx(model, inputs)
    lowered: tuple[LoweredLayer, ...] = ()
    if plan and form is Form.LOWERED:
        lowered = lower_graph(graph, _paying_layouts(model, graph, plan))
    graph.metadata_props[METADATA_KEY] = dump_metadata(metadata)
    errors: list[float] = []

    def write_checked(temporary: Path) -> None:
        ir.save(graph, temporary)
        onnx.checker.check_model(str(temporary), full_check=True)
        errors.append(_max_abs_error(model, temporary, [inputs, *check_inputs]))

    try:
        write_atomically(path, write_checked)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    return ExportReport(path, metadata, lowered, errors[0], path.stat().st_size)


def _shapes(inputs: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(item.shape) for item in inputs)


def _dense(model: nn.Module, inputs: Sequence[Tensor]) -> ExportMetadata:
    return metadata_of_dense(type(model).__name__, model_fingerprint(model), _shapes(inputs))


def _promise(model: nn.Module, plan: Plan, inputs: Sequence[Tensor], form: Form) -> ExportMetadata:
    sizes = kept_sizes(model, plan)
    # The budgets are for weights whose zero blocks are skipped, whatever this file is like.
    metadata = metadata_of(plan, sizes, LOWERED)
    if plan.input_shapes and _shapes(inputs) != plan.input_shapes:
        raise PlanError(
            f"the plan was made for inputs of shape {plan.input_shapes}, these are "
            f"{_shapes(inputs)}: its costs hold at its own shapes; plan again for these"
        )
    for layer in plan.sparse_layers:
        layout = Layout.parse(layer.layout)
        if form is Form.LOWERED and layout.kind is LayoutKind.N_M:
            raise ExportError(
                f"layer {layer.name} is pruned in the pattern {layer.layout}, for which ONNX has "
                "no form; use the form masked, and let the device's own compiler find the pattern"
            )
        if form is Form.LOWERED and not layout.balanced_step:
            raise ExportError(
                f"layer {layer.name} is pruned in layout {layer.layout}, which would have to be "
                "padded to be lowered and then cost more than planned; use the form masked, or "
                "plan a balanced layout such as tile:64x1@16"
            )
    for cost in metadata.costs:
        if cost.asked is not None and cost.predicted > cost.asked:
            raise ExportError(
                f"these weights cost {cost.predicted:.4g} {cost.unit} of {cost.cost}, above the "
                f"{cost.asked:.4g} that the plan allows; train with the plan, or prune the "
                "weights in one shot first"
            )
    return metadata if form is Form.LOWERED else metadata_of(plan, sizes, form.value)


def _paying_layouts(model: nn.Module, graph: ir.Model, plan: Plan) -> dict[str, Layout]:
    """Layouts of the weights that are worth lowering, by graph name."""
    lowered = lowered_layers(plan, kept_sizes(model, plan))
    names = _graph_names(model, graph)
    return {
        names.get(layer.name, layer.name): Layout.parse(layer.layout)
        for layer in plan.sparse_layers
        if layer.name in lowered
    }


def _graph_names(model: nn.Module, graph: ir.Model) -> dict[str, str]:
    """For each parameter, the one of its names by which the graph knows a tied weight."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        first[id(parameter)]: name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if name in graph.graph.initializers
    }


@torch.no_grad()
def _max_abs_error(model: nn.Module, path: Path, batches: Sequence[Sequence[Tensor]]) -> float:
    session = open_session(path, {})
    names = [item.name for item in session.inference.get_inputs()]
    was_training = model.training
    model.eval()
    worst = 0.0
    for batch in batches:
        expected = _outputs(model(*inputs_for(model, batch)))
        feed = {name: item.cpu().numpy() for name, item in zip(names, batch, strict=True)}
        actual = Session(session.inference, feed).run()
        for left, right in zip(expected, actual, strict=True):
            worst = max(worst, _compare(left, right))
    model.train(was_training)
    return worst


def _compare(expected: NDArray[np.generic], actual: NDArray[np.generic]) -> float:
    if expected.shape != actual.shape:
        raise ExportError(f"ONNX Runtime returns shape {actual.shape}, torch {expected.shape}")
    difference = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
    error = float(np.max(difference, initial=0.0))
    allowed = RELATIVE_TOLERANCE * max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    if not error <= allowed:
        raise ExportError(
            f"ONNX Runtime computes another result than torch: they differ by {error:.3g}, "
            f"allowed is {allowed:.3g}"
        )
    return error


def _outputs(result: object) -> list[NDArray[np.generic]]:
    if isinstance(result, Tensor):
        return [result.detach().cpu().numpy()]
    if isinstance(result, dict):
        return [array for item in result.values() for array in _outputs(item)]
    if isinstance(result, tuple | list):
        return [array for item in result for array in _outputs(item)]
    raise ExportError(f"the model returns {type(result).__name__}; tensors are needed")
