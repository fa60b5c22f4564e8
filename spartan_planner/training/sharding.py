"""Weights that FSDP2 spreads over processes: which part is here, and whether blocks stay whole.

``fully_shard`` makes every parameter a ``DTensor``, cut along one dimension into parts of
``ceil(size / processes)``; the last ones may be smaller, or empty.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard

from cost_models import Layout, LayoutKind
from spartan_planner.blocks import tile_shape
from spartan_planner.errors import TrainingError


@dataclass(frozen=True)
class Sharding:
    """How a weight is spread over processes.

    Attributes:
        process_group: the processes that hold a part each.
        dim: dimension of the weight along which it is cut.
        part_size: rows along it of every part but the last ones.
        num_parts: processes of the group.
        rank: of this process in the group.
    """

    process_group: dist.ProcessGroup
    dim: int
    part_size: int
    num_parts: int
    rank: int

    def part(self, whole: Tensor, step: int = 1) -> Tensor:
        """View what this process holds of a tensor with one row for every ``step`` of the weight.

        Args:
            whole: has the weight's dimensions; along :attr:`dim` a row, or a row of tiles.
            step: outputs (or inputs) of a tile.
        """
        size, rows = whole.shape[self.dim], -(-self.part_size // step)
        first = min(size, self.rank * rows)
        return whole.narrow(self.dim, first, min(rows, size - first))


def sharding_of(name: str, parameter: Tensor) -> Sharding | None:
    """Return how a parameter is spread, ``None`` where this process holds all of it.

    Raises:
        TrainingError: it is cut along several dimensions, or in another way than FSDP2 does.
    """
    if not isinstance(parameter, DTensor):
        return None
    cuts = [i for i, p in enumerate(parameter.placements) if not isinstance(p, Replicate)]
    if len(cuts) > 1 or any(type(parameter.placements[i]) is not Shard for i in cuts):
        raise TrainingError(
            f"layer {name} is spread as {parameter.placements}; a sparse layer can be cut along "
            "one dimension, as fully_shard does, and be copied: leave it out of other parallelism"
        )
    if not cuts:
        return None
    group = parameter.device_mesh.get_group(cuts[0])
    placement, num_parts = parameter.placements[cuts[0]], dist.get_world_size(group)
    assert isinstance(placement, Shard)
    dim = placement.dim
    rows = part_size(parameter.shape[dim], num_parts)
    return Sharding(group, dim, rows, num_parts, dist.get_rank(group))


def require_whole_blocks(
    name: str, layout: Layout, shape: tuple[int, ...], dim: int, num_parts: int
) -> None:
    """Refuse to cut the blocks of a layer by spreading its weight over processes.

    A balanced layout may be cut between its groups of outputs: its rank slices then have a part in
    every process, which are added up.

    Args:
        name: of the layer.
        layout: of its blocks.
        shape: of its weight.
        dim: dimension that is cut.
        num_parts: processes.

    Raises:
        TrainingError: a part of the weight ends inside a block.
    """
    step, size = _indivisible(layout, shape, dim), part_size(shape[dim], num_parts)
    inside = [cut for cut in range(size, shape[dim], size) if cut % step]
    if inside:
        raise TrainingError(
            f"layer {name} of shape {shape} is cut for {num_parts} processes at {inside[0]} of "
            f"dimension {dim}, inside a block of its layout {layout}; use another number of "
            f"processes, plan blocks that fit into parts of {size}, keep the layer dense, or cut "
            "another dimension (shard_placement_fn of fully_shard)"
        )


def part_size(size: int, num_parts: int) -> int:
    """Return the rows of every part but the last ones."""
    return -(-size // num_parts)


def _indivisible(layout: Layout, shape: tuple[int, ...], dim: int) -> int:
    """Return the rows along a dimension that must stay together."""
    if layout.kind is LayoutKind.N_M:
        return layout.num_of if dim == 1 else 1
    if layout.balanced_step and dim == 1:
        return shape[1]
    return tile_shape(layout, shape)[dim]


def local_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, without its history; shares its memory."""
    held = tensor.detach()
    return held.to_local() if isinstance(held, DTensor) else held


def is_spread(tensor: Tensor) -> bool:
    """Whether a tensor is spread over processes."""
    return isinstance(tensor, DTensor)


def spread_as(parameter: Tensor, part: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor of that shape, spread as the parameter is, that has this part here.

    The part itself where the parameter is not spread.
    """
    if not isinstance(parameter, DTensor):
        return part
    strides = torch.empty(shape, device="meta").stride()
    mesh, placements = parameter.device_mesh, parameter.placements
    size = torch.Size(shape)
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=size, stride=strides)


def whole_tensors(tree: Any, is_kept: bool = True) -> Any:  # noqa: ANN401 - any state
    """Return a state with every tensor that is spread gathered; called on every process.

    Args:
        tree: dictionaries, lists and tuples of anything.
        is_kept: whether this process wants them, on the CPU; ``None`` takes their place where not.
    """
    if isinstance(tree, DTensor):
        whole = tree.full_tensor().detach()
        return whole.cpu() if is_kept else None
    if isinstance(tree, dict):
        return {key: whole_tensors(value, is_kept) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(whole_tensors(item, is_kept) for item in tree)
    return tree


def common_group(shardings: dict[str, Sharding | None]) -> dist.ProcessGroup | None:
    """Return the processes over which layers are spread, ``None`` where none is.

    Raises:
        TrainingError: not all are spread over the same ones.
    """
    spread = {name: s for name, s in shardings.items() if s and s.num_parts > 1}
    groups = {name: dist.get_process_group_ranks(s.process_group) for name, s in spread.items()}
    for name, ranks in groups.items():
        first, expected = next(iter(groups.items()))
        if ranks != expected:
            raise TrainingError(
                f"layer {first} is spread over the processes {expected}, layer {name} over "
                f"{ranks}; shard all sparse layers over the same ones"
            )
    return next((s.process_group for s in spread.values() if s), None)


def reshard(model: nn.Module) -> None:
    """Drop whole weights that FSDP2 keeps after a forward pass: they would hide what is written."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
