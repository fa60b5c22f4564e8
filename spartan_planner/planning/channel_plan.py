"""Plans in which channels go: to the budgets, or half-way with other layouts behind them.

How far channels go is one number ``t`` from 0 (none go) to 1 (they alone meet the budgets): they
are chosen for ``dense - t (dense - asked)`` of every budget, and the planner of single weights
takes the model that is left to ``asked``.  The ``t`` that retains most is looked for on a grid and
around its best point.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape

import numpy as np

from cost_models import CostModel, DeviceProfile, Workload, cost_model
from spartan_planner.errors import InfeasibleBudgetError, PlanError, UsageError
from spartan_planner.planning.allocation import Allocation, least_costs
from spartan_planner.planning.bounds import Bound, bounds_of
from spartan_planner.planning.budget import Budget
from spartan_planner.planning.candidates import Costs
from spartan_planner.planning.channel_groups import ChannelWish, GroupCounts, group_counts
from spartan_planner.planning.channel_prices import channel_prices, plan_groups
from spartan_planner.planning.channel_problem import ChannelChoice, ChannelProblem
from spartan_planner.planning.channel_values import read_all_sums
from spartan_planner.planning.plan_document import Planned, PlannedChannels
from spartan_planner.planning.policies import Policy
from spartan_planner.planning.pricing import price_model
from spartan_planner.planning.problem import ROUNDING, PlanProblem, prepare, require_sound
from spartan_planner.planning.request import PlanRequest
from spartan_planner.planning.weights import Weights
from spartan_planner.planning.weights_fingerprint import weights_fingerprint

_GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
_NUM_HALVINGS = 2
"""Times that the points half-way to both neighbours of the best one are tried."""

CHANNEL, TILE, BOTH = "channel", "tile", "channel+tile"
"""Kinds of plans, by what they prune: channels, blocks of single weights, or both."""


def plan_with_channels(
    workload: Workload, weights: Weights, request: PlanRequest, wish: ChannelWish
) -> Planned:
    """Decide which channels go, and what becomes of the weights that are left.

    Raises:
        UsageError: budgets or bounds that contradict themselves, or a policy other than ``cost``.
        PlanError: the workload has no channel groups, none may be shortened, or weights are not
            finite.
        CostModelError: a layer cannot be priced.
        InfeasibleBudgetError: no plan meets the budgets.
    """
    _require_groups(workload, request)
    groups = group_counts(workload, wish, request.bounds)
    if not wish.with_tiles and not any(len(item.counts) > 1 for item in groups):
        raise PlanError(_none_may_go(workload, groups))
    models = tuple(cost_model(budget.cost) for budget in request.budgets)
    sums = read_all_sums(workload, weights)
    problem = ChannelProblem(workload, weights, sums, groups, models, request.profile)
    search = _Search(problem, workload, models, request, wish)
    points = search.points()
    best = max(points, key=lambda point: point.allocation.value)
    value = sum(item.total for item in sums.values())
    retained = {
        kind: min(
            1.0, max(p.allocation.value for p in points if p.kind == kind) / max(value, 1e-300)
        )
        for kind in (TILE, CHANNEL, BOTH)
        if any(p.kind == kind for p in points)
    }
    prices = search.prices(best)
    channels = PlannedChannels(
        whole=workload,
        value=value,
        weights_fingerprint=weights_fingerprint({name: s.checksum for name, s in sums.items()}),
        prices=tuple(prices.tolist()),
        groups=plan_groups(groups, best.choice, prices),
        retained_by=retained,
    )
    return Planned(best.problem, best.allocation, best.profile, channels)


@dataclass(frozen=True)
class _Point:
    """The plan that was found where channels go to some limits.

    Attributes:
        limits: ``[budgets]``, to which channels were chosen.
        choice: of channels.
        problem: what there was to choose from then.
        allocation: the choice for the weights that are left.
        profile: the device, as it is to be read for them.
    """

    limits: Costs
    choice: ChannelChoice
    problem: PlanProblem
    allocation: Allocation
    profile: DeviceProfile | None

    @property
    def kind(self) -> str:
        """What is pruned."""
        has_tiles = any(choice.candidate for choice in self.allocation.choices)
        if not self.choice.num_removed:
            return TILE
        return BOTH if has_tiles else CHANNEL


class _Search:
    """Plans at different shares of the way that channels go."""

    def __init__(
        self,
        problem: ChannelProblem,
        workload: Workload,
        models: Sequence[CostModel],
        request: PlanRequest,
        wish: ChannelWish,
    ) -> None:
        self._problem, self._request, self._wish = problem, request, wish
        self._dense = dense_costs(workload, models, request.profile)
        amounts = zip(request.budgets, self._dense.tolist(), strict=True)
        self._asked = np.array([budget.asked(dense) for budget, dense in amounts])
        self._models = models

    def points(self) -> list[_Point]:
        """Return the plans that were found within the budgets, at least one.

        Raises:
            InfeasibleBudgetError: none was found.
        """
        if np.all(self._asked >= self._dense):
            return [self._with(self._problem.at(self._problem.tops), self._dense)]
        found: dict[float, _Point | None] = {}
        for share in _GRID if self._wish.with_tiles else (1.0,):
            found[share] = self._at(share)
        for _ in range(_NUM_HALVINGS if self._wish.with_tiles else 0):
            for share in _beside_best(found):
                found[share] = self._at(share)
        points = [point for point in found.values() if point is not None]
        return points or [self._least()]

    def prices(self, point: _Point) -> Costs:
        """Return ``[budgets]``, value per unit of cost at which a block is just worth keeping."""
        if np.any(point.allocation.prices > 0):
            return point.allocation.prices
        left_over = point.limits - self._problem.true_cost(point.choice.kept)
        return channel_prices(point.choice, left_over, point.limits)

    def _at(self, share: float) -> _Point | None:
        binds = self._asked < self._dense
        half_way = self._dense - share * (self._dense - self._asked)
        # Less the share that rounding may add, as of every budget.
        limits = np.where(binds, half_way - np.abs(self._asked) * ROUNDING, self._asked)
        try:
            choice = self._problem.choose(limits) if share else self._problem.at(self._problem.tops)
            return self._with(choice, limits)
        except InfeasibleBudgetError:
            return None

    def _least(self) -> _Point:
        """The plan of the fewest channels that may stay; what holds budgets up is told of it."""
        choice = self._problem.at(self._problem.bottom)
        problem, _ = self._left(choice)
        try:
            return self._with(choice, self._asked)
        except InfeasibleBudgetError as error:
            least = problem.rest + least_costs(problem.layers)
            raise InfeasibleBudgetError(
                _why_infeasible(
                    self._request.budgets, self._models, least, self._asked, self._dense
                )
            ) from error

    def _with(self, choice: ChannelChoice, limits: Costs) -> _Point:
        """Take what channels leave of the model to the budgets."""
        problem, profile = self._left(choice)
        return _Point(limits, choice, problem, problem.allocate(self._request.policy), profile)

    def _left(self, choice: ChannelChoice) -> tuple[PlanProblem, DeviceProfile | None]:
        """What there is to choose from in the model that channels leave, and its profile."""
        left = self._problem.reduced(choice.kept)
        weights = self._problem.reduced_weights(choice)
        budgets = [
            Budget(budget.cost, asked, False)
            for budget, asked in zip(self._request.budgets, self._asked.tolist(), strict=True)
        ]
        request = replace(
            self._request,
            budgets=budgets,
            profile=left.profile,
            bounds=_bounds_of_rest(self._request.bounds, self._problem.workload, left.workload),
            layouts=self._request.layouts if self._wish.with_tiles else lambda _: (),
            channels=None,
        )
        return prepare(left.workload, weights, request, may_all_stay=True), left.profile


def dense_costs(
    workload: Workload, models: Sequence[CostModel], profile: DeviceProfile | None
) -> Costs:
    """Return ``[budgets]``, cost of the dense model, summed as a plan's document does.

    Raises:
        CostModelError: a layer cannot be priced.
    """
    priced = [price_model(m, workload, [None] * len(workload.layers), profile) for m in models]
    return np.array([item.rest + sum(cost.dense for cost in item.layers) for item in priced])


def _beside_best(found: Mapping[float, _Point | None]) -> list[float]:
    """The points half-way between the best one and its neighbours."""
    values = {share: point.allocation.value for share, point in found.items() if point is not None}
    if not values:
        return []
    shares = sorted(found)
    place = shares.index(max(values, key=lambda share: values[share]))
    neighbours = shares[max(0, place - 1) : place] + shares[place + 1 : place + 2]
    return [(shares[place] + neighbour) / 2 for neighbour in neighbours]


def _bounds_of_rest(
    bounds: Sequence[Bound], workload: Workload, left: Workload
) -> tuple[Bound, ...]:
    """Bounds for the weights that are left: a minimum density is one of the whole weight."""
    kept = [bound if not bound.min_density else replace(bound, min_density=0.0) for bound in bounds]
    densities = [
        Bound(escape(layer.name), min_density=min(1.0, least * layer.num_weights / now.num_weights))
        for layer, now in zip(workload.layers, left.layers, strict=True)
        if (least := bounds_of(layer.name, bounds).min_density)
    ]
    return (*kept, *densities)


def _require_groups(workload: Workload, request: PlanRequest) -> None:
    require_sound(workload, request)
    if request.policy is not Policy.COST:
        raise UsageError(
            f"policy {request.policy.value} spreads blocks of single weights; channels are chosen "
            "by the policy cost only: leave out --policy, or the layouts channel, head and auto"
        )
    if not workload.channel_groups:
        raise PlanError(
            f"the workload of {workload.model} names no channel groups, without which no channel "
            "can be removed; plan the torch model itself, or a workload made by "
            "'spartan-planner inspect --channels'"
        )


def _none_may_go(workload: Workload, groups: Sequence[GroupCounts]) -> str:
    reasons = dict.fromkeys(f"{item.fixed_because} ({item.group.name})" for item in groups)
    return (
        f"no channels of {workload.model} may go: {', '.join(list(reasons)[:_MAX_NAMED])}; ask for "
        "other layouts, or loosen the bounds"
    )


_MAX_NAMED = 3

_LEFT_UNUSED = 4 * ROUNDING
"""A few times what a plan leaves unused of a budget."""


def _why_infeasible(
    budgets: Sequence[Budget],
    models: Sequence[CostModel],
    least: Costs,
    asked: Costs,
    dense: Costs,
) -> str:
    short = [
        f"{budget.cost} of {asked[k]:.4g} {models[k].unit} cannot be reached: with the fewest "
        f"channels that may stay it is at least {least[k]:.4g} {models[k].unit} "
        f"({least[k] / dense[k]:.1%} "
        f"of the dense {dense[k]:.4g})"
        for k, budget in enumerate(budgets)
        if least[k] * (1 + _LEFT_UNUSED) > asked[k]
    ]
    found = "; and ".join(short) or "no counts of channels were found that meet all budgets"
    return f"{found}; ask for more, or add other layouts (--layout auto)"
