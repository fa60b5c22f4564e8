"""How much of each planned layer a model really keeps."""

import math

import torch
from torch import Tensor, nn

from cost_models import Layout, LayoutKind
from spartan_planner.blocks import tile_shape
from spartan_planner.export.smaller import smaller_model
from spartan_planner.planned_parameters import planned_parameters
from spartan_planner.planning import Plan
from spartan_planner.transport import tile_values


@torch.no_grad()
def kept_size(weight: Tensor, layout: Layout) -> float:
    """Return the size of the blocks that hold a non-zero, in whole blocks.

    In a balanced layout it is what the lowered form executes: the inputs of the fullest group of
    outputs, in steps, and at least one step.  In an n:m layout it is the fullest group of inputs,
    and at least ``n``.

    Args:
        weight: ``[out, in, *kernel]``.
        layout: the layout it was pruned in.
    """
    shape = tuple(weight.shape)
    used = tile_values(weight, tile_shape(layout, shape)) > 0
    if layout.kind is LayoutKind.N_M:
        groups = used.reshape(shape[0], -1, layout.num_of, *shape[2:])
        return float(max(layout.num_kept, int(groups.sum(2).max())))
    if not layout.balanced_step:
        sizes = torch.from_numpy(layout.block_sizes(shape))
        return float(sizes @ used.reshape(-1).cpu().to(sizes.dtype))
    fullest = int(used.flatten(1).sum(1).max())
    num_steps = max(1, math.ceil(fullest / layout.balanced_step))
    step = min(layout.balanced_step, shape[1])
    return min(num_steps * step, shape[1]) / step


def kept_sizes(model: nn.Module, plan: Plan) -> dict[str, float]:
    """Return the sizes of what all planned layers keep, by name, in whole blocks.

    Where channels go these are blocks of what they leave.

    Raises:
        PlanError: the plan belongs to another model.
        ExportError: more units of a channel group are read than the plan keeps.
    """
    if plan.kept_units and plan.sparse_layers:
        left = smaller_model(model, plan)
        return kept_sizes(left.model, left.plan)
    parameters = planned_parameters(model, plan)
    return {
        layer.name: kept_size(parameters[layer.name], Layout.parse(layer.layout))
        for layer in plan.sparse_layers
    }
