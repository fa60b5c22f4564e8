"""How many blocks of each planned layer a model really keeps."""

import math

import torch
from torch import Tensor, nn

from cost_models import Layout
from spartan_planner.blocks import tile_shape
from spartan_planner.planned_parameters import planned_parameters
from spartan_planner.planning import Plan
from spartan_planner.transport import tile_values


@torch.no_grad()
def count_kept_blocks(weight: Tensor, layout: Layout) -> int:
    """Return the number of blocks that hold a non-zero.

    In a balanced layout it is what the lowered form executes: the inputs of the fullest group of
    outputs, in steps, and at least one.

    Args:
        weight: ``[out, in, *kernel]``.
        layout: the layout it was pruned in.
    """
    used = tile_values(weight, tile_shape(layout, tuple(weight.shape))) > 0
    if not layout.balanced_step:
        return int(used.sum())
    fullest = int(used.flatten(1).sum(1).max())
    return max(1, math.ceil(fullest / layout.balanced_step))


def kept_blocks(model: nn.Module, plan: Plan) -> dict[str, float]:
    """Return the numbers of kept blocks of all planned layers, by name.

    Raises:
        PlanError: the plan belongs to another model.
    """
    parameters = planned_parameters(model, plan)
    return {
        layer.name: float(count_kept_blocks(parameters[layer.name], Layout.parse(layer.layout)))
        for layer in plan.sparse_layers
    }
