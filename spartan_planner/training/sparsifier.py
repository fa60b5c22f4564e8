"""The sparsifier: Spartan as hooks on an optimizer (DESIGN 4.4).

After ``optimizer.step()`` the parameters are replaced by ``theta * m * h``, the latent ``theta``
kept aside; before the next step gradients with respect to the sparse weights are turned into
gradients with respect to ``theta``, and the latent weights put back.  Between steps the model
holds truly sparse weights.
"""

import math
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cost_models import Layout
from spartan_planner.errors import TrainingError
from spartan_planner.planned_parameters import planned_parameters
from spartan_planner.planning import Plan, PlanLayer
from spartan_planner.training.block_budgets import BlockBudgets
from spartan_planner.training.planned_weight import PlannedWeight, num_protected
from spartan_planner.training.schedules import SchedulePoint, schedule_point
from spartan_planner.transport import (
    HardSelection,
    SelectionStatus,
    SoftSelection,
    soft_topk_gradient,
    solve_hard_topk,
    solve_soft_topk,
)

_BUDGET_STEP, _BUDGET_RECOVERY = 1e-3, 0.01
"""Where one of several budgets is exceeded the blended one is lowered by the overrun and this
share, doubled with every further try; it recovers by one percent a step, and by twice as much after
every step in which it could."""
_LEAST_BUDGET_SHARE = 0.01
"""Where the share starts from again after a step in which nothing but a tiny one would do."""

_SPARSIFIED: "weakref.WeakSet[Optimizer]" = weakref.WeakSet()
"""Optimizers that have a sparsifier: two would undo each other."""


class Sparsifier:
    """Trains a model to a plan, from inside an unchanged training loop.

    Args:
        model: the model that the plan was made for.
        plan: the plan.
        optimizer: the optimizer that owns the model's parameters.
        total_steps: optimizer steps of the whole training run.

    Raises:
        PlanError: the plan belongs to another model.
        TrainingError: the optimizer does not own a planned parameter, or there is no step.
    """

    def __init__(
        self, model: nn.Module, plan: Plan, optimizer: Optimizer, total_steps: int
    ) -> None:
        if total_steps < 1:
            raise TrainingError("total_steps must be at least 1")
        _refuse_n_m(plan)
        parameters = planned_parameters(model, plan)
        _require_owned(parameters, optimizer)
        self.plan = plan
        self.total_steps = total_steps
        self.num_steps_done = 0
        self.price: float | None = None
        protected = [num_protected(Layout.parse(layer.layout)) for layer in plan.sparse_layers]
        self._budgets = BlockBudgets.of(plan, protected)
        costs = self._budgets.blended_per_block
        self._weights = [
            PlannedWeight.of(layer, parameters[layer.name], cost)
            for layer, cost in zip(plan.sparse_layers, costs, strict=True)
        ]
        self._budget_share, self._budget_recovery = 1.0, _BUDGET_RECOVERY
        self._is_frozen = False
        self._beta = 0.0
        self._has_warned_of_budget = False
        self._last_point = schedule_point(plan.schedule, 0, total_steps)
        self._value_scale = _mean_block_elements(plan.sparse_layers)
        if optimizer in _SPARSIFIED:
            raise TrainingError("this optimizer already has a sparsifier; finalize that one first")
        _SPARSIFIED.add(optimizer)
        self._optimizer = optimizer
        self._handles = [
            optimizer.register_step_pre_hook(_refuse_closure),
            optimizer.register_step_pre_hook(lambda *_: self._before_step()),
            optimizer.register_step_post_hook(lambda *_: self._after_step()),
        ]

    @property
    def is_frozen(self) -> bool:
        """Whether the masks stand still."""
        return self._is_frozen

    def stats(self) -> dict[str, Any]:
        """Figures for a logger: what each layer keeps, price, beta, predicted cost."""
        kept = {w.name: w.kept_size for w in self._weights if w.hard is not None}
        budget = self.plan.budgets[0]
        return {
            "step": self.num_steps_done,
            # Where everything or nothing is kept the price is infinite, which no logger takes.
            "price": self.price if math.isfinite(self.price or 0.0) else None,
            "beta": self._beta,
            "kept_sizes": kept,
            "predicted": self.plan.predicted(budget.cost, kept),
            "unit": budget.unit,
            "costs": {
                item.cost: self.plan.predicted(item.cost, kept) for item in self.plan.budgets
            },
        }

    def finalize(self) -> None:
        """Remove the hooks; the model keeps its sparse weights, within the budget.

        Where fewer steps were taken than announced, the mask is cut to the budget at once, with
        a warning, since nothing was trained after that.

        Raises:
            TrainingError: the hooks never ran: the loop stepped another optimizer.
        """
        for handle in self._handles:
            handle.remove()
        _SPARSIFIED.discard(self._optimizer)
        if self.num_steps_done == 0:
            raise TrainingError(
                "the optimizer that the sparsifier was given was never stepped; "
                "give it the one whose step() the training loop calls"
            )
        if not self._is_frozen:
            warnings.warn(
                f"training ended after {self.num_steps_done} of {self.total_steps} announced "
                "steps; the mask is cut to the budget without training after it",
                stacklevel=2,
            )
            self._cut_to_budget()

    @torch.no_grad()
    def _cut_to_budget(self) -> None:
        for weight in self._weights:
            weight.put_latent()
        if self._weights:
            self._select(schedule_point(self.plan.schedule, self.total_steps, self.total_steps))
        for weight in self._weights:
            weight.put_sparse()
        self._freeze()

    @torch.no_grad()
    def _before_step(self) -> None:
        if self.num_steps_done == 0 or not self._weights:
            return
        if self._is_frozen:
            for weight in self._weights:
                if weight.parameter.grad is not None:
                    weight.apply_hard(weight.parameter.grad)
            return
        gradients = [weight.mask_gradient() for weight in self._weights]
        by_value = soft_topk_gradient(
            [_behind_protected(weight, weight.soft) for weight in self._weights],
            [weight.cost_per_block for weight in self._weights],
            self._beta,
            [
                _behind_protected(weight, gradient)
                for weight, gradient in zip(self._weights, gradients, strict=True)
            ],
        )
        for weight, gradient in zip(self._weights, by_value, strict=True):
            protected = gradient.new_zeros(weight.num_protected)
            weight.set_gradient(torch.cat([protected, gradient / self._value_scale]))
            weight.put_latent()

    @torch.no_grad()
    def _after_step(self) -> None:
        if self.num_steps_done == self.total_steps:
            raise TrainingError(
                f"more than the announced {self.total_steps} steps were taken; call finalize() "
                "after the last one or announce more"
            )
        self.num_steps_done += 1
        if self._is_frozen:
            for weight in self._weights:
                weight.apply_hard(weight.parameter)
            return
        point = schedule_point(self.plan.schedule, self.num_steps_done, self.total_steps)
        if self._weights:
            self._select(point)
        for weight in self._weights:
            weight.put_sparse()
        if point.is_frozen:
            self._freeze()

    def _freeze(self) -> None:
        self._is_frozen = True
        for weight in self._weights:
            weight.freeze()

    def _select(self, point: SchedulePoint) -> None:
        """Solve soft and hard top-k over the blocks of all layers at a point of the schedule."""
        self._last_point = point
        scaled = [weight.rank() / self._value_scale for weight in self._weights]
        values = [_behind_protected(w, v) for w, v in zip(self._weights, scaled, strict=True)]
        costs = [weight.cost_per_block for weight in self._weights]
        names = [weight.name for weight in self._weights]
        everything = sum(c * v.numel() for c, v in zip(costs, values, strict=True))
        target = min(self._budgets.blended_limit, everything)
        budget = target + (everything - target) * point.budget_share
        hard = solve_hard_topk(values, costs, budget, names=names)
        if len(self.plan.budgets) > 1 and point.budget_share == 0.0:
            budget, hard = self._within_every_budget(values, costs, target)
        self._beta = point.beta * math.sqrt(self._value_scale)
        soft = solve_soft_topk(
            values, costs, budget, self._beta, initial_price=self.price, names=names
        )
        self._warn_of_missed_budget(soft)
        self.price = soft.price
        for weight, m, h in zip(self._weights, soft.masks, hard.masks, strict=True):
            weight.set_masks(m, h)

    def _warn_of_missed_budget(self, soft: SoftSelection) -> None:
        """Say once that soft masks miss their budget; the hard masks keep it, so training goes on.

        The search ends in bisection and meets every budget that doubles can tell apart.
        """
        if soft.status is SelectionStatus.NOT_CONVERGED and not self._has_warned_of_budget:
            self._has_warned_of_budget = True
            warnings.warn(
                f"the soft masks of step {self.num_steps_done} miss their budget by "
                f"{soft.relative_budget_error:.1e} of it at a beta of {self._beta:g}; the hard "
                "masks keep it, but a smaller beta in the schedule would train better",
                stacklevel=2,
            )

    def _within_every_budget(
        self, values: Sequence[Tensor], costs: Sequence[float], target: float
    ) -> tuple[float, HardSelection]:
        """Lower the blended budget until no single budget is exceeded.

        The share found carries over to the next step, where a little more is tried first.
        """
        share = min(1.0, self._budget_share * (1 + self._budget_recovery))
        step, self._budget_recovery = _BUDGET_STEP, min(1.0, 2 * self._budget_recovery)
        while True:
            hard = solve_hard_topk(values, costs, target * share)
            kept = [float(mask.count_nonzero()) for mask in hard.masks]
            overrun = self._budgets.overrun(kept)
            # The growing step ends at a share of 0 at the latest, where nothing is spent.
            if overrun <= 1.0:
                self._budget_share = max(share, _LEAST_BUDGET_SHARE)
                return target * share, hard
            share, step = max(0.0, share / overrun - share * step), 2 * step
            self._budget_recovery = _BUDGET_RECOVERY


def _require_owned(parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> None:
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in parameters.items():
        if parameter.requires_grad and id(parameter) not in owned:
            raise TrainingError(
                f"the optimizer does not own parameter {name!r}; build it from this model's "
                "parameters"
            )


def _refuse_n_m(plan: Plan) -> None:
    """Every layer keeps exactly n of m: its blocks do not compete, so there is nothing to learn."""
    names = [layer.name for layer in plan.sparse_layers if Layout.parse(layer.layout).num_of]
    if names:
        raise TrainingError(
            f"layer {names[0]} is planned in an n:m pattern, which cannot be trained yet; prune it "
            "in one shot (export --one-shot), or plan with --layout tile:64x1@16"
        )


def _refuse_closure(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A closure would run the model inside the step, on dense weights."""
    given = [item for item in (*args, *kwargs.values()) if item is not optimizer]
    if any(item is not None for item in given):
        raise TrainingError(
            "optimizer.step(closure) is not supported: the closure would see dense weights; "
            "call backward() first and step() without arguments"
        )


def _mean_block_elements(layers: tuple[PlanLayer, ...]) -> float:
    """Mean number of elements of a block, over all blocks (DESIGN 4.1)."""
    num_blocks = sum(layer.num_blocks for layer in layers)
    return sum(layer.num_weights for layer in layers) / max(1, num_blocks)


def _behind_protected(weight: PlannedWeight, figures: Tensor | None) -> Tensor:
    assert figures is not None
    return figures[weight.num_protected :]
