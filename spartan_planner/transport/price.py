"""The search for the price that meets a budget over many tensors (DESIGN 4.1)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport.backend import find_price, mask_sums, write_masks
from spartan_planner.transport.collective import sum_over_ranks
from spartan_planner.transport.packing import Pack, is_wholly_packed, pack
from spartan_planner.transport.passes import (
    Segment,
    as_sums,
    is_narrow_safe,
)
from spartan_planner.transport.problem import Cost, Problem, build_problem, is_number
from spartan_planner.transport.results import Price, PriceSolution, SelectionStatus
from spartan_planner.transport.root import Root, RootProblem, Sums, find_root, price_bracket
from spartan_planner.transport.sampling import Sample, take_sample
from spartan_planner.transport.staircase import (
    SHARP_LOGITS,
    Window,
    candidates_in,
    window_of,
)
from spartan_planner.transport.values import checked_extremes

# float64 sums of n terms carry about sqrt(n) * 1e-16; the budget is promised to 1e-9.
_WIDE_TOLERANCE = 1.0e-11
# Values of no more than float32: the budget is promised to 1e-6, and the masks are rounded after.
_PACKED_TOLERANCE = 1.0e-8
# A sample's price is off by a hundredth of a logit anyway.
_SAMPLE_TOLERANCE = 1.0e-5
# A float32 logit of 8 to 16 comes in steps of 1e-6, and masks that all move together follow:
# half a step is what float32 can promise.  The budget is promised to 1e-6.
_NARROW_TOLERANCE = 5.0e-7
# Bisection over all doubles takes 62 steps; Newton takes few.
_WIDE_LIMIT = 200
# From a sample's price Newton needs two or three reads, and bisection between all but hard masks
# about twenty; more means that float32 cannot resolve the budget.
_NARROW_LIMIT = 24
# A wholly packed problem is read from cache; its solve starts from this many of its blocks.
_COARSE_BLOCKS = 1 << 12
# A budget this close to sum c (relative) leaves less than double precision can resolve.
_NOTHING_LEFT = 1.0e-15
#: Halley's error is about a tenth of the mismatch cubed: 1e-8 at 5e-3.
TRUSTED_MISMATCH = 5.0e-3


def check_beta(beta: float) -> float:
    """Return beta as a float; refuse what is not positive and finite.

    Raises:
        TransportError: beta is no number, zero, negative, infinite or NaN.
    """
    if not (is_number(beta) and beta > 0 and math.isfinite(beta)):
        raise TransportError(f"beta is {beta}; it must be a positive finite number.")
    return float(beta)


def tolerance_of(arithmetic: torch.dtype) -> float:
    """Return the relative budget error at which a solve in this arithmetic is done."""
    return _WIDE_TOLERANCE if arithmetic == torch.float64 else _NARROW_TOLERANCE


@dataclass(frozen=True)
class Found:
    """A root, and the arithmetic (float32 or float64) of the masks that it is good for.

    ``is_final``: found in float64 on the blocks that count; another search would find no better.
    """

    root: Root
    arithmetic: torch.dtype
    is_final: bool = False


@dataclass(frozen=True)
class PriceSearch:
    """One problem with ``0 < budget < total`` at one beta, ready to be searched.

    ``pack`` holds the small segments, ``segments`` the others of this rank.
    """

    problem: Problem
    beta: float
    bracket: tuple[float, float]
    segments: tuple[Segment, ...]
    pack: Pack

    @property
    def tolerance(self) -> float:
        """Relative budget error at which a solve on the pack alone is done."""
        wide = any(values.dtype == torch.float64 for values in self.problem.segments)
        return _WIDE_TOLERANCE if wide else _PACKED_TOLERANCE

    def find(self, initial_price: float | None, trust: float) -> Found:
        """Find the price, from a sample's price unless an initial one is given."""
        logits = self.beta * (self.bracket[1] - self.bracket[0])
        # The candidates stay on their rank, so this is for one rank.
        if logits > SHARP_LOGITS and self.problem.process_group is None:
            found = self._find_on_candidates()
            if found is not None:
                return found
            # Steps of many equal z: between them a warm start says less than a sample.
            initial_price = None
        if initial_price is None:
            initial_price = self._sampled_price()
        return self.refine(initial_price, trust)

    def refine(self, start: float, trust: float) -> Found:
        """Find the price over all values, in float32 arithmetic where that resolves it."""
        reads = 0
        for arithmetic in self._arithmetics(start):
            wide = arithmetic == torch.float64
            limit = _WIDE_LIMIT if wide else _NARROW_LIMIT
            root = find_root(
                self._on_values(arithmetic), start, self.tolerance_in(arithmetic), limit, trust
            )
            reads += root.num_iterations
            if root.verified or root.num_iterations < limit:
                break
            start = root.price.value(self.beta)
        return Found(Root(root.price, reads, root.relative_budget_error, root.verified), arithmetic)

    def tolerance_in(self, arithmetic: torch.dtype) -> float:
        """Return the relative budget error at which a solve in this arithmetic is done."""
        return self.tolerance if is_wholly_packed(self.problem) else tolerance_of(arithmetic)

    def write(self, outputs: Sequence[Tensor], price: Price, arithmetic: torch.dtype) -> float:
        """Write the masks of the local segments to their flat outputs, one for every segment.

        Returns the relative budget error over all ranks.
        """
        local = self._zeros(1)
        packed = frozenset(self.pack.indices)
        if packed:
            masks = self.pack.masks(price, self.beta)
            local[0] = self.pack.weighted(masks)
            self.pack.split(masks, [outputs[index] for index in self.pack.indices])
        if self.segments:
            large = [o for i, o in enumerate(outputs) if i not in packed and o.numel()]
            local += write_masks(self.segments, large, price, self.beta, arithmetic)
        mass = float(sum_over_ranks(local, self.problem.process_group))
        return abs(mass / self.problem.normalised_budget - 1.0)

    def _sampled_price(self) -> float:
        """Return the price that meets the budget on a sample."""
        size = _COARSE_BLOCKS if is_wholly_packed(self.problem) else None
        sample = take_sample(self.problem, self.problem.normalised_costs, self.pack, size)
        middle = 0.5 * (self.bracket[0] + self.bracket[1])
        root = find_root(self._on_sample(sample), middle, _SAMPLE_TOLERANCE, _WIDE_LIMIT)
        return root.price.value(self.beta)

    def _find_on_candidates(self) -> Found | None:
        """Find the price among the blocks near a sample's, None where those are too many."""
        size = _COARSE_BLOCKS if is_wholly_packed(self.problem) else None
        sample = take_sample(self.problem, self.problem.normalised_costs, self.pack, size)
        window = window_of(sample, self.problem, self.beta)
        if window is None:
            return None
        pool = candidates_in(window, self.problem, self.segments, self.pack)
        if pool is None:
            return None
        candidates = self._root_problem(lambda price: self._summed(pool.sums(price, self.beta)))
        return self._root_in(window, candidates)

    def _root_in(self, window: Window, candidates: RootProblem) -> Found | None:
        """Find the root among the candidates, None where it is outside the window's prices."""
        budget = self.problem.normalised_budget
        low, high = (candidates.evaluate(Price(edge)).mass for edge in window.prices)
        if not low >= budget >= high:
            return None
        inside = replace(candidates, bracket=window.prices)
        root = find_root(inside, 0.5 * sum(window.prices), _WIDE_TOLERANCE, _WIDE_LIMIT)
        arithmetic = self._arithmetics(root.price.anchor)[0]
        return Found(replace(root, num_iterations=1), arithmetic, is_final=root.verified)

    def _arithmetics(self, start: float) -> tuple[torch.dtype, ...]:
        """Return the arithmetics to try, agreed on by all ranks."""
        if is_wholly_packed(self.problem):
            return (torch.float64,)
        unsafe = self._zeros(1)
        unsafe[0] = not is_narrow_safe(self.segments, Price(start), self.beta)
        any_unsafe = float(sum_over_ranks(unsafe, self.problem.process_group)) > 0.0
        return (torch.float64,) if any_unsafe else (torch.float32, torch.float64)

    def _on_values(self, arithmetic: torch.dtype) -> RootProblem:
        """Return the root problem over all values."""

        def evaluate(price: Price) -> Sums:
            local = self._zeros(3)
            if self.pack.indices:
                local += self.pack.sums(price, self.beta)
            if self.segments:
                local += mask_sums(self.segments, price, self.beta, arithmetic)
            return self._summed(local)

        return self._root_problem(evaluate)

    def _on_sample(self, sample: Sample) -> RootProblem:
        """Return the root problem over a sample."""
        return self._root_problem(lambda price: self._summed(sample_sums(sample, price, self.beta)))

    def _root_problem(self, evaluate: Callable[[Price], Sums]) -> RootProblem:
        blocks, budget = float(self.problem.num_blocks), self.problem.normalised_budget
        return RootProblem(evaluate, blocks, budget, self.beta, self.bracket)

    def _summed(self, local: Tensor) -> Sums:
        return as_sums(sum_over_ranks(local, self.problem.process_group))

    def _zeros(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.float64, device=self.problem.device)


def sample_sums(sample: Sample, price: Price, beta: float) -> Tensor:
    """Return [mass, spread, skew] over a sample, float64."""
    mask = torch.sigmoid((sample.ratios - price.anchor) * beta - price.offset)
    spread = sample.masses * mask * (1.0 - mask)
    return torch.stack([sample.masses @ mask, spread.sum(), spread @ (1.0 - 2.0 * mask)])


def limit_status(problem: Problem) -> SelectionStatus | None:
    """Return the status of a budget of nothing or of everything, None in between."""
    if problem.budget <= 0.0:
        return SelectionStatus.NOTHING_KEPT
    is_full = problem.total - problem.budget <= _NOTHING_LEFT * problem.total
    return SelectionStatus.EVERYTHING_KEPT if is_full else None


def start_search(
    problem: Problem, beta: float, ratios: tuple[float, float] | None = None
) -> PriceSearch:
    """Bracket the price; read the values once to check them, unless the ``ratios`` are known.

    ``ratios``: the least and greatest value per cost as given.
    """
    costs = problem.normalised_costs
    packed = pack(problem, costs)
    if ratios is None:
        extremes = checked_extremes(problem, costs, packed)
    else:
        extremes = ratios[0] * problem.unit, ratios[1] * problem.unit
    blocks, budget = float(problem.num_blocks), problem.normalised_budget
    bracket = price_bracket(extremes, budget, blocks, beta)
    small = frozenset(packed.indices)
    segments = tuple(
        Segment(values, cost)
        for index, (values, cost) in enumerate(zip(problem.segments, costs, strict=True))
        if index not in small and values.numel()
    )
    return PriceSearch(problem, beta, bracket, segments, packed)


def check_values(problem: Problem) -> None:
    """Read the values once and refuse NaN and infinity.

    Raises:
        TransportError: A value is NaN or infinite.
    """
    if problem.num_blocks:
        checked_extremes(problem, problem.costs, pack(problem, problem.costs))


def limit_price(status: SelectionStatus) -> float:
    """Return the price in the limit: infinite when nothing is kept, minus infinite when all is."""
    return math.inf if status is SelectionStatus.NOTHING_KEPT else -math.inf


def solve_price(
    values: Sequence[Tensor],
    costs: Sequence[Cost],
    budget: float,
    beta: float,
    *,
    initial_price: float | None = None,
    names: Sequence[str] | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> PriceSolution:
    """Find the price of :func:`solve_soft_topk` without writing the masks.

    Takes the same arguments and raises the same errors.  The masks would be
    ``sigmoid(beta (z - exact_price.anchor) - exact_price.offset)``, z per mean-normalised cost.
    """
    problem = build_problem(values, costs, budget, names, process_group)
    beta = check_beta(beta)
    limit = limit_status(problem)
    if limit is not None:
        check_values(problem)
        edge = limit_price(limit)
        return PriceSolution(edge, Price(edge), 0, 0.0, limit)
    start = usable_price(initial_price)
    root = find_price(problem, beta, tolerance_of(torch.float32), 0.0, start, None)
    if root is None:
        root = start_search(problem, beta).find(start, trust=0.0).root
    status = SelectionStatus.CONVERGED if root.verified else SelectionStatus.NOT_CONVERGED
    return PriceSolution(
        root.price.value(beta), root.price, root.num_iterations, root.relative_budget_error, status
    )


def usable_price(initial_price: float | None) -> float | None:
    """Return the price if a search can start from it: the limits' infinite prices cannot."""
    return initial_price if initial_price is not None and math.isfinite(initial_price) else None
