"""Small segments joined to one, so that many tensors of few blocks do not cost a call each.

A copy of at most ``PACKED_BLOCKS`` blocks in float64, whatever the problem's size; the large
segments are read where they are.  A problem up to that size is its own pack.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from spartan_planner.transport.float_order import order_keys
from spartan_planner.transport.problem import Cost, NormalisedCost, Problem, ScaledCosts
from spartan_planner.transport.results import Price

#: Blocks that may be packed: two megabytes with their costs.
PACKED_BLOCKS = 1 << 17


@dataclass(frozen=True)
class Pack:
    """The blocks of some segments of a problem, in order of position.

    ``indices``: the segments' places in the problem; ``sizes``: their blocks; ``ratios``: z,
    float64 [m]; ``costs``: the cost of each block, float64 [m] or a number when all cost the same.
    """

    indices: tuple[int, ...]
    sizes: tuple[int, ...]
    ratios: Tensor
    costs: Cost

    @property
    def masses(self) -> Tensor:
        """Cost of every block, float64 [m]."""
        if isinstance(self.costs, Tensor):
            return self.costs
        return torch.full_like(self.ratios, self.costs)

    @property
    def mass(self) -> float:
        """Cost of all blocks."""
        if isinstance(self.costs, Tensor):
            return float(self.costs.sum())
        return self.costs * self.ratios.numel()

    @cached_property
    def keys(self) -> Tensor:
        """Order keys of z, int64 [m]."""
        return order_keys(self.ratios)

    @cached_property
    def segments(self) -> Tensor:
        """The place in the problem of every block's segment, int64 [m]."""
        places = torch.tensor(self.indices, dtype=torch.int64, device=self.ratios.device)
        return spread(places, self.sizes)

    def masks(self, price: Price, beta: float) -> Tensor:
        """Return the soft masks, float64 [m]."""
        logits = self.ratios.sub(price.anchor).mul_(beta)
        if price.offset:
            logits.sub_(price.offset)
        return logits.sigmoid_()

    def weighted(self, terms: Tensor) -> Tensor:
        """Return sum c x over the blocks, float64 []."""
        return terms @ self.costs if isinstance(self.costs, Tensor) else terms.sum() * self.costs

    def sums(self, price: Price, beta: float) -> Tensor:
        """Return [mass, spread, skew] over the blocks (``root.Sums``), float64 [3]."""
        mask = self.masks(price, beta)
        weighted = mask * self.costs
        first, second = weighted.sum(), weighted @ mask
        third = weighted @ mask.mul_(mask)
        return torch.stack([first, first - second, first - 3.0 * second + 2.0 * third])

    def split(self, flat: Tensor, outputs: Sequence[Tensor]) -> None:
        """Write what belongs to each segment to its flat output."""
        torch._foreach_copy_(list(outputs), list(torch.split(flat, list(self.sizes))))


def is_wholly_packed(problem: Problem) -> bool:
    """Say whether the packs of all ranks hold all blocks of a problem."""
    return problem.num_blocks <= PACKED_BLOCKS


def spread(per_segment: Tensor, sizes: Sequence[int]) -> Tensor:
    """Repeat each segment's entry for each of its blocks."""
    counts = torch.tensor(sizes, dtype=torch.int64, device=per_segment.device)
    return per_segment.repeat_interleave(counts, output_size=sum(sizes))


def packed_indices(problem: Problem) -> tuple[int, ...]:
    """Return which segments are packed: the smallest, as many as fit, none that is empty."""
    sizes = [segment.numel() for segment in problem.segments]
    chosen, room = [], PACKED_BLOCKS
    for index in sorted(range(len(sizes)), key=sizes.__getitem__):
        room -= sizes[index]
        if room < 0:
            break
        if sizes[index]:
            chosen.append(index)
    return tuple(sorted(chosen))


def pack(problem: Problem, costs: Sequence[Cost | NormalisedCost]) -> Pack:
    """Join the small segments; ``costs`` are the problem's, as given or normalised."""
    indices = packed_indices(problem)
    segments = [problem.segments[index] for index in indices]
    sizes = tuple(segment.numel() for segment in segments)
    chosen = [costs[index] for index in indices]
    values = _joined(segments, problem.device)
    cost = _joined_costs(chosen, sizes, problem.device)
    return Pack(indices, sizes, values.div_(cost), cost)


def _joined(segments: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return all values in float64, a copy."""
    if len({segment.dtype for segment in segments}) == 1:
        joined = torch.cat(list(segments))
        return joined if joined.dtype == torch.float64 else joined.double()
    empty = torch.empty(0, dtype=torch.float64, device=device)
    return torch.cat([empty, *(segment.double() for segment in segments)])


def _joined_costs(
    costs: Sequence[Cost | NormalisedCost], sizes: Sequence[int], device: torch.device
) -> Cost:
    """Return one number if all cost the same, else the cost of every block."""
    numbers = [float(cost) for cost in costs if not isinstance(cost, Tensor | ScaledCosts)]
    if len(numbers) == len(costs):
        if len(set(numbers)) <= 1:
            return numbers[0] if numbers else 1.0
        return spread(torch.tensor(numbers, dtype=torch.float64, device=device), sizes)
    return torch.cat(
        [
            cost[:].double()
            if isinstance(cost, Tensor | ScaledCosts)
            else torch.full((size,), cost, dtype=torch.float64, device=device)
            for cost, size in zip(costs, sizes, strict=True)
        ]
    )
