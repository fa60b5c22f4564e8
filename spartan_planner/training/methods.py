"""How blocks are pruned while a model trains: four methods behind one interface.

Every method works on the same blocks, under the same cost-weighted budgets and schedule; they
differ in what the forward pass sees, in where gradients go, and in whether a pruned block can come
back:

| method | forward | gradient | pruned blocks |
|---|---|---|---|
| ``spartan`` | theta m h | G m + sign(theta) dL/dv (DESIGN 4.4) | may come back |
| ``dual_averaging`` | theta h | G, straight through | may come back |
| ``magnitude`` | theta h | G h | are zero and stay so |
| ``fixed`` | theta h | G h | as given |
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor

from spartan_planner.errors import TrainingError, UnknownNameError
from spartan_planner.planning import Schedule
from spartan_planner.training.competition import Competition
from spartan_planner.training.planned_weight import PlannedWeight
from spartan_planner.training.schedules import SchedulePoint, schedule_point
from spartan_planner.transport import Cut


class Method(ABC):
    """A way to prune; it keeps no state of its own.

    Attributes:
        name: what plans and the command line call it.
        revives: whether what was pruned may come back while masks move.
        softens: whether the forward pass sees soft masks as well.
    """

    name: str
    revives = False
    softens = False

    def point(self, schedule: Schedule, step: int, total_steps: int) -> SchedulePoint:
        """Return where training stands after ``step`` optimizer steps."""
        return schedule_point(schedule, step, total_steps)

    @abstractmethod
    def prune(self, competition: Competition, point: SchedulePoint) -> None:
        """Put sparse weights into the parameters, which hold what the optimizer made of them."""

    @abstractmethod
    def turn_gradients(self, competition: Competition) -> None:
        """Turn G = dL/dw into the gradient for the optimizer, and give it its weights."""


class Spartan(Method):
    """The paper's method: soft top-k in the backward pass, hard selection in the forward pass."""

    name = "spartan"
    revives = softens = True

    def prune(self, competition: Competition, point: SchedulePoint) -> None:
        """Put ``theta m h`` into the parameters and keep theta aside."""
        with _latents_kept(competition.weights):
            selection = competition.select(point.budget_share)
            competition.soften(selection, point)
        _put_sparse(competition, selection.hard, point)

    def turn_gradients(self, competition: Competition) -> None:
        """Set ``dL/dtheta = G m + sign(theta) dL/dv`` and put theta back."""
        competition.turn_gradients()


class DualAveraging(Method):
    """Top-KAST without backward sparsity: hard masks forward, dense gradients to the latents."""

    name = "dual_averaging"
    revives = True

    def prune(self, competition: Competition, point: SchedulePoint) -> None:
        """Put ``theta h`` into the parameters and keep theta aside."""
        with _latents_kept(competition.weights):
            selection = competition.select(point.budget_share)
        _put_sparse(competition, selection.hard, point)

    def turn_gradients(self, competition: Competition) -> None:
        """Leave the gradients as they are and put theta back."""
        for weight in competition.weights:
            weight.put_latent()


class Magnitude(Method):
    """Gradual magnitude pruning with the cubic schedule of Zhu and Gupta (arXiv 1710.01878).

    With ``t`` the share of the way to the budget, ``(1 - t)^3`` of what is above it is still
    kept.  Pruned blocks are set to zero, get no gradient, and never come back; once the budget is
    reached the mask stands still.
    """

    name = "magnitude"

    def point(self, schedule: Schedule, step: int, total_steps: int) -> SchedulePoint:
        """Return the point of a cubic fall to the budget."""
        cubic = replace(schedule, budget_fall="cubic")
        point = schedule_point(cubic, step, total_steps)
        return replace(point, is_frozen=point.is_frozen or point.budget_share == 0.0)

    def prune(self, competition: Competition, point: SchedulePoint) -> None:
        """Set to zero what was pruned before, then what is pruned now."""
        competition.require_finite_weights()
        apply_kept(competition.weights)
        selection = competition.select(point.budget_share)
        for weight, value, hard in zip(
            competition.weights, selection.values, selection.hard, strict=True
        ):
            # Where the budget has room for blocks that are zero they still do not come back.
            weight.hold(weight.mask_of(hard) & (value > 0))
        competition.add_up_sizes()
        apply_kept(competition.weights)

    def turn_gradients(self, competition: Competition) -> None:
        """Pass gradients to what is kept only."""
        mask_gradients(competition.weights)


class Fixed(Method):
    """A mask given beforehand, applied at once.

    Args:
        masks: for each sparse layer which elements are kept, of the weight's shape; the non-zeros
            of the weights as they are where none are given.
    """

    name = "fixed"

    def __init__(self, masks: Mapping[str, Tensor] | None = None) -> None:
        self.masks = masks

    def point(self, schedule: Schedule, step: int, total_steps: int) -> SchedulePoint:
        """Return a point at which the budget is reached and the mask stands still."""
        point = schedule_point(schedule, step, total_steps)
        return replace(point, budget_share=0.0, is_frozen=True)

    def prune(self, competition: Competition, point: SchedulePoint) -> None:  # noqa: ARG002
        """Hold the given mask; the sparsifier applies it once it is seen to keep the budgets."""
        for weight in competition.weights:
            weight.hold_elements(self._mask_of(weight))

    def turn_gradients(self, competition: Competition) -> None:
        """Pass gradients to what is kept only."""
        mask_gradients(competition.weights)

    def _mask_of(self, weight: PlannedWeight) -> Tensor:
        if self.masks is None:
            return weight.parameter.detach() != 0
        mask = self.masks.get(weight.name)
        if mask is None or mask.shape != weight.parameter.shape:
            found = "none" if mask is None else f"one of shape {tuple(mask.shape)}"
            raise TrainingError(
                f"layer {weight.name} needs a mask of shape {tuple(weight.parameter.shape)}, "
                f"{found} was given; give one for every sparse layer of the plan"
            )
        return mask.to(weight.parameter.device) != 0


_METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Spartan, DualAveraging, Magnitude, Fixed)
}
"""The methods by name, for plans and the command line."""


def method_named(name: str) -> Method:
    """Return the method of a name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in _METHODS:
        raise UnknownNameError(f"method {name!r} is not known; use one of {', '.join(_METHODS)}")
    return _METHODS[name]()


def default_schedule(method: str, is_trained: bool = False) -> Schedule:
    """Return the schedule that suits a method best from scratch or from trained weights.

    What was measured is in docs/training.md.

    Raises:
        UnknownNameError: there is no such method.
    """
    return _SCHEDULES[method_named(method).name, is_trained]


_SCHEDULES = {
    ("spartan", False): Schedule(),
    ("spartan", True): Schedule(),
    ("dual_averaging", False): Schedule(method="dual_averaging"),
    ("dual_averaging", True): Schedule(method="dual_averaging"),
    ("magnitude", False): Schedule(budget_fraction=0.75, method="magnitude"),
    ("magnitude", True): Schedule(budget_fraction=0.75, method="magnitude"),
    ("fixed", False): Schedule(0.0, 0.0, 1.0, method="fixed"),
    ("fixed", True): Schedule(0.0, 0.0, 1.0, method="fixed"),
}


@contextmanager
def _latents_kept(weights: list[PlannedWeight]) -> Iterator[None]:
    """Keep theta aside while blocks are selected, and put it back where that fails (a NaN)."""
    for weight in weights:
        weight.keep_latent()
    try:
        yield
    except BaseException:
        for weight in weights:
            weight.put_latent()
        raise


def _put_sparse(competition: Competition, hard: list[Tensor | Cut], point: SchedulePoint) -> None:
    """Put ``theta m h`` into the parameters; in the frozen phase these are the weights now."""
    for weight, kept in zip(competition.weights, hard, strict=True):
        if point.is_frozen:
            mask = weight.mask_of(kept)
            weight.put_sparse(mask)
            weight.hold(mask)
        else:
            weight.put_sparse(kept)
    competition.add_up_sizes()


def apply_kept(weights: list[PlannedWeight]) -> None:
    """Set the pruned elements of the parameters to zero."""
    for weight in weights:
        if weight.kept is not None:
            weight.local.mul_(weight.kept)


def mask_gradients(weights: list[PlannedWeight]) -> None:
    """Set the gradients of pruned elements to zero."""
    for weight in weights:
        gradient = weight.local_gradient
        if weight.kept is not None and gradient is not None:
            gradient.mul_(weight.kept)
