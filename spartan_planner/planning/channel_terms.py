"""Value and true cost of a model as a sum of terms, each of which a few channel groups change.

A term is a layer, or what a group holds of the rest of the model.  A state is the level of every
group: its place among the counts of units that the group may keep.  A change of one group then
costs a look at its own terms only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spartan_planner.planning.candidates import Costs

Levels = tuple[int, ...]
"""``[groups]``, the place of each group's count among its counts, ascending."""

Figures = tuple[float, Costs]
"""Value and ``[budgets]`` cost."""


@dataclass(frozen=True)
class Term:
    """A part of the model.

    Attributes:
        groups: indices of the groups that change it.
        figures: tells its value and cost, given the level of each of these.
    """

    groups: tuple[int, ...]
    figures: Callable[[Levels], Figures]


class Terms:
    """All terms of a model, and what is known of them so far."""

    def __init__(self, terms: Sequence[Term], num_groups: int, num_budgets: int) -> None:
        self._terms = tuple(terms)
        self._num_budgets = num_budgets
        self._of_group = tuple(
            tuple(i for i, term in enumerate(terms) if group in term.groups)
            for group in range(num_groups)
        )
        self._known: list[dict[Levels, Figures]] = [{} for _ in terms]

    @property
    def num_groups(self) -> int:
        """Groups that have a level."""
        return len(self._of_group)

    @cached_property
    def shared(self) -> tuple[frozenset[int], ...]:
        """For each group those that change a term of its own, itself included."""
        return tuple(
            frozenset(other for index in mine for other in self._terms[index].groups)
            for mine in self._of_group
        )

    def total(self, levels: Levels) -> Figures:
        """Return value and cost of all terms."""
        return self._sum(range(len(self._terms)), levels)

    def change(self, levels: Levels, group: int, level: int) -> Figures:
        """Return by how much value and cost grow when one group goes to another level."""
        changed = (*levels[:group], level, *levels[group + 1 :])
        mine = self._of_group[group]
        value, cost = self._sum(mine, changed)
        old_value, old_cost = self._sum(mine, levels)
        return value - old_value, cost - old_cost

    def _sum(self, indices: Sequence[int] | range, levels: Levels) -> Figures:
        value, cost = 0.0, np.zeros(self._num_budgets)
        for index in indices:
            more, costs = self._figures(index, levels)
            value += more
            cost += costs
        return value, cost

    def _figures(self, index: int, levels: Levels) -> Figures:
        term = self._terms[index]
        mine = tuple(levels[group] for group in term.groups)
        known = self._known[index]
        if mine not in known:
            known[mine] = term.figures(mine)
        return known[mine]
