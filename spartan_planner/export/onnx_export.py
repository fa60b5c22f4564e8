"""Exporting: masked, sparse or lowered ONNX, checked before it appears."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from cost_models import Layout
from spartan_planner.export.checking import check_batches, max_abs_error, require_valid
from spartan_planner.export.forms import Form, best_form, require_lowerable, why_masked
from spartan_planner.export.kept_sizes import kept_sizes
from spartan_planner.export.layer_nodes import layer_nodes, names_by_layer, weight_names
from spartan_planner.export.model_files import is_external, write_files
from spartan_planner.export.promises import promise_of, without_device_costs
from spartan_planner.export.settings import DTYPES, ExportSettings
from spartan_planner.export.smaller import smaller_model
from spartan_planner.export.sparse_initializers import store_sparse
from spartan_planner.export.torch_to_onnx import torch_to_onnx
from spartan_planner.export_metadata import (
    METADATA_KEY,
    PLAN_KEY,
    ExportMetadata,
    LayerPromise,
    dump_metadata,
    dump_plan,
    layer_promises,
    lowered_layers,
)
from spartan_planner.extraction import inputs_for
from spartan_planner.lowering import LoweredLayer, lower_graph
from spartan_planner.planning import Plan


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: the file.
        metadata: what the file says about itself.
        lowered: the layers that were rewritten.
        max_abs_error: largest difference between torch and ONNX Runtime on the check inputs.
        num_bytes: size of the file, with that of its external data.
        files: the file, and that of its external data where it has one.
        notes: what a reader of the figures must know.
    """

    path: Path
    metadata: ExportMetadata
    lowered: tuple[LoweredLayer, ...]
    max_abs_error: float
    num_bytes: int
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def export_onnx(
    model: nn.Module,
    plan: Plan | None,
    example_inputs: Sequence[Tensor] | Tensor,
    path: Path | str,
    *,
    form: Form | None = None,
    settings: ExportSettings | None = None,
    check_inputs: Sequence[Sequence[Tensor]] = (),
) -> ExportReport:
    """Write a model as ONNX, its zero blocks lowered where the plan says that it pays.

    The file appears only after onnx.checker has accepted it and ONNX Runtime has computed the
    same as torch on the example inputs, on rearrangements of them (with another batch size, where
    the batch is dynamic) and on every set of check inputs.

    Args:
        model: holds the sparse weights.
        plan: the plan that they were trained to; without one the model is written as it is.
        example_inputs: one tensor or the positional arguments of the model, batch first; with a
            plan, of the shapes that it was made for.
        path: the file to write.
        form: how zero blocks appear; by default lowered where all layouts of the plan can be, else
            masked.
        settings: how to write the file.
        check_inputs: further inputs to compare on.

    Raises:
        PlanError: the plan belongs to another model.
        ExportError: the weights cost more than the plan allows, torch cannot export the model, the
            plan cannot be written in this form, or the exported graph computes something else.
    """
    path, settings = Path(path), settings or ExportSettings()
    notes = [why_masked(plan)] if form is None and why_masked(plan) else []
    form = form or best_form(plan)
    if form is Form.LOWERED:
        require_lowerable(plan)
    inputs = inputs_for(model, example_inputs)
    # Masked files are as large as the model; in a lowered one removed channels are gone.
    left = smaller_model(model, plan) if plan else None
    sizes = kept_sizes(left.model, left.plan) if left else {}
    promise = promise_of(model, plan, inputs, form, sizes)
    drafted = left.model if left and form is Form.LOWERED else model
    draft = _draft(drafted, plan, sizes, inputs, form, settings)
    if draft.is_converted and len(without_device_costs(promise).costs) < len(promise.costs):
        promise = without_device_costs(promise)
        notes.append(
            f"what the plan says of time, energy and bytes is for the model's own weights: this "
            f"{settings.dtype} file makes no promise of them"
        )
    promise = replace(promise, layers=draft.layers)
    external = is_external(draft.graph, settings.external_data)
    file = _finished(draft.graph, plan, promise, form)
    batches = [*check_batches(inputs, settings.is_batch_dynamic), *check_inputs]
    errors: list[float] = []

    def check(written: Path) -> None:
        require_valid(written, infers_types=form is not Form.SPARSE)
        errors.append(max_abs_error(model, written, batches, draft.dtype))

    files = write_files(path, file.model, external, check)
    num_bytes = sum(item.stat().st_size for item in files)
    return ExportReport(
        path, file.promise, draft.lowered, errors[0], num_bytes, files, tuple(notes)
    )


@dataclass(frozen=True)
class _Draft:
    """A graph, lowered where that is asked for, and what is known of it."""

    graph: ir.Model
    lowered: tuple[LoweredLayer, ...]
    layers: tuple[LayerPromise, ...]
    dtype: torch.dtype | None
    is_converted: bool


def _draft(
    model: nn.Module,
    plan: Plan | None,
    sizes: Mapping[str, float],
    inputs: Sequence[Tensor],
    form: Form,
    settings: ExportSettings,
) -> _Draft:
    dtype = DTYPES[settings.dtype] if settings.dtype else None
    floating = {item.dtype for item in model.parameters() if item.is_floating_point()}
    is_converted = dtype is not None and bool(floating - {dtype})
    exported, fed = model, tuple(inputs)
    if is_converted:
        exported = copy.deepcopy(model).to(dtype)
        fed = tuple(item.to(dtype) if item.is_floating_point() else item for item in inputs)
    graph = torch_to_onnx(
        exported, fed, opset=settings.opset, is_batch_dynamic=settings.is_batch_dynamic
    )
    if plan is None:
        return _Draft(graph, (), (), dtype, is_converted)
    weights = weight_names(exported, graph, [layer.name for layer in plan.layers])
    nodes = layer_nodes(graph, weights)
    lowered: tuple[LoweredLayer, ...] = ()
    if form is Form.LOWERED:
        paying = lowered_layers(plan, sizes)
        lowered = lower_graph(
            graph,
            {
                weights.get(layer.name, layer.name): Layout.parse(layer.layout)
                for layer in plan.sparse_layers
                if layer.name in paying
            },
        )
    names = names_by_layer(graph, weights, nodes)
    layers = layer_promises(plan, sizes, form.value, names, knows_latency=not is_converted)
    return _Draft(graph, lowered, layers, dtype, is_converted)


@dataclass(frozen=True)
class _File:
    """A model ready to be written, and what it promises."""

    model: ir.Model | onnx.ModelProto
    promise: ExportMetadata


def _finished(graph: ir.Model, plan: Plan | None, promise: ExportMetadata, form: Form) -> _File:
    if plan is not None:
        graph.metadata_props[PLAN_KEY] = dump_plan(plan)
    if form is not Form.SPARSE:
        graph.metadata_props[METADATA_KEY] = dump_metadata(promise)
        return _File(graph, promise)
    model = ir.to_proto(graph)
    promise = _smaller(promise, store_sparse(model))
    model.metadata_props.add(key=METADATA_KEY, value=dump_metadata(promise))
    return _File(model, promise)


def _smaller(promise: ExportMetadata, num_bytes: int) -> ExportMetadata:
    """The promise of a file that takes so many bytes less than the dense one."""
    costs = tuple(
        replace(cost, predicted=cost.predicted - num_bytes) if cost.cost == "memory" else cost
        for cost in promise.costs
    )
    return replace(promise, costs=costs)
