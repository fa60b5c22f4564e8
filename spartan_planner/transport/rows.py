"""Many small independent problems at once: one row each, solved together in float64.

The N:M scope has millions of rows of a few blocks.  A chunk of rows is solved at a time, so that
scratch memory stays small.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport.exact_sums import LimbScale

# Bisection over all doubles takes 62 steps; Newton on the logit scale takes few.
_ITERATION_LIMIT = 200
# Sums of a few float64 terms; the budget is promised to 1e-9.
_TOLERANCE = 1.0e-12
# As in the scalar search (root.py): keeps rounding of the logits below 1e-13.
_REANCHOR_LOGITS = 1.0e3
_REQUIRED_PROGRESS = 0.5
# Rows up to this length are ordered by counting who comes first; longer ones are sorted.
_COUNTED_ROW = 32
# A few roundings of a double, relative to the budget.
_CLOSE = 2.0**-49


@dataclass(frozen=True)
class Rows:
    """Rows of values with costs and a budget each: float64 ``[rows, n]``, same, ``[rows, 1]``."""

    values: Tensor
    costs: Tensor
    budgets: Tensor

    @property
    def units(self) -> Tensor:
        """Mean cost of each row, ``[rows, 1]``."""
        return self.costs.mean(dim=1, keepdim=True)


def hard_rows(rows: Rows) -> Tensor:
    """Return the mask of the longest prefix by z within the budget of each row (DESIGN 4.3).

    The cost of a prefix is the sum of its costs rounded once, as by ``math.fsum``.

    Raises:
        TransportError: A value per cost beyond the range of a double.
    """
    if not rows.values.numel():
        return torch.zeros_like(rows.values, dtype=torch.bool)
    ratios = _finite(rows.values / rows.costs)
    scale = LimbScale.of(float(rows.costs.amax()), ratios.shape[1])
    limbs = scale.limbs(rows.costs)
    units = scale.units(len(limbs))
    if ratios.shape[1] <= _COUNTED_ROW:
        return _within(_prefixes_by_counting(ratios, limbs), units, rows.budgets)
    order = ratios.sort(dim=1, descending=True, stable=True).indices
    prefixes = [limb.gather(1, order).cumsum_(1) for limb in limbs]
    kept = _within(prefixes, units, rows.budgets)
    return torch.zeros_like(kept).scatter_(1, order, kept)


def _prefixes_by_counting(ratios: Tensor, limbs: Sequence[Tensor]) -> list[Tensor]:
    """Return for every block the limbs of the cost of all blocks that come no later than it."""
    prefixes = [torch.zeros_like(limb) for limb in limbs]
    places = torch.arange(ratios.shape[1], device=ratios.device)
    for place in range(ratios.shape[1]):
        own = ratios[:, place : place + 1]
        no_later = (own > ratios) | ((own == ratios) & (places >= place))
        for prefix, limb in zip(prefixes, limbs, strict=True):
            prefix.addcmul_(no_later.to(limb.dtype), limb[:, place : place + 1])
    return prefixes


def _within(prefixes: Sequence[Tensor], units: Sequence[float], budgets: Tensor) -> Tensor:
    """Say for every prefix, given in limbs, whether its cost rounded once is within the budget."""
    excess = prefixes[0] * units[0] - budgets
    for prefix, unit in zip(prefixes[1:], units[1:], strict=True):
        excess.add_(prefix, alpha=unit)
    within = excess <= 0.0
    if len(prefixes) == 1:
        return within
    # So close that the rounding of this very sum might decide: few, and fewer that differ.
    close = (excess.abs() <= _CLOSE * budgets).nonzero(as_tuple=True)
    parts = [prefix[close] * unit for prefix, unit in zip(prefixes, units, strict=True)]
    cases = torch.stack([budgets.expand_as(excess)[close], *parts], dim=1)
    distinct, places = torch.unique(cases, dim=0, return_inverse=True)
    fits = [math.fsum(case[1:]) <= case[0] for case in distinct.tolist()]
    within[close] = torch.tensor(fits, dtype=torch.bool, device=within.device)[places]
    return within


@dataclass(frozen=True)
class SoftRows:
    """Soft masks of rows, float64 ``[rows, n]``, and what they came from.

    ``masks = sigmoid(beta (z - anchors) - offsets)`` with z per mean-normalised cost; ``anchors``,
    ``offsets`` and ``relative_budget_errors`` are float64 ``[rows, 1]``.  The offset is infinite in
    the limits of a budget of nothing or everything.
    """

    masks: Tensor
    anchors: Tensor
    offsets: Tensor
    relative_budget_errors: Tensor
    num_iterations: int


def soft_rows(rows: Rows, beta: float) -> SoftRows:
    """Return the soft masks of all rows (DESIGN 4.1), float64.

    Raises:
        TransportError: A value per cost beyond the range of a double.
    """
    unit = rows.units
    if not rows.values.numel():
        zeros = torch.zeros_like(rows.budgets)
        return SoftRows(rows.values, zeros, zeros, zeros, 0)
    costs, blocks = rows.costs / unit, float(rows.costs.shape[1])
    target = rows.budgets / unit
    nothing, everything = target <= 0.0, target >= blocks * (1.0 - 1.0e-15)
    inner = torch.where(nothing | everything, torch.full_like(target, 0.5 * blocks), target)
    found = _RowSearch(_finite(rows.values / costs), costs, inner, beta).solve()
    limits = nothing | everything
    return SoftRows(
        found.masks.masked_fill_(nothing, 0.0).masked_fill_(everything, 1.0),
        found.anchors,
        found.offsets.masked_fill(nothing, torch.inf).masked_fill(everything, -torch.inf),
        found.relative_budget_errors.masked_fill(limits, 0.0),
        found.num_iterations,
    )


def _finite(ratios: Tensor) -> Tensor:
    """Return z as it is, or refuse what a quotient of finite numbers has made infinite."""
    if not bool(torch.isfinite(torch.stack(torch.aminmax(ratios))).all()):
        raise TransportError(
            "A value per cost is beyond the range of a double; scale the values or the costs so "
            "that value / cost stays below 1e308."
        )
    return ratios


@dataclass(frozen=True)
class _RowSearch:
    """The search of ``root.find_root`` for all rows at once; budgets strictly inside."""

    ratios: Tensor
    costs: Tensor
    target: Tensor
    beta: float

    def solve(self) -> SoftRows:
        """Iterate until every row meets its budget; a row that does is held where it is."""
        anchor, low, high = self._bracket()
        offset, previous = torch.zeros_like(anchor), torch.full_like(anchor, torch.inf)
        for iteration in range(1, _ITERATION_LIMIT + 1):
            mask = torch.sigmoid(self.beta * (self.ratios - anchor) - offset)
            mass = (self.costs * mask).sum(1, keepdim=True)
            excess = mass - self.target
            # A step from noise would leave the bracket, and bisection would undo what was found.
            met = excess.abs() <= _TOLERANCE * self.target
            if iteration == _ITERATION_LIMIT or bool(met.all()):
                break
            low = torch.where(excess > 0.0, offset, low)
            high = torch.where(excess < 0.0, offset, high)
            step, mismatch = self._newton(mask, mass)
            stalled = mismatch > _REQUIRED_PROGRESS * previous
            proposal = offset + step
            inside = (proposal > low) & (proposal < high) & ~stalled
            proposal = torch.where(inside, proposal, 0.5 * (low + high))
            offset = torch.where(met, offset, proposal)
            previous = torch.where(stalled, torch.inf, mismatch)
            anchor, (offset, low, high) = self._reanchored(anchor, offset, low, high)
        return SoftRows(mask, anchor, offset, excess.abs() / self.target, iteration)

    def _bracket(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first anchor, and two offsets from it between which the root lies."""
        blocks = float(self.ratios.shape[1])
        shift = (self.target.log() - (blocks - self.target).log()) / self.beta
        least, greatest = self.ratios.aminmax(dim=1, keepdim=True)
        anchor = 0.5 * (least + greatest) - shift
        slack = 1.0e-3 + 1.0e-12 * self.beta * (greatest.abs() + least.abs() + shift.abs())
        low = self.beta * (least - shift - anchor) - slack
        high = self.beta * (greatest - shift - anchor) + slack
        return anchor, low, high

    def _newton(self, mask: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
        """Return Newton's step on the logit scale, and the mismatch there."""
        blocks = float(self.ratios.shape[1])
        spread = (self.costs * mask * (1.0 - mask)).sum(1, keepdim=True)
        rest = blocks - mass
        mismatch = (mass / self.target).log() - (rest / (blocks - self.target)).log()
        slope = spread / mass + spread / rest
        step = mismatch / slope
        return torch.where(torch.isfinite(step), step, torch.inf), mismatch.abs()

    def _reanchored(
        self, anchor: Tensor, offset: Tensor, low: Tensor, high: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Move the anchor to the price itself where the offset has grown large."""
        moved = torch.where(offset.abs() > _REANCHOR_LOGITS, anchor + offset / self.beta, anchor)
        shift = self.beta * (moved - anchor)
        return moved, (offset - shift, low - shift, high - shift)


def row_gradient(
    rows: Rows, anchors: Tensor, offsets: Tensor, beta: float, gradient: Tensor
) -> Tensor:
    """Return dL/dv of every row (DESIGN 4.2) in float64, given g = dL/dm, float64 [rows, n].

    The masks are those of :class:`SoftRows`, computed anew: both m and 1 - m with all their
    digits, where a mask rounded to few digits has lost 1 - m near 1.
    """
    normalised = rows.costs / rows.units
    logits = beta * (rows.values / normalised - anchors) - offsets
    spread = torch.sigmoid(logits) * torch.sigmoid(-logits)
    weight = (normalised * spread).sum(1, keepdim=True)
    shared = (gradient * spread).sum(1, keepdim=True) / weight
    slope = beta * spread * (gradient / normalised - shared)
    # Not "weight <= 0": in the limits infinite logits may have made it NaN.
    return slope.masked_fill_(~(weight > 0.0), 0.0)
