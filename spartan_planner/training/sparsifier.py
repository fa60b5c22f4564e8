"""The sparsifier: pruning while training, as hooks on an optimizer (DESIGN 4.4).

After ``optimizer.step()`` the parameters are replaced by sparse weights, the latent ones kept
aside; before the next step gradients with respect to the sparse weights are turned into gradients
with respect to the latent ones, which are put back.  Between steps the model holds truly sparse
weights.
"""

import copy
import math
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from cost_models import ChannelGroup
from spartan_planner.channels.planned import planned_groups
from spartan_planner.errors import TrainingError
from spartan_planner.planned_parameters import planned_parameters
from spartan_planner.planning import Plan, Schedule
from spartan_planner.training.agreement import require_agreement
from spartan_planner.training.block_budgets import BlockBudgets
from spartan_planner.training.channel_agreement import require_same_units
from spartan_planner.training.channel_training import ChannelTraining
from spartan_planner.training.closures import (
    Arguments,
    SparseClosure,
    closure_in,
    with_closure,
)
from spartan_planner.training.competition import Competition
from spartan_planner.training.methods import (
    Fixed,
    Method,
    apply_kept,
    default_schedule,
    mask_gradients,
    method_named,
)
from spartan_planner.training.planned_weight import PlannedWeight, num_protected
from spartan_planner.training.reduced_weight import ReducedWeight
from spartan_planner.training.sharding import reshard
from spartan_planner.training.sparsifier_state import StateDict, restore, saved
from spartan_planner.training.stepping_watch import SteppingWatch

_SPARSIFIED: "weakref.WeakSet[Optimizer]" = weakref.WeakSet()
"""Optimizers that have a sparsifier: two would undo each other."""

_LOST = (
    "between two steps of the optimizer, which would be lost; load weights before the sparsifier "
    "is made, or load its own state after them"
)


class Sparsifier:
    """Trains a model to a plan, from inside an unchanged training loop.

    What the loop sees between ``backward()`` and ``step()`` is G = dL/dw, the gradient with respect
    to the sparse weights: that is what it clips and logs.  Weight decay acts inside ``step()``, on
    the latent weights.  A closure (``step(closure)``, which L-BFGS needs) is run on sparse weights
    each time the optimizer calls it.

    Processes that train one model together compare their masks when training passes into another
    phase of the schedule, and at the end: make a sparsifier in all of them.  Parameters that
    ``fully_shard`` (FSDP2) spreads over them compete as one; shard the model first.

    Args:
        model: the model that the plan was made for.
        plan: the plan.
        optimizer: the optimizer that owns the model's parameters, also inside a wrapper such as
            Accelerate's.
        total_steps: optimizer steps of the whole training run.
        method: how to prune: a name or a :class:`Method`; the plan's by default.
        schedule: how to come to the budget; by default the plan's, or where that is for another
            method, the default of this one.
        process_group: the processes that train this model together; all by default.
        channel_groups: all groups of the model, where the plan removes channels; found from a
            forward pass of the model if not given.

    Raises:
        PlanError: the plan belongs to another model.
        TrainingError: the optimizer does not own a planned parameter, there is no step, a fixed
            mask does not keep the budgets, or a shard ends inside a block.
        NotFiniteError: a weight is NaN or infinite; at the start, at the end, and in every step
            that selects.
        UnknownNameError: there is no such method.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        optimizer: Optimizer,
        total_steps: int,
        method: str | Method | None = None,
        schedule: Schedule | None = None,
        process_group: dist.ProcessGroup | None = None,
        channel_groups: Sequence[ChannelGroup] | None = None,
    ) -> None:
        if total_steps < 1:
            raise TrainingError("total_steps must be at least 1")
        optimizer = _innermost(optimizer)
        reshard(model)
        parameters = planned_parameters(model, plan)
        _require_owned(parameters, optimizer)
        if optimizer in _SPARSIFIED:
            raise TrainingError("this optimizer already has a sparsifier; finalize that one first")
        self.plan = plan
        self.method = _method(plan if schedule is None else schedule, method)
        self.schedule = schedule or _schedule(plan, self.method)
        self.total_steps = total_steps
        self.num_steps_done = 0
        self._is_frozen = False
        groups = planned_groups(model, plan, channel_groups)
        self._channels = (
            ChannelTraining(groups, plan, parameters, self.schedule, self.method)
            if groups
            else None
        )
        smaller = {name: item.parameter for name, item in self._tiled.items()}
        self._competition = Competition(
            plan, self.schedule, _planned_weights(plan, {**parameters, **smaller})
        )
        _require_steppable(optimizer, self._weights)
        self._competition.require_finite_weights()
        self._versions: list[int] = []
        self._closure: SparseClosure | None = None
        self._state_at_start = self._competition.state
        self._model = weakref.ref(model)
        self._process_group = process_group or _all_processes()
        if isinstance(self.method, Fixed):
            self._prune_at_once()
        _SPARSIFIED.add(optimizer)
        self._optimizer = optimizer
        self._watch = SteppingWatch(optimizer, list(self._sparse_parameters.values()))
        self._handles = [
            optimizer.register_step_pre_hook(self._on_step),
            optimizer.register_step_post_hook(lambda *_: self._after_step()),
        ]

    @property
    def is_frozen(self) -> bool:
        """Whether the masks stand still."""
        return self._is_frozen

    @property
    def price(self) -> float | None:
        """Value per mean cost at which a block is just worth keeping; ``None`` before any step."""
        return self._competition.state.price

    @property
    def _weights(self) -> list[PlannedWeight]:
        return self._competition.weights

    @property
    def _tiled(self) -> Mapping[str, ReducedWeight]:
        """Weights that lose channels and are pruned in tiles beside."""
        return self._channels.tiled if self._channels else {}

    @property
    def _sparse_parameters(self) -> dict[str, nn.Parameter]:
        """All parameters that are pruned, in tiles or channels."""
        tiles = {w.name: w.parameter for w in self._weights if w.name not in self._tiled}
        return {**tiles, **(self._channels.parameters if self._channels else {})}

    def stats(self) -> dict[str, Any]:
        """Figures for a logger, the numbers in it the only ones that wait for the device.

        Returns:
            ``step``; ``phase`` (``dense``, ``falling``: the budget falls, ``searching``: it is
            reached and masks move, ``frozen``); ``method``; ``price`` (``None`` where infinite);
            ``beta`` and ``spread`` of the soft masks, 0 without; ``density`` of all sparse layers
            together and ``densities`` of each; ``kept_sizes`` of each in whole blocks; ``costs``
            of the whole model by budget; ``predicted`` and ``unit`` of the first of them.  Where
            channels go: ``kept_units`` of each group; costs are those of the planned counts of
            them, which are reached when the budget is.
        """
        state, budget = self._competition.state, self.plan.budgets[0]
        kept = {w.name: float(w.kept_size) for w in self._weights if w.kept_size is not None}
        densities = self._densities(kept)
        return {
            "step": self.num_steps_done,
            "phase": self._phase,
            "method": self.method.name,
            # Where everything or nothing is kept the price is infinite, which no logger takes.
            "price": state.price if math.isfinite(state.price or 0.0) else None,
            "beta": state.beta,
            "spread": state.spread,
            "density": self._density(densities),
            "densities": densities,
            "kept_sizes": kept,
            **({"kept_units": self._channels.num_kept_units()} if self._channels else {}),
            "predicted": self.plan.predicted(budget.cost, kept),
            "unit": budget.unit,
            "costs": {
                item.cost: self.plan.predicted(item.cost, kept) for item in self.plan.budgets
            },
        }

    def latent_weights(self) -> dict[str, Tensor]:
        """Return the dense weights behind the sparse ones, by name; not copies.

        Where a method has none, or they are frozen, the weights themselves.  Spread over processes
        (``DTensor``) as the parameters are.
        """
        tiles = {w.name: w.as_whole(w.dense) for w in self._weights if w.name not in self._tiled}
        if self._channels is None:
            return tiles
        return {**tiles, **{name: self._channels.dense(name) for name in self._channels.parameters}}

    @torch.no_grad()
    def apply_to(self, model: nn.Module) -> None:
        """Set to zero in another model, such as a moving average, what is zero in this one.

        Raises:
            PlanError: it is not of the plan's kind.
        """
        parameters = planned_parameters(model, self.plan)
        for weight in self._weights:
            if weight.name not in self._tiled:
                parameters[weight.name].mul_(weight.parameter != 0)
        if self._channels:
            self._channels.apply_to(parameters)

    def state_dict(self) -> StateDict:
        """Return all that is needed to go on from here bit for bit, after an optimizer step.

        Save the model's and the optimizer's state at the same moment.

        Returns:
            ``numbers``, which JSON can hold, and ``tensors`` by name; not copies.  Of a model that
            is spread over processes the tensors are so too (``DTensor``).
        """
        return saved(self)

    @torch.no_grad()
    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a saved state; the model's and the optimizer's must be loaded already.

        Tensors of weights that are spread over processes may be spread alike, or whole.

        Raises:
            TrainingError: it belongs to another plan, method, schedule or number of steps, or the
                model's weights are not those of the same moment.
        """
        restore(self, state)
        self._note_versions()

    def finalize(self) -> None:
        """Remove the hooks; the model keeps its sparse weights, within the budget.

        Where fewer steps were taken than announced, the mask is cut to the budget at once, with
        a warning, since nothing was trained after that.

        Raises:
            TrainingError: the hooks never ran, because the loop stepped another optimizer, or
                processes that train one model have different masks.
        """
        for handle in self._handles:
            handle.remove()
        self._watch.remove()
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
        self._require_agreement()
        self._competition.require_finite_weights()
        model = self._model()
        if self._channels and model is not None:
            self._channels.neutralise(model)

    @torch.no_grad()
    def _cut_to_budget(self) -> None:
        model = self._model()
        if model is not None:
            reshard(model)
        for weight in self._weights:
            weight.put_latent()
        if self._channels:
            self._channels.put_latents()
        self._prune(self.total_steps)

    @torch.no_grad()
    def _prune_at_once(self) -> None:
        """Apply a fixed mask, once it is seen to keep the budgets."""
        self._prune(0)
        kept = {w.name: float(w.kept_size) for w in self._weights if w.kept_size is not None}
        for budget in self.plan.budgets:
            predicted = self.plan.predicted(budget.cost, kept)
            if predicted > (budget.asked or 0.0):
                raise TrainingError(
                    f"the fixed mask has a {budget.cost} of {predicted:.4g} {budget.unit}, "
                    f"{budget.asked:.4g} are allowed; prune the weights in one shot first, or "
                    "give masks within the plan's budgets"
                )
        apply_kept(self._weights)

    def _prune(self, step: int) -> None:
        point = self.method.point(self.schedule, step, self.total_steps)
        if self._channels:
            self._channels.prune(self._competition, point)
        elif self._weights:
            self.method.prune(self._competition, point)
        self._is_frozen = point.is_frozen or step == self.total_steps

    def _on_step(
        self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments | None:
        """Prepare a step; a closure is replaced by one that turns gradients when it is called."""
        closure = closure_in((args, kwargs))
        self._require_steps_left()
        self._watch.remove()
        if closure is None:
            self._closure = None
            self._before_step()
            return None
        if self._channels:
            raise TrainingError(
                "optimizer.step(closure) is not supported while channels are pruned; call "
                "backward() first and step() without arguments"
            )
        self._closure = SparseClosure(closure, self._sparsify, self._before_step)
        self._state_at_start = copy.deepcopy(self._competition.state)
        return with_closure((args, kwargs), self._closure)

    @torch.no_grad()
    def _sparsify(self) -> None:
        """Make the parameters sparse before a closure is run, wherever the optimizer moved them."""
        if self._is_frozen:
            apply_kept(self._weights)
        elif self.num_steps_done and self._closure and self._closure.num_evaluations:
            self._back_to_start()
            self._prune(self.num_steps_done)
            self._note_versions()
        elif self.num_steps_done:
            self._require_untouched(
                f"by {type(self._optimizer).__name__} before it called its closure, which would "
                "not see sparse weights; use an optimizer that calls the closure first"
            )

    def _back_to_start(self) -> None:
        """Take back what selections within a step changed, so that each starts from the same."""
        has_warned = self._competition.state.has_warned
        self._competition.state = replace(
            copy.deepcopy(self._state_at_start), has_warned=has_warned
        )

    def _require_steps_left(self) -> None:
        if self.num_steps_done == self.total_steps:
            raise TrainingError(
                f"more than the announced {self.total_steps} steps were taken; call finalize() "
                "after the last one or announce more"
            )

    @torch.no_grad()
    def _before_step(self) -> None:
        """Turn the gradients, and put the latent weights back."""
        if self._is_frozen:
            mask_gradients(self._weights)
            if self._channels:
                self._channels.mask_gradients()
        elif self.num_steps_done and self._channels:
            self._require_untouched()
            self._channels.require_untouched()
            self._channels.turn_gradients(self._competition)
        elif self.num_steps_done and self._weights:
            self._require_untouched()
            self.method.turn_gradients(self._competition)

    @torch.no_grad()
    def _after_step(self) -> None:
        if self._closure is not None:
            self._closure.require_evaluated(self._optimizer)
            self._back_to_start()
            self._closure = None
        phase = self._phase
        self.num_steps_done += 1
        if self._is_frozen:
            apply_kept(self._weights)
            if self._channels:
                self._channels.apply_masks()
        else:
            self._prune(self.num_steps_done)
        self._note_versions()
        if self._phase != phase:
            self._require_agreement()

    def _note_versions(self) -> None:
        self._versions = [weight.local._version for weight in self._weights]

    def _require_agreement(self) -> None:
        require_agreement(self._weights, self._competition.state, self._process_group)
        if self._channels:
            require_same_units(self._channels.groups, self._process_group)

    def _require_untouched(self, what: str = _LOST) -> None:
        """Refuse to lose what somebody else wrote to the parameters.

        Args:
            what: the end of the sentence that says so.
        """
        for weight, version in zip(self._weights, self._versions, strict=True):
            if weight.local._version != version and not weight.is_untouched():
                raise TrainingError(f"parameter {weight.name!r} was changed {what}")

    @property
    def _phase(self) -> str:
        if self._is_frozen:
            return "frozen"
        if self.num_steps_done == 0:
            return "dense"
        point = self.method.point(self.schedule, self.num_steps_done, self.total_steps)
        return "falling" if point.budget_share else "searching"

    def _densities(self, kept: Mapping[str, float]) -> dict[str, float]:
        found = {
            w.name: kept.get(w.name, w.num_whole_blocks) / w.num_whole_blocks for w in self._weights
        }
        if self._channels:
            cut = [layer.name for layer in self.plan.layers if layer.cut_by]
            for name, share in self._channels.shares(cut).items():
                found[name] = share * found.get(name, 1.0)
        return found

    def _density(self, densities: Mapping[str, float]) -> float:
        """Kept share of the elements of all layers that are pruned."""
        parameters = self._sparse_parameters
        sizes = {name: parameters[name].numel() for name in densities}
        kept = sum(densities[name] * size for name, size in sizes.items())
        return kept / max(1, sum(sizes.values()))


def _method(source: Plan | Schedule, method: str | Method | None) -> Method:
    if isinstance(method, Method):
        return method
    schedule = source.schedule if isinstance(source, Plan) else source
    return method_named(method or schedule.method)


def _schedule(plan: Plan, method: Method) -> Schedule:
    """The plan's schedule, where it is for this method."""
    return plan.schedule if plan.schedule.method == method.name else default_schedule(method.name)


def _planned_weights(plan: Plan, parameters: Mapping[str, nn.Parameter]) -> list[PlannedWeight]:
    protected = [num_protected(layer) for layer in plan.sparse_layers]
    costs = BlockBudgets.of(plan, protected).blended_per_block
    return [
        PlannedWeight.of(layer, parameters[layer.name], cost)
        for layer, cost in zip(plan.sparse_layers, costs, strict=True)
    ]


def _all_processes() -> dist.ProcessGroup | None:
    is_joined = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return dist.group.WORLD if is_joined else None


def _innermost(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer inside wrappers, whose own hooks never run."""
    inner = getattr(optimizer, "optimizer", None)
    return _innermost(inner) if isinstance(inner, Optimizer) else optimizer


def _require_owned(parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> None:
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in parameters.items():
        if parameter.requires_grad and id(parameter) not in owned:
            raise TrainingError(
                f"the optimizer does not own parameter {name!r}; build it from this model's "
                "parameters"
            )


def _require_steppable(optimizer: Optimizer, weights: Sequence[PlannedWeight]) -> None:
    """Refuse what torch itself cannot step: L-BFGS makes one vector of all parameters."""
    spread = next((weight.name for weight in weights if weight.sharding), None)
    if isinstance(optimizer, LBFGS) and spread is not None:
        raise TrainingError(
            f"LBFGS cannot step weights that fully_shard spreads over processes, as it does layer "
            f"{spread}; train under DDP, or with another optimizer"
        )
