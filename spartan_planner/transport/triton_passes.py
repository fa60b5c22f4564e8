"""Fused GPU reads in Triton: the logit, the sigmoid and the sums in one kernel.

The same formulas as :mod:`spartan_planner.transport.passes` in float32 (the narrow arithmetic),
one launch per segment; partial sums per program are added in float64.  Runs on a CPU under
Triton's interpreter (``TRITON_INTERPRET=1``), which is how it is tested where there is no GPU.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from spartan_planner.transport.narrow import NarrowLogit, narrow_logit
from spartan_planner.transport.passes import Segment
from spartan_planner.transport.results import Price

_BLOCK = 4096


@triton.jit  # type: ignore[untyped-decorator]
def _sums_kernel(values, parts, length, high, scale, shift, programs, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, N803
    """Add up m, m (1 - m), m (1 - m)(1 - 2 m) of a stretch of blocks."""
    program = tl.program_id(0)
    first = tl.zeros((BLOCK,), tl.float32)
    second = tl.zeros((BLOCK,), tl.float32)
    third = tl.zeros((BLOCK,), tl.float32)
    start = program * BLOCK
    while start < length:
        index = start + tl.arange(0, BLOCK)
        inside = index < length
        value = tl.load(values + index, mask=inside, other=0.0).to(tl.float32)
        logit = (value - high) * scale + shift
        mask = tl.where(inside, 1.0 / (1.0 + tl.exp(-logit)), 0.0)
        spread = mask * (1.0 - mask)
        first += mask
        second += spread
        third += spread * (1.0 - 2.0 * mask)
        start += programs * BLOCK
    tl.store(parts + program * 3, tl.sum(first.to(tl.float64)))
    tl.store(parts + program * 3 + 1, tl.sum(second.to(tl.float64)))
    tl.store(parts + program * 3 + 2, tl.sum(third.to(tl.float64)))


@triton.jit  # type: ignore[untyped-decorator]
def _write_kernel(values, output, parts, length, high, scale, shift, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, N803
    """Write m of one block of elements and add it up."""
    program = tl.program_id(0)
    index = program * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    inside = index < length
    value = tl.load(values + index, mask=inside, other=0.0).to(tl.float32)
    logit = (value - high) * scale + shift
    mask = tl.where(inside, 1.0 / (1.0 + tl.exp(-logit)), 0.0)
    tl.store(output + index, mask.to(output.dtype.element_ty), mask=inside)
    tl.store(parts + program, tl.sum(mask.to(tl.float64)))


def mask_sums(segments: Sequence[Segment], price: Price, beta: float, programs: int) -> Tensor:
    """Return [mass, spread, skew] over the segments, float64 [3]; one launch per segment."""
    device = segments[0].values.device
    total = torch.zeros(3, dtype=torch.float64, device=device)
    for segment in segments:
        logit, cost = _logit_of(segment, price, beta)
        count = min(programs, triton.cdiv(segment.values.numel(), _BLOCK))
        parts = torch.empty(count, 3, dtype=torch.float64, device=device)
        _sums_kernel[(count,)](
            segment.values,
            parts,
            segment.values.numel(),
            logit.high,
            logit.scale,
            logit.shift,
            count,
            BLOCK=_BLOCK,
        )
        total += cost * parts.sum(0)
    return total


def write_masks(
    segments: Sequence[Segment], outputs: Sequence[Tensor], price: Price, beta: float
) -> Tensor:
    """Write the masks to the flat ``outputs`` and return their mass, float64 []."""
    device = segments[0].values.device
    total = torch.zeros((), dtype=torch.float64, device=device)
    for segment, output in zip(segments, outputs, strict=True):
        logit, cost = _logit_of(segment, price, beta)
        count = triton.cdiv(segment.values.numel(), _BLOCK)
        parts = torch.empty(count, dtype=torch.float64, device=device)
        _write_kernel[(count,)](
            segment.values,
            output,
            parts,
            segment.values.numel(),
            logit.high,
            logit.scale,
            logit.shift,
            BLOCK=_BLOCK,
        )
        total += cost * parts.sum()
    return total


def _logit_of(segment: Segment, price: Price, beta: float) -> tuple[NarrowLogit, float]:
    """Return the logit's numbers and the cost of a segment with one cost for all."""
    assert isinstance(segment.cost, float)
    return narrow_logit(segment.cost, price, beta), segment.cost
