"""Hard selection on a GPU: a sample's guess, one read that counts and picks, one synchronisation.

The device proposes the boundary's key; the host checks it with exact costs of counted blocks, as
everywhere (DESIGN 4.3).  Where the proposal does not hold, the general search takes over.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spartan_planner.transport.boundary import Boundary
from spartan_planner.transport.comparisons import position_after
from spartan_planner.transport.float_order import least_value_at_ratio, order_keys, value_of
from spartan_planner.transport.location import POOL_FRACTION, sample_margins
from spartan_planner.transport.problem import exact_cost
from spartan_planner.transport.sampling import SAMPLE_BLOCKS
from spartan_planner.transport.triton_hard_kernels import (
    count_kernel,
    select_kernel,
    threshold_kernel,
)
from spartan_planner.transport.triton_passes import (
    SegmentTable,
    gathered,
    sample_table,
    segment_table,
)
from spartan_planner.transport.triton_tables import (
    BLOCK,
    addresses,
    launch,
    next_power,
    real_numbers,
    tl_dtype,
)

_NO_KEY = torch.iinfo(torch.int64).min


@dataclass(frozen=True)
class HardSearch:
    """A hard problem of one process: flat segments, costs as given, budget strictly inside."""

    segments: tuple[Tensor, ...]
    costs: tuple[float, ...]
    budget: float

    @property
    def device(self) -> torch.device:
        """The device of the values."""
        return self.segments[0].device

    def locate(self) -> Boundary | None:
        """Return the boundary block, None when the guess was wrong or a value is not finite."""
        table = segment_table(self.segments, self.costs)
        pool = self._read(table, thresholds(self._guess(), self.costs, self.device))
        numbers = pool.proposal(table.costs, self.budget).tolist()
        key, held, num_bad, *counts = numbers
        above, ties = tuple(counts[: len(self.costs)]), tuple(counts[len(self.costs) :])
        reached = [a + b for a, b in zip(above, ties, strict=True)]
        is_boundary = exact_cost(above, self.costs) <= self.budget < exact_cost(reached, self.costs)
        complete = held <= pool.values.numel() and num_bad == 0
        return Boundary(key, above, ties) if complete and is_boundary else None

    def _guess(self) -> Tensor:
        """Return the ratios between which a sample says the boundary is, float64 [2]."""
        lengths = tuple(segment.numel() for segment in self.segments)
        if sum(lengths) <= SAMPLE_BLOCKS:
            return real_numbers((-math.inf, math.inf), self.device)
        dtypes = tuple(segment.dtype for segment in self.segments)
        sample = sample_table(lengths, dtypes, self.costs, self.device)
        weights = [cost * share for cost, share in zip(self.costs, sample.shares, strict=True)]
        below, beyond = sample_margins(sample.counts, weights, self.budget)
        origins = torch.cat([piece[2] for piece in sample.pieces])
        ratios = (
            gathered(sample, self.segments).double()
            / real_numbers(self.costs, self.device)[origins]
        )
        ordered, order = ratios.sort(descending=True)
        spent = real_numbers(tuple(weights), self.device)[origins[order]].cumsum(0)
        ends = torch.searchsorted(spent, real_numbers((beyond, below), self.device), right=True)
        ends = ordered[ends.clamp(max=sample.size - 1)]
        # The upper end is exclusive, and the block on it may be the boundary.
        ends[1] = torch.nextafter(ends[1], ends.new_tensor(math.inf))
        if below <= 0.0:
            ends[1] = math.inf
        if beyond >= exact_cost(sample.counts, weights):
            ends[0] = -math.inf
        return ends

    def _read(self, table: SegmentTable, limits: Tensor) -> "_DevicePool":
        """Read everything once between two thresholds per segment."""
        count, blocks = len(self.costs), sum(segment.numel() for segment in self.segments)
        capacity = min(max(SAMPLE_BLOCKS, int(blocks * POOL_FRACTION)), max(blocks, 1))
        device = self.device
        pool = _DevicePool(
            torch.zeros(3, count, dtype=torch.int64, device=device),
            torch.zeros(capacity, dtype=torch.float32, device=device),
            torch.zeros(capacity, dtype=torch.int32, device=device),
            torch.zeros(1, dtype=torch.int32, device=device),
        )
        for own in table.launches:
            launch(
                count_kernel, own.count, table.addresses, table.lengths, limits, count,
                own.segments, own.starts, pool.counts, pool.values, pool.segments, pool.held,
                capacity, DTYPE=tl_dtype(own.kind), BLOCK=BLOCK, TILES=table.tiles,
            )  # fmt: skip
        return pool


@dataclass(frozen=True)
class _DevicePool:
    """What a read counted (above, inside, not finite: [3, segments]) and the values inside."""

    counts: Tensor
    values: Tensor
    segments: Tensor
    held: Tensor

    def proposal(self, costs: Tensor, budget: float) -> Tensor:
        """Return [key, held, bad, above..., ties...], int64: what float64 sums say."""
        used = torch.arange(self.values.numel(), device=costs.device) < self.held
        keys = order_keys(self.values.double() / costs[self.segments])
        ordered, order = torch.where(used, keys, _NO_KEY).sort(descending=True)
        origins = self.segments[order].long()
        spent = (costs[origins] * (ordered > _NO_KEY)).cumsum(0) + costs @ self.counts[0].double()
        first = torch.searchsorted(spent, spent.new_tensor([budget]), right=True)
        key = ordered[first.clamp(max=ordered.numel() - 1)]
        above = self.counts[0].index_add(0, origins, (ordered > key).long())
        ties = torch.zeros_like(above).index_add(0, origins, (ordered == key).long())
        return torch.cat([key, self.held.long(), self.counts[2].sum().view(1), above, ties])


def thresholds(ratios: Tensor, costs: Sequence[float], device: torch.device) -> Tensor:
    """Return the least float32 values at the ratios for each segment, [ratios, segments]."""
    found = torch.empty(ratios.numel(), len(costs), dtype=torch.float32, device=device)
    count, numbers = found.numel(), real_numbers(tuple(costs), device)
    block = next_power(count)
    launch(threshold_kernel, 1, ratios, numbers, found, len(costs), count, BLOCK=block)
    return found


def write_selection(
    outputs: Sequence[Tensor],
    segments: Sequence[Tensor],
    costs: Sequence[float],
    boundary: Boundary,
    kept_ties: Sequence[int],
) -> None:
    """Write everything above the boundary and the first of the tied blocks, in one launch."""
    device = segments[0].device
    ends = value_of(boundary.key), value_of(boundary.key + 1)
    table = segment_table(segments, costs)
    limits = thresholds(torch.tensor(ends, dtype=torch.float64, device=device), costs, device)
    rows = zip(segments, costs, kept_ties, boundary.ties, strict=True)
    cuts = torch.tensor([_cut(ends, *row) for row in rows], dtype=torch.int64, device=device)
    targets = addresses(outputs, device)
    for own in table.launches:
        launch(
            select_kernel, own.count, table.addresses, targets, table.lengths, limits,
            cuts, len(costs), own.segments, own.starts,
            DTYPE=tl_dtype(own.kind), BLOCK=BLOCK, TILES=table.tiles,
        )  # fmt: skip


def _cut(ends: tuple[float, float], segment: Tensor, cost: float, kept: int, ties: int) -> int:
    """Return the position before which tied blocks are kept; looked for only if some are not."""
    if kept in (0, ties):
        return segment.numel() if kept else 0
    low, high = (least_value_at_ratio(end, cost, segment.dtype) for end in ends)
    return position_after(segment, low, high, kept)
