"""Floats as integers in the same order, so that a search over values is a search over integers."""

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
    division per element.  A search over the keys, from the product as a guess.
    """
    top = key_of(float("inf"), dtype)
    low, high = key_of(float("-inf"), dtype), top
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if value_of(middle, dtype) / cost >= ratio else (middle, high)
    return value_of(high, dtype)
