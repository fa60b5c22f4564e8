"""Weights that are NaN or infinite are refused by name: nothing could be selected among them.

Comparisons with a NaN are all false, so without this it would rank somewhere, and be kept.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from spartan_planner.errors import NotFiniteError
from spartan_planner.training.planned_weight import PlannedWeight
from spartan_planner.transport.collective import sum_over_ranks


def require_finite(figures: Mapping[str, Tensor], process_group: dist.ProcessGroup | None) -> None:
    """Refuse figures of layers that are not all finite, on every process; one read of each.

    Args:
        figures: of each layer by name: its weights, values of blocks, or the least and greatest of
            them; what this process holds.
        process_group: the processes over which they are spread; ``None`` for this one alone.

    Raises:
        NotFiniteError: some are NaN or infinite; names the layers.
    """
    if not figures:
        return
    bad = torch.stack([~_is_finite(tensor) for tensor in figures.values()])
    flags = sum_over_ranks(bad.to(torch.int64), process_group).tolist()
    named = [name for name, flag in zip(figures, flags, strict=True) if flag]
    if named:
        others = f" and {len(named) - 1} more" * (len(named) > 1)
        raise NotFiniteError(
            f"weights of layer {named[0]}{others} are NaN or infinite; train with a lower learning "
            "rate or clipped gradients, from weights that are finite, such as the last checkpoint's"
        )


def require_finite_weights(
    weights: Sequence[PlannedWeight], process_group: dist.ProcessGroup | None
) -> None:
    """Refuse parameters that are not finite, as :func:`require_finite` does."""
    require_finite({weight.name: weight.local for weight in weights}, process_group)


def _is_finite(tensor: Tensor) -> Tensor:
    """Say whether no element is NaN or infinite, boolean []; without a temporary of its size."""
    if not tensor.numel():
        return torch.ones((), dtype=torch.bool, device=tensor.device)
    return torch.stack(torch.aminmax(tensor.detach())).isfinite().all()
