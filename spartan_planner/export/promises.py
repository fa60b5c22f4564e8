"""What an exported file says about itself, told from the model, the plan and the form."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from spartan_planner.errors import ExportError, PlanError
from spartan_planner.export.forms import Form
from spartan_planner.export_metadata import (
    LOWERED,
    ExportMetadata,
    InputRange,
    metadata_of,
    metadata_of_dense,
)
from spartan_planner.extraction import model_fingerprint
from spartan_planner.planning import Plan
from spartan_planner.planning.forms import COUNTED_COSTS


def promise_of(
    model: nn.Module,
    plan: Plan | None,
    inputs: Sequence[Tensor],
    form: Form,
    sizes: Mapping[str, float],
) -> ExportMetadata:
    """Return what a file of this form promises, once the weights are seen to keep the plan.

    Args:
        model: holds the sparse weights.
        plan: that they were trained to, if any.
        inputs: example inputs.
        form: of the file.
        sizes: what each sparse layer keeps, in whole blocks.

    Raises:
        PlanError: the plan belongs to another model, or to other shapes of inputs.
        ExportError: the weights cost more than the plan allows.
    """
    metadata = _planned(plan, inputs, form, sizes) if plan else _unplanned(model, inputs, form)
    return replace(
        metadata,
        input_ranges=tuple(_range(item) for item in inputs),
        weights_fingerprint=weights_fingerprint(model),
    )


def without_device_costs(metadata: ExportMetadata) -> ExportMetadata:
    """Return the promise for weights of another element type: what counts, and nothing timed."""
    costs = tuple(cost for cost in metadata.costs if cost.cost in COUNTED_COSTS)
    return replace(metadata, costs=costs)


@torch.no_grad()
def weights_fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 over names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(content.numpy()))
    return digest.hexdigest()


def shapes_of(inputs: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of example inputs."""
    return tuple(tuple(item.shape) for item in inputs)


def _range(item: Tensor) -> InputRange:
    dtype = str(item.dtype).removeprefix("torch.")
    if item.numel() == 0:
        return InputRange(dtype, 0.0, 0.0)
    return InputRange(dtype, float(item.min()), float(item.max()))


def _unplanned(model: nn.Module, inputs: Sequence[Tensor], form: Form) -> ExportMetadata:
    name, shapes = type(model).__name__, shapes_of(inputs)
    metadata = metadata_of_dense(name, model_fingerprint(model), shapes)
    return replace(metadata, form=form.value) if form is Form.SPARSE else metadata


def _planned(
    plan: Plan, inputs: Sequence[Tensor], form: Form, sizes: Mapping[str, float]
) -> ExportMetadata:
    if plan.input_shapes and shapes_of(inputs) != plan.input_shapes:
        raise PlanError(
            f"the plan was made for inputs of shape {plan.input_shapes}, these are "
            f"{shapes_of(inputs)}: its costs hold at its own shapes; plan again for these"
        )
    # The budgets are for weights whose zero blocks are skipped, whatever this file is like.
    lowered = metadata_of(plan, sizes, LOWERED)
    for cost in lowered.costs:
        if cost.asked is not None and cost.predicted > cost.asked:
            raise ExportError(
                f"these weights cost {cost.predicted:.4g} {cost.unit} of {cost.cost}, above the "
                f"{cost.asked:.4g} that the plan allows; train with the plan, or prune the "
                "weights in one shot first"
            )
    return lowered if form is Form.LOWERED else metadata_of(plan, sizes, form.value)
