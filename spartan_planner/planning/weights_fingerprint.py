"""A fingerprint of weights: the same wherever they come from and however they are read.

A layer's checksum is the sum of the bits of its elements as float32, modulo 2**64.  Whole numbers
sum to the same in any order, so that neither threads nor pieces nor the way round in which a
matrix is stored change it, and it costs one read.  (Not modulo 2**32: weights twice as large, or of
the other sign, would often have the same.)  It tells checkpoints apart; it is no defence against
somebody who looks for other weights of the same checksum, and blind to the order of elements.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_MASK = 0xFFFFFFFFFFFFFFFF


def checksum(piece: NDArray[np.floating]) -> int:
    """Return the sum of the bits of some elements as float32, modulo 2**64."""
    bits = np.ascontiguousarray(piece, np.float32).view(np.uint32)
    return int(bits.sum(dtype=np.uint64))


def joined(first: int, second: int) -> int:
    """Return the checksum of two pieces together."""
    return (first + second) & _MASK


def weights_fingerprint(checksums: Mapping[str, int]) -> str:
    """Return the SHA-256 over names and checksums of layers, in the order of the names."""
    lines = (f"{name} {checksums[name]:016x}\n" for name in sorted(checksums))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
