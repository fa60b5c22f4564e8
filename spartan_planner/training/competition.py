"""The blocks of all layers compete for what the budgets of a plan leave them."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist
from torch import Tensor

from spartan_planner.planning import Plan, Schedule
from spartan_planner.training.block_budgets import BlockBudgets
from spartan_planner.training.contributions import Contributions
from spartan_planner.training.finiteness import require_finite, require_finite_weights
from spartan_planner.training.patterns import (
    hard_pattern,
    pattern_budget,
    pattern_gradient,
    pattern_surplus,
    soft_pattern,
)
from spartan_planner.training.planned_weight import PlannedWeight
from spartan_planner.training.schedules import SchedulePoint
from spartan_planner.training.sharding import common_group
from spartan_planner.training.sharpness import mean_surplus, sharpness
from spartan_planner.transport import (
    Cut,
    HardSelection,
    SelectionStatus,
    SoftSelection,
    soft_topk_gradient,
    solve_hard_topk,
    solve_soft_topk,
)
from spartan_planner.transport.collective import sum_over_ranks

_BUDGET_STEP, _BUDGET_RECOVERY = 1e-3, 0.01
"""Where one of several budgets is exceeded the blended one is lowered by the overrun and this
share, doubled with every further try; it recovers by one percent a step, and by twice as much after
every step in which it could."""
_LEAST_BUDGET_SHARE = 0.01
"""Where the share starts from again after a step in which nothing but a tiny one would do."""
_REACH, _LEAST_REACH = 2.0, 5e-4
"""The hard threshold is expected within so many of its last moves, and this share of itself."""
_SPREAD_INTERVAL = 10
"""Steps after which the spread of values is measured anew; it moves as slowly as the weights."""


@dataclass
class CompetitionState:
    """What a competition carries from step to step, all of it numbers.

    Attributes:
        price: of the budget, in value per mean cost; infinite in the limits.
        threshold, threshold_move: value per cost at the boundary of what is kept, and how far the
            last step moved it: where the next search looks first; ``None`` in the limits.
        lead: how far the price of the soft masks lay above the threshold of the hard ones; it
            moves little, so that the next search starts close by.
        beta: sharpness of the masks as they are; 0 before any.
        spread: mean surplus of what is kept (:func:`mean_surplus`), 0 before it was measured.
        pattern_spreads, pattern_betas: the same for each n:m layer, by name.
        spread_age: selections since it was measured.
        budget_share: share of the blended budget that keeps every single one.
        budget_recovery: share by which more is tried at the next step.
        has_warned: whether a warning of missed budgets was given.
    """

    price: float | None = None
    threshold: float | None = None
    threshold_move: float = 0.0
    lead: float = 0.0
    beta: float = 0.0
    spread: float = 0.0
    pattern_spreads: dict[str, float] = field(default_factory=dict)
    pattern_betas: dict[str, float] = field(default_factory=dict)
    spread_age: int = _SPREAD_INTERVAL
    budget_share: float = 1.0
    budget_recovery: float = _BUDGET_RECOVERY
    has_warned: bool = False


@dataclass(frozen=True)
class Selection:
    """Who won: hard masks, and what the soft ones need to know.

    Attributes:
        values: ``[blocks]`` of each weight; of blocks that compete, per element of a mean block.
        protected: which blocks of each weight are kept whatever the price; ``None`` for none.
        hard: ``h`` of each weight, boolean, or where it is cut from the values of single elements.
        threshold: value per mean cost at the boundary of what is kept.
        budget: blended cost that the competing blocks may have.
        ratios: least and greatest value per cost of the competing blocks, where known.
    """

    values: list[Tensor]
    protected: list[Tensor | None]
    hard: list[Tensor | Cut]
    threshold: float
    budget: float
    ratios: tuple[float, float] | None


class Competition:
    """Hard and soft top-k over the blocks of a plan's sparse layers (DESIGN 4.1, 4.3, 4.8).

    Args:
        plan: the plan.
        schedule: how beta is found.
        weights: the weights of the plan's sparse layers, in its order.
    """

    def __init__(self, plan: Plan, schedule: Schedule, weights: Sequence[PlannedWeight]) -> None:
        self.plan, self.schedule = plan, schedule
        self.weights = list(weights)
        self.budgets = BlockBudgets.of(plan, [weight.num_protected for weight in weights])
        self.state = CompetitionState()
        competing = [weight for weight in self.weights if not weight.is_pattern]
        self._costs = [weight.cost_per_block for weight in competing]
        self._num_blocks = [weight.num_blocks for weight in competing]
        self._num_free = [w.num_blocks - w.num_protected for w in competing]
        shared = common_group({weight.name: weight.sharding for weight in self.weights})
        self._parts = Contributions(shared, tuple(weight.is_divided for weight in competing))
        num_elements = sum(weight.parameter.numel() for weight in competing)
        self._block_elements = num_elements / max(1, sum(self._num_blocks))

    def select(self, budget_share: float) -> Selection:
        """Select hard by the latent weights, ``budget_share`` of the way back to dense.

        Raises:
            NotFiniteError: a weight is NaN or infinite.
        """
        values = [self._values(weight) for weight in self.weights]
        self._require_finite_values(values)
        protected = [w.protected(v) for w, v in zip(self.weights, values, strict=True)]
        masks: Iterator[Tensor | Cut] = iter(())
        budget, threshold, ratios = 0.0, math.inf, None
        if self._costs:
            free = self._free(values, protected)
            budget, found = self._within_budgets(free, budget_share)
            threshold, masks = found.threshold * self._mean_cost, iter(found.masks or found.cuts)
            ratios = found.ratios if self.process_group is None else None
            self.state.price = threshold
        hard = [
            self._hard_pattern(weight, value, budget_share)
            if weight.is_pattern
            else _whole_or_cut(next(masks), value, mask)
            for weight, value, mask in zip(self.weights, values, protected, strict=True)
        ]
        return Selection(values, protected, hard, threshold, budget, ratios)

    def soften(self, selection: Selection, point: SchedulePoint) -> None:
        """Give every weight the soft mask that belongs to a selection."""
        self._measure_spread(selection)
        masks: Iterator[Tensor] = iter(())
        if self._costs:
            self.state.beta = sharpness(
                self.schedule, point.sharpened, self._block_elements, self.state.spread
            )
            soft = self._solve_soft(selection)
            self.state.price, masks = soft.price, iter(soft.masks)
            lead = soft.price - selection.threshold
            self.state.lead = lead if math.isfinite(lead) else 0.0
        for weight, value, mask in zip(
            self.weights, selection.values, selection.protected, strict=True
        ):
            if weight.is_pattern:
                weight.soft = self._soft_pattern(weight, value, point)
            else:
                weight.soft = _whole(next(masks), mask, 1.0)

    def turn_gradients(self) -> None:
        """Set ``dL/dtheta = G m + sign(theta) dL/dv`` (DESIGN 4.4) and put theta back.

        Protected blocks have ``m = 1``, hence ``r = 0``: they may stay where they are once their
        part in the mean cost is taken out again.
        """
        for weight in self.weights:
            if weight.is_pattern:
                weight.set_gradient(self._pattern_gradient(weight, weight.mask_gradient()))
                weight.put_latent()
        competing = [weight for weight in self.weights if not weight.is_pattern]
        if not competing:
            return
        # Gradients of single elements are turned in place, without g and dL/dv in full.
        direct = [weight.element_gradient() for weight in competing]
        thetas = [
            None if gradient is None else weight.flat(weight.dense)
            for weight, gradient in zip(competing, direct, strict=True)
        ]
        slopes = [
            weight.mask_gradient() if gradient is None else gradient
            for weight, gradient in zip(competing, direct, strict=True)
        ]
        softs = [weight.soft for weight in competing if weight.soft is not None]
        beta = self.state.beta * self._mean_cost / _mean(self._costs, self._num_blocks)
        beta /= self._block_elements
        # While latent weights are read for that they are put back as well.
        targets = [
            None if theta is None else weight.flat_target
            for weight, theta in zip(competing, thetas, strict=True)
        ]
        by_value = self._gradients(softs, beta, slopes, thetas, targets)
        for weight, gradient, turned, target in zip(
            competing, by_value, direct, targets, strict=True
        ):
            if turned is None:
                weight.set_gradient(gradient)
            if target is None or self.process_group is not None:
                weight.put_latent()

    def require_finite_weights(self) -> None:
        """Refuse parameters that are NaN or infinite, before anything is made of them.

        Raises:
            NotFiniteError: some are; names the layers, on every process.
        """
        require_finite_weights(self.weights, self.process_group)

    def add_up_sizes(self) -> None:
        """Make the kept sizes of weights that are spread over processes those of the whole."""
        divided = [weight for weight in self.weights if weight.is_divided]
        local = [weight.kept_size for weight in divided if weight.kept_size is not None]
        if local:
            stacked = torch.stack([size.double() for size in local])
            total = sum_over_ranks(stacked, self._parts.process_group)
            for weight, size in zip(divided, total.unbind(), strict=True):
                weight.kept_size = size

    @property
    def process_group(self) -> dist.ProcessGroup | None:
        """The processes over which weights are spread; ``None`` where none is."""
        return self._parts.process_group

    @property
    def _mean_cost(self) -> float:
        """Mean cost of the blocks that compete: the transport's unit of cost."""
        return _mean(self._costs, self._num_free)

    def _require_finite_values(self, values: Sequence[Tensor]) -> None:
        """Refuse values that are not finite; where their range is known nothing is read."""
        figures = {
            weight.name: value
            if weight.value_range is None or not value.numel()
            else weight.value_range
            for weight, value in zip(self.weights, values, strict=True)
        }
        require_finite(figures, self.process_group)

    def _values(self, weight: PlannedWeight) -> Tensor:
        values = weight.values()
        if weight.is_pattern:
            return values.view(weight.assignment.weight_shape)
        return values if self._block_elements == 1 else values / self._block_elements

    def _free(self, values: Sequence[Tensor], protected: Sequence[Tensor | None]) -> list[Tensor]:
        """The values of the blocks that compete."""
        return [
            value if mask is None else value[~mask]
            for weight, value, mask in zip(self.weights, values, protected, strict=True)
            if not weight.is_pattern
        ]

    def _within_budgets(
        self, free: Sequence[Tensor], budget_share: float
    ) -> tuple[float, HardSelection]:
        """Select within the blended budget, and once that is reached within every single one."""
        everything = sum(c * num for c, num in zip(self._costs, self._num_free, strict=True))
        target = min(self.budgets.blended_limit, everything)
        if len(self.plan.budgets) > 1 and budget_share == 0.0:
            return self._within_every_budget(free, target)
        budget = target + (everything - target) * budget_share
        found = self._solve_hard(free, budget)
        self._follow(found.threshold)
        return budget, found

    def _known_ratios(self) -> tuple[float, float] | None:
        """Least and greatest value per cost, where they were found when latents were kept aside."""
        ranges = [weight.value_range for weight in self.weights if not weight.is_pattern]
        if self._block_elements != 1 or self.process_group is not None:
            return None
        least, greatest = math.inf, -math.inf
        for found, cost in zip(ranges, self._costs, strict=True):
            if found is None:
                return None
            low, high = found.tolist()
            least, greatest = min(least, low / cost), max(greatest, high / cost)
        return least, greatest

    def _expected_thresholds(self) -> tuple[float, float] | None:
        """Thresholds between which the next one is all but certain to be."""
        last = self.state.threshold
        if last is None or self.process_group is not None:
            return None
        reach = _REACH * abs(self.state.threshold_move) + _LEAST_REACH * abs(last)
        return last - reach, last + reach

    def _follow(self, threshold: float) -> None:
        """Note where the threshold went."""
        state, last = self.state, self.state.threshold
        state.threshold = threshold if math.isfinite(threshold) else None
        if state.threshold is not None and last is not None:
            state.threshold_move = state.threshold - last

    @property
    def _names(self) -> list[str]:
        return [weight.name for weight in self.weights if not weight.is_pattern]

    def _within_every_budget(
        self, free: Sequence[Tensor], target: float
    ) -> tuple[float, HardSelection]:
        """Lower the blended budget until no single budget is exceeded.

        The share found carries over to the next step, where a little more is tried first.
        """
        state = self.state
        share = min(1.0, state.budget_share * (1 + state.budget_recovery))
        step, state.budget_recovery = _BUDGET_STEP, min(1.0, 2 * state.budget_recovery)
        while True:
            hard = self._solve_hard(free, target * share)
            overrun = self.budgets.overrun(self._num_kept(hard))
            # The growing step ends at a share of 0 at the latest, where nothing is spent.
            if overrun <= 1.0:
                state.budget_share = max(share, _LEAST_BUDGET_SHARE)
                self._follow(hard.threshold)
                return target * share, hard
            share, step = max(0.0, share / overrun - share * step), 2 * step
            state.budget_recovery = _BUDGET_RECOVERY

    def _num_kept(self, hard: HardSelection) -> list[float]:
        """Competing blocks that each layer keeps; none of an n:m layer competes."""
        counts: Iterator[float] = (
            iter([float(cut.num_kept) for cut in hard.cuts])
            if hard.cuts
            else iter(self._parts.counts(hard.masks))
        )
        return [0.0 if weight.is_pattern else next(counts) for weight in self.weights]

    def _solve_hard(self, free: Sequence[Tensor], budget: float) -> HardSelection:
        found = solve_hard_topk(
            self._parts.own(free),
            self._costs,
            budget,
            expected=self._expected_thresholds(),
            ratios=self._known_ratios(),
            names=self._names,
            process_group=self._parts.process_group,
            writes_masks=not self._is_cut(free),
        )
        return found if found.cuts else replace(found, masks=self._parts.shared(found.masks, free))

    def _is_cut(self, free: Sequence[Tensor]) -> bool:
        """Whether masks of single elements are never written: where torch reads them on a CPU."""
        competing = (weight for weight in self.weights if not weight.is_pattern)
        return self.process_group is None and all(
            weight.value_range is not None and values.device.type == "cpu"
            for weight, values in zip(competing, free, strict=True)
        )

    def _gradients(
        self,
        softs: Sequence[Tensor],
        beta: float,
        slopes: Sequence[Tensor],
        thetas: Sequence[Tensor | None],
        targets: Sequence[Tensor | None],
    ) -> tuple[Tensor, ...]:
        found = soft_topk_gradient(
            self._parts.own(softs),
            self._costs,
            beta,
            self._parts.own(slopes),
            # Of weights that are spread over processes no gradient is turned in place.
            weights=None if self.process_group is not None else thetas,
            put_back=None if self.process_group is not None else targets,
            process_group=self._parts.process_group,
        )
        return self._parts.shared(found, slopes)

    def _solve_soft(self, selection: Selection) -> SoftSelection:
        free = self._free(selection.values, selection.protected)
        state = self.state
        soft = solve_soft_topk(
            self._parts.own(free),
            self._costs,
            selection.budget,
            state.beta,
            initial_price=selection.threshold + state.lead,
            ratios=selection.ratios,
            names=self._names,
            process_group=self._parts.process_group,
        )
        self._warn_of_missed_budget(soft)
        return replace(soft, masks=self._parts.shared(soft.masks, free))

    def _warn_of_missed_budget(self, soft: SoftSelection) -> None:
        """Say once that soft masks miss their budget; the hard masks keep it, so training goes on.

        The search ends in bisection and meets every budget that doubles can tell apart.
        """
        if soft.status is SelectionStatus.NOT_CONVERGED and not self.state.has_warned:
            self.state.has_warned = True
            warnings.warn(
                f"the soft masks miss their budget by {soft.relative_budget_error:.1e} of it at a "
                f"beta of {self.state.beta:g}; the hard masks keep it, but a smaller beta in the "
                "schedule would train better",
                stacklevel=2,
            )

    def _measure_spread(self, selection: Selection) -> None:
        """Measure how far what is kept lies above the price, every few steps."""
        state = self.state
        state.spread_age += 1
        if self.schedule.beta_rule == "paper" or state.spread_age < _SPREAD_INTERVAL:
            return
        state.spread_age = 0
        worth, kept = [], []
        for weight, values, hard in zip(
            self.weights, selection.values, selection.hard, strict=True
        ):
            if weight.is_pattern:
                surplus = self._pattern_surplus(weight, values, weight.mask_of(hard))
                state.pattern_spreads[weight.name] = surplus
                continue
            mask = weight.mask_of(hard)
            worth.append((values * mask).sum(dtype=torch.float64))
            kept.append(mask)
        if self._costs:
            value = sum(self._parts.sums(worth))
            cost = sum(n * c for n, c in zip(self._parts.counts(kept), self._costs, strict=True))
            state.spread = mean_surplus(value, cost / self._mean_cost, selection.threshold)

    def _hard_pattern(self, weight: PlannedWeight, values: Tensor, share: float) -> Tensor:
        return hard_pattern(values, *_groups(weight), self._pattern_budget(weight, share))

    def _soft_pattern(self, weight: PlannedWeight, values: Tensor, point: SchedulePoint) -> Tensor:
        spread = self.state.pattern_spreads.get(weight.name, 0.0)
        beta = sharpness(self.schedule, point.sharpened, 1.0, spread)
        self.state.pattern_betas[weight.name] = beta
        budget = self._pattern_budget(weight, point.budget_share)
        return soft_pattern(values, *_groups(weight), budget, beta)

    def _pattern_gradient(self, weight: PlannedWeight, gradient: Tensor) -> Tensor:
        assert weight.soft is not None
        beta = self.state.pattern_betas[weight.name]
        return pattern_gradient(weight.soft, gradient, *_groups(weight), beta)

    @staticmethod
    def _pattern_surplus(weight: PlannedWeight, values: Tensor, hard: Tensor) -> float:
        group = weight.sharding.process_group if weight.sharding else None
        return pattern_surplus(values, hard, *_groups(weight), group)

    @staticmethod
    def _pattern_budget(weight: PlannedWeight, share: float) -> float:
        return pattern_budget(weight.layout.num_kept, weight.layout.num_of, share)


def _groups(weight: PlannedWeight) -> tuple[int, int]:
    """Dimension of the inputs in memory order, and inputs of a group."""
    return weight.order.index(1), weight.layout.num_of


def _mean(costs: Sequence[float], counts: Sequence[int]) -> float:
    """Mean cost of a block; 1 where there is none."""
    total = sum(cost * count for cost, count in zip(costs, counts, strict=True))
    return total / sum(counts) if sum(counts) else 1.0


def _whole_or_cut(kept: Tensor | Cut, values: Tensor, protected: Tensor | None) -> Tensor | Cut:
    """Return ``h`` of a weight; a cut stays one where all of its blocks competed."""
    if protected is None:
        return kept
    masks = kept.mask(values[~protected]) if isinstance(kept, Cut) else kept
    return _whole(masks, protected, True)


def _whole(masks: Tensor, protected: Tensor | None, figure: float | bool) -> Tensor:
    """Put the protected blocks, with a figure of their own, among those that compete."""
    if protected is None:
        return masks
    return masks.new_full(protected.shape, figure).masked_scatter_(~protected, masks)
