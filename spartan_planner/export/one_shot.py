"""Pruning the given weights to a plan at once, without training."""

import torch
from torch import nn

from cost_models import Layout
from spartan_planner.blocks import assign_blocks
from spartan_planner.planned_parameters import planned_parameters
from spartan_planner.planning import Plan


@torch.no_grad()
def prune_one_shot(model: nn.Module, plan: Plan) -> None:
    """Keep the planned number of most valuable blocks of each layer and set the rest to zero.

    Args:
        model: changed in place.
        plan: the plan; its numbers of kept blocks are met exactly.

    Raises:
        PlanError: the plan belongs to another model.
    """
    parameters = planned_parameters(model, plan)
    for layer in plan.sparse_layers:
        weight = parameters[layer.name]
        values, assignment = assign_blocks(weight, Layout.parse(layer.layout))
        kept = torch.zeros_like(values)
        order = torch.argsort(values, descending=True, stable=True)
        kept[order[: layer.num_kept_blocks]] = 1
        weight.mul_(assignment.expand(kept))
