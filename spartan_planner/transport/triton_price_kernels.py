"""Kernels of the price search: the sums at a price, the step to the next one, the masks.

The search's numbers stay on the device, in a float64 vector whose places are named below, so
that reads follow one another without the host.  Once it says DONE the remaining reads return at
once.  The formulas are those of ``narrow.py`` (logits) and ``root.py`` (steps).
"""

# ruff: noqa: ANN001, ANN201, N803 - Triton reads the arguments' values, not their types
import triton
import triton.language as tl

# Places in the state of a search.
ANCHOR = tl.constexpr(0)  # the price is anchor + offset / beta
OFFSET = tl.constexpr(1)
LOW = tl.constexpr(2)  # offsets between which the root lies
HIGH = tl.constexpr(3)
PREVIOUS = tl.constexpr(4)  # mismatch of the read before
DONE = tl.constexpr(
    5
)  # 0 searching, 1 verified, 2 a trusted step was taken, 3 a value is not finite
READS = tl.constexpr(6)
ERROR = tl.constexpr(7)  # relative, of the last read
BETA = tl.constexpr(8)
BUDGET = tl.constexpr(9)
TOTAL = tl.constexpr(10)
TOLERANCE = tl.constexpr(11)
TRUST = tl.constexpr(12)

#: Numbers in the state.
STATE_SIZE = 13
#: Numbers that a program of a read hands on.
NUM_PARTS = 6


@triton.jit  # type: ignore[untyped-decorator]
def stretch_of(addresses, lengths, segment, DTYPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the address and the length of a segment."""
    base = tl.load(addresses + segment).to(tl.pointer_type(DTYPE))
    return base, tl.load(lengths + segment)


@triton.jit
def logit_numbers(state, cost):  # type: ignore[no-untyped-def]
    """Return high, scale and shift of the narrow logit scale (v - high) + shift, in float32."""
    scale = tl.load(state + BETA) / cost
    centre = cost * tl.load(state + ANCHOR)
    high = centre.to(tl.float32)
    shift = -(centre - high.to(tl.float64)) * scale - tl.load(state + OFFSET)
    return high, scale.to(tl.float32), shift.to(tl.float32)


@triton.jit
def sigmoid(logit):  # type: ignore[no-untyped-def]
    """Return 1 / (1 + exp(-t)) without an overflow."""
    return 1.0 / (1.0 + tl.exp(tl.minimum(-logit, 88.0)))


@triton.jit  # type: ignore[untyped-decorator]
def sums_kernel(  # type: ignore[no-untyped-def]
    addresses, lengths, costs, weights, segments, starts, state, parts, programs, first,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Read a stretch: weighted sums of m, m (1-m), m (1-m)(1-2m); least and greatest z; bad ones.

    ``parts`` is float64 [6, programs].
    """
    if tl.load(state + DONE) == 0.0:
        program = tl.program_id(0)
        segment = tl.load(segments + program)
        start = tl.load(starts + program)
        base, length = stretch_of(addresses, lengths, segment, DTYPE)
        cost = tl.load(costs + segment)
        weight = tl.load(weights + segment)
        high, scale, shift = logit_numbers(state, cost)
        mass = tl.zeros((BLOCK,), tl.float32)
        spread = tl.zeros((BLOCK,), tl.float32)
        skew = tl.zeros((BLOCK,), tl.float32)
        least = tl.full((BLOCK,), float("inf"), tl.float32)
        greatest = tl.full((BLOCK,), float("-inf"), tl.float32)
        bad = tl.zeros((BLOCK,), tl.int32)
        for tile in range(TILES):
            index = start + tile * BLOCK + tl.arange(0, BLOCK)
            inside = index < length
            value = tl.load(base + index, mask=inside, other=0.0).to(tl.float32)
            mask = tl.where(inside, sigmoid((value - high) * scale + shift), 0.0)
            rest = mask * (1.0 - mask)
            mass += mask
            spread += rest
            skew += rest * (1.0 - 2.0 * mask)
            least = tl.minimum(least, tl.where(inside, value, float("inf")))
            greatest = tl.maximum(greatest, tl.where(inside, value, float("-inf")))
            # Written so that NaN fails it.
            finite = tl.abs(value) < float("inf")
            bad += tl.where(finite, 0, 1)
        part = parts + first + program
        tl.store(part, weight * tl.sum(mass.to(tl.float64)))
        tl.store(part + programs, weight * tl.sum(spread.to(tl.float64)))
        tl.store(part + 2 * programs, weight * tl.sum(skew.to(tl.float64)))
        tl.store(part + 3 * programs, tl.min(least).to(tl.float64) / cost)
        tl.store(part + 4 * programs, tl.max(greatest).to(tl.float64) / cost)
        tl.store(part + 5 * programs, tl.sum(bad).to(tl.float64))


@triton.jit  # type: ignore[untyped-decorator]
def step_kernel(parts, programs, state, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Add up what a read found, and take one step of ``root.find_root``; one program."""
    if tl.load(state + DONE) == 0.0:
        mass = tl.zeros((BLOCK,), tl.float64)
        spread = tl.zeros((BLOCK,), tl.float64)
        skew = tl.zeros((BLOCK,), tl.float64)
        least = tl.full((BLOCK,), float("inf"), tl.float64)
        greatest = tl.full((BLOCK,), float("-inf"), tl.float64)
        bad = tl.zeros((BLOCK,), tl.float64)
        for start in range(0, programs, BLOCK):
            index = start + tl.arange(0, BLOCK)
            inside = index < programs
            part = parts + index
            mass += tl.load(part, mask=inside, other=0.0)
            spread += tl.load(part + programs, mask=inside, other=0.0)
            skew += tl.load(part + 2 * programs, mask=inside, other=0.0)
            ends = tl.load(part + 3 * programs, mask=inside, other=float("inf"))
            least = tl.minimum(least, ends)
            ends = tl.load(part + 4 * programs, mask=inside, other=float("-inf"))
            greatest = tl.maximum(greatest, ends)
            bad += tl.load(part + 5 * programs, mask=inside, other=0.0)
        take_step(
            state, tl.sum(mass), tl.sum(spread), tl.sum(skew),
            tl.min(least), tl.max(greatest), tl.sum(bad),
        )  # fmt: skip


@triton.jit
def take_step(state, mass, spread, skew, least, greatest, bad):  # type: ignore[no-untyped-def]
    """Halley's step on the logit scale inside the bracket, bisection where it fails."""
    anchor = tl.load(state + ANCHOR)
    offset = tl.load(state + OFFSET)
    beta = tl.load(state + BETA)
    budget = tl.load(state + BUDGET)
    total = tl.load(state + TOTAL)
    reads = tl.load(state + READS)
    # The first read yields the bracket (root.price_bracket).
    tilt = (tl.log(budget) - tl.log(total - budget)) / beta
    margin = 1.0e-3 / beta + 1.0e-12 * tl.maximum(tl.abs(least - tilt), tl.abs(greatest - tilt))
    low = tl.where(reads == 0.0, beta * (least - tilt - margin - anchor), tl.load(state + LOW))
    high = tl.where(reads == 0.0, beta * (greatest - tilt + margin - anchor), tl.load(state + HIGH))

    error = (mass - budget) / budget
    low = tl.where(error > 0.0, tl.maximum(low, offset), low)
    high = tl.where(error > 0.0, high, tl.minimum(high, offset))
    usable = (mass > 0.0) & (mass < total) & (spread > 0.0)
    kept_mass = tl.where(usable, mass, budget)
    rest = total - kept_mass
    mismatch = tl.log(kept_mass / budget) - tl.log(rest / (total - budget))
    kept = tl.where(usable, spread, 1.0) / kept_mass
    dropped = tl.where(usable, spread, 1.0) / rest
    slope = -(kept + dropped)
    bend = skew / kept_mass + skew / rest + dropped * dropped - kept * kept
    curved = 2.0 * slope * slope - mismatch * bend
    is_safe = curved > slope * slope
    step = tl.where(
        is_safe, -2.0 * mismatch * slope / tl.where(is_safe, curved, 1.0), -mismatch / slope
    )
    size = tl.where(usable, tl.abs(mismatch), float("inf"))
    stalled = size > 0.5 * tl.load(state + PREVIOUS)
    proposal = offset + step
    taken = usable & (proposal > low) & (proposal < high) & (stalled == 0)
    proposal = tl.where(taken, proposal, 0.5 * (low + high))

    verified = tl.abs(error) <= tl.load(state + TOLERANCE)
    trusted = taken & (size <= tl.load(state + TRUST))
    done = tl.where(bad > 0.0, 3.0, tl.where(verified, 1.0, tl.where(trusted, 2.0, 0.0)))
    offset = tl.where(verified, offset, proposal)
    # Rounding in the logits grows with the offset: move the anchor to the price (root.py).
    moved = tl.where((tl.abs(offset) > 1.0e3) & (done == 0.0), anchor + offset / beta, anchor)
    shift = beta * (moved - anchor)
    tl.store(state + ANCHOR, moved)
    tl.store(state + OFFSET, offset - shift)
    tl.store(state + LOW, low - shift)
    tl.store(state + HIGH, high - shift)
    tl.store(state + PREVIOUS, tl.where(stalled, float("inf"), size))
    tl.store(state + DONE, done)
    tl.store(state + READS, reads + 1.0)
    tl.store(state + ERROR, tl.abs(error))


@triton.jit  # type: ignore[untyped-decorator]
def write_kernel(  # type: ignore[no-untyped-def]
    addresses, outputs, lengths, costs, segments, starts, state, parts, first,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Write the masks of a stretch and add up what is written, before it is rounded to DTYPE."""
    if tl.load(state + DONE) > 0.0:
        program = tl.program_id(0)
        segment = tl.load(segments + program)
        start = tl.load(starts + program)
        base, length = stretch_of(addresses, lengths, segment, DTYPE)
        output = tl.load(outputs + segment).to(tl.pointer_type(DTYPE))
        cost = tl.load(costs + segment)
        high, scale, shift = logit_numbers(state, cost)
        mass = tl.zeros((BLOCK,), tl.float32)
        for tile in range(TILES):
            index = start + tile * BLOCK + tl.arange(0, BLOCK)
            inside = index < length
            value = tl.load(base + index, mask=inside, other=0.0).to(tl.float32)
            mask = tl.where(inside, sigmoid((value - high) * scale + shift), 0.0)
            tl.store(output + index, mask.to(DTYPE), mask=inside)
            mass += mask
        tl.store(parts + first + program, cost * tl.sum(mass.to(tl.float64)))


@triton.jit  # type: ignore[untyped-decorator]
def gather_kernel(  # type: ignore[no-untyped-def]
    addresses, segments, positions, out, count, DTYPE: tl.constexpr, BLOCK: tl.constexpr
):
    """Copy single elements of many tensors to one vector, as float32."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    segment = tl.load(segments + index, mask=inside, other=0)
    position = tl.load(positions + index, mask=inside, other=0)
    base = tl.load(addresses + segment, mask=inside, other=0).to(tl.pointer_type(DTYPE))
    tl.store(out + index, tl.load(base + position, mask=inside, other=0.0).to(tl.float32), inside)
