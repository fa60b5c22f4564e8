"""Segmented hard top-k (DESIGN 4.3): the longest prefix by z = v / c that fits into the budget.

Never over the budget, at most one block under, ties by position (order of the tensors, then of
the ranks that share a tensor, then of the elements), the same on every device and rank.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport.backend import find_hard_boundary, write_selection
from spartan_planner.transport.boundary import Boundary
from spartan_planner.transport.collective import counts_by_rank, own_rank
from spartan_planner.transport.comparisons import position_after
from spartan_planner.transport.cuts import Cut
from spartan_planner.transport.element_costs import select_by_element
from spartan_planner.transport.float_order import least_value_at_ratio, value_of
from spartan_planner.transport.location import locate_boundary
from spartan_planner.transport.packing import Pack, pack
from spartan_planner.transport.passes import chunk_bounds, chunk_size
from spartan_planner.transport.problem import Cost, Problem, build_problem, exact_cost
from spartan_planner.transport.results import HardSelection, SelectionStatus, left_of_budget
from spartan_planner.transport.values import checked_extremes


def solve_hard_topk(
    values: Sequence[Tensor],
    costs: Sequence[Cost],
    budget: float,
    *,
    expected: tuple[float, float] | None = None,
    ratios: tuple[float, float] | None = None,
    names: Sequence[str] | None = None,
    process_group: dist.ProcessGroup | None = None,
    writes_masks: bool = True,
) -> HardSelection:
    """Keep the longest prefix of the blocks, ordered by value per cost, within the budget.

    z is ``float64(v) / c`` with the cost as given; equal z go by position.  The cost of a prefix
    is ``fsum(count * c)`` over the tensors, so it does not depend on any order of addition; with
    a cost per element it is ``fsum`` over the elements.

    Selection is a radix search on the bits of z: no sort, and about one and a half reads.

    Args:
        values: Tensors of any shape; float64, float32, bfloat16 or float16; finite.
        costs: For each tensor the cost of one of its blocks (or, on one rank, a tensor with one
            per element), positive, in any unit.
        budget: In the unit of the costs, from 0 to the cost of all blocks, limits included.
        expected: Thresholds, low and high, between which that of an earlier selection on similar
            values lets expect this one: the closer, the faster.  The selection is the same.
        ratios: Least and greatest value per cost over all ranks, both finite, where they are known;
            the values are not read for them then.
        names: Names of the tensors for error messages.
        process_group: When given, the values are this rank's shards: a tensor is understood as
            the shards of all ranks one after the other, and the masks are those of the shards.
        writes_masks: Whether masks are written; otherwise there are none, but ``cuts``.  One rank
            and one cost per tensor only.

    Raises:
        TransportError: For values, costs or a budget that this is not defined for.
    """
    problem = build_problem(values, costs, budget, names, process_group)
    if not writes_masks:
        return _select(None, problem, expected, ratios)
    masks = tuple(
        torch.empty(value.shape, dtype=torch.bool, device=value.device) for value in values
    )
    return select_into(masks, problem, expected, ratios)


def select_into(
    masks: tuple[Tensor, ...],
    problem: Problem,
    expected: tuple[float, float] | None = None,
    ratios: tuple[float, float] | None = None,
) -> HardSelection:
    """Select on a checked problem and write to contiguous boolean masks."""
    return _select(masks, problem, expected, ratios)


def _select(
    masks: tuple[Tensor, ...] | None,
    problem: Problem,
    expected: tuple[float, float] | None,
    ratios: tuple[float, float] | None,
) -> HardSelection:
    """Select on a checked problem; find cuts where there are no masks to write to."""
    costs = [cost for cost in problem.costs if not isinstance(cost, Tensor)]
    has_element_costs = problem.has_element_costs
    if has_element_costs and problem.process_group is not None:
        raise TransportError(
            "Hard selection across ranks takes one cost per tensor, and a cost per element was "
            "given; select on one rank, or give numbers."
        )
    if masks is None and (has_element_costs or problem.process_group is not None):
        raise TransportError(
            "Cuts are found on one rank, with one cost per tensor; ask for masks instead."
        )
    if not has_element_costs and 0.0 < problem.budget < problem.total:
        boundary = find_hard_boundary(problem)
        if boundary is not None:
            return _selection(masks, problem, boundary, costs, None, None)
    packed = pack(problem, problem.costs)
    extremes = ratios
    if extremes is None:
        found = problem.num_blocks > 0
        extremes = checked_extremes(problem, problem.costs, packed) if found else (0.0, 0.0)
    if problem.budget >= problem.total:
        # A budget of everything is the total itself: what rounding added has been taken off.
        return _uniform(masks, True, -math.inf, problem.total, problem)
    if problem.budget <= 0.0:
        return _uniform(masks, False, math.inf, 0.0, problem)
    if has_element_costs and masks is not None:
        return select_by_element(masks, problem, extremes)
    boundary = locate_boundary(problem, costs, extremes, packed, expected)
    return _selection(masks, problem, boundary, costs, packed, extremes)


def _selection(
    masks: tuple[Tensor, ...] | None,
    problem: Problem,
    boundary: Boundary,
    costs: Sequence[float],
    packed: Pack | None,
    extremes: tuple[float, float] | None,
) -> HardSelection:
    """Write the masks that a boundary stands for."""
    kept_ties = admitted_ties(boundary, costs, problem.budget)
    if masks is not None:
        _write(masks, problem, boundary, _own_share(problem, costs, boundary, kept_ties), packed)
    kept = [above + ties for above, ties in zip(boundary.above, kept_ties, strict=True)]
    return HardSelection(
        masks or (),
        value_of(boundary.key),
        exact_cost(kept, costs),
        sum(kept),
        SelectionStatus.EXACT_PREFIX,
        left_of_budget(exact_cost(kept, costs), problem.budget),
        extremes,
        _cuts(problem, boundary, kept_ties) if masks is None else (),
    )


def _cuts(problem: Problem, boundary: Boundary, kept_ties: Sequence[int]) -> tuple[Cut, ...]:
    """Return what a boundary stands for in each tensor."""
    found = []
    for segment, cost, above, ties in zip(
        problem.segments, problem.costs, boundary.above, kept_ties, strict=True
    ):
        assert not isinstance(cost, Tensor)
        low, high = _tie_bounds(boundary, cost, segment.dtype)
        position = position_after(segment, low, high, ties) if ties and low < high else 0
        found.append(Cut(low, high, position, above + ties))
    return tuple(found)


def _uniform(
    masks: tuple[Tensor, ...] | None, keep: bool, threshold: float, cost: float, problem: Problem
) -> HardSelection:
    """Return the selection of everything or nothing."""
    for mask in masks or ():
        mask.fill_(keep)
    status = SelectionStatus.EVERYTHING_KEPT if keep else SelectionStatus.NOTHING_KEPT
    num_kept = problem.num_blocks if keep else 0
    cuts = tuple(Cut(threshold, threshold, 0, s.numel() * keep) for s in problem.segments)
    found = HardSelection(masks or (), threshold, cost, num_kept, status, 0.0)
    return found if masks is not None else replace(found, cuts=cuts)


def admitted_ties(boundary: Boundary, costs: Sequence[float], budget: float) -> tuple[int, ...]:
    """Return how many of the tied boundary blocks of each segment still fit, in order."""
    kept = list(boundary.above)
    for index, ties in enumerate(boundary.ties):
        base = kept[index]
        fits, fails = 0, ties + 1
        while fails - fits > 1:
            middle = (fits + fails) // 2
            kept[index] = base + middle
            fits, fails = (middle, fails) if exact_cost(kept, costs) <= budget else (fits, middle)
        kept[index] = base + fits
        if fits < ties:
            break
    return tuple(count - above for count, above in zip(kept, boundary.above, strict=True))


def _tie_bounds(boundary: Boundary, cost: float, dtype: torch.dtype) -> tuple[float, float]:
    """Return the values low <= v < high of a segment that are tied at the boundary."""
    low, high = value_of(boundary.key), value_of(boundary.key + 1)
    return least_value_at_ratio(low, cost, dtype), least_value_at_ratio(high, cost, dtype)


def _own_share(
    problem: Problem, costs: Sequence[float], boundary: Boundary, kept_ties: Sequence[int]
) -> list[int]:
    """Return how many tied blocks of each local shard are kept: earlier ranks go first."""
    if problem.process_group is None:
        return list(kept_ties)
    local = []
    for segment, cost in zip(problem.segments, costs, strict=True):
        low, high = _tie_bounds(boundary, cost, segment.dtype)
        local.append(int(((segment >= low) & (segment < high)).count_nonzero()))
    counts = counts_by_rank(torch.tensor(local, device=problem.device), problem.process_group)
    rank = own_rank(problem.process_group)
    earlier = counts[:rank].sum(0).tolist()
    return [
        min(max(kept - before, 0), own)
        for kept, before, own in zip(kept_ties, earlier, local, strict=True)
    ]


def _write(
    masks: Sequence[Tensor],
    problem: Problem,
    boundary: Boundary,
    kept_ties: Sequence[int],
    pack: Pack | None,
) -> None:
    """Write the masks: everything above the boundary, and the first of the tied blocks."""
    flat_masks = [mask.view(-1) for mask in masks]
    if write_selection(flat_masks, problem, boundary, kept_ties):
        return
    packed = frozenset(pack.indices if pack is not None else ())
    if pack is not None:
        _write_packed([flat_masks[index] for index in pack.indices], boundary, kept_ties, pack)
    for index, (flat, segment) in enumerate(zip(flat_masks, problem.segments, strict=True)):
        if index in packed or not segment.numel():
            continue
        cost, kept = problem.costs[index], kept_ties[index]
        assert not isinstance(cost, Tensor)
        low, high = _tie_bounds(boundary, cost, segment.dtype)
        cut = position_after(segment, low, high, kept) if kept and low < high else 0
        _compare(flat[:cut], segment[:cut], low)
        _compare(flat[cut:], segment[cut:], high)


def _write_packed(
    flat_masks: Sequence[Tensor], boundary: Boundary, kept_ties: Sequence[int], pack: Pack
) -> None:
    """Write the masks of the small segments."""
    if not pack.indices:
        return
    kept = pack.keys > boundary.key
    first = 0
    for index, size in zip(pack.indices, pack.sizes, strict=True):
        if kept_ties[index]:
            tied = (pack.keys[first : first + size] == boundary.key).nonzero().squeeze(1)
            kept[first + tied[: kept_ties[index]]] = True
        first += size
    pack.split(kept, flat_masks)


def _compare(out: Tensor, values: Tensor, threshold: float) -> None:
    """Write ``values >= threshold``, a chunk at a time so that no scratch is large."""
    size = chunk_size(values.device) // 2
    flags = values.new_empty(min(size, values.numel()))
    for start, stop in chunk_bounds(values.numel(), size):
        # Numbers, then booleans: comparing into booleans at once takes three times as long.
        found = torch.ge(values[start:stop], threshold, out=flags[: stop - start])
        out[start:stop].copy_(found)
