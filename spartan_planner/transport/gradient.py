"""The derivative of soft top-k in closed form (DESIGN 4.2): two sums and one elementwise pass.

With r = m (1 - m), g = dL/dm and costs c normalised by their mean,

    dL/dv_b = beta r_b ( g_b / c_b  -  (sum_j g_j r_j) / (sum_j c_j r_j) )
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport.backend import reads_fused
from spartan_planner.transport.collective import sum_over_ranks
from spartan_planner.transport.passes import chunk_bounds, chunk_size, cost_chunk
from spartan_planner.transport.price import check_beta
from spartan_planner.transport.problem import Cost, build_problem


def soft_topk_gradient(
    masks: Sequence[Tensor],
    costs: Sequence[Cost],
    beta: float,
    mask_gradients: Sequence[Tensor],
    *,
    process_group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, ...]:
    """Return dL/dv for the masks of :func:`solve_soft_topk`, given g = dL/dm.

    Args:
        masks: The soft masks, any shapes.
        costs: As given to the solve, in any unit.
        beta: As given to the solve.
        mask_gradients: g, of the shapes of the masks.
        process_group: When given, masks and gradients are this rank's shards.

    Returns:
        Gradients of the shapes and dtypes of ``mask_gradients``; zero where every mask is 0 or 1.

    Raises:
        TransportError: Lists or shapes that do not belong together, or a beta or cost that is not
            positive and finite.
    """
    problem = build_problem(masks, costs, 0.0, process_group=process_group)
    beta = check_beta(beta)
    shapes = [mask.shape for mask in masks]
    if shapes != [gradient.shape for gradient in mask_gradients]:
        raise TransportError("Every mask needs a gradient of its own shape.")
    flat = [gradient.detach().reshape(-1) for gradient in mask_gradients]
    normalised = problem.normalised_costs
    plain = [cost for cost in normalised if not isinstance(cost, Tensor)]
    if len(plain) == len(normalised) and reads_fused(*problem.segments, *flat):
        from spartan_planner.transport.triton_gradient import soft_gradients

        fused = soft_gradients(problem.segments, flat, plain, beta, process_group=process_group)
        return tuple(result.view(shape) for result, shape in zip(fused, shapes, strict=True))
    local = torch.zeros(2, dtype=torch.float64, device=problem.device)
    for mask, gradient, cost in zip(problem.segments, flat, normalised, strict=True):
        local += _weighted_sums(mask, gradient, cost)
    numerator, denominator = sum_over_ranks(local, process_group).tolist()
    shared = numerator / denominator if denominator > 0.0 else 0.0
    return tuple(
        _value_gradient(mask, gradient, cost, beta, shared).view(shape)
        for mask, gradient, cost, shape in zip(
            problem.segments, flat, normalised, shapes, strict=True
        )
    )


def _arithmetic(mask: Tensor) -> torch.dtype:
    """Return the dtype to compute in: float32 for half precision."""
    return torch.promote_types(mask.dtype, torch.float32)


def _weighted_sums(mask: Tensor, gradient: Tensor, cost: Cost) -> Tensor:
    """Return sum g r and sum c r, float64 [2]; r = m (1 - m)."""
    arithmetic, size = _arithmetic(mask), chunk_size(mask.device)
    total = torch.zeros(2, dtype=torch.float64, device=mask.device)
    scratch = torch.empty(min(size, mask.numel()), dtype=arithmetic, device=mask.device)
    for start, stop in chunk_bounds(mask.numel(), size):
        part = mask[start:stop].to(arithmetic)
        spread = torch.addcmul(part, part, part, value=-1.0, out=scratch[: stop - start])
        total[0] += spread @ gradient[start:stop].to(arithmetic)
        if isinstance(cost, Tensor):
            total[1] += spread @ cost[start:stop].to(arithmetic)
        else:
            total[1] += cost * spread.sum().double()
    return total


def _value_gradient(
    mask: Tensor, gradient: Tensor, cost: Cost, beta: float, shared: float
) -> Tensor:
    """Return beta r (g / c - shared), in the dtype of the gradient."""
    arithmetic, size = _arithmetic(mask), chunk_size(mask.device)
    result = torch.empty_like(gradient)
    for start, stop in chunk_bounds(mask.numel(), size):
        part = mask[start:stop].to(arithmetic)
        excess = gradient[start:stop].to(arithmetic) / cost_chunk(cost, start, stop)
        excess.sub_(shared).mul_(beta).mul_(part)
        result[start:stop] = excess.mul_(part.neg().add_(1.0))
    return result
