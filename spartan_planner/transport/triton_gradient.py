"""The derivative of soft top-k in two launches: two sums, then the elements (DESIGN 4.2, 4.4).

With weights given, blocks are single elements: g = G theta is formed on the way, and what is
written is dL/dtheta = G m + sign(theta) dL/dv.  Nothing leaves the device.
"""

# ruff: noqa: ANN001, ANN201, N803 - Triton reads the arguments' values, not their types
from collections.abc import Sequence

import torch
import torch.distributed as dist
import triton
import triton.language as tl
from torch import Tensor

from spartan_planner.transport.collective import sum_over_ranks
from spartan_planner.transport.triton_price_kernels import stretch_of
from spartan_planner.transport.triton_tables import (
    BLOCK,
    Stretches,
    addresses,
    launch,
    real_numbers,
    stretches,
    tiles_per_program,
    tl_dtype,
    whole_numbers,
)


@triton.jit  # type: ignore[untyped-decorator]
def read_block(  # type: ignore[no-untyped-def]
    masks, gradients, weights, index, inside,
    WEIGHT: tl.constexpr, IS_WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Return m, theta, what arrived (g or G), and g, in float32; m = 0 outside."""
    mask = tl.load(masks + index, mask=inside, other=0.0).to(tl.float32)
    arrived = tl.load(gradients + index, mask=inside, other=0.0).to(tl.float32)
    if IS_WEIGHTED:
        base = weights.to(tl.pointer_type(WEIGHT))
        theta = tl.load(base + index, mask=inside, other=0.0).to(tl.float32)
        return mask, theta, arrived, arrived * theta
    else:  # noqa: RET505 - Triton wants the two sides of a constant condition so
        return mask, mask, arrived, arrived


@triton.jit  # type: ignore[untyped-decorator]
def gradient_sums_kernel(  # type: ignore[no-untyped-def]
    masks, gradients, weights, lengths, costs, segments, starts, parts, programs, first,
    MASK: tl.constexpr, GRADIENT: tl.constexpr, WEIGHT: tl.constexpr,
    IS_WEIGHTED: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Add up g r and c r of a stretch, r = m (1 - m); ``parts`` is float64 [2, programs]."""
    program = tl.program_id(0)
    segment = tl.load(segments + program)
    start = tl.load(starts + program)
    mask_base, length = stretch_of(masks, lengths, segment, MASK)
    gradient_base = tl.load(gradients + segment).to(tl.pointer_type(GRADIENT))
    weight_base = tl.load(weights + segment)
    product = tl.zeros((BLOCK,), tl.float32)
    spread = tl.zeros((BLOCK,), tl.float32)
    for tile in range(TILES):
        index = start + tile * BLOCK + tl.arange(0, BLOCK)
        mask, _, _, own = read_block(
            mask_base, gradient_base, weight_base, index, index < length, WEIGHT, IS_WEIGHTED
        )
        rest = mask * (1.0 - mask)
        product += own * rest
        spread += rest
    part = parts + first + program
    tl.store(part, tl.sum(product.to(tl.float64)))
    tl.store(part + programs, tl.load(costs + segment) * tl.sum(spread.to(tl.float64)))


@triton.jit  # type: ignore[untyped-decorator]
def gradient_kernel(  # type: ignore[no-untyped-def]
    masks, gradients, weights, outputs, lengths, costs, segments, starts, sums, beta,
    MASK: tl.constexpr, GRADIENT: tl.constexpr, WEIGHT: tl.constexpr,
    IS_WEIGHTED: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Write dL/dv = beta r (g / c - sum g r / sum c r), or with weights dL/dtheta."""
    program = tl.program_id(0)
    segment = tl.load(segments + program)
    start = tl.load(starts + program)
    mask_base, length = stretch_of(masks, lengths, segment, MASK)
    gradient_base = tl.load(gradients + segment).to(tl.pointer_type(GRADIENT))
    weight_base = tl.load(weights + segment)
    output = tl.load(outputs + segment).to(tl.pointer_type(GRADIENT))
    inverse_cost = (1.0 / tl.load(costs + segment)).to(tl.float32)
    total = tl.load(sums + 1)
    shared = tl.where(total > 0.0, tl.load(sums) / tl.where(total > 0.0, total, 1.0), 0.0)
    shared = shared.to(tl.float32)
    for tile in range(TILES):
        index = start + tile * BLOCK + tl.arange(0, BLOCK)
        inside = index < length
        mask, theta, arrived, own = read_block(
            mask_base, gradient_base, weight_base, index, inside, WEIGHT, IS_WEIGHTED
        )
        slope = beta * mask * (1.0 - mask) * (own * inverse_cost - shared)
        if IS_WEIGHTED:
            sign = tl.where(theta > 0.0, 1.0, tl.where(theta < 0.0, -1.0, 0.0))
            slope = arrived * mask + sign * slope
        tl.store(output + index, slope.to(GRADIENT), mask=inside)


def soft_gradients(
    masks: Sequence[Tensor],
    gradients: Sequence[Tensor],
    costs: Sequence[float],
    beta: float,
    *,
    weights: Sequence[Tensor] | None = None,
    outputs: Sequence[Tensor] | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> list[Tensor]:
    """Return dL/dv given g, or dL/dtheta given G and the weights of element layouts.

    ``costs`` are normalised by their mean.  All tensors are flat and contiguous; ``outputs`` may
    be the gradients themselves.  Reads: masks, gradients (and weights) twice.
    """
    device = masks[0].device
    results = list(outputs) if outputs is not None else [torch.empty_like(g) for g in gradients]
    theta = list(weights) if weights is not None else list(masks)
    lengths = tuple(mask.numel() for mask in masks)
    kinds = tuple(
        (m.dtype, g.dtype, w.dtype) for m, g, w in zip(masks, gradients, theta, strict=True)
    )
    tiles = tiles_per_program(lengths)
    launches = stretches(lengths, kinds, tiles * BLOCK, device)
    count = sum(own.count for own in launches)
    parts = torch.empty(2, count, dtype=torch.float64, device=device)
    sources = tuple(addresses(tensors, device) for tensors in (masks, gradients, theta))
    numbers = whole_numbers(lengths, device), real_numbers(tuple(costs), device)
    for own in launches:
        launch(
            gradient_sums_kernel, own.count, *sources, *numbers, own.segments, own.starts,
            parts, count, own.first, **_constants(own, tiles, weights is not None),
        )  # fmt: skip
    sums = sum_over_ranks(parts.sum(1), process_group)
    targets = addresses(results, device)
    for own in launches:
        launch(
            gradient_kernel, own.count, *sources, targets, *numbers, own.segments, own.starts,
            sums, beta, **_constants(own, tiles, weights is not None),
        )  # fmt: skip
    return results


def _constants(own: Stretches, tiles: int, is_weighted: bool) -> dict[str, object]:
    """Return what a launch is compiled for."""
    mask, gradient, weight = (tl_dtype(dtype) for dtype in own.kind)
    return {
        "MASK": mask,
        "GRADIENT": gradient,
        "WEIGHT": weight,
        "IS_WEIGHTED": is_weighted,
        "BLOCK": BLOCK,
        "TILES": tiles,
    }
