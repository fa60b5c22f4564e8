"""One weight under a plan: its latent values, its blocks and its masks."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cost_models import Layout
from spartan_planner.blocks import BlockAssignment, assign_blocks
from spartan_planner.planning import PlanLayer
from spartan_planner.transport import masked_weight, weight_gradient


@dataclass
class PlannedWeight:
    """A parameter that a plan prunes.

    Attributes:
        name: the parameter's name.
        parameter: the parameter; between optimizer steps it holds the sparse weight.
        layout: the layout of its blocks.
        cost_per_block: what keeping one block costs.
        latent: the dense weight that the optimizer owns, kept aside between its steps.
        assignment: which tile belongs to which block.
        soft, hard: ``[blocks]`` masks ``m`` and ``h``.
    """

    name: str
    parameter: nn.Parameter
    layout: Layout
    cost_per_block: float
    latent: Tensor | None = None
    assignment: BlockAssignment | None = None
    soft: Tensor | None = None
    hard: Tensor | None = None

    @staticmethod
    def of(layer: PlanLayer, parameter: nn.Parameter, cost_per_block: float) -> "PlannedWeight":
        """Make the planned weight of a sparse layer."""
        return PlannedWeight(layer.name, parameter, Layout.parse(layer.layout), cost_per_block)

    @property
    def kept_size(self) -> float:
        """What the hard mask keeps, in whole blocks."""
        assert self.hard is not None
        sizes = torch.from_numpy(self.layout.block_sizes(tuple(self.parameter.shape)))
        return float(sizes @ self.hard.double().cpu())

    @property
    def num_protected(self) -> int:
        """Leading blocks that are always kept."""
        return num_protected(self.layout)

    def rank(self) -> Tensor:
        """Assign blocks by the current (latent) values and return the value of each."""
        values, self.assignment = assign_blocks(self.parameter.detach(), self.layout)
        return values

    def set_masks(self, soft: Tensor, hard: Tensor) -> None:
        """Take masks of the blocks behind the protected ones, which are kept whole."""
        protected = soft.new_ones(self.num_protected)
        self.soft = torch.cat([protected, soft])
        self.hard = torch.cat([protected, hard.to(soft.dtype)])

    def put_sparse(self) -> None:
        """Keep the latent weight aside and put ``theta * m * h`` into the parameter."""
        assert self.assignment is not None
        assert self.soft is not None
        assert self.hard is not None
        self.latent = self.parameter.detach().clone()
        tiles = (self.assignment.per_tile(self.soft), self.assignment.per_tile(self.hard))
        self.parameter.copy_(masked_weight(self.latent, *tiles, self.assignment.tile))

    def put_latent(self) -> None:
        """Put the latent weight back into the parameter."""
        if self.latent is not None:
            self.parameter.copy_(self.latent)
            self.latent = None

    def mask_gradient(self) -> Tensor:
        """Return ``g_b = sum G theta`` for each block, zero where no gradient arrived."""
        assert self.assignment is not None
        assert self.latent is not None
        if self.parameter.grad is None:
            return torch.zeros(self.assignment.num_blocks, device=self.latent.device)
        return self.assignment.mask_gradient(self.parameter.grad, self.latent)

    def set_gradient(self, value_gradient: Tensor) -> None:
        """Turn ``G`` into ``dL/dtheta = G m + sign(theta) dL/dv``, ``value_gradient [blocks]``."""
        assert self.assignment is not None
        assert self.latent is not None
        assert self.soft is not None
        if self.parameter.grad is None:
            return
        self.parameter.grad.copy_(
            weight_gradient(
                self.parameter.grad,
                self.latent,
                self.assignment.per_tile(self.soft),
                self.assignment.per_tile(value_gradient),
                self.assignment.tile,
            )
        )

    def freeze(self) -> None:
        """Bake the soft mask into the weight; from here on only the hard mask acts."""
        self.latent = None

    def apply_hard(self, tensor: Tensor) -> None:
        """Set the pruned elements of a tensor of the weight's shape to zero, in place."""
        assert self.assignment is not None
        assert self.hard is not None
        tensor.mul_(self.assignment.expand(self.hard).to(tensor.dtype))


def num_protected(layout: Layout) -> int:
    """Return how many leading blocks are always kept, so that no layer is cut off.

    In a balanced layout block 0 holds the best inputs of every group.
    """
    return 1 if layout.balanced_step else 0
