"""Soft and hard top-k of one tensor, its leading axes being independent problems.

The operator of DESIGN 4.1 as one would use it anywhere: ``[n]`` is the global scope, ``[layers,
n]`` the per-layer one, ``[groups, M]`` N:M.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport.exact_sums import rounded_sum
from spartan_planner.transport.gradient import gradient_into
from spartan_planner.transport.hard import select_into
from spartan_planner.transport.passes import chunk_bounds
from spartan_planner.transport.price import check_beta
from spartan_planner.transport.problem import (
    BUDGET_ROUNDING,
    Cost,
    Problem,
    are_positive,
    build_problem,
    cost_chunks,
)
from spartan_planner.transport.rows import Rows, hard_rows, row_gradient, soft_rows
from spartan_planner.transport.soft import solve_into
from spartan_planner.transport.values import is_finite

# Rows longer than this are solved one by one by the segmented solvers, which read in chunks.
_LONG_ROW = 1 << 14
# Elements of the rows solved together: float64 scratch of a dozen such tensors stays in L2.
_ROW_CHUNK = 1 << 16


def soft_topk(values: Tensor, costs: Cost, budget: float | Tensor, beta: float) -> Tensor:
    """Return the soft top-k mask of each row of the values, differentiable in the values.

    Every row ``values[..., :]`` is a problem of its own (DESIGN 4.1): with the costs divided by
    the row's mean cost, ``m = sigmoid(beta (v / c - price))`` and ``sum c m = budget``.  The
    derivative is the closed form of DESIGN 4.2.

    Args:
        values: ``[..., n]``, float64, float32, bfloat16 or float16, finite.
        costs: Positive; a number, or a tensor that broadcasts to the values.  No derivative.
        budget: In the unit of the costs, for each row; a number or a tensor that broadcasts to
            the leading axes.  From 0 to the row's total cost, both included.
        beta: Sharpness, positive; acts on value per mean-normalised cost.

    Returns:
        Masks in [0, 1], of the shape and dtype of the values.

    Raises:
        TransportError: For input that this is not defined for.
    """
    mask: Tensor = _SoftTopK.apply(values, costs, budget, check_beta(beta))  # type: ignore[no-untyped-call]
    return mask


def hard_topk(values: Tensor, costs: Cost, budget: float | Tensor) -> Tensor:
    """Return for each row the boolean mask of the longest prefix by z = v / c within the budget.

    Ties go by position; the budget is never exceeded (DESIGN 4.3).  Arguments and errors are
    those of :func:`soft_topk`.  The cost of a prefix is the sum of its costs rounded once, as by
    ``math.fsum``.  Rows of more than 16,384 blocks are selected without a sort.
    """
    problem = _checked(values, costs, budget)
    mask = torch.empty(problem.values.shape, dtype=torch.bool, device=values.device)
    if problem.is_long:
        for index in range(mask.shape[0]):
            select_into((mask[index],), problem.row(index))
    else:
        problem.over_chunks(lambda rows: hard_rows(rows), mask)
    return mask.view(values.shape)


@dataclass(frozen=True)
class _RowProblem:
    """Checked input as rows: values [rows, n], costs [rows, 1 or n], budgets [rows]."""

    values: Tensor
    costs: Tensor
    budgets: Tensor

    @property
    def is_long(self) -> bool:
        """Say whether rows are long enough to be solved one by one."""
        return self.values.shape[1] > _LONG_ROW

    @property
    def has_element_costs(self) -> bool:
        """Say whether the blocks of a row have costs of their own."""
        return self.costs.shape[1] > 1

    def row(self, index: int) -> Problem:
        """Return one row as a problem of its own."""
        limit = float(self.budgets[index])
        return build_problem([self.values[index]], [self.row_cost(index)], limit)

    def row_cost(self, index: int) -> Cost:
        """Return the cost of one row's blocks: a number, or one per element."""
        cost = self.costs[index]
        return cost if self.has_element_costs else float(cost[0])

    def chunk(self, start: int, stop: int) -> Rows:
        """Return some rows in float64."""
        values = self.values[start:stop].double()
        costs = self.costs[start:stop].double().expand_as(values)
        return Rows(values, costs, self.budgets[start:stop].unsqueeze(1))

    def over_chunks(self, solve: Callable[[Rows], Tensor], out: Tensor) -> None:
        """Solve a chunk of rows at a time and write the results to ``out``."""
        rows_per_chunk = max(_ROW_CHUNK // max(self.values.shape[1], 1), 1)
        for start, stop in chunk_bounds(self.values.shape[0], rows_per_chunk):
            out[start:stop] = solve(self.chunk(start, stop))


def _checked(values: Tensor, costs: Cost, budget: float | Tensor) -> _RowProblem:
    """Return the problem as rows, or refuse what does not broadcast or is out of range."""
    if values.ndim == 0:
        raise TransportError("values must have at least one axis, that of the blocks.")
    if not values.is_floating_point() or not is_finite(values):
        raise TransportError("values must be floating-point numbers without NaN or infinity.")
    length, leading = values.shape[-1], values.shape[:-1]
    rows = math.prod(leading)
    cost = _cost_tensor(costs, values.device)
    limit = torch.as_tensor(budget, dtype=torch.float64, device=values.device)
    width = 1 if cost.ndim == 0 or cost.shape[-1] == 1 else length
    try:
        cost = cost.expand(*leading, width).reshape(rows, width)
        limit = limit.expand(leading).reshape(rows)
    except RuntimeError as error:
        raise TransportError(
            f"costs of shape {tuple(cost.shape)} and budget of shape {tuple(limit.shape)} do not "
            f"broadcast to values of shape {tuple(values.shape)}."
        ) from error
    if not are_positive(cost):
        raise TransportError("costs must be positive and finite; every block must cost.")
    total = _row_totals(cost) * (length if width == 1 else 1)
    slack = BUDGET_ROUNDING * total
    if not bool(((limit >= -slack) & (limit <= total + slack)).all()):
        raise TransportError(
            "A budget lies outside what its row can spend: from 0 to the cost of all blocks, in "
            "the unit of the costs."
        )
    flat = values.detach().reshape(rows, length)
    return _RowProblem(flat, cost, torch.minimum(limit.clamp(min=0.0), total))


def _cost_tensor(costs: Cost, device: torch.device) -> Tensor:
    """Return costs as a tensor; one per element keeps its dtype, so that nothing is copied."""
    if isinstance(costs, Tensor) and costs.is_floating_point() and costs.ndim:
        return costs.detach().to(device)
    return torch.as_tensor(costs, dtype=torch.float64, device=device)


def _row_totals(cost: Tensor) -> Tensor:
    """Return the sum of every row, float64 [rows], without a copy of long rows."""
    if cost.shape[1] <= _LONG_ROW:
        return cost.sum(1, dtype=torch.float64)
    totals = [rounded_sum(cost_chunks(row)) for row in cost]
    return torch.tensor(totals, dtype=torch.float64, device=cost.device)


class _SoftTopK(torch.autograd.Function):
    """Soft top-k with the implicit derivative of DESIGN 4.2 in place of an unrolled one."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch has no type for it
        values: Tensor,
        costs: Cost,
        budget: float | Tensor,
        beta: float,
    ) -> Tensor:
        """Solve every row."""
        problem = _checked(values, costs, budget)
        mask = torch.empty_like(problem.values)
        if problem.is_long:
            for index in range(mask.shape[0]):
                solve_into((mask[index],), problem.row(index), beta)
        else:
            problem.over_chunks(lambda rows: soft_rows(rows, beta), mask)
        ctx.save_for_backward(mask, problem.costs)
        ctx.beta = beta
        return mask.view(values.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401 - torch has no type for it
        gradient: Tensor,
    ) -> tuple[Tensor | None, None, None, None]:
        """Apply the closed form to every row."""
        mask, costs = ctx.saved_tensors
        slope = _row_gradients(mask, costs, ctx.beta, gradient.reshape(mask.shape))
        return slope.view(gradient.shape), None, None, None


def _row_gradients(mask: Tensor, costs: Tensor, beta: float, gradient: Tensor) -> Tensor:
    """Return dL/dv of all rows, of the shape and dtype of ``gradient``."""
    problem = _RowProblem(mask, costs, mask.new_zeros(mask.shape[0], dtype=torch.float64))
    result = torch.empty_like(gradient, memory_format=torch.contiguous_format)
    if problem.is_long:
        for index in range(mask.shape[0]):
            row = [mask[index]], [problem.row_cost(index)], beta, [gradient[index]]
            gradient_into([result[index]], *row)
        return result
    rows_per_chunk = max(_ROW_CHUNK // max(mask.shape[1], 1), 1)
    for start, stop in chunk_bounds(mask.shape[0], rows_per_chunk):
        rows = problem.chunk(start, stop)
        upstream = gradient[start:stop].double()
        result[start:stop] = row_gradient(rows.values, rows.costs, beta, upstream)
    return result
