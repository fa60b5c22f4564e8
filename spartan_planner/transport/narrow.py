"""The mask's logit in float32, exact near the price (DESIGN 4.1).

beta (v / c - anchor) - offset = scale (v - high) + shift with scale = beta / c and c anchor =
high + low: the difference v - high is exact near the price (Sterbenz), and the low part goes into
the shift.  So float32 suffices where the price itself would need more digits.
"""

from dataclasses import dataclass

import torch

from spartan_planner.transport.results import Price


@dataclass(frozen=True)
class NarrowLogit:
    """The numbers of ``scale (v - high) + shift``; ``high`` is representable in float32."""

    scale: float
    high: float
    shift: float


def narrow_logit(cost: float, price: Price, beta: float) -> NarrowLogit:
    """Return the logit's numbers for blocks of a mean-normalised cost."""
    scale = beta / cost
    centre = cost * price.anchor
    high = float(torch.tensor(centre, dtype=torch.float32))
    return NarrowLogit(scale, high, -(centre - high) * scale - price.offset)
