"""Which code reads the values: Triton kernels on a GPU that has Triton, torch operations elsewhere.

The kernels work in float32 on float32, bfloat16 and float16 with one cost per tensor; anything
else is read by torch operations on any device.
"""

import logging
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport import passes
from spartan_planner.transport.boundary import Boundary
from spartan_planner.transport.passes import Segment, is_narrow_safe
from spartan_planner.transport.problem import Problem
from spartan_planner.transport.results import Price
from spartan_planner.transport.root import Root

_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_triton_requested: bool | None = None


def use_triton(enabled: bool | None) -> None:
    """Read with Triton kernels from now on (True), never (False), or on GPUs only (None).

    None is the state at the start.

    Raises:
        TransportError: Triton is not installed.
    """
    global _triton_requested
    if enabled and find_spec("triton") is None:
        raise TransportError("Triton is not installed; torch operations read the values.")
    _triton_requested = enabled


@cache
def _is_triton_found() -> bool:
    """Say whether Triton is there; say it aloud, once, when a GPU has to do without."""
    found = find_spec("triton") is not None
    if not found:
        logging.getLogger(__name__).warning(
            "Triton is not installed: torch operations read the values on the GPU, several times "
            "slower than fused kernels; install triton."
        )
    return found


def reads_fused(*tensors: Tensor) -> bool:
    """Say whether Triton kernels read these tensors."""
    if _triton_requested is False or not tensors:
        return False
    if any(tensor.dtype not in _KERNEL_DTYPES for tensor in tensors):
        return False
    if _triton_requested:
        return True
    return all(tensor.is_cuda for tensor in tensors) and _is_triton_found()


def mask_sums(
    segments: Sequence[Segment], price: Price, beta: float, arithmetic: torch.dtype
) -> Tensor:
    """Return [mass, spread, skew] over the segments, float64 [3]."""
    if arithmetic == torch.float32 and reads_fused(*(s.values for s in segments)):
        from spartan_planner.transport import triton_passes

        return triton_passes.mask_sums(segments, price, beta)
    return passes.mask_sums(segments, price, beta, arithmetic)


def write_masks(
    segments: Sequence[Segment],
    outputs: Sequence[Tensor],
    price: Price,
    beta: float,
    arithmetic: torch.dtype,
) -> Tensor:
    """Write the masks to the flat ``outputs`` and return their mass, float64 []."""
    if arithmetic == torch.float32 and reads_fused(*(s.values for s in segments)):
        from spartan_planner.transport import triton_passes

        return triton_passes.write_masks(segments, outputs, price, beta)
    return passes.write_masks(segments, outputs, price, beta, arithmetic)


def is_on_device(problem: Problem) -> bool:
    """Say whether a whole search can run on the device: kernels, one process, one cost a tensor."""
    if problem.process_group is not None or not reads_fused(*problem.segments):
        return False
    return not any(isinstance(cost, Tensor) for cost in problem.costs)


def find_price(
    problem: Problem,
    beta: float,
    tolerance: float,
    trust: float,
    initial_price: float | None,
    outputs: Sequence[Tensor] | None,
) -> Root | None:
    """Search the price on the device and write the masks; None when torch has to do it.

    That is so where no kernels read, a value is not finite, or float32 does not resolve the
    budget.
    """
    if not is_on_device(problem):
        return None
    from spartan_planner.transport.triton_passes import DeviceSearch

    # On the device every tensor has one cost.
    costs = tuple(cost for cost in problem.normalised_costs if isinstance(cost, float))
    budget, total = problem.normalised_budget, float(problem.num_blocks)
    search = DeviceSearch(problem.segments, costs, budget, total, beta, tolerance, trust)
    root = search.solve(initial_price, outputs)
    pairs = zip(problem.segments, costs, strict=True)
    segments = [Segment(values, cost) for values, cost in pairs]
    return root if root is not None and is_narrow_safe(segments, root.price, beta) else None


def find_hard_boundary(problem: Problem) -> Boundary | None:
    """Find the boundary block on the device; None when torch has to do it, as above."""
    if not is_on_device(problem):
        return None
    from spartan_planner.transport.triton_hard import HardSearch

    costs = tuple(float(cost) for cost in problem.costs)
    return HardSearch(problem.segments, costs, problem.budget).locate()


def write_selection(
    outputs: Sequence[Tensor], problem: Problem, boundary: Boundary, kept_ties: Sequence[int]
) -> bool:
    """Write hard masks to flat ``outputs`` with a kernel; return False where torch has to."""
    if not reads_fused(*problem.segments):
        return False
    from spartan_planner.transport import triton_hard

    costs = [float(cost) for cost in problem.costs]
    triton_hard.write_selection(outputs, problem.segments, costs, boundary, kept_ties)
    return True


def fits_tiles(*tensors: Tensor) -> bool:
    """Say whether the tile kernels read these tensors: what they index with is 32 bits wide."""
    wide = [tensor for tensor in tensors if tensor.dtype != torch.bool]
    return reads_fused(*wide) and all(tensor.numel() < 1 << 31 for tensor in tensors)
