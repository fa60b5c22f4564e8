"""Floats as integers in the same order, so that a search over values is a search over integers."""

import math
import struct

import torch
from torch import Tensor

#: Formats of a float and of the integer with its bits; bfloat16 is the upper half of a float32.
_FORMATS = {
    torch.float64: ("<d", "<q", 64),
    torch.float32: ("<f", "<i", 32),
    torch.bfloat16: ("<f", "<i", 16),
    torch.float16: ("<e", "<h", 16),
}


def order_keys(values: Tensor) -> Tensor:
    """Return int64 keys in the order of the float64 ``values``; -0.0 and 0.0 share a key."""
    bits = (values + 0.0).view(torch.int64)
    return torch.where(bits >= 0, bits, bits ^ torch.iinfo(torch.int64).max)


def key_of(value: float, dtype: torch.dtype = torch.float64) -> int:
    """Return the key of a value that ``dtype`` represents."""
    as_float, as_int, width = _FORMATS[dtype]
    bits = int(struct.unpack(as_int, struct.pack(as_float, value + 0.0))[0])
    bits >>= 16 if dtype == torch.bfloat16 else 0
    return bits if bits >= 0 else bits ^ ((1 << (width - 1)) - 1)


def value_of(key: int, dtype: torch.dtype = torch.float64) -> float:
    """Return the value of a key: the inverse of :func:`key_of`."""
    as_float, as_int, width = _FORMATS[dtype]
    bits = key if key >= 0 else key ^ ((1 << (width - 1)) - 1)
    bits <<= 16 if dtype == torch.bfloat16 else 0
    return float(struct.unpack(as_float, struct.pack(as_int, bits))[0])


def least_value_at_ratio(ratio: float, cost: float, dtype: torch.dtype) -> float:
    """Return the least v of ``dtype`` with ``float64(v) / cost >= ratio``, inf if there is none.

    So "z at least ratio" becomes a comparison of the values themselves, exact and without a
    division per element.  Gallops from the product, which is at most a few keys off, and bisects.
    """

    def fails(key: int) -> bool:
        return value_of(key, dtype) / cost < ratio

    bottom, top = key_of(-math.inf, dtype), key_of(math.inf, dtype)
    low = high = _nearest_key(ratio * cost, dtype)
    step = 1
    while low > bottom and not fails(low):
        low, step = max(low - step, bottom), 2 * step
    step = 1
    while high < top and fails(high):
        high, step = min(high + step, top), 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fails(middle) else (low, middle)
    return value_of(high, dtype)


def _nearest_key(value: float, dtype: torch.dtype) -> int:
    """Return the key of a value of ``dtype`` near ``value``; that of infinity on overflow."""
    try:
        return key_of(value, dtype)
    except OverflowError:
        return key_of(math.copysign(math.inf, value), dtype)
