"""Soft top-k on a GPU: one launch per read over all tensors, the search's scalars on the device.

The same formulas as :mod:`spartan_planner.transport.passes` in float32 (the narrow arithmetic);
programs hand on float64 sums, which one program adds up.  Runs on a CPU under Triton's interpreter
(``TRITON_INTERPRET=1``), which is how it is tested where there is no GPU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from spartan_planner.transport.passes import Segment
from spartan_planner.transport.results import Price
from spartan_planner.transport.root import Root
from spartan_planner.transport.sampling import SAMPLE_BLOCKS, stratified_indices
from spartan_planner.transport.triton_price_kernels import (
    NUM_PARTS,
    STATE_SIZE,
    gather_kernel,
    step_kernel,
    sums_kernel,
    write_kernel,
)
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

# Places in the state that the host writes or reads (triton_price_kernels names them all).
_ANCHOR, _OFFSET, _DONE, _READS, _ERROR, _BETA = 0, 1, 5, 6, 7, 8
# A read that is not needed costs a launch; a synchronisation about as much.
_READS_AT_ONCE = 3
# Bisection between all but hard masks takes about twenty reads; more are for float64.
_READ_LIMIT = 24
_SAMPLE_READS = 10
# A sample of 65,536 blocks is off by about this much itself.
_SAMPLE_TOLERANCE = 5.0e-4
_LARGEST_SAMPLE = 1 << 20
_LEAST_PER_SEGMENT = 64


@dataclass(frozen=True)
class SegmentTable:
    """Flat segments as the kernels see them; ``costs`` in the logits, ``weights`` in the sums."""

    addresses: Tensor
    lengths: Tensor
    costs: Tensor
    weights: Tensor
    launches: tuple[Stretches, ...]
    tiles: int

    @property
    def num_programs(self) -> int:
        """Programs of all launches."""
        return sum(launch.count for launch in self.launches)


def segment_table(segments: Sequence[Tensor], costs: Sequence[float]) -> SegmentTable:
    """Return the table of flat segments with one cost each."""
    device = segments[0].device
    lengths = tuple(segment.numel() for segment in segments)
    kinds = tuple(segment.dtype for segment in segments)
    tiles = tiles_per_program(lengths)
    numbers = real_numbers(tuple(costs), device)
    return SegmentTable(
        addresses(segments, device),
        whole_numbers(lengths, device),
        numbers,
        numbers,
        stretches(lengths, kinds, tiles * BLOCK, device),
        tiles,
    )


def new_state(
    price: Price, beta: float, budget: float, total: float, tolerance: float, trust: float
) -> list[float]:
    """Return the numbers of a search that has not read anything yet."""
    nothing_known = (-math.inf, math.inf, math.inf, 0.0, 0.0, math.inf)
    return [price.anchor, price.offset, *nothing_known, beta, budget, total, tolerance, trust]


def read_sums(table: SegmentTable, state: Tensor) -> Tensor:
    """Read everything once at the state's price; return what the programs found, [6, programs]."""
    count = table.num_programs
    parts = torch.empty(NUM_PARTS, count, dtype=torch.float64, device=state.device)
    for own in table.launches:
        launch(
            sums_kernel, own.count, table.addresses, table.lengths, table.costs, table.weights,
            own.segments, own.starts, state, parts, count, own.first,
            DTYPE=tl_dtype(own.kind), BLOCK=BLOCK, TILES=table.tiles,
        )  # fmt: skip
    return parts


def read_and_step(table: SegmentTable, state: Tensor) -> None:
    """Read everything once and move the price, unless the search is done."""
    parts = read_sums(table, state)
    launch(step_kernel, 1, parts, table.num_programs, state, BLOCK=1024)


def written_mass(table: SegmentTable, outputs: Sequence[Tensor], state: Tensor) -> Tensor:
    """Write the masks at the state's price, if it is done; return their mass, float64 []."""
    device = state.device
    parts = torch.zeros(table.num_programs, dtype=torch.float64, device=device)
    targets = addresses(outputs, device)
    for own in table.launches:
        launch(
            write_kernel, own.count, table.addresses, targets, table.lengths, table.costs,
            own.segments, own.starts, state, parts, own.first,
            DTYPE=tl_dtype(own.kind), BLOCK=BLOCK, TILES=table.tiles,
        )  # fmt: skip
    return parts.sum()


def _plain(segments: Sequence[Segment]) -> SegmentTable:
    """Return the table of segments that all have one number as their cost."""
    costs = [segment.cost for segment in segments]
    return segment_table(
        [segment.values for segment in segments], [c for c in costs if isinstance(c, float)]
    )


def mask_sums(segments: Sequence[Segment], price: Price, beta: float) -> Tensor:
    """Return [mass, spread, skew] over the segments, float64 [3]."""
    numbers = new_state(price, beta, 0.0, 0.0, 0.0, 0.0)
    state = torch.tensor(numbers, dtype=torch.float64, device=segments[0].values.device)
    return read_sums(_plain(segments), state)[:3].sum(1)


def write_masks(
    segments: Sequence[Segment], outputs: Sequence[Tensor], price: Price, beta: float
) -> Tensor:
    """Write the masks to the flat ``outputs`` and return their mass, float64 []."""
    numbers = new_state(price, beta, 0.0, 0.0, 0.0, 0.0)
    numbers[_DONE] = 1.0
    state = torch.tensor(numbers, dtype=torch.float64, device=segments[0].values.device)
    return written_mass(_plain(segments), outputs, state)


@dataclass(frozen=True)
class SampleTable:
    """Where the blocks of a sample are: sorted by dtype, then by segment.

    ``pieces``: dtype, first place in the sample, segments int64 and positions int64 of each
    dtype's blocks; ``offsets`` (bytes) and ``counts`` of each segment's blocks in the sample;
    ``shares``: blocks that a sampled block stands for, per segment.
    """

    pieces: tuple[tuple[torch.dtype, int, Tensor, Tensor], ...]
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    shares: tuple[float, ...]

    @property
    def size(self) -> int:
        """Blocks in the sample."""
        return sum(self.counts)


@lru_cache(maxsize=16)
def sample_table(
    lengths: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...],
    costs: tuple[float, ...],
    device: torch.device,
) -> SampleTable:
    """Choose a stratified sample, each segment by its share of the cost; made once per shape."""
    limit = min(max(SAMPLE_BLOCKS, sum(lengths) // 256), _LARGEST_SAMPLE)
    total = math.fsum(n * cost for n, cost in zip(lengths, costs, strict=True))
    quotas = [
        min(n, max(int(limit * n * cost / total), _LEAST_PER_SEGMENT))
        for n, cost in zip(lengths, costs, strict=True)
    ]
    pieces, offsets, first = [], [0] * len(lengths), 0
    for dtype in dict.fromkeys(dtypes):
        own = [i for i, other in enumerate(dtypes) if other == dtype]
        start = first
        for i in own:
            offsets[i] = 4 * first
            first += quotas[i]
        positions = torch.cat([stratified_indices(lengths[i], quotas[i], device) for i in own])
        origins = torch.tensor(own).repeat_interleave(torch.tensor([quotas[i] for i in own]))
        pieces.append((dtype, start, origins.to(device), positions))
    shares = tuple(n / max(quota, 1) for n, quota in zip(lengths, quotas, strict=True))
    return SampleTable(tuple(pieces), tuple(offsets), tuple(quotas), shares)


def gathered(sample: SampleTable, segments: Sequence[Tensor]) -> Tensor:
    """Return the values of a sample, float32 [m]."""
    device = segments[0].device
    values = torch.empty(sample.size, dtype=torch.float32, device=device)
    where = addresses(segments, device)
    for dtype, first, origins, positions in sample.pieces:
        count = positions.numel()
        launch(
            gather_kernel, -(-count // 1024), where, origins, positions, values[first:], count,
            DTYPE=tl_dtype(dtype), BLOCK=1024,
        )  # fmt: skip
    return values


def _search_sample(segments: Sequence[Tensor], costs: Sequence[float], state: Tensor) -> None:
    """Search the price on a sample and leave it in the state, as the start of the search."""
    device = state.device
    kinds = tuple(segment.dtype for segment in segments)
    lengths = tuple(segment.numel() for segment in segments)
    sample = sample_table(lengths, kinds, tuple(costs), device)
    values = gathered(sample, segments)
    weights = tuple(cost * share for cost, share in zip(costs, sample.shares, strict=True))
    table = SegmentTable(
        whole_numbers(sample.offsets, device) + values.data_ptr(),
        whole_numbers(sample.counts, device),
        real_numbers(tuple(costs), device),
        real_numbers(weights, device),
        stretches(sample.counts, (torch.float32,) * len(kinds), BLOCK, device),
        1,
    )
    own = state.clone()
    own[-2:] = real_numbers((_SAMPLE_TOLERANCE, 0.0), device)
    for _ in range(_SAMPLE_READS):
        read_and_step(table, own)
    state[_ANCHOR] = own[_ANCHOR] + own[_OFFSET] / own[_BETA]


@dataclass(frozen=True)
class DeviceSearch:
    """A soft problem of one process: flat segments, mean-normalised costs, budget strictly inside.

    ``tolerance`` is the relative budget error at which it is solved, ``trust`` the logit mismatch
    from which a step is written unverified.
    """

    segments: tuple[Tensor, ...]
    costs: tuple[float, ...]
    budget: float
    total: float
    beta: float
    tolerance: float
    trust: float

    def solve(self, initial_price: float | None, outputs: Sequence[Tensor] | None) -> Root | None:
        """Find the price and write the masks, if ``outputs`` are given; None if that fails.

        It fails when a value is not finite or float32 does not resolve the budget.  One
        synchronisation when three reads suffice.
        """
        table = segment_table(self.segments, self.costs)
        start = Price(initial_price if initial_price is not None else 0.0)
        numbers = new_state(start, self.beta, self.budget, self.total, self.tolerance, self.trust)
        state = torch.tensor(numbers, dtype=torch.float64, device=self.segments[0].device)
        if initial_price is None and self.total > SAMPLE_BLOCKS:
            _search_sample(self.segments, self.costs, state)
        for _ in range(_READ_LIMIT // _READS_AT_ONCE):
            for _ in range(_READS_AT_ONCE):
                read_and_step(table, state)
            found = state if outputs is None else self._written(table, outputs, state)
            root, done = self._root(found.tolist(), outputs is not None)
            if done == 1.0 and root.relative_budget_error <= 2.0 * self.tolerance:
                return root
            if done == 3.0:
                return None
            # A trusted step that was not good enough: its masks are verified the next time.
            state[_DONE : _DONE + 1] = 0.0
            state[-1:] = 0.0
        return None

    def _written(self, table: SegmentTable, outputs: Sequence[Tensor], state: Tensor) -> Tensor:
        return torch.cat([state, written_mass(table, outputs, state).view(1)])

    def _root(self, numbers: Sequence[float], is_written: bool) -> tuple[Root, float]:
        """Return what was found, with the error of what was written where anything was."""
        price, done = Price(numbers[_ANCHOR], numbers[_OFFSET]), numbers[_DONE]
        error = numbers[_ERROR]
        if is_written and done in (1.0, 2.0):
            error, done = abs(numbers[STATE_SIZE] / self.budget - 1.0), 1.0
        return Root(price, int(numbers[_READS]) + is_written, error, verified=done == 1.0), done
