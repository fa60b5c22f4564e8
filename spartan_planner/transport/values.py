"""What must be known of the values before a search: that they are finite, and their range."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport.collective import sum_over_ranks
from spartan_planner.transport.passes import Segment, segment_extremes
from spartan_planner.transport.problem import Cost, Problem


def checked_extremes(problem: Problem, costs: Sequence[Cost]) -> tuple[float, float]:
    """Return the least and greatest value per cost over all ranks, in one read.

    ``costs`` are the problem's, as given or normalised.

    Raises:
        TransportError: A value is NaN or infinite; the message names the tensor, on every rank.
    """
    ends, bad = _local_extremes(problem, costs)
    _refuse_non_finite(sum_over_ranks(bad, problem.process_group), problem.names)
    if problem.process_group is not None:
        ends[:, 1].neg_()
        dist.all_reduce(ends, op=dist.ReduceOp.MIN, group=problem.process_group)
        ends[:, 1].neg_()
    return float(ends[:, 0].min()), float(ends[:, 1].max())


def _local_extremes(problem: Problem, costs: Sequence[Cost]) -> tuple[Tensor, Tensor]:
    """Return [segments, 2] least and greatest z (inf, -inf when empty) and flags of bad ones."""
    pairs = zip(problem.segments, costs, strict=True)
    empty = torch.tensor([math.inf, -math.inf], dtype=torch.float64, device=problem.device)
    rows = [
        segment_extremes(Segment(values, cost)) if values.numel() else empty
        for values, cost in pairs
    ]
    ends = torch.stack(rows)
    filled = torch.tensor([values.numel() > 0 for values in problem.segments], device=ends.device)
    bad = ~torch.isfinite(ends).all(dim=1) & filled
    return ends, bad.long()


def _refuse_non_finite(bad: Tensor, names: Sequence[str]) -> None:
    """Raise if any tensor was flagged, naming the flagged ones."""
    flagged = [name for name, flag in zip(names, bad.tolist(), strict=True) if flag]
    if flagged:
        raise TransportError(
            f"Values of {', '.join(flagged)} are NaN or infinite; top-k needs finite values."
        )
