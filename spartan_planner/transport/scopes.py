"""Scopes of one operator (DESIGN 4.1): a budget over everything, per layer, or N of every M.

The global scope is ``solve_soft_topk`` and ``solve_hard_topk`` themselves; the others are the
same solves on smaller problems.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport.hard import solve_hard_topk
from spartan_planner.transport.operators import hard_topk, soft_topk
from spartan_planner.transport.problem import checked_names, is_tensor
from spartan_planner.transport.results import HardSelection, SoftSelection
from spartan_planner.transport.soft import solve_soft_topk

# density * count in floats can fall short of the whole number that was meant.
_COUNT_ROUNDING = 1.0e-9


def kept_blocks(num_blocks: int, density: float) -> float:
    """Return ``density * num_blocks``, a whole number when that is what was meant.

    Raises:
        TransportError: A density outside [0, 1].
    """
    if not 0.0 <= density <= 1.0:
        raise TransportError(f"A density of {density} was asked for; it must lie in [0, 1].")
    kept = density * num_blocks
    nearest = round(kept)
    return float(nearest) if math.isclose(kept, nearest, rel_tol=_COUNT_ROUNDING) else kept


def solve_soft_by_layer(
    values: Sequence[Tensor],
    densities: Sequence[float],
    beta: float,
    *,
    initial_prices: Sequence[float | None] | None = None,
    names: Sequence[str] | None = None,
) -> tuple[SoftSelection, ...]:
    """Solve soft top-k for each tensor on its own, at its own density.

    Densities are given, or come from ``uniform_densities`` or ``erk_densities``; all blocks of a
    tensor cost the same, so z is the value itself.

    Raises:
        TransportError: Lists of different lengths, or as :func:`solve_soft_topk`.
    """
    starts = [None] * len(values) if initial_prices is None else initial_prices
    labels = _labels(values, densities, names)
    if len(starts) != len(values):
        raise TransportError(
            f"{len(values)} value tensors came with {len(starts)} initial prices; give one for "
            f"each, None where there is none."
        )
    return tuple(
        solve_soft_topk(
            [value],
            [1.0],
            kept_blocks(value.numel(), density),
            beta,
            initial_price=start,
            names=[label],
        )
        for value, density, start, label in zip(values, densities, starts, labels, strict=True)
    )


def solve_hard_by_layer(
    values: Sequence[Tensor],
    densities: Sequence[float],
    *,
    names: Sequence[str] | None = None,
) -> tuple[HardSelection, ...]:
    """Select hard for each tensor on its own: the ``floor(density * blocks)`` of greatest value.

    Raises:
        TransportError: Lists of different lengths, or as :func:`solve_hard_topk`.
    """
    labels = _labels(values, densities, names)
    return tuple(
        solve_hard_topk([value], [1.0], kept_blocks(value.numel(), density), names=[label])
        for value, density, label in zip(values, densities, labels, strict=True)
    )


def soft_n_of_m(values: Tensor, n: int, m: int, beta: float) -> Tensor:
    """Return soft masks that spend n in every m consecutive values of the last axis.

    Differentiable in the values.

    Raises:
        TransportError: n outside 0 to m, or a last axis that m does not divide.
    """
    groups = _groups(values, n, m)
    return soft_topk(groups, 1.0, float(n), beta).reshape(values.shape)


def hard_n_of_m(values: Tensor, n: int, m: int) -> Tensor:
    """Return boolean masks that keep the n greatest of every m consecutive values.

    Raises:
        TransportError: n outside 0 to m, or a last axis that m does not divide.
    """
    return hard_topk(_groups(values, n, m), 1.0, float(n)).reshape(values.shape)


def _groups(values: Tensor, n: int, m: int) -> Tensor:
    """Return the values as groups ``[..., length / m, m]``."""
    if not (_is_whole(n) and _is_whole(m) and 0 <= n <= m and m >= 1):
        raise TransportError(
            f"Cannot keep {n} of every {m} values; N:M takes whole numbers, 0 <= n <= m and m >= 1."
        )
    if not is_tensor(values):
        raise TransportError(f"values must be a tensor; a {type(values).__name__} was given.")
    if values.ndim == 0 or values.shape[-1] % m:
        raise TransportError(
            f"Groups of {m} need a last axis that is a multiple of {m}; the values have shape "
            f"{tuple(values.shape)}."
        )
    return values.reshape(*values.shape[:-1], values.shape[-1] // m, m)


def _is_whole(given: object) -> bool:
    """Say whether this is a whole number, whatever its annotation says."""
    return isinstance(given, int)


def _labels(
    values: Sequence[Tensor], densities: Sequence[float], names: Sequence[str] | None
) -> Sequence[str]:
    """Return a name for each tensor, and refuse lists of different lengths."""
    if len(densities) != len(values):
        raise TransportError(
            f"{len(values)} value tensors came with {len(densities)} densities; give one for each."
        )
    return checked_names(len(values), names)
