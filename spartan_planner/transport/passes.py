"""Reads of the values on any device: torch operations on chunks that stay in cache.

Nothing here allocates more than a chunk beyond its output.  Two arithmetics share the formula
t = beta (v / c - anchor) - offset of the mask's logit: float64 as it stands, and float32 with
the price split in a high and a low part, so that the difference near the price is exact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spartan_planner.transport.narrow import narrow_logit
from spartan_planner.transport.problem import Cost, NormalisedCost, ScaledCosts
from spartan_planner.transport.results import Price
from spartan_planner.transport.root import Sums

# Measured on two AVX-512 cores with 2 MB of L2 each (docs/transport.md): large enough to hide
# the cost of a call, small enough that a chunk and its scratch stay in L2.
_CPU_CHUNK = 1 << 18
# On a GPU a chunk only bounds the scratch memory.
_GPU_CHUNK = 1 << 24
# Largest float32 is 3.4e38: beyond this the narrow arithmetic could overflow.
_NARROW_RANGE = 1.0e30


@dataclass(frozen=True)
class Segment:
    """Flat values and the mean-normalised cost of a block, one or one per element."""

    values: Tensor
    cost: Cost | NormalisedCost


def chunk_size(device: torch.device) -> int:
    """Return how many elements one operation works on."""
    return _CPU_CHUNK if device.type == "cpu" else _GPU_CHUNK


def chunk_size_of(segment: "Segment") -> int:
    """Return how many elements of a segment one operation works on.

    Costs per element are two more float64 temporaries: half as many.
    """
    size = chunk_size(segment.values.device)
    return size // 2 if isinstance(segment.cost, Tensor | ScaledCosts) else size


def chunk_bounds(length: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of consecutive chunks of at most ``size`` elements."""
    for start in range(0, length, size):
        yield start, min(start + size, length)


def cost_chunk(cost: Cost | NormalisedCost, start: int, stop: int) -> Cost:
    """Return the costs of elements start to stop: the number itself, or a slice."""
    return cost[start:stop] if isinstance(cost, Tensor | ScaledCosts) else cost


def is_narrow_safe(segments: Sequence[Segment], price: Price, beta: float) -> bool:
    """Say whether float32 arithmetic represents the logits of all segments near the price.

    The price's low part carries 48 bits together with the high one, so the logit's absolute
    error is about ``beta * |price| * 2**-48``; 1e7 keeps it below 1e-7.
    """
    for segment in segments:
        if isinstance(segment.cost, Tensor | ScaledCosts) or segment.values.dtype == torch.float64:
            return False
        if beta / segment.cost > _NARROW_RANGE or segment.cost * abs(price.anchor) > _NARROW_RANGE:
            return False
    return beta * abs(price.anchor) <= 1.0e7


def fill_logits(out: Tensor, values: Tensor, cost: Cost, price: Price, beta: float) -> None:
    """Write beta (v / c - anchor) - offset to ``out``, in the arithmetic of its dtype."""
    if out.dtype == torch.float64:
        out.copy_(values).div_(cost).sub_(price.anchor).mul_(beta).sub_(price.offset)
        return
    assert not isinstance(cost, Tensor)
    logit = narrow_logit(cost, price, beta)
    if values.dtype == torch.float32:
        torch.sub(values, logit.high, out=out)
    else:
        out.copy_(values).sub_(logit.high)
    torch.add(torch.tensor(logit.shift, dtype=torch.float32), out, alpha=logit.scale, out=out)


def segment_extremes(segment: Segment) -> Tensor:
    """Return the least and the greatest z = v / c, float64 [2]; NaN if any value is."""
    if not isinstance(segment.cost, Tensor | ScaledCosts):
        low, high = torch.aminmax(segment.values)
        return torch.stack([low, high]).double() / segment.cost
    ends = []
    for start, stop in chunk_bounds(segment.values.numel(), chunk_size_of(segment)):
        ratio = segment.values[start:stop].double() / segment.cost[start:stop]
        ends.append(torch.stack(torch.aminmax(ratio)))
    both = torch.stack(ends)
    return torch.stack([both[:, 0].amin(), both[:, 1].amax()])


def mask_sums(
    segments: Sequence[Segment], price: Price, beta: float, arithmetic: torch.dtype
) -> Tensor:
    """Return [mass, spread, skew] of :class:`Sums` over the segments, float64 [3].

    One read of the values: sums of m, m**2 and m**3 within a chunk, float64 across chunks.
    """
    device = segments[0].values.device
    longest = max(min(chunk_size_of(segment), segment.values.numel()) for segment in segments)
    scratch = torch.empty(2, longest, dtype=arithmetic, device=device)
    rows, weights = [], []
    for segment in segments:
        for start, stop in chunk_bounds(segment.values.numel(), chunk_size_of(segment)):
            mask, other = scratch[0, : stop - start], scratch[1, : stop - start]
            cost = cost_chunk(segment.cost, start, stop)
            fill_logits(mask, segment.values[start:stop], cost, price, beta)
            torch.sigmoid(mask, out=mask)
            rows.append(_power_sums(mask, other, cost))
            weights.append(1.0 if isinstance(cost, Tensor) else cost)
    powers = torch.stack(rows).double()
    weight = torch.tensor(weights, dtype=torch.float64, device=device)
    return _sums_of_powers(weight @ powers)


def _power_sums(mask: Tensor, other: Tensor, cost: Cost) -> Tensor:
    """Return the sums of m, m**2, m**3 over a chunk, weighted by the costs if they are many."""
    if isinstance(cost, Tensor):
        weighted = mask * cost
        torch.mul(mask, mask, out=other)
        return torch.stack([weighted.sum(), weighted @ mask, weighted @ other])
    torch.mul(mask, mask, out=other)
    return torch.stack([mask.sum(), mask @ mask, mask @ other])


def _sums_of_powers(powers: Tensor) -> Tensor:
    """Return mass, spread, skew from sum c m, sum c m**2, sum c m**3."""
    first, second, third = powers.unbind()
    return torch.stack([first, first - second, first - 3.0 * second + 2.0 * third])


def as_sums(sums: Tensor) -> Sums:
    """Return a float64 [3] tensor as numbers (one synchronisation on a GPU)."""
    mass, spread, skew = sums.tolist()
    return Sums(mass, spread, skew)


def write_masks(
    segments: Sequence[Segment],
    outputs: Sequence[Tensor],
    price: Price,
    beta: float,
    arithmetic: torch.dtype,
) -> Tensor:
    """Write the masks to the flat ``outputs`` and return their mass sum c m, float64 [].

    The sum is that of the masks before they are rounded to the dtype of the output.
    """
    device = segments[0].values.device
    longest = max(min(chunk_size_of(segment), segment.values.numel()) for segment in segments)
    scratch = torch.empty(longest, dtype=arithmetic, device=device)
    parts, weights = [], []
    for segment, output in zip(segments, outputs, strict=True):
        for start, stop in chunk_bounds(segment.values.numel(), chunk_size_of(segment)):
            in_place = output.dtype == arithmetic
            mask = output[start:stop] if in_place else scratch[: stop - start]
            cost = cost_chunk(segment.cost, start, stop)
            fill_logits(mask, segment.values[start:stop], cost, price, beta)
            torch.sigmoid(mask, out=mask)
            parts.append((mask @ cost.to(mask.dtype)) if isinstance(cost, Tensor) else mask.sum())
            weights.append(1.0 if isinstance(cost, Tensor) else cost)
            if not in_place:
                output[start:stop].copy_(mask)
    weight = torch.tensor(weights, dtype=torch.float64, device=device)
    return weight @ torch.stack(parts).double()
