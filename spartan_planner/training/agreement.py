"""Whether all processes that train one model hold the same masks: one small exchange of hashes."""

import struct
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from spartan_planner.errors import TrainingError
from spartan_planner.training.competition import CompetitionState
from spartan_planner.training.planned_weight import PlannedWeight

_CHUNK = 1 << 20
_MULTIPLIERS = (0x9E3779B97F4A7C15 - (1 << 64), 0x42B2AE3D27D4EB4F)
"""Odd numbers: products of positions with them wrap around in int64 and look random."""


def require_agreement(
    weights: Sequence[PlannedWeight],
    state: CompetitionState,
    process_group: dist.ProcessGroup | None,
) -> None:
    """Compare masks over the processes that train one model; called on every one of them.

    Where each process holds a whole weight the hash covers which of its elements are zero.  Where
    a weight is spread no other process has what this one has; the hash then covers what all
    computed together and must have bit for bit: price, beta, spread, how much of the layer is kept.

    Args:
        weights: the planned weights.
        state: of their competition.
        process_group: the processes; ``None`` for this one alone.

    Raises:
        TrainingError: they differ; names the first such layer, on every process.
    """
    if process_group is None or not weights:
        return
    shared = _digest_of_numbers(state.price, state.beta, state.spread)
    digests = torch.stack([_digest(weight, shared) for weight in weights])
    # A bit less, so that the greatest and the least are both to be had from one maximum.
    halves = digests.bitwise_right_shift(1)
    extremes = torch.stack([halves, -halves])
    dist.all_reduce(extremes, dist.ReduceOp.MAX, group=process_group)
    differing = (extremes[0] != -extremes[1]).tolist()
    named = [weight.name for weight, differs in zip(weights, differing, strict=True) if differs]
    if named:
        others = f" and {len(named) - 1} more" * (len(named) > 1)
        raise TrainingError(
            f"the processes have different masks for layer {named[0]}{others}; something wrote to "
            "the weights or the state of one process alone: resume all of them from the last "
            "checkpoint"
        )


def mask_digest(mask: Tensor) -> Tensor:
    """Return a hash of which elements of a boolean tensor are true, one int64 number.

    ``sum_i mask_i (i k1 xor (i k1 >> 29)) k2`` in int64, ``i`` counting from 1: sums that wrap
    around are the same in any order.
    """
    flat = mask.reshape(-1)
    total = torch.zeros((), dtype=torch.int64, device=mask.device)
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK]
        positions = torch.arange(start + 1, start + 1 + part.numel(), device=mask.device)
        mixed = positions * _MULTIPLIERS[0]
        mixed = (mixed ^ (mixed >> 29)) * _MULTIPLIERS[1]
        total += (mixed * part).sum()
    return total


def _digest(weight: PlannedWeight, shared: int) -> Tensor:
    """Return what every process must have alike of a weight, as one int64 number."""
    size = torch.zeros((), dtype=torch.float64) if weight.kept_size is None else weight.kept_size
    local = weight.local
    digest = size.double().to(local.device).view(torch.int64)
    return digest + (shared if weight.sharding else mask_digest(local != 0))


def _digest_of_numbers(*numbers: float | None) -> int:
    """Return the bits of doubles, mixed into one number of 62 bits."""
    total = 0
    for number in numbers:
        (bits,) = struct.unpack("<q", struct.pack("<d", float("nan") if number is None else number))
        total = (total * _MULTIPLIERS[0] + bits) % (1 << 62)
    return total
