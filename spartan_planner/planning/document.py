"""plan.yaml: what a plan says."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cost_models import Layout, LinearCost
from cost_models.documents import document, dump_document, read_document
from spartan_planner.planning.forms import deciding_costs, executed_cost, is_lowered

DENSE = "dense"
"""Text that stands for "no layout": the layer is left as it is."""


@document
@dataclass(frozen=True)
class PlanMeasurement:
    """What the timings of a plan's profile were taken with.

    Attributes:
        cpu: processor of the device.
        runtime: name and version of the runtime.
        num_threads: threads of the runtime.
        yardstick_ms: time of the yardstick network then.
    """

    cpu: str
    runtime: str
    num_threads: int
    yardstick_ms: float


@document
@dataclass(frozen=True)
class PlanProfile:
    """The profile that a plan was made with.

    Attributes:
        name: what the user calls the device.
        fingerprint: SHA-256 of the profile document.
        measurement: how its timings were taken; ``None`` where it holds facts only.
    """

    name: str
    fingerprint: str
    measurement: PlanMeasurement | None


@document
@dataclass(frozen=True)
class PlanBudget:
    """A cost of the whole model: dense, asked for and predicted.

    Attributes:
        cost: name of the cost model.
        unit: unit of the figures.
        dense: cost of the dense model.
        asked: the limit; ``None`` where the cost is only reported.
        predicted: cost of the planned model; at most ``asked``.
        rest: part of ``predicted`` that belongs to no layer; where no channels go, part of
            ``dense`` as well.
        is_relative: whether the limit was asked for as a share of dense.
        price: value per unit of cost at which a block is just worth keeping; 0 where the budget
            does not bind.
    """

    cost: str
    unit: str
    dense: float
    asked: float | None
    predicted: float
    rest: float
    is_relative: bool = False
    price: float = 0.0


@document
@dataclass(frozen=True)
class PlanGroup:
    """What a plan makes of one group of channels or heads.

    Attributes:
        name: the group's name in the workload.
        kind: ``channel`` or ``head``.
        num_units: units that the model has.
        num_kept_units: units to keep, the most valuable first.
        multiple: units kept are a multiple of this, or all.
        worth_of_last: value of the last ``multiple`` units that stay over what they cost at the
            plan's prices, by the true cost; ``None`` where no more may go or no budget binds.
        worth_of_next: the same of the next ones, that go; ``None`` where none go.
        fixed_because: why the group must stay whole; empty where it need not.
    """

    name: str
    kind: Literal["channel", "head"]
    num_units: int
    num_kept_units: int
    multiple: int
    worth_of_last: float | None = None
    worth_of_next: float | None = None
    fixed_because: str = ""

    def __post_init__(self) -> None:
        """Refuse counts that contradict themselves."""
        if not 1 <= self.num_kept_units <= self.num_units:
            raise ValueError("num_kept_units must lie between 1 and num_units")
        if self.multiple < 1:
            raise ValueError("multiple must be at least 1")
        if self.is_shortened and self.num_kept_units % self.multiple:
            raise ValueError("num_kept_units must be a multiple of 'multiple', or all units")
        if self.is_shortened and self.fixed_because:
            raise ValueError("a group that must stay whole cannot lose units")

    @property
    def is_shortened(self) -> bool:
        """Whether units of it go."""
        return self.num_kept_units < self.num_units


@document
@dataclass(frozen=True)
class PlanLayer:
    """What a plan makes of one layer.

    Where channels go (``Plan.groups``), layout, blocks, density and costs are those of the smaller
    weight that is left.

    Attributes:
        name: the weight's name in the model.
        layout: ``dense`` or the text form of a layout.
        num_weights: elements of the weight, those of removed channels left out.
        num_blocks: blocks of the layout; 0 where dense.
        num_kept_blocks: blocks to keep; 0 where dense.
        kept_size: their size in whole blocks, below their number where one is ragged; 0 where
            dense.
        density: planned share of elements kept.
        costs: by cost model, the layer's linear cost (where dense, only ``dense`` counts).
        min_kept_blocks: blocks, the most valuable first, that are kept whatever the price: a
            bound's minimum density, the first rank slice of a balanced layout, or n of n:m.
        num_removed_weights: elements that go with removed channels.
        cut_by: the groups that lose units of this layer's weight.
        whole_costs: by cost model, the dense cost before channels went; empty where none go.
    """

    name: str
    layout: str
    num_weights: int
    num_blocks: int
    num_kept_blocks: int
    kept_size: float
    density: float
    costs: dict[str, LinearCost]
    min_kept_blocks: int = 0
    num_removed_weights: int = 0
    cut_by: tuple[str, ...] = ()
    whole_costs: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse layouts and counts that contradict themselves."""
        if not 0 <= self.min_kept_blocks <= self.num_kept_blocks:
            raise ValueError("min_kept_blocks must lie between 0 and num_kept_blocks")
        if self.layout != DENSE:
            Layout.parse(self.layout)
            if not 0 < self.num_kept_blocks <= self.num_blocks:
                raise ValueError("num_kept_blocks must lie between 1 and num_blocks")
            if not 0 < self.kept_size <= self.num_kept_blocks:
                raise ValueError("kept_size must be positive and at most num_kept_blocks")
        if not 0 <= self.min_kept_blocks <= self.num_kept_blocks:
            raise ValueError("min_kept_blocks must lie between 0 and num_kept_blocks")
        if not 0 <= self.density <= 1:
            raise ValueError("density must lie between 0 and 1")
        if self.num_removed_weights < 0:
            raise ValueError("num_removed_weights must be at least 0")

    def whole_cost(self, cost: str) -> float:
        """Return the dense cost of the layer before channels went."""
        return self.whole_costs.get(cost, self.costs[cost].dense)

    @property
    def whole_density(self) -> float:
        """Planned share of the elements that the layer had before channels went."""
        return self.density * self.num_weights / (self.num_weights + self.num_removed_weights)

    @property
    def is_sparse(self) -> bool:
        """Whether blocks of the weight, as channels leave it, are to be pruned."""
        return self.layout != DENSE

    @property
    def num_whole_blocks(self) -> float:
        """Size of the pruned weight in whole blocks."""
        return self.kept_size / self.density

    def is_lowered(self, deciding: Sequence[str], kept_size: float | None = None) -> bool:
        """Whether the layer is lowered with so many whole blocks kept, by the deciding costs."""
        kept = self.kept_size if kept_size is None else kept_size
        return self.is_sparse and is_lowered(self.costs, kept, deciding)

    def predicted(
        self, cost: str, kept_size: float | None = None, *, lowered: bool = True
    ) -> float:
        """Return the layer's cost with so many whole blocks kept; what is planned by default.

        Args:
            cost: name of the cost model.
            kept_size: what is kept.
            lowered: whether its zero blocks are skipped.
        """
        linear = self.costs[cost]
        if not self.is_sparse:
            return linear.dense
        kept = self.kept_size if kept_size is None else kept_size
        return executed_cost(cost, linear, kept, lowered=lowered)


@document
@dataclass(frozen=True)
class Schedule:
    """How training comes from dense to the budget (DESIGN section 4.5).

    Attributes:
        budget_fraction: share of the steps over which the budget falls from dense to the target.
        sharpening_fraction: share of the steps over which beta rises linearly to its target.
        frozen_fraction: share of the steps, at the end, in which the mask stands still.
        beta: target sharpness, in the unit of ``beta_rule``.
        method: ``spartan``, ``dual_averaging``, ``magnitude`` or ``fixed``.
        beta_rule: ``paper``: beta is for blocks of one element, rises from 1, and is multiplied by
            the square root of the number of elements in a block; ``spread``: beta is for blocks
            that lie one mean surplus (of the kept blocks over the price) above the price.
        budget_fall: ``linear``, or ``cubic``: with ``t`` the share of the way, ``(1 - t)^3`` of
            what is above the budget is still kept, so that it is reached ever more slowly.
            ``magnitude`` always falls cubically.
    """

    budget_fraction: float = 0.2
    sharpening_fraction: float = 0.8
    frozen_fraction: float = 0.2
    beta: float = 10.0
    method: Literal["spartan", "dual_averaging", "magnitude", "fixed"] = "spartan"
    beta_rule: Literal["paper", "spread"] = "spread"
    budget_fall: Literal["linear", "cubic"] = "linear"

    def __post_init__(self) -> None:
        """Refuse phases that do not fit into one training run."""
        for name in ("budget_fraction", "sharpening_fraction", "frozen_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1")
        if self.budget_fraction + self.frozen_fraction > 1:
            raise ValueError("the budget must be reached before the mask freezes")
        if self.beta <= 0:
            raise ValueError("beta must be positive")


@document
@dataclass(frozen=True)
class Plan:
    """A plan: what becomes of each layer, what was asked, and what is promised.

    Attributes:
        schema_version: version of this document.
        model: what the user called the model.
        model_fingerprint: SHA-256 over names and shapes of its parameters.
        weights_fingerprint: SHA-256 over names and checksums of the weights of all layers.
        input_shapes: shapes of the example inputs.
        input_dtypes: their element types, such as ``float32``.
        profile: the profile it was made with; ``None`` where no device was needed.
        policy: how kept weights are spread over the layers.
        budgets: the costs that were asked for.
        totals: other costs, for information.
        not_priced: cost models that could not tell, with the reason.
        unpriced_operations: operations that no cost of this plan contains, and their calls.
        retained_value: share of the sum of absolute weights of all layers that is kept.
        duality_gap: share by which the retained value may fall short of the best at most; ``None``
            where channels may go: their costs are bilinear, and no such bound is known.
        schedule: how to train.
        layers: every layer of the workload.
        warnings: what to know before training or trusting the figures, such as layouts that do not
            pay or layers that were estimated.
        groups: channel groups that were considered; empty where no channels may go.
        retained_by: where they may, the retained value of the best plan found of each kind that
            meets the budgets: ``tile`` (no channels go), ``channel`` (nothing else is pruned) and
            ``channel+tile``.
    """

    schema_version: Literal[4]
    model: str
    model_fingerprint: str
    weights_fingerprint: str
    input_shapes: tuple[tuple[int, ...], ...]
    input_dtypes: tuple[str, ...]
    profile: PlanProfile | None
    policy: str
    budgets: tuple[PlanBudget, ...]
    totals: tuple[PlanBudget, ...]
    not_priced: dict[str, str]
    unpriced_operations: dict[str, int]
    retained_value: float
    duality_gap: float | None
    schedule: Schedule
    layers: tuple[PlanLayer, ...]
    warnings: tuple[str, ...] = ()
    groups: tuple[PlanGroup, ...] = ()
    retained_by: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse plans that break their own promise."""
        if not self.budgets:
            raise ValueError("a plan needs a budget")
        names = [layer.name for layer in self.layers]
        if len(set(names)) < len(names):
            raise ValueError("a layer appears twice")
        groups = [group.name for group in self.groups]
        if len(set(groups)) < len(groups):
            raise ValueError("a channel group appears twice")
        unknown = {name for layer in self.layers for name in layer.cut_by} - self.kept_units.keys()
        if unknown:
            raise ValueError(f"no channel group {min(unknown)!r} loses units")
        for layer in self.layers:
            for total in (*self.budgets, *self.totals):
                if total.cost not in layer.costs:
                    raise ValueError(f"layer {layer.name!r} has no {total.cost} cost")
        for budget in self.budgets:
            if budget.asked is None or budget.predicted > budget.asked:
                raise ValueError(f"the predicted {budget.cost} is above what was asked")

    def blended(self, figures: Mapping[str, float]) -> float:
        """Return ``sum_k price_k * figure_k`` over the budgets: one cost for all (DESIGN 4.8)."""
        return sum(weight * figures[cost] for cost, weight in self.blend.items())

    @property
    def blend(self) -> dict[str, float]:
        """Weight of each budgeted cost in the blended cost.

        Their prices; where no budget binds, each counts by its limit.
        """
        if any(budget.price > 0 for budget in self.budgets):
            return {budget.cost: budget.price for budget in self.budgets}
        return {b.cost: 1 / b.asked if b.asked else 1.0 for b in self.budgets}

    def treatment(self, layer: PlanLayer) -> str:
        """Return what becomes of a layer: ``dense``, ``channel``, a layout, or both of these."""
        kinds = [group.kind for group in self.groups if group.name in layer.cut_by]
        parts = [*dict.fromkeys(kinds), *([layer.layout] if layer.is_sparse else [])]
        return "+".join(parts) or DENSE

    @property
    def kept_units(self) -> dict[str, int]:
        """By name of each group that loses units, how many it keeps."""
        return {group.name: group.num_kept_units for group in self.groups if group.is_shortened}

    @property
    def budget(self) -> PlanBudget:
        """The first of the budgets."""
        return self.budgets[0]

    @property
    def all_costs(self) -> tuple[PlanBudget, ...]:
        """What was asked for and what is only reported."""
        return (*self.budgets, *self.totals)

    @property
    def sparse_layers(self) -> tuple[PlanLayer, ...]:
        """The layers to be pruned."""
        return tuple(layer for layer in self.layers if layer.is_sparse)

    def lowered_layers(self, kept_sizes: Mapping[str, float] | None = None) -> frozenset[str]:
        """Return the layers that are lowered, with other sizes of what is kept where given.

        A layer has one form for all costs; ``forms.is_lowered`` says which.
        """
        kept = kept_sizes or {}
        return frozenset(
            layer.name
            for layer in self.layers
            if layer.is_lowered(self.deciding_costs, kept.get(layer.name))
        )

    @property
    def deciding_costs(self) -> tuple[str, ...]:
        """The costs that decide in which form a pruned layer is exported."""
        budgeted = [budget.cost for budget in self.budgets]
        return deciding_costs(budgeted, {item.cost for item in self.all_costs})

    def predicted(self, cost: str, kept_sizes: Mapping[str, float] | None = None) -> float:
        """Return a cost of the whole model, with other sizes of what is kept where given."""
        kept, lowered = kept_sizes or {}, self.lowered_layers(kept_sizes)
        total = next(item for item in self.all_costs if item.cost == cost)
        return total.rest + sum(
            layer.predicted(cost, kept.get(layer.name), lowered=layer.name in lowered)
            for layer in self.layers
        )


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        DocumentError: the file is missing or is not a plan.
    """
    return read_document(path, Plan, "plan")


def plan_fingerprint(plan: Plan) -> str:
    """Return the SHA-256 of the plan's document."""
    return hashlib.sha256(dump_document(plan).encode()).hexdigest()
