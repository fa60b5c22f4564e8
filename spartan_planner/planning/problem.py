"""What there is to choose from: a workload, its weights and its budgets, read and priced once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cost_models import (
    CostModel,
    DeviceProfile,
    LayerWorkload,
    Layout,
    LayoutKind,
    Workload,
    cost_model,
)
from spartan_planner.errors import InfeasibleBudgetError, PlanError, UsageError
from spartan_planner.planning.allocation import Allocation, LayerChoice, allocate
from spartan_planner.planning.bounds import LayerBound, bounds_of, require_matches
from spartan_planner.planning.budget import Budget
from spartan_planner.planning.candidates import Costs, LayerCandidates, SparseCandidate
from spartan_planner.planning.fixed_layers import nothing_to_prune
from spartan_planner.planning.forms import COUNTED_COSTS
from spartan_planner.planning.infeasible import Shortfall, why_infeasible
from spartan_planner.planning.layouts import rows_are_outputs
from spartan_planner.planning.policies import Policy, allocate_by_policy, least_by_policy
from spartan_planner.planning.price_table import PriceTable
from spartan_planner.planning.request import PlanRequest
from spartan_planner.planning.value_curves import ValueCurve
from spartan_planner.planning.weights import Weights
from spartan_planner.planning.weights_fingerprint import weights_fingerprint

ROUNDING = 1e-12
"""Share of the budget left unused, so that no order of summation makes a plan exceed it."""


@dataclass(frozen=True)
class PlanProblem:
    """What there is to choose from, and the limits.

    Attributes:
        workload: the model.
        budgets: the limits as asked.
        models: the cost model of each budget.
        layers: what can become of each layer.
        rest: ``[budgets]``, cost that belongs to no layer.
        asked: ``[budgets]``, the limits in the cost models' units.
        weights_fingerprint: of the weights that the layers' values were read from.
    """

    workload: Workload
    budgets: tuple[Budget, ...]
    models: tuple[CostModel, ...]
    layers: tuple[LayerCandidates, ...]
    rest: Costs
    asked: Costs
    weights_fingerprint: str

    @property
    def dense(self) -> Costs:
        """``[budgets]``, cost of the dense model."""
        return self._total([layer.dense for layer in self.layers])

    def _total(self, costs: Sequence[Costs]) -> Costs:
        """Sum as a plan's document does, so that 100 % of the dense cost is never a bit less."""
        columns = zip(*(cost.tolist() for cost in costs), strict=True)
        return np.array(
            [rest + sum(c) for rest, c in zip(self.rest.tolist(), columns, strict=True)]
        )

    def with_budgets(self, budgets: Sequence[Budget]) -> "PlanProblem":
        """Return the same problem with other limits on the same costs."""
        asked = [b.asked(float(d)) for b, d in zip(budgets, self.dense, strict=True)]
        return replace(self, budgets=tuple(budgets), asked=np.array(asked))

    def allocate(
        self,
        policy: Policy = Policy.COST,
        *,
        table: PriceTable | None = None,
        hint: Costs | None = None,
    ) -> Allocation:
        """Choose within the budgets.

        Args:
            policy: how kept weights are spread over the layers.
            table: the layers as a table, where there is one already.
            hint: ``[budgets]``, prices near which to look first.

        Raises:
            InfeasibleBudgetError: nothing meets them; the message gives the least achievable
                figure of each and the layers that hold it up.
        """
        if np.all(self.asked >= self.dense):
            return _all_dense(self.layers)
        try:
            return self._within_limits(policy, table, hint)
        except InfeasibleBudgetError as error:
            raise InfeasibleBudgetError(why_infeasible(self._shortfall(policy))) from error

    def _within_limits(
        self, policy: Policy, table: PriceTable | None, hint: Costs | None
    ) -> Allocation:
        """Allocate so that no rounding takes a total above what was asked.

        What may cost as much as dense is not held below it: often nothing can save that cost.
        """
        strict = self._limits
        generous = np.where(
            self.asked >= self.dense, self.dense * (1 + ROUNDING) - self.rest, strict
        )
        found = self._allocated(policy, generous, table, hint)
        if np.all(self._total([choice.cost for choice in found.choices]) <= self.asked):
            return found
        return self._allocated(policy, strict, table, hint)

    @property
    def _limits(self) -> Costs:
        """``[budgets]``, what the layers may cost; more than dense counts as dense."""
        limits: Costs = np.minimum(self.asked, self.dense) - self.rest
        limits -= np.abs(self.asked) * ROUNDING
        return limits

    def _allocated(
        self, policy: Policy, limits: Costs, table: PriceTable | None, hint: Costs | None
    ) -> Allocation:
        if policy is not Policy.COST:
            return allocate_by_policy(policy, self.workload.layers, self.layers, limits)
        return allocate(self.layers, limits, table=table, hint=hint)

    def _shortfall(self, policy: Policy) -> Shortfall:
        together = None
        if policy is not Policy.COST:
            least = least_by_policy(policy, self.workload.layers, self.layers, self._limits)
            together = policy.value, self.rest + least
        return Shortfall(
            self.budgets, self.models, self.layers, self.rest, self.dense, self.asked, together
        )


def prepare(
    workload: Workload, weights: Weights, request: PlanRequest, *, may_all_stay: bool = False
) -> PlanProblem:
    """Read the weights once and price every layer in every layout.

    Args:
        workload: the model.
        weights: its weights.
        request: what is asked of the plan.
        may_all_stay: whether it is no mistake that no layer can be pruned in any layout.

    Raises:
        UsageError: no budget, two budgets on one cost, or a bound that matches no layer.
        CostModelError: a layer cannot be priced.
        PlanError: no layer can be pruned in any of the layouts, or weights are not finite.
    """
    names = [budget.cost for budget in request.budgets]
    require_sound(workload, request)
    models = tuple(cost_model(name) for name in names)
    rest = np.array([model.rest(workload, request.profile) for model in models])
    read = [_candidates(layer, models, weights, request) for layer in workload.layers]
    layers = tuple(candidates for candidates, _ in read)
    if not may_all_stay and not any(layer.sparse for layer in layers):
        raise PlanError(nothing_to_prune(workload))
    fingerprint = weights_fingerprint({candidates.name: bits for candidates, bits in read})
    budgets = tuple(request.budgets)
    none = np.zeros(len(names))
    problem = PlanProblem(workload, budgets, models, layers, rest, none, fingerprint)
    return problem.with_budgets(budgets)


def require_sound(workload: Workload, request: PlanRequest) -> None:
    """Refuse what no plan can be asked for.

    Raises:
        UsageError: no budget, two budgets on one cost, or a bound that matches no layer.
    """
    names = [budget.cost for budget in request.budgets]
    if not names or len(set(names)) < len(names):
        raise UsageError(
            f"budgets on {', '.join(names) or 'nothing'} were given; give at least one, and at "
            "most one on each cost"
        )
    require_matches(workload.layers, request.bounds)


def _all_dense(layers: Sequence[LayerCandidates]) -> Allocation:
    choices = tuple(
        LayerChoice(layer.name, None, 0, 0.0, layer.dense, layer.value) for layer in layers
    )
    cost = np.sum([layer.dense for layer in layers], axis=0)
    value = sum(layer.value for layer in layers)
    return Allocation(choices, cost, value, np.zeros_like(cost), value)


def _candidates(
    layer: LayerWorkload, models: Sequence[CostModel], weights: Weights, request: PlanRequest
) -> tuple[LayerCandidates, int]:
    """What can become of a layer, and the checksum of its weight."""
    bound = bounds_of(layer.name, request.bounds)
    dense = np.array([model.dense_cost(layer, request.profile) for model in models])
    is_as_used = rows_are_outputs(layer, weights.stored_shape(layer))
    wanted = [
        layout
        for layout in request.layouts_of(layer)
        if layer.prunable and is_as_used and bound.allows(layout) and _keeps(layout, bound)
    ]
    priced = [(layout, _costs(models, layer, layout, request.profile)) for layout in wanted]
    # Where blocks cost nothing there is nothing to gain by pruning them.
    priced = [(layout, costs) for layout, costs in priced if np.any(costs[1] > 0)]
    values = weights.values(layer, [layout for layout, _ in priced])
    names = [model.name for model in models]
    sparse = tuple(
        _in_its_form(_candidate(layout, curve, costs, bound.min_density), dense, names)
        for (layout, costs), curve in zip(priced, values.curves, strict=True)
    )
    return LayerCandidates(layer.name, values.total, dense, sparse), values.checksum


def _keeps(layout: Layout, bound: LayerBound) -> bool:
    """Whether a layout can keep as much as a layer must: n:m keeps no more than its share."""
    return layout.kind is not LayoutKind.N_M or (
        layout.num_kept >= bound.min_density * layout.num_of
    )


def _candidate(
    layout: Layout, curve: ValueCurve, costs: tuple[Costs, Costs], min_density: float
) -> SparseCandidate:
    if layout.kind is LayoutKind.N_M:
        kept = curve.head(layout.num_kept)
        return SparseCandidate(layout, kept, *costs, min_size=kept.size)
    return SparseCandidate(layout, curve, *costs, min_size=min_density * curve.size)


def _in_its_form(candidate: SparseCandidate, dense: Costs, names: Sequence[str]) -> SparseCandidate:
    """Charge a layout whose lowered form never pays for the masked form that it is exported in."""
    by_form = np.array([name not in COUNTED_COSTS for name in names])
    least = candidate.cost(candidate.least.size)
    if not by_form.any() or by_form.all() or np.any((least < dense) & by_form):
        return candidate
    return replace(
        candidate,
        fixed=np.where(by_form, dense, candidate.fixed),
        per_block=np.where(by_form, 0.0, candidate.per_block),
    )


def _costs(
    models: Sequence[CostModel], layer: LayerWorkload, layout: Layout, profile: DeviceProfile | None
) -> tuple[Costs, Costs]:
    costs = [model.linear_cost(layer, layout, profile) for model in models]
    return np.array([c.fixed for c in costs]), np.array([c.per_block for c in costs])
