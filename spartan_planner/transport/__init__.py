"""Weighted transport-based top-k, soft and hard, at the speed of memory (DESIGN 4.1 to 4.4)."""

from spartan_planner.transport.backend import use_triton
from spartan_planner.transport.comparisons import count_true
from spartan_planner.transport.cuts import Cut
from spartan_planner.transport.densities import erk_densities, uniform_densities
from spartan_planner.transport.gradient import soft_topk_gradient
from spartan_planner.transport.hard import solve_hard_topk
from spartan_planner.transport.magnitudes import take_magnitudes
from spartan_planner.transport.operators import hard_topk, soft_topk
from spartan_planner.transport.price import solve_price
from spartan_planner.transport.results import (
    HardSelection,
    Price,
    PriceSolution,
    SelectionStatus,
    SoftSelection,
)
from spartan_planner.transport.scopes import (
    hard_n_of_m,
    soft_n_of_m,
    solve_hard_by_layer,
    solve_soft_by_layer,
)
from spartan_planner.transport.soft import solve_soft_topk
from spartan_planner.transport.tile_products import expand_tiles, masked_weight, weight_gradient
from spartan_planner.transport.tile_sums import mask_gradient, tile_values

__all__ = [
    "Cut",
    "HardSelection",
    "Price",
    "PriceSolution",
    "SelectionStatus",
    "SoftSelection",
    "count_true",
    "erk_densities",
    "expand_tiles",
    "hard_n_of_m",
    "hard_topk",
    "mask_gradient",
    "masked_weight",
    "soft_n_of_m",
    "soft_topk",
    "soft_topk_gradient",
    "solve_hard_by_layer",
    "solve_hard_topk",
    "solve_price",
    "solve_soft_by_layer",
    "solve_soft_topk",
    "take_magnitudes",
    "tile_values",
    "uniform_densities",
    "use_triton",
    "weight_gradient",
]
