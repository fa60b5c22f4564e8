"""Soft and hard top-k of one tensor, its leading axes being independent problems.

The operator of DESIGN 4.1 as one would use it anywhere: ``[n]`` is the global scope, ``[layers,
n]`` the per-layer one, ``[groups, M]`` N:M.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport.gradient import price_gradient_into
from spartan_planner.transport.hard import select_into
from spartan_planner.transport.passes import chunk_bounds
from spartan_planner.transport.price import check_beta
from spartan_planner.transport.problem import (
    Cost,
    Problem,
    are_positive,
    budget_rounding,
    budget_sentence,
    build_problem,
    check_dtype,
    is_real,
    is_tensor,
)
from spartan_planner.transport.results import Price, SelectionStatus
from spartan_planner.transport.rows import Rows, SoftRows, hard_rows, row_gradient, soft_rows
from spartan_planner.transport.soft import solve_into
from spartan_planner.transport.values import is_finite

# Rows longer than this are solved one by one by the segmented solvers, which read in chunks.
_LONG_ROW = 1 << 14
# Elements of the rows solved together: float64 scratch of a dozen such tensors stays in L2.
_ROW_CHUNK = 1 << 15
# What docs/transport.md promises of a row's budget; short rows are solved in float64 whatever
# the dtype of their values, so a row beyond this has reached its iteration limit.
_PROMISED_BUDGET_ERROR = 1.0e-9


def soft_topk(values: Tensor, costs: Cost, budget: float | Tensor, beta: float) -> Tensor:
    """Return the soft top-k mask of each row of the values, differentiable in the values.

    Every row ``values[..., :]`` is a problem of its own (DESIGN 4.1): with the costs divided by
    the row's mean cost, ``m = sigmoid(beta (v / c - price))`` and ``sum c m = budget``.  The
    derivative is the closed form of DESIGN 4.2.

    Args:
        values: ``[..., n]``, float64, float32, bfloat16 or float16, finite.
        costs: Positive; a number, or a tensor that broadcasts to the values.  No derivative.
        budget: In the unit of the costs, for each row; a number, or a tensor that broadcasts to
            the leading axes (a last axis of 1 may be kept).  From 0 to the row's total cost, both
            included; above the total by less than 1e-9 of it (1e-6 where the costs or the budget
            are float32 or narrower) it is taken for the total.
        beta: Sharpness, positive; acts on value per mean-normalised cost.

    Returns:
        Masks in [0, 1], of the shape and dtype of the values.  The budget is met to 1e-9 (float64)
        or 1e-6 before the masks are rounded to that dtype: bfloat16 and float16 masks have three
        digits, and their sum can be off by as much.  The derivative is that of the masks before
        rounding.

    Raises:
        TransportError: For input that this is not defined for.

    Warns:
        RuntimeWarning: A row reached the iteration limit before it met its budget.
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
        for start, stop, rows in problem.checked_chunks():
            mask[start:stop] = hard_rows(rows)
    return mask.view(values.shape)


@dataclass(frozen=True)
class _RowProblem:
    """Input as rows, nothing copied: values [rows, n], costs [rows, 1 or n], budgets [rows].

    Costs and budgets are views of what was given, in its dtype; a chunk at a time is widened.
    ``budget_rounding``: a budget above the total by this fraction of it is taken for the total.
    """

    values: Tensor
    costs: Tensor
    budgets: Tensor
    budget_rounding: float

    @property
    def is_long(self) -> bool:
        """Say whether rows are long enough to be solved one by one."""
        return self.values.shape[1] > _LONG_ROW

    def row(self, index: int) -> Problem:
        """Return one row as a problem of its own."""
        cost = self.costs[index] if self.costs.shape[1] > 1 else float(self.costs[index, 0])
        try:
            return build_problem([self.values[index]], [cost], float(self.budgets[index]))
        except TransportError as error:
            raise TransportError(f"Row {index}: {error}") from error

    def rows(self, start: int, stop: int) -> Rows:
        """Return some rows in float64."""
        values = self.values[start:stop].double()
        costs = self.costs[start:stop].double().expand_as(values)
        return Rows(values, costs, self.budgets[start:stop].double().unsqueeze(1))

    def chunks(self) -> Iterator[tuple[int, int, Rows]]:
        """Yield bounds and rows, as many at a time as are solved together."""
        rows_per_chunk = max(_ROW_CHUNK // max(self.values.shape[1], 1), 1)
        for start, stop in chunk_bounds(self.values.shape[0], rows_per_chunk):
            yield start, stop, self.rows(start, stop)

    def checked_chunks(self) -> Iterator[tuple[int, int, Rows]]:
        """Yield the chunks, budgets clamped at 0; refuse a budget that is out of range."""
        for start, stop, rows in self.chunks():
            totals = rows.costs.sum(1, keepdim=True)
            slack = self.budget_rounding * totals
            inside = (rows.budgets >= -slack) & (rows.budgets <= totals + slack)
            if not bool(inside.all()):
                row = int((~inside).nonzero()[0, 0])
                budget, total = float(rows.budgets[row]), float(totals[row])
                raise TransportError(f"Row {start + row}: {budget_sentence(budget, total)}")
            yield start, stop, Rows(rows.values, rows.costs, rows.budgets.clamp(min=0.0))


def _checked(values: Tensor, costs: Cost, budget: float | Tensor) -> _RowProblem:
    """Return the problem as rows, or refuse what does not broadcast or is not positive."""
    _check_values(values)
    leading, length = values.shape[:-1], values.shape[-1]
    cost, limit = _as_tensor("costs", costs, values), _as_tensor("budget", budget, values)
    rounding = max(budget_rounding(cost), budget_rounding(limit))
    width = 1 if cost.ndim == 0 or cost.shape[-1] == 1 else length
    # One budget per row may come with the axis of the blocks kept, as sum(keepdim=True) leaves it.
    each = limit.squeeze(-1) if limit.ndim == values.ndim and limit.shape[-1] == 1 else limit
    rows = math.prod(leading)
    try:
        wide = cost.expand(*leading, width).reshape(rows, width)
        each = each.expand(leading).reshape(rows)
    except RuntimeError as error:
        raise TransportError(
            f"costs of shape {tuple(cost.shape)} and budget of shape {tuple(limit.shape)} do not "
            f"broadcast to values of shape {tuple(values.shape)}: costs go to the values' shape, "
            f"the budget to {tuple(leading)}."
        ) from error
    if not are_positive(cost):
        raise TransportError("costs must be positive and finite; every block must cost.")
    return _RowProblem(values.detach().reshape(rows, length), wide, each, rounding)


def _check_values(values: Tensor) -> None:
    """Refuse values that are no tensor of finite numbers along an axis of blocks."""
    if not is_tensor(values):
        raise TransportError(f"values must be a tensor; a {type(values).__name__} was given.")
    if values.ndim == 0:
        raise TransportError("values must have at least one axis, that of the blocks.")
    check_dtype("values", values.dtype)
    if not is_finite(values):
        raise TransportError("values must be finite; some are NaN or infinite.")


def _as_tensor(name: str, given: Cost, values: Tensor) -> Tensor:
    """Return a number or a tensor as a tensor of its own dtype beside the values."""
    if not is_real(given):
        raise TransportError(
            f"{name} must be a number or a tensor of real numbers; got {type(given).__name__}."
        )
    if isinstance(given, Tensor):
        return given.detach().to(values.device)
    return torch.tensor(float(given), dtype=torch.float64, device=values.device)


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
        """Solve every row; keep the price of each where a derivative will be asked for."""
        problem = _checked(values, costs, budget)
        mask = torch.empty_like(problem.values, memory_format=torch.contiguous_format)
        prices = _Prices.empty(problem) if ctx.needs_input_grad[0] else None
        worst = (_solve_long if problem.is_long else _solve_short)(problem, beta, mask, prices)
        if worst > _PROMISED_BUDGET_ERROR:
            warnings.warn(
                f"soft_topk met the budget of a row to {worst:.1e} of it only: the iteration limit "
                f"was reached at beta {beta:g}; a lower beta converges.",
                RuntimeWarning,
                stacklevel=4,
            )
        if prices is not None:
            ctx.save_for_backward(values, problem.costs, problem.budgets, prices.numbers)
        ctx.beta = beta
        return mask.view(values.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401 - torch has no type for it
        gradient: Tensor,
    ) -> tuple[Tensor | None, None, None, None]:
        """Apply the closed form to every row."""
        values, costs, budgets, prices = ctx.saved_tensors
        flat = values.detach().reshape(costs.shape[0], values.shape[-1])
        problem = _RowProblem(flat, costs, budgets, 0.0)
        upstream = gradient.reshape(flat.shape)
        slope = _row_gradients(problem, _Prices(prices), ctx.beta, upstream)
        return slope.view(gradient.shape), None, None, None


@dataclass(frozen=True)
class _Prices:
    """The anchor and the logit offset of every row (``results.Price``), float64 [2, rows, 1]."""

    numbers: Tensor

    @classmethod
    def empty(cls, problem: _RowProblem) -> "_Prices":
        """Return room for the price of every row."""
        rows, device = problem.values.shape[0], problem.values.device
        return cls(torch.zeros(2, rows, 1, dtype=torch.float64, device=device))

    def put(self, start: int, stop: int, found: SoftRows) -> None:
        """Keep the prices of some rows."""
        self.numbers[0, start:stop] = found.anchors
        self.numbers[1, start:stop] = found.offsets

    def put_row(self, index: int, price: Price) -> None:
        """Keep the price of one row; in the limits it is infinite, and so is the offset then."""
        is_limit = math.isinf(price.anchor)
        self.numbers[0, index] = 0.0 if is_limit else price.anchor
        self.numbers[1, index] = price.anchor if is_limit else price.offset

    def row(self, index: int) -> Price:
        """Return the price of one row."""
        anchor, offset = self.numbers[:, index, 0].tolist()
        return Price(anchor, offset)


def _solve_short(problem: _RowProblem, beta: float, mask: Tensor, prices: _Prices | None) -> float:
    """Write the masks of all rows and keep their prices; return the worst budget error."""
    worst = 0.0
    for start, stop, rows in problem.checked_chunks():
        found = soft_rows(rows, beta)
        mask[start:stop] = found.masks
        if prices is not None:
            prices.put(start, stop, found)
        worst = max(worst, float(found.relative_budget_errors.amax()))
    return worst


def _solve_long(problem: _RowProblem, beta: float, mask: Tensor, prices: _Prices | None) -> float:
    """Do as :func:`_solve_short`, one row after the other with the segmented solver."""
    worst = 0.0
    for index in range(mask.shape[0]):
        found, price = solve_into((mask[index],), problem.row(index), beta)
        if prices is not None:
            prices.put_row(index, price)
        if found.status is SelectionStatus.NOT_CONVERGED:
            worst = max(worst, found.relative_budget_error)
    return worst


def _row_gradients(problem: _RowProblem, prices: _Prices, beta: float, gradient: Tensor) -> Tensor:
    """Return dL/dv of all rows, of the shape and dtype of ``gradient``."""
    result = torch.empty_like(gradient, memory_format=torch.contiguous_format)
    if problem.is_long:
        for index in range(result.shape[0]):
            price_gradient_into(
                result[index], problem.row(index), prices.row(index), beta, gradient[index]
            )
        return result
    for start, stop, rows in problem.chunks():
        anchors, offsets = prices.numbers[:, start:stop]
        upstream = gradient[start:stop].double()
        result[start:stop] = row_gradient(rows, anchors, offsets, beta, upstream)
    return result
