"""Pruning the given weights to a plan at once, without training."""

import torch
from torch import nn

from cost_models import Layout
from spartan_planner.blocks import assign_blocks
from spartan_planner.planned_parameters import planned_parameters
from spartan_planner.planning import ROUNDING, Plan


@torch.no_grad()
def prune_one_shot(model: nn.Module, plan: Plan) -> None:
    """Keep the most valuable blocks of each layer, as much as planned, and zero the rest.

    Args:
        model: changed in place.
        plan: the plan; its kept sizes are met, never exceeded.

    Raises:
        PlanError: the plan belongs to another model.
    """
    parameters = planned_parameters(model, plan)
    for layer in plan.sparse_layers:
        weight = parameters[layer.name]
        layout = Layout.parse(layer.layout)
        values, assignment = assign_blocks(weight, layout)
        sizes = torch.from_numpy(layout.block_sizes(tuple(weight.shape))).to(weight.device)
        # The planner's own order: value per cost, ties by position.
        order = torch.argsort(values.double() / sizes, descending=True, stable=True)
        fits = torch.cumsum(sizes[order], 0) <= layer.kept_size * (1 + ROUNDING)
        kept = torch.zeros_like(values)
        kept[order[fits]] = 1
        weight.mul_(assignment.expand(kept))
