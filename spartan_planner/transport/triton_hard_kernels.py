"""Kernels of hard selection: thresholds per segment, the counting read, the masks (DESIGN 4.3)."""

# ruff: noqa: ANN001, ANN201, N803 - Triton reads the arguments' values, not their types
import triton
import triton.language as tl

from spartan_planner.transport.triton_price_kernels import stretch_of


@triton.jit  # type: ignore[untyped-decorator]
def threshold_kernel(  # type: ignore[no-untyped-def]
    ratios, costs, thresholds, num_segments, count, BLOCK: tl.constexpr
):
    """Find the least float32 v with float64(v) / c >= ratio for each segment; one program.

    ``thresholds`` is float32 [ratios, segments] with ``count`` numbers.  The product of ratio and
    cost, rounded to float32, is that value or a neighbour of it.
    """
    index = tl.arange(0, BLOCK)
    inside = index < count
    row = index // num_segments
    cost = tl.load(costs + index - row * num_segments, mask=inside, other=1.0)
    ratio = tl.load(ratios + row, mask=inside, other=0.0)
    # Adding zero turns -0.0 into 0.0, so that neighbours are one key apart.
    nearest = (ratio * cost).to(tl.float32) + 0.0
    bits = nearest.to(tl.int32, bitcast=True)
    key = tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
    # Neighbours end at the infinities, whose keys these are: beyond them are NaN.
    lower = tl.maximum(key - 1, -2139095041)
    upper = tl.minimum(key + 1, 2139095040)
    before = tl.where(lower >= 0, lower, lower ^ 0x7FFFFFFF).to(tl.float32, bitcast=True)
    after = tl.where(upper >= 0, upper, upper ^ 0x7FFFFFFF).to(tl.float32, bitcast=True)
    least = tl.where(nearest.to(tl.float64) / cost >= ratio, nearest, after)
    least = tl.where(before.to(tl.float64) / cost >= ratio, before, least)
    tl.store(thresholds + index, least, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def count_kernel(  # type: ignore[no-untyped-def]
    addresses, lengths, thresholds, num_segments, segments, starts,
    counts, pool_values, pool_segments, held, capacity,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Read a stretch: count v >= high, low <= v < high and bad ones per segment; keep the middle.

    ``thresholds`` float32 [2, segments] are low and high; ``counts`` int64 [3, segments];
    ``held`` int32 [1] counts what went into the pool, in no particular order.
    """
    program = tl.program_id(0)
    segment = tl.load(segments + program)
    start = tl.load(starts + program)
    base, length = stretch_of(addresses, lengths, segment, DTYPE)
    low = tl.load(thresholds + segment)
    high = tl.load(thresholds + num_segments + segment)
    over = tl.zeros((BLOCK,), tl.int32)
    bad = tl.zeros((BLOCK,), tl.int32)
    num_picked = tl.program_id(0) * 0
    for tile in range(TILES):
        index = start + tile * BLOCK + tl.arange(0, BLOCK)
        inside = index < length
        value = tl.load(base + index, mask=inside, other=0.0).to(tl.float32)
        over += tl.where(inside & (value >= high), 1, 0)
        bad += tl.where(tl.abs(value) < float("inf"), 0, 1)
        picked = tl.where(inside & (value >= low) & (value < high), 1, 0)
        total = tl.sum(picked)
        num_picked += total
        if total > 0:
            place = tl.atomic_add(held, total) + tl.cumsum(picked, 0) - 1
            fits = (picked > 0) & (place < capacity)
            tl.store(pool_values + place, value, mask=fits)
            tl.store(pool_segments + place, tl.zeros((BLOCK,), tl.int32) + segment, mask=fits)
    tl.atomic_add(counts + segment, tl.sum(over).to(tl.int64))
    tl.atomic_add(counts + num_segments + segment, num_picked.to(tl.int64))
    tl.atomic_add(counts + 2 * num_segments + segment, tl.sum(bad).to(tl.int64))


@triton.jit  # type: ignore[untyped-decorator]
def select_kernel(  # type: ignore[no-untyped-def]
    addresses, outputs, lengths, thresholds, cuts, num_segments, segments, starts,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Write v >= high, or v >= low before the segment's cut (ties by position), as 0 and 1."""
    program = tl.program_id(0)
    segment = tl.load(segments + program)
    start = tl.load(starts + program)
    base, length = stretch_of(addresses, lengths, segment, DTYPE)
    output = tl.load(outputs + segment).to(tl.pointer_type(tl.int8))
    low = tl.load(thresholds + segment)
    high = tl.load(thresholds + num_segments + segment)
    cut = tl.load(cuts + segment)
    for tile in range(TILES):
        index = start + tile * BLOCK + tl.arange(0, BLOCK)
        inside = index < length
        value = tl.load(base + index, mask=inside, other=0.0).to(tl.float32)
        kept = (value >= high) | ((value >= low) & (index < cut))
        tl.store(output + index, kept.to(tl.int8), mask=inside)
