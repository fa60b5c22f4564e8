"""A deterministic sample of the blocks, small enough to solve on in no time.

A solve on the sample starts the solve on all values within about a hundredth of a logit of the
price.  It costs a thousandth of a read, where a histogram of z would cost a whole one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spartan_planner.transport.float_order import order_keys
from spartan_planner.transport.packing import Pack
from spartan_planner.transport.problem import Cost, NormalisedCost, Problem, ScaledCosts

#: Blocks in a sample, over all segments.
SAMPLE_BLOCKS = 1 << 16
#: Every segment gives at least this many blocks, or all it has.
_LEAST_PER_SEGMENT = 64
# Knuth's multiplicative constant spreads the offsets within strata; any odd number would do.
_SCATTER = 2654435761


@dataclass(frozen=True)
class Sample:
    """Sampled local blocks: z, and the cost that each one stands for.

    ``ratios`` float64 [m], ``masses`` float64 [m]; ``segments`` int64 [m], where they are from.
    """

    ratios: Tensor
    masses: Tensor
    segments: Tensor

    @property
    def keys(self) -> Tensor:
        """Order keys of z, int64 [m]."""
        return order_keys(self.ratios)


def stratified_indices(length: int, count: int, device: torch.device) -> Tensor:
    """Return ``count`` indices below ``length``, one scattered in each of ``count`` strata.

    A plain stride would fall in step with the rows of a weight; the scatter is deterministic.
    """
    if count >= length:
        return torch.arange(length, device=device)
    strata = torch.arange(count + 1, device=device) * length // count
    width = strata[1:] - strata[:-1]
    return strata[:-1] + (torch.arange(count, device=device) * _SCATTER) % (1 << 31) % width


def take_sample(
    problem: Problem, costs: Sequence[Cost | NormalisedCost], pack: Pack, size: int | None = None
) -> Sample:
    """Return a stratified sample of the local blocks; ``costs`` as given or normalised.

    ``size``: blocks over all ranks, :data:`SAMPLE_BLOCKS` unless told.
    """
    size = SAMPLE_BLOCKS if size is None else size
    packed = frozenset(pack.indices)
    shares = [size * cost / problem.total for cost in problem.local_costs]
    parts = [_from_pack(pack, max(int(sum(shares[i] for i in packed)), _LEAST_PER_SEGMENT))]
    for index, (segment, cost) in enumerate(zip(problem.segments, costs, strict=True)):
        if index not in packed and segment.numel():
            quota = min(max(int(shares[index]), _LEAST_PER_SEGMENT), segment.numel())
            ratios, masses = _from_segment(segment, cost, quota)
            parts.append((ratios, masses, torch.full_like(ratios, index, dtype=torch.int64)))
    ratios, masses, segments = (torch.cat(list(column)) for column in zip(*parts, strict=True))
    return Sample(ratios, masses, segments)


def _from_segment(values: Tensor, cost: Cost | NormalisedCost, quota: int) -> tuple[Tensor, Tensor]:
    """Return z and the cost stood for of ``quota`` blocks of a segment."""
    index = stratified_indices(values.numel(), quota, values.device)
    chosen = values[index].double()
    stands_for = values.numel() / max(quota, 1)
    if isinstance(cost, Tensor | ScaledCosts):
        costs = cost[index].double()
        return chosen / costs, costs * stands_for
    return chosen / cost, torch.full_like(chosen, cost * stands_for)


def _from_pack(pack: Pack, quota: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return z, cost stood for and segments of about ``quota`` blocks of a pack.

    Drawn by cost, one scattered in each of ``quota`` strata of equal cost: a dear block may come
    several times.
    """
    count = pack.ratios.numel()
    if count <= quota:
        return pack.ratios, pack.masses, pack.segments
    if not isinstance(pack.costs, Tensor):
        index = stratified_indices(count, quota, pack.ratios.device)
        mass = pack.costs * count
    else:
        cumulative = pack.costs.cumsum(0)
        mass = float(cumulative[-1])
        steps = torch.arange(quota, device=cumulative.device)
        scatter = (steps * _SCATTER % (1 << 31)).double() / (1 << 31)
        index = torch.searchsorted(cumulative, (steps + scatter) * (mass / quota))
        index.clamp_(max=count - 1)
    masses = torch.full((quota,), mass / quota, dtype=torch.float64, device=index.device)
    return pack.ratios[index], masses, pack.segments[index]
