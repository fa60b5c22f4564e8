"""One weight under a plan: its latent values, its blocks and its masks.

All products run over the weight in the order of its memory (:func:`memory_order`), so that a
weight in ``channels_last`` is never copied into another order.  Of a weight that FSDP2 spreads over
processes every tensor here is the part that this one holds; the numbers are those of the whole.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cost_models import Layout, LayoutKind
from spartan_planner.blocks import BlockAssignment, ranks_along, tile_shape
from spartan_planner.planning import PlanLayer
from spartan_planner.training.sharding import (
    Sharding,
    is_spread,
    local_part,
    require_whole_blocks,
    sharding_of,
    spread_as,
    whole_tensors,
)
from spartan_planner.transport import (
    Cut,
    count_true,
    masked_weight,
    solve_hard_topk,
    take_magnitudes,
    tile_values,
    weight_gradient,
)
from spartan_planner.transport.collective import sum_over_ranks

_VALUE_DTYPES = (torch.float32, torch.float64)
"""Weights of these dtypes have values of the same: half precision adds up in float32."""


@dataclass
class PlannedWeight:
    """A parameter that a plan prunes.

    Attributes:
        name: the parameter's name.
        parameter: the parameter; between optimizer steps it holds the sparse weight.
        layout: the layout of its blocks.
        cost_per_block: what keeping one block costs.
        num_protected: blocks, the most valuable first, that are always kept.
        num_kept: elements of each group that an n:m layout keeps; ``None`` for other layouts.
        order: the parameter's dimensions in the order of its memory.
        assignment: which tile belongs to which block, dimensions in that order.
        latent: the dense weight that the optimizer owns, kept aside between its steps; ``None``
            before the first of them and where a method has none.
        soft: ``[blocks]`` mask ``m`` (n:m: in the weight's shape, in memory order); ``None`` where
            it is 1 everywhere.
        kept: mask ``h`` of the elements in the parameter's dtype, while it stands still.
        kept_size: what ``h`` keeps, in whole blocks, one number; ``None`` before the first step.
        value_range: least and greatest value of single elements, while the parameter holds their
            values: between :meth:`keep_latent` and :meth:`put_sparse`.
        sharding: how the weight is spread over processes; ``None`` where all of it is here.
    """

    name: str
    parameter: nn.Parameter
    layout: Layout
    cost_per_block: float
    num_protected: int
    num_kept: int | None
    order: tuple[int, ...]
    assignment: BlockAssignment
    latent: Tensor | None = None
    soft: Tensor | None = None
    kept: Tensor | None = None
    kept_size: Tensor | None = None
    value_range: Tensor | None = None
    sharding: Sharding | None = None

    @staticmethod
    def of(layer: PlanLayer, parameter: nn.Parameter, cost_per_block: float) -> "PlannedWeight":
        """Make the planned weight of a sparse layer.

        Raises:
            TrainingError: the weight is spread over processes in a way that cuts its blocks.
        """
        layout = Layout.parse(layer.layout)
        sharding = sharding_of(layer.name, parameter)
        if sharding:
            shape = tuple(parameter.shape)
            require_whole_blocks(layer.name, layout, shape, sharding.dim, sharding.num_parts)
        local = local_part(parameter)
        order = memory_order(local)
        return PlannedWeight(
            layer.name,
            parameter,
            layout,
            cost_per_block,
            num_protected(layer),
            layout.num_kept if layout.kind is LayoutKind.N_M else None,
            order,
            assign_in_order(local, layout, order)[1],
            sharding=sharding,
        )

    @property
    def is_pattern(self) -> bool:
        """Whether the layout is n:m: its blocks do not compete with those of other layers."""
        return self.num_kept is not None

    @property
    def dense(self) -> Tensor:
        """The latent weight, wherever it is."""
        return self.local if self.latent is None else self.latent

    @property
    def local(self) -> Tensor:
        """What this process holds of the parameter: its memory, without its history."""
        return local_part(self.parameter)

    @property
    def local_gradient(self) -> Tensor | None:
        """What this process holds of the gradient."""
        return None if self.parameter.grad is None else local_part(self.parameter.grad)

    @property
    def is_divided(self) -> bool:
        """Whether each process has blocks of its own; otherwise all have a figure for every block.

        The rank slices of a balanced layout run through all parts of the weight.
        """
        return self.sharding is not None and not self.layout.balanced_step

    @property
    def num_blocks(self) -> int:
        """Blocks of the whole weight."""
        return self.layout.num_blocks(tuple(self.parameter.shape))

    @property
    def num_whole_blocks(self) -> float:
        """Size of the weight in whole blocks."""
        return self.layout.num_whole_blocks(tuple(self.parameter.shape))

    def in_order(self, tensor: Tensor) -> Tensor:
        """View a tensor of the parameter's shape in the order of the parameter's memory."""
        return tensor.permute(self.order)

    @property
    def is_single(self) -> bool:
        """Whether every block is one element, in the order of the weight's memory."""
        return (
            not self.is_pattern
            and self.sharding is None
            and self.assignment.block_of_tile is None
            and max(self.assignment.tile, default=1) == 1
        )

    def flat(self, tensor: Tensor) -> Tensor:
        """View a tensor of the parameter's shape and memory order as one row of elements."""
        return self.in_order(tensor).reshape(-1)

    def element_gradient(self) -> Tensor | None:
        """View the gradient G as one row, to be turned in place.

        ``None`` where blocks are more than elements, no gradient arrived, or it is stored in
        another order than the weight.
        """
        gradient = self.parameter.grad
        if gradient is None or not self.is_single:
            return None
        return self.flat(gradient) if self.in_order(gradient).is_contiguous() else None

    def values(self) -> Tensor:
        """Assign blocks by the latent values and return the value of each, ``[blocks]``.

        Single elements of a latent weight have theirs where the sparse weight will be.
        """
        if self.value_range is not None:
            return self.flat(self.parameter.detach())
        values, self.assignment = assign_in_order(self.dense, self.layout, self.order)
        return self._added_up(values)

    def keep_latent(self) -> None:
        """Copy the parameter, which holds the latent weight, aside.

        Where blocks are single elements their values |theta| then take its place: the parameter
        is written anyway, and they need no memory of their own.
        """
        if self.latent is None:
            self.latent = torch.empty_like(self.local)
        self.value_range = None
        source, aside = self.in_order(self.local), self.in_order(self.latent)
        if self.is_single and self.latent.dtype in _VALUE_DTYPES and source.is_contiguous():
            self.value_range = take_magnitudes(source, aside)
        else:
            aside.copy_(source)

    def put_latent(self) -> None:
        """Put the latent weight back into the parameter."""
        self.value_range = None
        if self.latent is not None:
            self.local.copy_(self.latent)

    def put_sparse(self, hard: Tensor | Cut) -> None:
        """Put ``theta * m * h`` into the parameter; theta is the latent weight.

        Args:
            hard: ``h``, boolean, as ``soft``, or what is kept of the values in the parameter.
        """
        if isinstance(hard, Cut):
            soft = None if self.soft is None else self.soft.reshape(-1)
            hard.apply(self.flat(self.local), self.flat(self.dense), soft)
            self.kept_size = torch.tensor(hard.num_kept)
            self.value_range = None
            return
        soft = hard if self.soft is None else self.soft
        tiles = (self._per_tile(soft), self._per_tile(hard))
        source, target = (self.in_order(t) for t in (self.dense, self.local))
        if target.is_contiguous():
            masked_weight(source, *tiles, self.assignment.tile, out=target)
        else:
            target.copy_(masked_weight(source, *tiles, self.assignment.tile))
        self.kept_size = self._size(hard)
        self.value_range = None

    def mask_of(self, hard: Tensor | Cut) -> Tensor:
        """Return ``h`` as a mask, while the parameter still holds the values that were cut."""
        return hard.mask(self.values()) if isinstance(hard, Cut) else hard

    @property
    def flat_target(self) -> Tensor | None:
        """View the parameter as one row that takes the latent weight; ``None`` where it cannot."""
        local = self.local
        return self.flat(local) if self.in_order(local).is_contiguous() else None

    def expanded(self, figures: Tensor) -> Tensor:
        """Return figures of blocks (n:m: of elements, in memory order) as the weight's elements."""
        wide = figures if self.is_pattern else self.assignment.expand(figures)
        return wide.permute(self._back)

    def mask_gradient(self) -> Tensor:
        """Return ``g_b = sum G theta`` for each block, zero where no gradient arrived."""
        theta = self.in_order(self.dense)
        if self.local_gradient is None:
            shape = tuple(theta.shape) if self.is_pattern else (self.assignment.num_blocks,)
            return self._added_up(torch.zeros(shape, device=theta.device, dtype=theta.dtype))
        gradient = self.in_order(self.local_gradient)
        if self.is_pattern:
            return gradient * theta
        return self._added_up(self.assignment.mask_gradient(gradient, theta))

    def set_gradient(self, value_gradient: Tensor) -> None:
        """Turn ``G`` into ``dL/dtheta = G m + sign(theta) dL/dv``, ``value_gradient [blocks]``."""
        if self.local_gradient is None:
            return
        assert self.soft is not None
        gradient = self.in_order(self.local_gradient)
        factors = (self._per_tile(self.soft), self._per_tile(value_gradient))
        theta, tile = self.in_order(self.dense), self.assignment.tile
        if gradient.is_contiguous():
            weight_gradient(gradient, theta, *factors, tile, out=gradient)
        else:
            gradient.copy_(weight_gradient(gradient, theta, *factors, tile))

    def hold(self, hard: Tensor) -> None:
        """Take a mask that stands still: the parameter is the weight itself from now on."""
        wide = self.assignment.expand(hard) if not self.is_pattern else hard
        self.kept = torch.empty_like(self.local)
        self.in_order(self.kept).copy_(wide)
        self.kept_size = self._size(hard)
        self.latent = self.soft = None

    def hold_elements(self, mask: Tensor) -> None:
        """Take a mask of single elements that stands still, boolean, of the parameter's shape."""
        # Imported here, because export brings the whole of ONNX with it.
        from spartan_planner.export.kept_sizes import kept_size

        self.kept = torch.empty_like(self.local).copy_(self.part_of(mask))
        whole = whole_tensors(self.as_whole(self.kept))
        self.kept_size = torch.tensor(kept_size(whole, self.layout), dtype=torch.float64)
        self.latent = self.soft = None

    def is_untouched(self) -> bool:
        """Whether the parameter still is ``theta m h``: each element is ``theta m`` or zero."""
        if self.latent is None:
            return True
        found, expected = self.in_order(self.local), self.in_order(self.latent)
        if self.soft is not None:
            soft = self._per_tile(self.soft)
            expected = masked_weight(expected, soft, torch.ones_like(soft), self.assignment.tile)
        return bool(((found == 0) | (found == expected)).all())

    def protected(self, values: Tensor) -> Tensor | None:
        """Return which blocks are kept whatever the price, ``[blocks]``; ``None`` for none.

        The rank slices of a balanced layout are in order of value by construction; in other
        layouts ties go by position.
        """
        if not self.num_protected or self.is_pattern:
            return None
        if self.layout.balanced_step:
            return torch.arange(values.numel(), device=values.device) < self.num_protected
        group = self.sharding.process_group if self.sharding else None
        budget = float(self.num_protected)
        return solve_hard_topk([values], [1.0], budget, process_group=group).masks[0]

    def part_of(self, tensor: Tensor) -> Tensor:
        """Return what belongs here of a tensor of the parameter's shape, whole or spread."""
        return self._part(tensor, 1)

    def as_whole(self, part: Tensor) -> Tensor:
        """Return the tensor of the parameter's shape of which this process holds that part."""
        return spread_as(self.parameter, part, tuple(self.parameter.shape))

    @property
    def soft_grid(self) -> Tensor | None:
        """The soft mask as a grid of tiles, dimensions as the weight's, spread as it is.

        ``[blocks]`` for a balanced layout; ``None`` where there is none.
        """
        if self.soft is None or self.layout.balanced_step:
            return self.soft
        return spread_as(self.parameter, self._per_tile(self.soft).permute(self._back), self._grid)

    def soft_of(self, grid: Tensor) -> Tensor:
        """Return the soft mask ``[blocks]`` (n:m: in the weight's shape) from :attr:`soft_grid`."""
        if self.layout.balanced_step:
            return local_part(grid)
        part = self.in_order(self._part(grid, self._cut_tile)).contiguous()
        return part if self.is_pattern else part.reshape(-1)

    @property
    def _back(self) -> list[int]:
        """Dimensions in memory order, as the weight has them."""
        return sorted(range(len(self.order)), key=self.order.__getitem__)

    @property
    def _grid(self) -> tuple[int, ...]:
        """Tiles of the whole weight along each of its dimensions."""
        shape = tuple(self.parameter.shape)
        tile = tile_shape(self.layout, shape)
        return tuple(-(-size // step) for size, step in zip(shape, tile, strict=True))

    @property
    def _cut_tile(self) -> int:
        """Size of a tile along the dimension that is cut."""
        dim = self.sharding.dim if self.sharding else 0
        return tile_shape(self.layout, tuple(self.parameter.shape))[dim]

    def _part(self, tensor: Tensor, step: int) -> Tensor:
        """Return this process's part of a tensor with a row for every ``step`` of the weight."""
        if self.sharding is None or is_spread(tensor):
            return local_part(tensor)
        return self.sharding.part(tensor.detach(), step)

    def _added_up(self, figures: Tensor) -> Tensor:
        """Add up figures of blocks that have a part in every process."""
        if self.sharding is None or self.is_divided:
            return figures
        return sum_over_ranks(figures, self.sharding.process_group)

    def _per_tile(self, figures: Tensor) -> Tensor:
        return figures if self.is_pattern else self.assignment.per_tile(figures)

    def _size(self, hard: Tensor) -> Tensor:
        """Size of what is kept here, in whole blocks, left on the device: no step waits for it."""
        shape = tuple(self.parameter.shape)
        if self.is_pattern:
            return hard.count_nonzero() * (self.layout.num_of / self.parameter.numel())
        if self.layout.num_whole_blocks(shape) == self.num_blocks:
            return count_true(hard)
        sizes = torch.from_numpy(self.layout.block_sizes(shape))
        if self.is_divided:
            sizes = self._part(sizes.reshape(self._grid), self._cut_tile).reshape(-1)
        return sizes.to(hard.device) @ hard.to(sizes.dtype)


def num_protected(layer: PlanLayer) -> int:
    """Return how many of a layer's blocks, the most valuable first, are always kept.

    At least the first rank slice of a balanced layout, which holds the best inputs of every group,
    so that no layer is cut off; all of what an n:m layout keeps.
    """
    layout = Layout.parse(layer.layout)
    if layout.kind is LayoutKind.N_M:
        return layout.num_kept
    return max(layer.min_kept_blocks, 1 if layout.balanced_step else 0)


def memory_order(tensor: Tensor) -> tuple[int, ...]:
    """Return the dimensions of a weight ``[out, in, *kernel]``, the largest stride first.

    Outputs stay before inputs, so that tiles keep their numbers; a weight that is stored the other
    way round keeps its own order, and is copied.
    """
    strides, sizes = tensor.stride(), tensor.shape
    order = sorted(range(tensor.ndim), key=lambda d: (-strides[d] * (sizes[d] > 1), d))
    is_turned = min(sizes[:2]) > 1 and order.index(0) > order.index(1)
    return tuple(range(tensor.ndim)) if is_turned else tuple(order)


def _tile(layout: Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes of a tile; of a part without rows as well."""
    return tuple(max(1, size) for size in tile_shape(layout, shape))


def assign_in_order(
    weight: Tensor, layout: Layout, order: tuple[int, ...]
) -> tuple[Tensor, BlockAssignment]:
    """Return the value of each block and the assignment of tiles, dimensions in memory order.

    The blocks are those of :func:`spartan_planner.blocks.assign_blocks`.  Tiles span the whole
    kernel, so they keep their numbers; single elements are numbered by their place in memory, and
    the tiles of an n:m layout are its elements.

    Args:
        weight: ``[out, in, *kernel]``, in its own order.
        layout: the layout.
        order: its dimensions in memory order.
    """
    shape = tuple(weight.shape)
    tile, ordered_shape = (
        tuple(sizes[d] for d in order) for sizes in (_tile(layout, shape), shape)
    )
    values = tile_values(weight.detach().permute(order), tile)
    if not layout.balanced_step:
        num_tiles = values.numel()
        return values.reshape(-1), BlockAssignment(tile, ordered_shape, None, num_tiles)
    back = sorted(range(len(order)), key=order.__getitem__)
    blocks = ranks_along(values.permute(back), 1) // layout.balanced_step
    block_of_tile = blocks.permute(order).contiguous()
    num_blocks = layout.num_blocks(shape)
    assignment = BlockAssignment(tile, ordered_shape, block_of_tile, num_blocks)
    return assignment.sum_tiles(values), assignment
