"""Comparisons of the values with thresholds, counted and picked out, chunk by chunk.

Flags are 1.0 and 0.0 in the dtype of the values: on a CPU, writing booleans costs three times as
much (docs/transport.md).  A chunk holds fewer than 2**24 elements, so float32 counts are exact.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from spartan_planner.transport.passes import chunk_bounds, chunk_size

# At a hundredth inside, every twelfth group of eight holds something: few groups, little waste.
_GROUP = 8
# Rows of words of eight booleans that are added up.
_WORD_ROWS = 128


def _count(flags: Tensor) -> Tensor:
    """Return the sum of 0/1 flags, exactly, float64 []."""
    return flags.sum(dtype=torch.promote_types(flags.dtype, torch.float32)).double()


def count_true(flags: Tensor) -> Tensor:
    """Return how many of some booleans are true, int64 [].

    On a CPU eight of them are added at a time, as the bytes of a word: a tenth of the time of
    ``count_nonzero``.
    """
    words = flags.numel() // (8 * _WORD_ROWS) * _WORD_ROWS
    if flags.is_cuda or not flags.is_contiguous() or not words:
        return flags.count_nonzero()
    flat = flags.view(-1)
    if flat.data_ptr() % 8:
        return flags.count_nonzero()
    # Fewer than 256 rows: no byte of a sum carries over into the next.
    sums = flat[: 8 * words].view(torch.int64).view(_WORD_ROWS, -1).sum(0)
    return sums.view(torch.uint8).sum() + flat[8 * words :].count_nonzero()


def read_between(values: Tensor, low: float, high: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Read the values once; yield per chunk how many are >= low, and those below high of them.

    The count is float64 []; the values with low <= v < high come in no particular order.
    """
    size = min(chunk_size(values.device), max(values.numel(), 1))
    scratch = torch.empty(2, size, dtype=values.dtype, device=values.device)
    for start, stop in chunk_bounds(values.numel(), size):
        chunk, length = values[start:stop], stop - start
        flags, over = scratch[0, :length], scratch[1, :length]
        torch.ge(chunk, low, out=flags)
        count = _count(flags)
        torch.ge(chunk, high, out=over)
        yield count, _picked(chunk, flags.sub_(over), low, high)


def _picked(chunk: Tensor, inside: Tensor, low: float, high: float) -> Tensor:
    """Return the values of a chunk with low <= v < high, given flags of them.

    Group j holds the elements j, j + width, j + 2 width, ..., so that the flags of all groups add
    up in vector registers; only groups that hold something are looked at one by one.
    """
    width = chunk.numel() // _GROUP
    whole = width * _GROUP
    groups = inside[:whole].view(_GROUP, width).sum(0).nonzero().squeeze(1)
    coarse = chunk[:whole].view(_GROUP, width).index_select(1, groups).view(-1)
    coarse = torch.cat([coarse, chunk[whole:]])
    return coarse[(coarse >= low) & (coarse < high)]


def position_after(values: Tensor, low: float, high: float, count: int) -> int:
    """Return the position just after the ``count``-th value with low <= v < high."""
    seen = 0
    for start, stop in chunk_bounds(values.numel(), chunk_size(values.device)):
        flags = (values[start:stop] >= low) & (values[start:stop] < high)
        found = int(flags.count_nonzero())
        if seen + found >= count:
            return start + int(torch.searchsorted(flags.cumsum(0), count - seen)) + 1
        seen += found
    return values.numel()
