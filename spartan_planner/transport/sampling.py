"""A deterministic sample of the blocks, small enough to solve on in no time.

A solve on the sample starts the solve on all values within about a hundredth of a logit of the
price.  It costs a thousandth of a read, where a histogram of z would cost a whole one.  Problems
that fit into a sample are the sample, and the solve on it is exact.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spartan_planner.transport.float_order import order_keys
from spartan_planner.transport.problem import Cost, Problem

#: Blocks in a sample, over all segments; problems up to this size are taken whole.
SAMPLE_BLOCKS = 1 << 16
#: Every segment gives at least this many blocks, or all it has.
_LEAST_PER_SEGMENT = 64
# Knuth's multiplicative constant spreads the offsets within strata; any odd number would do.
_SCATTER = 2654435761


@dataclass(frozen=True)
class Sample:
    """Sampled blocks: value per mean cost, and the mean-normalised cost each one stands for.

    ``ratios`` float64 [m], ``masses`` float64 [m]; ``exact`` when every block of every rank is in
    the sample.
    """

    ratios: Tensor
    masses: Tensor
    exact: bool


@dataclass(frozen=True)
class SampledKeys:
    """Order keys of value per cost as given (int64 [m]) and the segments they are from."""

    keys: Tensor
    segments: Tensor


def stratified_indices(length: int, count: int, device: torch.device) -> Tensor:
    """Return ``count`` indices below ``length``, one scattered in each of ``count`` strata.

    A plain stride would fall in step with the rows of a weight; the scatter is deterministic.
    """
    if count >= length:
        return torch.arange(length, device=device)
    strata = torch.arange(count + 1, device=device) * length // count
    width = strata[1:] - strata[:-1]
    return strata[:-1] + (torch.arange(count, device=device) * _SCATTER) % (1 << 31) % width


def _quotas(problem: Problem, exact: bool) -> list[int]:
    """Return how many blocks each local segment contributes: all, or by its share of the cost."""
    sizes = [segment.numel() for segment in problem.segments]
    if exact:
        return sizes
    shares = [
        float(cost.sum(dtype=torch.float64)) if isinstance(cost, Tensor) else size * cost
        for size, cost in zip(sizes, problem.costs, strict=True)
    ]
    fair = [max(int(SAMPLE_BLOCKS * share / problem.total), _LEAST_PER_SEGMENT) for share in shares]
    return [min(size, quota) for size, quota in zip(sizes, fair, strict=True)]


def _sampled_segment(values: Tensor, cost: Cost, quota: int) -> tuple[Tensor, Tensor]:
    """Return z and the cost stood for of ``quota`` blocks of a segment, in the cost's unit."""
    index = stratified_indices(values.numel(), quota, values.device)
    chosen = values[index].double()
    if isinstance(cost, Tensor):
        costs = cost[index].double()
        whole = cost.sum(dtype=torch.float64)
        return chosen / costs, costs * (whole / costs.sum() if quota < values.numel() else 1.0)
    return chosen / cost, torch.full_like(chosen, cost * (values.numel() / max(quota, 1)))


def take_sample(problem: Problem) -> Sample:
    """Return a stratified sample of the local blocks, costs in mean costs."""
    exact = problem.num_blocks <= SAMPLE_BLOCKS
    pairs = [
        _sampled_segment(segment, cost, quota)
        for segment, cost, quota in zip(
            problem.segments, problem.normalised_costs, _quotas(problem, exact), strict=True
        )
    ]
    return Sample(torch.cat([z for z, _ in pairs]), torch.cat([m for _, m in pairs]), exact)


def sample_keys(problem: Problem) -> SampledKeys:
    """Return order keys of a stratified sample of the local blocks."""
    keys, origins = [], []
    quotas = _quotas(problem, exact=False)
    triples = zip(problem.segments, problem.costs, quotas, strict=True)
    for position, (segment, cost, quota) in enumerate(triples):
        index = stratified_indices(segment.numel(), quota, segment.device)
        found = order_keys(segment[index].double() / cost)
        keys.append(found)
        origins.append(torch.full_like(found, position))
    return SampledKeys(torch.cat(keys), torch.cat(origins))
