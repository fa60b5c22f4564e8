"""Which form of a layer is fastest on a device: measured, told by a profile, or by a rule.

Without a profile a form is priced on the :data:`NOMINAL` device, one core of a common server
processor: one ratio matters, that of arithmetic to memory (about 24 multiply-adds in the time of
moving four bytes, the price at which the measured forms of docs/lowering.md come out right), and
the time of launching an operation.  In that price small groups gather too much for what they
save, and dense layers above their break-even density stay dense.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cost_models import DeviceProfile, LayerTiming
from cost_models.device_facts import DeviceFacts, Fact, Roofline, RooflineClass
from cost_models.layer_work import LayerClass
from cost_models.roofline import roofline_class, roofline_ms
from spartan_planner.lowering.forms import DENSE, STEP, Candidate, Form, candidates
from spartan_planner.lowering.weight_nodes import WeightNode

Basis = Literal["measured here", "profile", "profile's roofline", "rule"]

WORTHWHILE = 0.9
"""A form must promise to take less than this share of the dense time: estimates are not exact."""

_SOURCE = "a nominal core; only its ratios matter (docs/lowering.md)"
NOMINAL = DeviceFacts(
    peak_gflop_per_s={
        "float64": Fact(65.0, "published", _SOURCE),
        "float32": Fact(130.0, "published", _SOURCE),
        "float16": Fact(130.0, "published", _SOURCE),
    },
    bandwidth_gb_per_s=Fact(11.0, "published", _SOURCE),
    launch_overhead_us=Fact(5.0, "published", _SOURCE),
)
_NOMINAL_ROOFLINE = Roofline((RooflineClass("any", 1.0, 1.0, 0.0),), False, (0.5, 2.0))

Measure = Callable[[WeightNode, Sequence[Form]], Sequence[float]]
"""Times in ms of several forms of a layer, measured beside each other."""


@dataclass(frozen=True)
class Choice:
    """The form that a layer is given.

    Attributes:
        candidate: the form and its work.
        dense: the dense form and its work.
        dense_ms, chosen_ms: their times, by ``basis``; of a rule only the ratio means anything.
        best: the fastest other form; the chosen one unless nothing pays.
        best_ms: its time.
        basis: where the times come from.
    """

    candidate: Candidate
    dense: Candidate
    best: Candidate
    dense_ms: float
    best_ms: float
    basis: Basis

    @property
    def speedup(self) -> float:
        """How many times faster the best form is than the dense one, by the basis."""
        return self.dense_ms / self.best_ms


def choose(
    layer: WeightNode,
    found: Sequence[Candidate],
    profile: DeviceProfile | None = None,
    measure: Measure | None = None,
    num_measured: int = 3,
) -> Choice:
    """Choose among forms of one layer; the first must be the dense one and others follow.

    Args:
        layer: the layer.
        found: its forms.
        profile: of the device; without one the rule decides.
        measure: measures forms on this device; the most promising ones then compete in truth.
        num_measured: how many do, beside the dense one.

    Raises:
        CostModelError: the profile cannot price layers of this element type.
    """
    dense = found[0]
    priced = [(candidate, *price_ms(layer, candidate, profile)) for candidate in found]
    dense_ms, basis = priced[0][1:]
    ranked = sorted(priced[1:], key=lambda item: item[1])
    best, best_ms, best_basis = ranked[0]
    if measure is not None:
        tried = [item[0] for item in ranked[:num_measured]]
        dense_ms, *times = measure(layer, [DENSE, *(item.form for item in tried)])
        best_ms = min(times)
        best, best_basis = tried[list(times).index(best_ms)], "measured here"
    elif basis != best_basis:
        # One measured, one estimated: a ratio of estimates is nearer to the truth.
        dense_ms, best_ms = (_roofline_ms(layer, item, profile) for item in (dense, best))
        best_basis = "profile's roofline"
    pays = best_ms < WORTHWHILE * dense_ms
    return Choice(best if pays else dense, dense, best, dense_ms, best_ms, best_basis)


def least_ms(
    layer: WeightNode, output_shape: tuple[int, ...], profile: DeviceProfile | None
) -> float:
    """Return the time of the fastest form of a layer, by profile or rule.

    Raises:
        CostModelError: the profile cannot price it.
    """
    return min(price_ms(layer, item, profile)[0] for item in candidates(layer, output_shape))


def price_ms(
    layer: WeightNode, candidate: Candidate, profile: DeviceProfile | None
) -> tuple[float, Basis]:
    """Return the time of a form and where it comes from.

    Raises:
        CostModelError: the profile cannot price it.
    """
    if profile is None:
        return _roofline_ms(layer, candidate, None), "rule"
    timing = _timing(layer, profile)
    measured = _measured_ms(timing, candidate) if timing else None
    if measured is not None:
        return measured, "profile"
    return _roofline_ms(layer, candidate, profile), "profile's roofline"


def _timing(layer: WeightNode, profile: DeviceProfile) -> LayerTiming | None:
    try:
        return profile.timing(layer.shape())
    except ValueError:
        # A shape that no profile can hold, such as padding that differs from side to side.
        return None


def _measured_ms(timing: LayerTiming, candidate: Candidate) -> float | None:
    form = candidate.form
    if form.is_dense:
        return timing.dense_ms
    if form.drops_inputs or form.drops_outputs:
        return None
    for sparse in timing.sparse:
        if sparse.layout == f"tile:{form.group_size}x1@{STEP}":
            return sparse.fixed_ms + sparse.per_block_ms * candidate.width / STEP
    return None


def _roofline_ms(layer: WeightNode, candidate: Candidate, profile: DeviceProfile | None) -> float:
    facts = profile.facts if profile else NOMINAL
    roofline = profile.roofline if profile else _NOMINAL_ROOFLINE
    coefficients = roofline_class(roofline, _class(layer, candidate.form))
    return roofline_ms(candidate.work, coefficients, facts, str(layer.weight.dtype))


def _class(layer: WeightNode, form: Form) -> LayerClass:
    if form.group_size:
        return "lowered_linear" if layer.kind == "linear" else "lowered"
    if layer.kind == "linear":
        return "linear" if layer.source_shape[-2] > 1 else "vector"
    return "conv" if layer.weight[0, 0].size > 1 else "pointwise"
