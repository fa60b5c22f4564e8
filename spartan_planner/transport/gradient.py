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
from spartan_planner.transport.problem import Cost, NormalisedCost, ScaledCosts, build_problem


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
    results = tuple(
        torch.empty_like(gradient, memory_format=torch.contiguous_format, requires_grad=False)
        for gradient in mask_gradients
    )
    gradient_into(results, masks, costs, beta, mask_gradients, process_group)
    return results


def gradient_into(
    results: Sequence[Tensor],
    masks: Sequence[Tensor],
    costs: Sequence[Cost],
    beta: float,
    mask_gradients: Sequence[Tensor],
    process_group: dist.ProcessGroup | None = None,
) -> None:
    """Write what :func:`soft_topk_gradient` returns to contiguous tensors."""
    problem = build_problem(masks, costs, 0.0, process_group=process_group)
    beta = check_beta(beta)
    if [mask.shape for mask in masks] != [gradient.shape for gradient in mask_gradients]:
        raise TransportError("Every mask needs a gradient of its own shape.")
    flat = [gradient.detach().reshape(-1) for gradient in mask_gradients]
    normalised = problem.normalised_costs
    plain = [cost for cost in normalised if isinstance(cost, float)]
    if len(plain) == len(normalised) and reads_fused(*problem.segments, *flat):
        from spartan_planner.transport.triton_gradient import soft_gradients

        outputs = [result.view(-1) for result in results]
        soft_gradients(
            problem.segments, flat, plain, beta, outputs=outputs, process_group=process_group
        )
        return
    local = torch.zeros(2, dtype=torch.float64, device=problem.device)
    for mask, gradient, cost in zip(problem.segments, flat, normalised, strict=True):
        local += _weighted_sums(mask, gradient, cost)
    numerator, denominator = sum_over_ranks(local, process_group).tolist()
    shared = numerator / denominator if denominator > 0.0 else 0.0
    for result, mask, gradient, cost in zip(
        results, problem.segments, flat, normalised, strict=True
    ):
        _write_gradient(result.view(-1), mask, gradient, cost, beta, shared)


def _arithmetic(mask: Tensor) -> torch.dtype:
    """Return the dtype to compute in: float32 for half precision."""
    return torch.promote_types(mask.dtype, torch.float32)


def _weighted_sums(mask: Tensor, gradient: Tensor, cost: NormalisedCost) -> Tensor:
    """Return sum g r and sum c r, float64 [2]; r = m (1 - m)."""
    arithmetic, size = _arithmetic(mask), chunk_size(mask.device)
    total = torch.zeros(2, dtype=torch.float64, device=mask.device)
    scratch = torch.empty(min(size, mask.numel()), dtype=arithmetic, device=mask.device)
    for start, stop in chunk_bounds(mask.numel(), size):
        part = mask[start:stop].to(arithmetic)
        spread = torch.addcmul(part, part, part, value=-1.0, out=scratch[: stop - start])
        total[0] += spread @ gradient[start:stop].to(arithmetic)
        if isinstance(cost, ScaledCosts):
            total[1] += spread @ cost[start:stop].to(arithmetic)
        else:
            total[1] += cost * spread.sum().double()
    return total


def _write_gradient(
    result: Tensor, mask: Tensor, gradient: Tensor, cost: NormalisedCost, beta: float, shared: float
) -> None:
    """Write beta r (g / c - shared), in the dtype of the gradient."""
    arithmetic, size = _arithmetic(mask), chunk_size(mask.device)
    for start, stop in chunk_bounds(mask.numel(), size):
        part = mask[start:stop].to(arithmetic)
        excess = gradient[start:stop].to(arithmetic) / cost_chunk(cost, start, stop)
        excess.sub_(shared).mul_(beta).mul_(part)
        result[start:stop] = excess.mul_(part.neg().add_(1.0))
