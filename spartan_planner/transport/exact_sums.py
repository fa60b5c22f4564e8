"""Sums of positive floats without rounding, as whole numbers of a few units (DESIGN 4.3).

A cost is cut into limbs: ``c = sum_j q_j u_j`` with whole ``q_j`` and units ``u_j`` that are powers
of two.  The first unit is fine enough for all but rare costs and coarse enough that the sum of all
``q_0`` stays below 2**53; so do the sums of the further, narrower limbs.  Whole numbers below 2**53
add up in float64 without rounding, in any order.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

# All terms together are below 2**exponent, so whole numbers of 2**(exponent - 51) add up exactly.
_FIRST_LIMB_BITS = 51
_DOUBLE_BITS = 53
# Multiplying by 2**900 still does not overflow; terms below 1e-280 of the greatest may lose bits.
_LEAST_EXPONENT = -900


@dataclass(frozen=True)
class LimbScale:
    """How costs of a given total are cut: the exponent of the total and the bits of a limb."""

    exponent: int
    further_bits: int

    @classmethod
    def of(cls, greatest: float, num_terms: int) -> "LimbScale":
        """Return the scale for ``num_terms`` positive terms, none above ``greatest``."""
        count_bits = max(num_terms, 1).bit_length()
        exponent = math.frexp(greatest)[1] + count_bits
        return cls(max(exponent, _LEAST_EXPONENT), _DOUBLE_BITS - 1 - count_bits)

    def units(self, count: int) -> tuple[float, ...]:
        """Return the values of one in each of the first ``count`` limbs."""
        shifts = (_FIRST_LIMB_BITS + limb * self.further_bits for limb in range(count))
        return tuple(math.ldexp(1.0, self.exponent - shift) for shift in shifts)

    def limbs(self, terms: Tensor) -> list[Tensor]:
        """Return whole numbers q_j as float64, ``terms = sum_j q_j units[j]``; at least one."""
        rest = terms * math.ldexp(1.0, -self.exponent)
        bits = _FIRST_LIMB_BITS
        found: list[Tensor] = []
        while not found or bool(rest.any()):
            rest = rest * 2.0**bits
            whole = rest.floor()
            found.append(whole)
            rest = rest.sub_(whole)
            bits = self.further_bits
        return found


def rounded_sum(chunks: Iterable[Tensor]) -> float:
    """Return the sum of the positive finite elements of all chunks, rounded once.

    The same as ``math.fsum`` over all elements, at the speed of a few operations on a chunk.
    """
    return math.fsum(exact_parts(chunks))


def exact_parts(chunks: Iterable[Tensor]) -> list[float]:
    """Return a few floats that add up, without rounding, to the sum of positive finite elements."""
    parts: list[float] = []
    for chunk in chunks:
        if chunk.numel():
            terms = chunk.double()
            scale = LimbScale.of(float(terms.amax()), terms.numel())
            sums = [float(limb.sum()) for limb in scale.limbs(terms)]
            parts += [q * unit for q, unit in zip(sums, scale.units(len(sums)), strict=True)]
    return parts


def padded(rows: Tensor, count: int) -> Tensor:
    """Return ``rows`` with rows of zeros added until there are ``count``."""
    missing = count - rows.shape[0]
    return rows if missing <= 0 else torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
