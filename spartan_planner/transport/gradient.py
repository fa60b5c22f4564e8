"""The derivative of soft top-k in closed form (DESIGN 4.2): two sums and one elementwise pass.

With r = m (1 - m), g = dL/dm and costs c normalised by their mean,

    dL/dv_b = beta r_b ( g_b / c_b  -  (sum_j g_j r_j) / (sum_j c_j r_j) )

Where blocks are single elements of a weight, g = G theta is formed on the way and what is written
is dL/dtheta = G m + sign(theta) dL/dv (DESIGN 4.4): nothing of the weight's size is kept between.
"""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport.backend import reads_fused
from spartan_planner.transport.collective import sum_over_ranks
from spartan_planner.transport.passes import (
    Segment,
    as_sums,
    chunk_bounds,
    chunk_size,
    chunk_size_of,
    cost_chunk,
    fill_logits,
    mask_sums,
)
from spartan_planner.transport.price import TRUSTED_MISMATCH, check_beta
from spartan_planner.transport.problem import (
    Cost,
    NormalisedCost,
    Problem,
    ScaledCosts,
    build_problem,
)
from spartan_planner.transport.results import Price
from spartan_planner.transport.root import logit_mismatch, logit_step

# Halley's steps in float64 from a price that met the budget: one suffices but near density 1.
_STEP_LIMIT = 8


def soft_topk_gradient(
    masks: Sequence[Tensor],
    costs: Sequence[Cost],
    beta: float,
    mask_gradients: Sequence[Tensor],
    *,
    weights: Sequence[Tensor | None] | None = None,
    put_back: Sequence[Tensor | None] | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, ...]:
    """Return dL/dv for the masks of :func:`solve_soft_topk`, given g = dL/dm.

    Args:
        masks: The soft masks, any shapes; float32 or wider where the gradient matters near 0 and
            1, since 1 - m is only as good as the digits of m.
        costs: As given to the solve, in any unit.
        beta: As given to the solve.
        mask_gradients: g, of the shapes of the masks.
        weights: Where the blocks of a tensor are the elements of a weight, theta, of the shape of
            the mask: the gradient given is then G = dL/dw, and is turned into dL/dtheta in place.
        put_back: Where a weight is copied to while it is read, contiguous and of its size; ``None``
            for nowhere.
        process_group: When given, masks and gradients are this rank's shards.

    Returns:
        Gradients of the shapes and dtypes of ``mask_gradients``; zero where every mask is 0 or 1.
        For tensors with weights the contiguous gradients that were given, now dL/dtheta.

    Raises:
        TransportError: Lists or shapes that do not belong together, or a beta or cost that is not
            positive and finite.
    """
    problem = build_problem(masks, costs, 0.0, process_group=process_group)
    beta = check_beta(beta)
    shapes = [tuple(mask.shape) for mask in masks]
    found = [tuple(gradient.shape) for gradient in mask_gradients]
    if shapes != found:
        raise TransportError(
            f"Every mask needs a gradient of its own shape: masks have {_few(shapes)}, gradients "
            f"{_few(found)}."
        )
    theta = _flat_weights(problem, mask_gradients, weights)
    results = tuple(
        torch.empty_like(gradient, memory_format=torch.contiguous_format, requires_grad=False)
        if weight is None
        else gradient.detach()
        for gradient, weight in zip(mask_gradients, theta, strict=True)
    )
    flat = [gradient.detach().reshape(-1) for gradient in mask_gradients]
    outputs = [result.view(-1) for result in results]
    targets = _flat_targets(theta, put_back)
    if _write_fused(outputs, problem, flat, theta, beta, process_group):
        for weight, target in zip(theta, targets, strict=True):
            if target is not None and weight is not None:
                target.copy_(weight)
        return results
    costs_in_use = problem.normalised_costs
    pieces = list(zip(problem.segments, flat, theta, costs_in_use, strict=True))
    local = torch.zeros(2, dtype=torch.float64, device=problem.device)
    for mask, gradient, weight, cost in pieces:
        local += _weighted_sums(mask, gradient, weight, cost)
    numerator, denominator = sum_over_ranks(local, process_group).tolist()
    shared = numerator / denominator if denominator > 0.0 else 0.0
    for output, target, (mask, gradient, weight, cost) in zip(
        outputs, targets, pieces, strict=True
    ):
        if weight is None:
            _write_gradient(output, mask, gradient, cost, beta, shared)
        else:
            assert isinstance(cost, float)
            _turn_gradient(output, mask, weight, cost, beta, shared, target)
    return results


def _flat_weights(
    problem: Problem, gradients: Sequence[Tensor], weights: Sequence[Tensor | None] | None
) -> list[Tensor | None]:
    """Return the weights flat, refusing what cannot be turned in place."""
    if weights is None:
        return [None] * len(gradients)
    if len(weights) != len(gradients):
        raise TransportError(f"{len(gradients)} gradients came with {len(weights)} weights.")
    for gradient, weight, cost in zip(gradients, weights, problem.costs, strict=True):
        if weight is None:
            continue
        if weight.shape != gradient.shape or not gradient.is_contiguous():
            raise TransportError(
                f"A gradient of shape {tuple(gradient.shape)} and strides {gradient.stride()} came "
                f"with a weight of shape {tuple(weight.shape)}; it is turned in place, so give a "
                f"contiguous one in the shape of the weight."
            )
        if isinstance(cost, Tensor):
            raise TransportError("A tensor with a weight needs one cost, not one per element.")
    return [None if weight is None else weight.detach().reshape(-1) for weight in weights]


def _flat_targets(
    theta: Sequence[Tensor | None], put_back: Sequence[Tensor | None] | None
) -> list[Tensor | None]:
    """Return where weights are copied to, flat, refusing what cannot take them."""
    if put_back is None:
        return [None] * len(theta)
    for weight, target in zip(theta, put_back, strict=True):
        if target is None:
            continue
        if weight is None or target.numel() != weight.numel() or not target.is_contiguous():
            raise TransportError(
                f"A weight is put back into a contiguous tensor of its size; got one of shape "
                f"{tuple(target.shape)} and strides {target.stride()} for "
                f"{'none' if weight is None else weight.numel()} elements."
            )
    return [None if target is None else target.detach().view(-1) for target in put_back]


def _write_fused(
    outputs: Sequence[Tensor],
    problem: Problem,
    gradients: Sequence[Tensor],
    theta: Sequence[Tensor | None],
    beta: float,
    process_group: dist.ProcessGroup | None,
) -> bool:
    """Write the gradients with kernels; return False where torch has to."""
    costs = [cost for cost in problem.normalised_costs if isinstance(cost, float)]
    weights = [weight for weight in theta if weight is not None]
    if len(costs) < len(outputs) or not reads_fused(*problem.segments, *gradients, *weights):
        return False
    # The kernels take weights for all tensors or for none.
    if 0 < len(weights) < len(theta):
        return False
    from spartan_planner.transport.triton_gradient import soft_gradients

    soft_gradients(
        problem.segments,
        gradients,
        costs,
        beta,
        weights=weights or None,
        outputs=outputs,
        process_group=process_group,
    )
    return True


def _few(shapes: Sequence[tuple[int, ...]]) -> str:
    """Return how many shapes there are, and the first of them."""
    return f"{len(shapes)} shapes, {', '.join(map(str, shapes[:4]))}{', ...' * (len(shapes) > 4)}"


def price_gradient_into(
    result: Tensor, problem: Problem, price: Price, beta: float, gradient: Tensor
) -> None:
    """Write dL/dv of one flat tensor to ``result``, given g = dL/dm and the price, in float64.

    The masks are computed anew, m and 1 - m with all their digits, where a mask as written has
    lost 1 - m near 1; and the price is brought to where double precision resolves 1 - m.  A chunk
    at a time; three reads.
    """
    segment = Segment(problem.segments[0], problem.normalised_costs[0])
    exact = _resolved(segment, problem, price, beta)
    size = chunk_size_of(segment)
    bounds = list(chunk_bounds(segment.values.numel(), size))
    totals = torch.zeros(2, dtype=torch.float64, device=problem.device)
    for start, stop in bounds:
        spread, cost = _spread(segment, start, stop, exact, beta)
        totals[0] += spread @ gradient[start:stop].double()
        totals[1] += spread @ cost if isinstance(cost, Tensor) else spread.sum() * cost
    numerator, denominator = totals.tolist()
    shared = numerator / denominator if denominator > 0.0 else 0.0
    for start, stop in bounds:
        spread, cost = _spread(segment, start, stop, exact, beta)
        excess = gradient[start:stop].double().div_(cost).sub_(shared)
        result[start:stop] = excess.mul_(beta).mul_(spread)


def _resolved(segment: Segment, problem: Problem, price: Price, beta: float) -> Price:
    """Return the price after Halley's steps in float64.

    Meeting the budget to 1e-6 says little of 1 - m when the budget is nearly everything.
    """
    budget, blocks = problem.normalised_budget, float(problem.num_blocks)
    previous = math.inf
    for _ in range(_STEP_LIMIT):
        if not math.isfinite(price.offset):
            break
        sums = as_sums(mask_sums([segment], price, beta, torch.float64))
        mismatch = abs(logit_mismatch(sums.mass, budget, blocks))
        step = logit_step(sums, budget, blocks)
        # Steps between all but hard masks may jump: the price that was found is better.
        if not (math.isfinite(step) and mismatch < previous):
            break
        price, previous = Price(price.anchor, price.offset + step), mismatch
        if mismatch <= TRUSTED_MISMATCH:
            break
    return price


def _spread(
    segment: Segment, start: int, stop: int, price: Price, beta: float
) -> tuple[Tensor, Cost]:
    """Return r = m (1 - m) of a chunk, float64, and its costs."""
    cost = cost_chunk(segment.cost, start, stop)
    values = segment.values[start:stop]
    logits = torch.empty(stop - start, dtype=torch.float64, device=values.device)
    fill_logits(logits, values, cost, price, beta)
    return torch.sigmoid(logits).mul_(logits.neg_().sigmoid_()), cost


def _arithmetic(mask: Tensor) -> torch.dtype:
    """Return the dtype to compute in: float32 for half precision."""
    return torch.promote_types(mask.dtype, torch.float32)


def _weighted_sums(
    mask: Tensor, gradient: Tensor, weight: Tensor | None, cost: NormalisedCost
) -> Tensor:
    """Return sum g r and sum c r, float64 [2]; r = m (1 - m), and g = G theta with a weight."""
    arithmetic, size = _arithmetic(mask), _chunk_size(mask.device)
    if not mask.numel():
        return torch.zeros(2, dtype=torch.float64, device=mask.device)
    scratch = torch.empty(2, min(size, mask.numel()), dtype=arithmetic, device=mask.device)
    products, spreads = [], []
    for start, stop in chunk_bounds(mask.numel(), size):
        part, slope = mask[start:stop].to(arithmetic), gradient[start:stop].to(arithmetic)
        spread = torch.addcmul(part, part, part, value=-1.0, out=scratch[0, : stop - start])
        if weight is not None:
            theta = weight[start:stop].to(arithmetic)
            slope = torch.mul(slope, theta, out=scratch[1, : stop - start])
        products.append(spread @ slope)
        if isinstance(cost, ScaledCosts):
            spreads.append(spread @ cost[start:stop].to(arithmetic))
        else:
            spreads.append(spread.sum())
    sums = torch.stack([torch.stack(products), torch.stack(spreads)]).double().sum(1)
    return sums if isinstance(cost, ScaledCosts) else sums * sums.new_tensor([1.0, cost])


def _chunk_size(device: torch.device) -> int:
    """Return how many elements one operation works on: five tensors are in use at once."""
    return chunk_size(device) // 2


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


def _turn_gradient(
    gradient: Tensor,
    mask: Tensor,
    weight: Tensor,
    cost: float,
    beta: float,
    shared: float,
    target: Tensor | None,
) -> None:
    """Turn G into G m + sign(theta) beta r (G theta - c shared) / c, in place; copy theta."""
    arithmetic, size = _arithmetic(mask), _chunk_size(mask.device)
    scratch = torch.empty(3, min(size, mask.numel()), dtype=arithmetic, device=mask.device)
    base = torch.tensor(-cost * shared, dtype=arithmetic, device=mask.device)
    for start, stop in chunk_bounds(mask.numel(), size):
        spread, excess, sign = scratch[:, : stop - start].unbind()
        part, theta = mask[start:stop].to(arithmetic), weight[start:stop].to(arithmetic)
        if target is not None:
            target[start:stop].copy_(weight[start:stop])
        own = gradient[start:stop]
        wide = own.to(arithmetic)
        torch.addcmul(part, part, part, value=-1.0, out=spread)
        torch.addcmul(base, wide, theta, out=excess)
        excess.mul_(torch.sign(theta, out=sign))
        turned = torch.mul(wide, part, out=own if wide.dtype == own.dtype else sign)
        turned.addcmul_(excess, spread, value=beta / cost)
        if turned is not own:
            own.copy_(turned)
