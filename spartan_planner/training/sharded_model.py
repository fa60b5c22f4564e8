"""A model sharded over processes by FSDP2, cut so that no block of a plan is; and whole again."""

import copy
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard

from cost_models import Layout
from spartan_planner.errors import TrainingError
from spartan_planner.planned_parameters import planned_parameters
from spartan_planner.planning import Plan
from spartan_planner.training.sharding import (
    local_part,
    require_whole_blocks,
    sharding_of,
    spread_as,
    whole_tensors,
)
from spartan_planner.transport.collective import hand_out


def sharded_copy(model: nn.Module, plan: Plan | None, device: torch.device) -> nn.Module:
    """Return a copy of a model whose parameters are spread over all processes.

    Members of ``nn.Sequential`` and ``nn.ModuleList`` that have modules of their own are gathered
    one at a time while the model runs, and the rest of it as a whole.  A weight is cut along its
    outputs, or where that would cut a block of the plan, along its inputs.  Buffers, such as the
    statistics of batch normalisation, are those of the first process, as under DDP.

    Args:
        model: whole, with the same weights in every process; it is left as it is.
        plan: the plan that the copy is to be trained to, if any.
        device: of this process.

    Raises:
        PlanError: the plan belongs to another model.
        TrainingError: there is one process only, or a block would be cut either way.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        raise TrainingError(
            "a model is sharded over several processes, and this is the only one; start them with "
            "torchrun or accelerate launch, or train without sharding"
        )
    sharded = copy.deepcopy(model).to(device)
    cuts = _cuts(sharded, plan, dist.get_world_size())
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in (*_repeated(sharded), sharded):
        fully_shard(module, mesh=mesh, shard_placement_fn=lambda p: Shard(cuts.get(id(p), 0)))
    buffers = list(sharded.buffers())
    sharded.register_forward_pre_hook(lambda *_: hand_out(buffers, dist.group.WORLD))
    return sharded


def take_whole(model: nn.Module, sharded: nn.Module) -> None:
    """Give a model the weights of its sharded copy; called on every process."""
    model.load_state_dict(whole_tensors(sharded.state_dict()))


def spread_alike(like: Tensor, whole: Tensor) -> Tensor:
    """Return a whole tensor as it is, or a copy spread as another tensor of its shape is."""
    sharding = sharding_of("", like)
    if sharding is None or whole.shape != like.shape:
        return whole
    part = torch.empty_like(local_part(like), dtype=whole.dtype).copy_(sharding.part(whole))
    return spread_as(like, part, tuple(like.shape))


def _repeated(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of a model that follow one another, the outermost only."""
    is_list = isinstance(module, nn.Sequential | nn.ModuleList)
    for child in module.children():
        if is_list and any(child.children()) and any(True for _ in child.parameters()):
            yield child
        else:
            yield from _repeated(child)


def _cuts(model: nn.Module, plan: Plan | None, num_parts: int) -> dict[int, int]:
    """Return the dimension along which each sparse layer's weight is cut, by its id."""
    if plan is None:
        return {}
    if plan.kept_units:
        raise TrainingError(
            "the plan removes channels, which are trained in whole parameters only; train with "
            "copies of the model instead of spreading it"
        )
    parameters = planned_parameters(model, plan)
    return {
        id(parameters[layer.name]): _cut(
            layer.name, Layout.parse(layer.layout), parameters[layer.name], num_parts
        )
        for layer in plan.sparse_layers
    }


def _cut(name: str, layout: Layout, weight: Tensor, num_parts: int) -> int:
    shape = tuple(weight.shape)
    # FSDP2 cuts other dimensions than the first into equal parts only.
    possible = [0, 1] if shape[1] % num_parts == 0 else [0]
    for dim in possible:
        try:
            require_whole_blocks(name, layout, shape, dim, num_parts)
        except TrainingError:
            if dim == possible[-1]:
                raise
        else:
            return dim
    raise AssertionError
