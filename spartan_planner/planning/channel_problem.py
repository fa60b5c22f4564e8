"""What there is to choose from when channels may go: groups, their values, their true costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cost_models import CostModel, DeviceProfile, Workload
from cost_models.channel_cost import LayerCosts, Reduced, reduce
from cost_models.channel_shapes import Cuts
from spartan_planner.errors import InfeasibleBudgetError
from spartan_planner.planning.candidates import Costs
from spartan_planner.planning.channel_groups import GroupCounts
from spartan_planner.planning.channel_search import marginals, search
from spartan_planner.planning.channel_terms import Figures, Levels, Term, Terms
from spartan_planner.planning.channel_values import (
    LayerSums,
    ReducedWeights,
    by_value,
    slice_values,
    unit_values,
)
from spartan_planner.planning.weights import Weights

_MAX_CORRECTIONS = 8
"""Searches with limits lowered by what the true cost was over; one is enough for rounding."""


@dataclass(frozen=True)
class ChannelChoice:
    """Which units are kept.

    Attributes:
        kept: by group how many.
        units: by group which, ascending.
        marginals: for each group that may lose units, value and ``[budgets]`` cost of the last
            units kept and of the next ones not kept; ``None`` where there are none.
        num_removed: units that go, of all groups.
    """

    kept: Mapping[str, int]
    units: Mapping[str, tuple[int, ...]]
    marginals: Mapping[str, tuple[Figures | None, Figures | None]]
    num_removed: int


class ChannelProblem:
    """Groups that may lose units, with values read and costs told once.

    Args:
        workload: the whole model, with its channel groups.
        weights: its weights.
        sums: ``read_all_sums`` of them.
        groups: ``group_counts`` of the workload.
        models: the cost model of each budget.
        profile: the device, where one is needed.
    """

    def __init__(
        self,
        workload: Workload,
        weights: Weights,
        sums: Mapping[str, LayerSums],
        groups: Sequence[GroupCounts],
        models: Sequence[CostModel],
        profile: DeviceProfile | None,
    ) -> None:
        self.all_groups = tuple(groups)
        self.groups = tuple(item for item in groups if len(item.counts) > 1)
        # Groups that stay whole are forgotten: nothing of them needs to be told apart.
        free = tuple(item.group for item in self.groups)
        self.workload = replace(workload, channel_groups=free)
        self.weights, self._sums = weights, sums
        self._models, self._profile = tuple(models), profile
        self._layer_costs = LayerCosts(self.workload, models, profile)

    @property
    def cuts(self) -> Cuts:
        """What the groups that may lose units cut."""
        return self._layer_costs.cuts

    @cached_property
    def order(self) -> dict[str, NDArray[np.intp]]:
        """By group its units, the most valuable first."""
        return {
            item.group.name: by_value(unit_values(item.group, self._sums)) for item in self.groups
        }

    def choose(self, limits: Costs) -> ChannelChoice:
        """Keep as much value as the limits allow, by the true cost.

        Args:
            limits: ``[budgets]``, what the whole model may cost.

        Raises:
            InfeasibleBudgetError: even the least counts cost more.
        """
        inner = limits.copy()
        for _ in range(_MAX_CORRECTIONS):
            found = search(self.terms, self.tops, inner)
            over = self.true_cost(self._kept(found.levels)) - limits
            if np.all(over <= 0):
                return self.at(found.levels)
            inner -= np.maximum(over, 0.0) * 1.5
        raise InfeasibleBudgetError("no counts of channels were found whose true cost is within")

    def true_cost(self, kept: Mapping[str, int]) -> Costs:
        """Return ``[budgets]``, the cost of the model that is left, by the cost models alone."""
        left = self.reduced(kept)
        return np.array(
            [
                model.rest(left.workload, left.profile)
                + sum(model.dense_cost(layer, left.profile) for layer in left.workload.layers)
                for model in self._models
            ]
        )

    def reduced(self, kept: Mapping[str, int]) -> Reduced:
        """Return the model that is left."""
        return reduce(self.workload, kept, self._profile, self.cuts)

    def reduced_weights(self, choice: ChannelChoice) -> ReducedWeights:
        """Return the weights that are left."""
        return ReducedWeights.of(self.workload, self.weights, choice.units)

    @property
    def bottom(self) -> Levels:
        """The least level of every group."""
        return (0,) * len(self.groups)

    @property
    def tops(self) -> Levels:
        """The level of every group at which nothing goes."""
        return tuple(len(item.counts) - 1 for item in self.groups)

    def _kept(self, levels: Levels) -> dict[str, int]:
        return {
            item.group.name: item.counts[level]
            for item, level in zip(self.groups, levels, strict=True)
        }

    def at(self, levels: Levels) -> ChannelChoice:
        """Return the choice of these levels."""
        kept = self._kept(levels)
        units = {
            name: tuple(sorted(self.order[name][:count].tolist())) for name, count in kept.items()
        }
        names = [item.group.name for item in self.groups]
        at_the_edge = marginals(self.terms, levels, self.tops)
        num_removed = sum(item.group.num_units - kept[item.group.name] for item in self.groups)
        return ChannelChoice(kept, units, dict(zip(names, at_the_edge, strict=True)), num_removed)

    @cached_property
    def terms(self) -> Terms:
        """Value and cost as sums of terms: layers, the rest, and each group's part of the rest."""
        places = {item.group.name: place for place, item in enumerate(self.groups)}
        gone = _shares_gone(self.groups, self._sums, self.order)
        terms = [self._layer_term(layer.name, places, gone) for layer in self.workload.layers]
        whole = self._rest({})
        terms.append(Term((), lambda _: (0.0, whole)))
        terms += [self._rest_term(place, whole) for place in range(len(self.groups))]
        return Terms(terms, len(self.groups), len(self._models))

    def _layer_term(self, layer: str, places: Mapping[str, int], gone: "_Gone") -> Term:
        names = tuple(dict.fromkeys(cut.group for cut in self.cuts.of(layer)))
        counts = [self.groups[places[name]].counts for name in names]
        total = self._sums[layer].total
        axes = gone.get(layer, {})

        def figures(levels: Levels) -> Figures:
            level_of = dict(zip(names, levels, strict=True))
            value = total
            for by_group in axes.values():
                # Several groups may share an axis: each takes its own part away.
                value *= max(0.0, 1.0 - sum(by_group[name][level_of[name]] for name in by_group))
            kept = {name: counts[i][level] for i, (name, level) in enumerate(level_of.items())}
            return value, np.array(self._layer_costs.of(layer, kept))

        return Term(tuple(places[name] for name in names), figures)

    def _rest(self, kept: Mapping[str, int]) -> Costs:
        left = self.reduced(kept)
        return np.array([model.rest(left.workload, left.profile) for model in self._models])

    def _rest_term(self, place: int, whole: Costs) -> Term:
        """What belongs to no layer falls in proportion to the units that go."""
        item = self.groups[place]
        least = item.counts[0]
        per_unit = (self._rest({item.group.name: least}) - whole) / (item.group.num_units - least)

        def figures(levels: Levels) -> Figures:
            return 0.0, per_unit * (item.group.num_units - item.counts[levels[0]])

        return Term((place,), figures)


_Gone = Mapping[str, Mapping[int, Mapping[str, NDArray[np.float64]]]]
"""By layer, axis and group ``[levels]``: the share of the layer's value that is gone."""


def _shares_gone(
    groups: Sequence[GroupCounts],
    sums: Mapping[str, LayerSums],
    order: Mapping[str, NDArray[np.intp]],
) -> _Gone:
    found: dict[str, dict[int, dict[str, NDArray[np.float64]]]] = {}
    for item in groups:
        name = item.group.name
        for (layer, axis), held in slice_values(item.group, sums).items():
            kept = np.concatenate([[0.0], np.cumsum(held[order[name]])])[list(item.counts)]
            share = (held.sum() - kept) / max(sums[layer].total, 1e-300)
            found.setdefault(layer, {}).setdefault(axis, {})[name] = share
    return found
