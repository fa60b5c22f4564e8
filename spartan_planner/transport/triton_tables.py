"""Launch tables: one kernel over many tensors, through their addresses.

A program works on one stretch of one tensor.  Which one stands in a table on the device, built
once per shape of a problem; the addresses are looked up again only when a tensor has moved.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Elements that a program works on at once.
BLOCK = 4096
# Blocks per program: enough programs to fill a GPU, few enough that one of them can add them up.
_TILES = {1 << 20: 1, 1 << 28: 4}
_MANY_TILES = 16
# Sixteen elements of a block a thread: half a dozen accumulators of them stay in registers.
_WARPS = 8

_TL_DTYPES = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.bool: tl.int8,
}


@dataclass(frozen=True)
class Stretches:
    """The programs of one launch: the segment and the first element of each.

    ``segments`` int32 [programs], ``starts`` int64 [programs]; ``kind`` is what all of these
    segments share (their dtypes), ``first`` how many programs earlier launches hold.
    """

    kind: Any
    segments: Tensor
    starts: Tensor
    first: int

    @property
    def count(self) -> int:
        """Programs of the launch."""
        return self.segments.numel()


def tl_dtype(dtype: torch.dtype) -> Any:  # noqa: ANN401 - triton has no types
    """Return Triton's name of a dtype."""
    return _TL_DTYPES[dtype]


def tiles_per_program(lengths: Sequence[int]) -> int:
    """Return how many blocks of elements a program reads one after the other."""
    total = sum(lengths)
    return next((tiles for most, tiles in _TILES.items() if total <= most), _MANY_TILES)


@lru_cache(maxsize=64)
def stretches(
    lengths: tuple[int, ...], kinds: tuple[Hashable, ...], size: int, device: torch.device
) -> tuple[Stretches, ...]:
    """Cut segments into stretches of ``size``: one launch for each kind of segment."""
    launches: list[Stretches] = []
    for kind in dict.fromkeys(kinds):
        own = [i for i, other in enumerate(kinds) if other == kind and lengths[i]]
        starts = [torch.arange(0, lengths[i], size) for i in own]
        if not own:
            continue
        origins = [
            torch.full_like(s, i, dtype=torch.int32) for i, s in zip(own, starts, strict=True)
        ]
        first = sum(launch.count for launch in launches)
        tables = torch.cat(origins).to(device), torch.cat(starts).to(device)
        launches.append(Stretches(kind, *tables, first))
    return tuple(launches)


def addresses(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the addresses of contiguous tensors, int64 [tensors]."""
    return _address_table(tuple(tensor.data_ptr() for tensor in tensors), device)


@lru_cache(maxsize=256)
def _address_table(pointers: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(pointers, dtype=torch.int64, device=device)


@lru_cache(maxsize=256)
def whole_numbers(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Return numbers per segment, int64, made once; not to be written to."""
    return torch.tensor(numbers, dtype=torch.int64, device=device)


@lru_cache(maxsize=256)
def real_numbers(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers per segment, float64, made once; not to be written to."""
    return torch.tensor(numbers, dtype=torch.float64, device=device)


def launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:  # noqa: ANN401
    """Launch a kernel on the device of its first argument; every launch goes through here."""
    device = arguments[0].device
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            kernel[(programs,)](*arguments, **constants, num_warps=_WARPS)
        return
    kernel[(programs,)](*arguments, **constants, num_warps=_WARPS)


def next_power(number: int) -> int:
    """Return the least power of two that is not less: what a kernel's blocks must be."""
    return int(triton.next_power_of_2(number))
