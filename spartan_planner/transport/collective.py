"""The few exchanges between ranks, over a process group or alone: sums, counts per rank, copies."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def sum_over_ranks(local: Tensor, process_group: dist.ProcessGroup | None) -> Tensor:
    """Return the elementwise sum of ``local`` over the ranks, the same bits on every rank."""
    if process_group is None:
        return local
    total = local.clone()
    dist.all_reduce(total, group=process_group)
    return total


def counts_by_rank(local: Tensor, process_group: dist.ProcessGroup | None) -> Tensor:
    """Return ``local`` of every rank stacked in rank order, shape ``[ranks, *local.shape]``."""
    if process_group is None:
        return local.unsqueeze(0)
    gathered = [torch.empty_like(local) for _ in range(dist.get_world_size(process_group))]
    dist.all_gather(gathered, local, group=process_group)
    return torch.stack(gathered)


def hand_out(tensors: Sequence[Tensor], process_group: dist.ProcessGroup | None) -> None:
    """Overwrite tensors, alike on all ranks, by those of the first rank: a message per dtype."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        alike = [tensor for tensor in tensors if tensor.dtype == dtype and tensor.numel()]
        if process_group is None or not alike:
            continue
        joint = torch.cat([tensor.detach().reshape(-1) for tensor in alike])
        dist.broadcast(joint, group=process_group, group_src=0)
        for tensor, part in zip(alike, torch.split(joint, [t.numel() for t in alike]), strict=True):
            tensor.detach().copy_(part.view(tensor.shape))


def own_rank(process_group: dist.ProcessGroup | None) -> int:
    """Return the rank of this process in the group, 0 when there is none."""
    return 0 if process_group is None else dist.get_rank(process_group)
