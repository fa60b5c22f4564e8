"""All but hard masks: the price among the few blocks that it leaves undecided (DESIGN 4.1).

With a large beta F is a staircase, on which Newton does not help and bisection takes a read per
bit.  But then all blocks outside a narrow window of z have masks of 0 or 1 in double precision,
whatever the price in it.  A sample says where the window is, one read adds up what lies above it
and picks out what lies inside, and the search goes on among those.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spartan_planner.transport.comparisons import read_between
from spartan_planner.transport.float_order import least_value_at_ratio
from spartan_planner.transport.packing import Pack
from spartan_planner.transport.passes import Segment, chunk_bounds
from spartan_planner.transport.problem import Problem, ScaledCosts
from spartan_planner.transport.results import Price
from spartan_planner.transport.sampling import Sample

#: Where the extremes of z are further apart than so many logits, candidates are looked for.
SHARP_LOGITS = 1.0e4
# exp(-50) is 2e-22: nothing beside a budget of a billionth of all blocks.
_SATURATED_LOGIT = 50.0
# As for the hard boundary: standard deviations of the sample's guess on either side.
_MARGIN_DEVIATIONS = 3.0
# At most this fraction of the blocks become candidates, 16 bytes each and twice when joined.
_POOL_FRACTION = 1 / 64
_LEAST_POOL = 1 << 15
# Elements of segments with costs of their own are compared in pieces of so many.
_PIECE = 1 << 16


@dataclass(frozen=True)
class Window:
    """Prices between which the root is all but certain to be, and the z that are undecided."""

    prices: tuple[float, float]
    ratios: tuple[float, float]


@dataclass(frozen=True)
class Candidates:
    """The local blocks inside a window: ``base`` is the cost of those above, all kept.

    ``ratios`` float64 [m], ``masses`` float64 [m].
    """

    base: float
    ratios: Tensor
    masses: Tensor

    def sums(self, price: Price, beta: float) -> Tensor:
        """Return [mass, spread, skew] over all local blocks (``root.Sums``), float64 [3]."""
        mask = torch.sigmoid((self.ratios - price.anchor) * beta - price.offset)
        spread = self.masses * mask * (1.0 - mask)
        mass = self.masses @ mask + self.base
        return torch.stack([mass, spread.sum(), spread @ (1.0 - 2.0 * mask)])


def window_of(sample: Sample, problem: Problem, beta: float) -> Window | None:
    """Return where a sample says the root is; None where that leaves too many undecided.

    The soft price is within a few logits of the z of the hard boundary.
    """
    order = sample.ratios.argsort(descending=True)
    ratios, spent = sample.ratios[order], sample.masses[order].cumsum(0)
    share = problem.normalised_budget / problem.num_blocks
    variance = float(sample.masses @ sample.masses) * share * (1.0 - share)
    # At least one sampled block on either side.
    margin = _MARGIN_DEVIATIONS * math.sqrt(variance) + float(sample.masses.amax())
    budget = problem.normalised_budget
    edges = torch.tensor([budget + margin, budget - margin], dtype=torch.float64)
    places = torch.searchsorted(spent, edges.to(spent.device)).clamp_(max=ratios.numel() - 1)
    width = _SATURATED_LOGIT / beta
    low, high = (ratios[places] + torch.tensor([-width, width]).to(ratios)).tolist()
    undecided = low - width, high + width
    inside = ((ratios >= undecided[0]) & (ratios < undecided[1])).double().mean()
    if float(inside) * problem.num_blocks > 2 * _pool_limit(problem):
        return None
    return Window((low, high), undecided)


def _pool_limit(problem: Problem) -> int:
    """Return how many candidates are kept at most."""
    return max(_LEAST_POOL, int(problem.num_blocks * _POOL_FRACTION))


def candidates_in(
    window: Window, problem: Problem, segments: Sequence[Segment], pack: Pack
) -> Candidates | None:
    """Read the values once and return what is undecided; None where that is too much."""
    low, high = window.ratios
    above, inside = pack.ratios >= high, (pack.ratios >= low) & (pack.ratios < high)
    base = [float(pack.weighted(above.double()))]
    ratios, masses = [pack.ratios[inside]], [pack.masses[inside]]
    room = _pool_limit(problem) - ratios[0].numel()
    for segment in segments:
        for count, found, cost in _between(segment, low, high):
            base.append(count)
            ratios.append(found)
            masses.append(cost)
            room -= found.numel()
            if room < 0:
                return None
    return Candidates(math.fsum(base), torch.cat(ratios), torch.cat(masses))


def _between(segment: Segment, low: float, high: float) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Yield per chunk the cost of what is above, and z and cost of what lies between."""
    values, cost = segment.values, segment.cost
    if not isinstance(cost, Tensor | ScaledCosts):
        ends = (least_value_at_ratio(edge, cost, values.dtype) for edge in (low, high))
        for count, found in read_between(values, *ends):
            over = float(count) - found.numel()
            ratios = found.double() / cost
            yield cost * over, ratios, torch.full_like(ratios, cost)
        return
    for start, stop in chunk_bounds(values.numel(), _PIECE):
        costs = cost[start:stop].double()
        ratios = values[start:stop].double() / costs
        inside = (ratios >= low) & (ratios < high)
        over = float(torch.where(ratios >= high, costs, 0.0).sum())
        yield over, ratios[inside], costs[inside]
