"""Segmented soft top-k (DESIGN 4.1): one price over many tensors, none copied or joined."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from spartan_planner.transport.backend import find_price
from spartan_planner.transport.price import (
    TRUSTED_MISMATCH,
    PriceSearch,
    check_beta,
    check_values,
    limit_price,
    limit_status,
    start_search,
    tolerance_of,
    usable_price,
)
from spartan_planner.transport.problem import Cost, Problem, build_problem
from spartan_planner.transport.results import Price, SelectionStatus, SoftSelection


def solve_soft_topk(
    values: Sequence[Tensor],
    costs: Sequence[Cost],
    budget: float,
    beta: float,
    *,
    initial_price: float | None = None,
    ratios: tuple[float, float] | None = None,
    names: Sequence[str] | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> SoftSelection:
    r"""Spread a budget softly over the blocks of many tensors (DESIGN 4.1).

    Solves, over all blocks b of all tensors, with costs divided by their mean,

        maximise    sum_b v_b m_b + (1/beta) sum_b c_b H(m_b)
        subject to  sum_b c_b m_b = budget,  0 <= m_b <= 1

    whose solution is ``m_b = sigmoid(beta (v_b / c_b - price))``.

    Args:
        values: Tensors of any shape; float64, float32, bfloat16 or float16; finite.
        costs: For each tensor the cost of one of its blocks (or a tensor with one per element),
            positive, in any unit.
        budget: In the unit of the costs, from 0 to the cost of all blocks, limits included.
        beta: Sharpness; acts on value per mean-normalised cost.
        initial_price: The price of an earlier solve on similar values, which saves reads.
        ratios: Least and greatest value per cost as given, over all ranks, where a hard selection
            from the very same values has found them; they are not looked for again then.
        names: Names of the tensors for error messages.
        process_group: When given, the values are this rank's shards (some may be empty), and
            counts, costs and budget are understood over all ranks.

    Returns:
        Masks of the shapes and dtypes of the values, not attached to autograd.

    Raises:
        TransportError: For values, costs, a budget or a beta that this is not defined for.
    """
    problem = build_problem(values, costs, budget, names, process_group)
    masks = tuple(
        torch.empty_like(value, memory_format=torch.contiguous_format, requires_grad=False)
        for value in values
    )
    return solve_into(masks, problem, check_beta(beta), initial_price, ratios)[0]


def solve_into(
    masks: tuple[Tensor, ...],
    problem: Problem,
    beta: float,
    initial_price: float | None = None,
    ratios: tuple[float, float] | None = None,
) -> tuple[SoftSelection, Price]:
    """Solve a checked problem and write its masks to contiguous tensors.

    Returns the selection, and its price to more digits (infinite in the limits).
    """
    limit = limit_status(problem)
    if limit is None:
        start, flat = usable_price(initial_price), [mask.view(-1) for mask in masks]
        tolerance = tolerance_of(torch.float32)
        root = find_price(problem, beta, tolerance, TRUSTED_MISMATCH, start, flat)
        if root is None:
            return _written(start_search(problem, beta, ratios), masks, start)
        reads, error = root.num_iterations, root.relative_budget_error
        return _selection(masks, root.price, beta, reads, error, SelectionStatus.CONVERGED)
    check_values(problem)
    for mask in masks:
        mask.fill_(0.0 if limit is SelectionStatus.NOTHING_KEPT else 1.0)
    return _selection(masks, Price(limit_price(limit)), beta, 0, 0.0, limit)


def _selection(
    masks: tuple[Tensor, ...],
    price: Price,
    beta: float,
    num_iterations: int,
    error: float,
    status: SelectionStatus,
) -> tuple[SoftSelection, Price]:
    """Return a selection, whose price is one float, and the price to more digits."""
    return SoftSelection(masks, price.value(beta), num_iterations, error, status), price


def _written(
    search: PriceSearch, masks: tuple[Tensor, ...], initial_price: float | None
) -> tuple[SoftSelection, Price]:
    """Search, write the masks, and measure the budget error on what was written.

    Writing evaluates the budget anyway, so a step that cubic convergence vouches for is written
    unverified; when the error turns out too large the search goes on from there, and a price that
    float32 arithmetic cannot express is written again in float64.
    """
    outputs = [mask.reshape(-1) for mask in masks]
    found = search.find(initial_price, TRUSTED_MISMATCH)
    reads = found.root.num_iterations
    error = search.write(outputs, found.root.price, found.arithmetic)
    if error > search.tolerance_in(found.arithmetic) and not found.root.verified:
        found = search.refine(found.root.price.value(search.beta), 0.0)
        reads += found.root.num_iterations
        error = search.write(outputs, found.root.price, found.arithmetic)
    elif error > search.tolerance_in(found.arithmetic) and found.is_final:
        found = replace(found, arithmetic=torch.float64)
        reads += 1
        error = search.write(outputs, found.root.price, found.arithmetic)
    converged = error <= 2.0 * search.tolerance_in(found.arithmetic)
    status = SelectionStatus.CONVERGED if converged else SelectionStatus.NOT_CONVERGED
    return _selection(masks, found.root.price, search.beta, reads + 1, error, status)
