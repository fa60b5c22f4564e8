"""Which code reads the values: chunked torch operations anywhere, Triton kernels when asked for.

The kernels have been run under Triton's interpreter only, so nothing picks them by itself.
"""

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport import passes
from spartan_planner.transport.passes import Segment
from spartan_planner.transport.results import Price

# Programs of a persistent launch: a few for each of a large GPU's processors.
_PROGRAMS = 1024
_triton_requested = False


def use_triton(enabled: bool) -> None:
    """Read float32-arithmetic problems with Triton kernels from now on, or stop doing so.

    Raises:
        TransportError: Triton is not installed.
    """
    global _triton_requested
    if enabled and find_spec("triton") is None:
        raise TransportError("Triton is not installed; torch operations read the values.")
    _triton_requested = enabled


def mask_sums(
    segments: Sequence[Segment], price: Price, beta: float, arithmetic: torch.dtype
) -> Tensor:
    """Return [mass, spread, skew] over the segments, float64 [3]."""
    if _triton_requested and arithmetic == torch.float32:
        from spartan_planner.transport import triton_passes

        return triton_passes.mask_sums(segments, price, beta, _PROGRAMS)
    return passes.mask_sums(segments, price, beta, arithmetic)


def write_masks(
    segments: Sequence[Segment],
    outputs: Sequence[Tensor],
    price: Price,
    beta: float,
    arithmetic: torch.dtype,
) -> Tensor:
    """Write the masks to the flat ``outputs`` and return their mass, float64 []."""
    if _triton_requested and arithmetic == torch.float32:
        from spartan_planner.transport import triton_passes

        return triton_passes.write_masks(segments, outputs, price, beta)
    return passes.write_masks(segments, outputs, price, beta, arithmetic)
