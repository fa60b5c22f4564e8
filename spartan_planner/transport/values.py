"""What must be known of the values before a search: that they are finite, and their range."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport.collective import sum_over_ranks
from spartan_planner.transport.packing import Pack
from spartan_planner.transport.passes import Segment, segment_extremes
from spartan_planner.transport.problem import Cost, NormalisedCost, Problem


def checked_extremes(
    problem: Problem, costs: Sequence[Cost | NormalisedCost], pack: Pack
) -> tuple[float, float]:
    """Return the least and greatest value per cost over all ranks, in one read.

    ``costs`` are the problem's, as given or normalised, and ``pack`` its pack under them.

    Raises:
        TransportError: A value is NaN or infinite, or a value per cost is beyond the range of a
            double; the message names the tensor, on every rank.
    """
    ends, bad = _local_extremes(problem, costs, pack)
    _refuse_non_finite(sum_over_ranks(bad, problem.process_group), problem.names)
    outer = torch.stack([ends[:, 0].min(), -ends[:, 1].max()])
    if problem.process_group is not None:
        dist.all_reduce(outer, op=dist.ReduceOp.MIN, group=problem.process_group)
    least, greatest = outer.tolist()
    return least, -greatest


def is_finite(values: Tensor) -> bool:
    """Say whether no value is NaN or infinite, without a temporary of their size."""
    if not values.numel():
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(values.detach()))).all())


def _local_extremes(
    problem: Problem, costs: Sequence[Cost | NormalisedCost], pack: Pack
) -> tuple[Tensor, Tensor]:
    """Return [rows, 2] least and greatest z (inf, -inf when empty), and flags of bad segments.

    The flags, int64 [2, segments], tell values that are not finite from a z that is not.
    """
    packed, device = frozenset(pack.indices), problem.device
    large = [i for i, v in enumerate(problem.segments) if v.numel() and i not in packed]
    empty = torch.tensor([math.inf, -math.inf], dtype=torch.float64, device=device)
    rows = [segment_extremes(Segment(problem.segments[i], costs[i])) for i in large]
    of_pack = torch.stack(torch.aminmax(pack.ratios)) if packed else empty
    ends = torch.stack([of_pack, *rows])
    # The pack stands for many: only when it is bad are its segments looked at one by one.
    good = torch.isfinite(ends).all(dim=1).tolist()
    bad = torch.zeros(2, len(problem.segments), dtype=torch.int64, device=device)
    for index, is_good in zip(large, good[1:], strict=True):
        if not is_good:
            bad[int(is_finite(problem.segments[index])), index] = 1
    if packed and not good[0]:
        finite = torch.isfinite(pack.ratios)
        for index, part in zip(pack.indices, torch.split(finite, list(pack.sizes)), strict=True):
            if not bool(part.all()):
                bad[int(is_finite(problem.segments[index])), index] = 1
    return ends, bad


def _refuse_non_finite(bad: Tensor, names: Sequence[str]) -> None:
    """Raise if any tensor was flagged, naming the flagged ones."""
    values, ratios = (
        ", ".join(name for name, flag in zip(names, flags, strict=True) if flag)
        for flags in bad.tolist()
    )
    if values:
        raise TransportError(f"Values of {values} are NaN or infinite; top-k needs finite values.")
    if ratios:
        raise TransportError(
            f"A value per cost of {ratios} is beyond the range of a double; scale the values or "
            f"the costs so that value / cost stays below 1e308."
        )
