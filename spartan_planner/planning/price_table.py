"""All treatments of all layers in arrays, to be scored at many prices."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spartan_planner.planning.candidates import Costs, LayerCandidates, SparseCandidate
from spartan_planner.planning.value_curves import Prefix

Figures = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """Every treatment at given prices.

    Attributes:
        kept: ``[treatments]``, blocks kept; 0 where dense.
        sizes: ``[treatments]``, their size.
        values: ``[treatments]``, what is retained.
        costs: ``[treatments, budgets]``.
        scores: ``[treatments]``, value less the price of the cost.
        best: ``[layers]``, the treatment with the highest score; ties go to the cheaper.
    """

    kept: Indices
    sizes: Figures
    values: Figures
    costs: Figures
    scores: Figures
    best: Indices

    @property
    def cost(self) -> Costs:
        """``[budgets]``, cost of the best treatments."""
        total: Costs = self.costs[self.best].sum(axis=0)
        return total


@dataclass(frozen=True)
class PriceTable:
    """The treatments of layers one after the other: each layer dense, then its layouts.

    Attributes:
        layers: the layers.
        treatments: for each treatment its layout, ``None`` for dense.
        starts: ``[layers]``, index of each layer's dense treatment.
        fixed: ``[treatments, budgets]``; the dense cost where dense.
        per_block: ``[treatments, budgets]``.
        dense_values: ``[treatments]``, value of the dense layer; 0 where sparse.
        sparse: ``[layouts]``, indices of the treatments that are not dense.
        rising: for each of those the negated values of its bins.
        offsets: ``[layouts]``, where its figures begin in the following.
        counts, sizes, values: cumulative figures of all curves, joined.
        least_counts, least_sizes, least_values: ``[layouts]``, the least that may be kept.
    """

    layers: Sequence[LayerCandidates]
    treatments: Sequence[SparseCandidate | None]
    starts: Indices
    fixed: Figures
    per_block: Figures
    dense_values: Figures
    sparse: Indices
    rising: Sequence[list[float]]
    offsets: Indices
    counts: Indices
    sizes: Figures
    values: Figures
    least_counts: Indices
    least_sizes: Figures
    least_values: Figures

    @staticmethod
    def of(layers: Sequence[LayerCandidates]) -> "PriceTable":
        """Lay out the treatments of some layers."""
        treatments = [item for layer in layers for item in (None, *layer.sparse)]
        lengths = [1 + len(layer.sparse) for layer in layers]
        dense = [(layer, item) for layer in layers for item in (None, *layer.sparse)]
        curves = [item.curve for item in treatments if item is not None]
        least = [item.least for item in treatments if item is not None]
        return PriceTable(
            layers,
            treatments,
            np.cumsum([0, *lengths[:-1]]),
            np.array([layer.dense if item is None else item.fixed for layer, item in dense]),
            np.array(
                [np.zeros_like(layer.dense) if c is None else c.per_block for layer, c in dense]
            ),
            np.array([layer.value if item is None else 0.0 for layer, item in dense]),
            np.array([i for i, item in enumerate(treatments) if item is not None], np.int64),
            [curve.rising for curve in curves],
            np.cumsum([0, *(curve.counts.size + 1 for curve in curves)])[:-1],
            np.concatenate([np.zeros(0, np.int64), *(c.cumulative_counts for c in curves)]),
            np.concatenate([np.zeros(0), *(curve.cumulative_sizes for curve in curves)]),
            np.concatenate([np.zeros(0), *(curve.cumulative_values for curve in curves)]),
            np.array([item.num_blocks for item in least], np.int64),
            np.array([item.size for item in least], np.float64),
            np.array([item.value for item in least], np.float64),
        )

    def at(self, prices: Costs) -> Scores:
        """Score every treatment: a layout keeps the blocks worth more than their price."""
        # Sums in a fixed order, so that no library's threads change a bit.
        limits = (self.per_block[self.sparse] * prices).sum(axis=1).tolist()
        bins = [
            bisect_left(rising, -limit) for rising, limit in zip(self.rising, limits, strict=True)
        ]
        places = self.offsets + np.array(bins, np.int64)
        is_least = self.counts[places] < self.least_counts
        kept = np.zeros(len(self.treatments), np.int64)
        sizes, values = np.zeros(kept.size), self.dense_values.copy()
        kept[self.sparse] = np.where(is_least, self.least_counts, self.counts[places])
        sizes[self.sparse] = np.where(is_least, self.least_sizes, self.sizes[places])
        values[self.sparse] = np.where(is_least, self.least_values, self.values[places])
        costs = self.fixed + self.per_block * sizes[:, None]
        priced = (costs * prices).sum(axis=1)
        scores = values - priced
        return Scores(kept, sizes, values, costs, scores, self._best(scores, priced, costs))

    def _best(self, scores: Figures, priced: Figures, costs: Figures) -> Indices:
        greatest = np.maximum.reduceat(scores, self.starts)
        lengths = np.diff(np.append(self.starts, scores.size))
        winners = np.flatnonzero(scores == np.repeat(greatest, lengths))
        if winners.size == self.starts.size:
            return winners
        owners = np.searchsorted(self.starts, winners, side="right") - 1
        order = np.lexsort((winners, costs[winners].sum(axis=1), priced[winners], owners))
        _, firsts = np.unique(owners[order], return_index=True)
        return winners[order][firsts]

    def kept(self, scores: Scores, index: int) -> Prefix | None:
        """Return what a treatment keeps; ``None`` where it is dense."""
        if self.treatments[index] is None:
            return None
        figures = scores.kept[index], scores.sizes[index], scores.values[index]
        return Prefix(int(figures[0]), float(figures[1]), float(figures[2]))
