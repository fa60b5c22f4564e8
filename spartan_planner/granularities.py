"""Which granularities of pruning gain nothing on a device, or need its own hardware, and why.

Beside the balanced tiles that can be lowered, users think of single weights, of unbalanced tiles,
of n:m patterns, and of layers other than convolutions.  Each gets one sentence; needs no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cost_models import CostModelError, DeviceProfile, LayerWorkload, Layout
from cost_models.layer_work import is_lowerable, layer_class
from cost_models.roofline import dense_ms, n_m_ms, skips_zeros

N_M_PATTERN = "2:4"
"""The pattern that is judged on every device; others where the profile states a speed-up."""

WORTHWHILE = 1.05
"""A speed-up below this is within what measurements scatter: it does not count as paying."""

_MULTIPLIES = "so that the runtime multiplies by the zeros"


@dataclass(frozen=True)
class Granularity:
    """One granularity for the layers of some classes.

    Attributes:
        name: ``element``, ``tile:32x1``, ``tile:32x1@16`` or ``2:4``.
        layer_classes: the classes it was judged for.
        dense_share: share of the model's dense time that their layers take.
        speedup: of these layers together; 1 where nothing is gained.
        because: why.
    """

    name: str
    layer_classes: tuple[str, ...]
    dense_share: float
    speedup: float
    because: str

    def sentence(self) -> str:
        """Say whether it pays and why."""
        verdict = (
            f"pays, by estimate: {self.speedup:.2f}x"
            if self.speedup >= WORTHWHILE
            else "does not pay"
        )
        which = ", ".join(self.layer_classes)
        return (
            f"{self.name} for {which} layers ({self.dense_share:.0%} of the time) {verdict}: "
            f"{self.because}."
        )


def judge_granularities(
    profile: DeviceProfile, layers: Sequence[LayerWorkload], shares: dict[str, float]
) -> tuple[Granularity, ...]:
    """Judge what the table of layouts does not hold.

    Args:
        profile: of the device.
        layers: prunable layers whose dense time is known.
        shares: by layer, its share of the model's dense time.
    """
    found = []
    for text, reason in (
        ("element", "no export leaves single zeros out"),
        ("tile:32x1", "only balanced tiles (tile:OUTx1@STEP) can be lowered"),
        ("tile:32x1@16", "lowering has a form for plain convolutions and linear layers only"),
    ):
        idle = [layer for layer in layers if _gains_nothing(profile, layer, Layout.parse(text))]
        if idle:
            found.append(_judged(text, idle, shares, 1.0, f"{reason}, {_MULTIPLIES}"))
    for pattern in dict.fromkeys((N_M_PATTERN, *profile.facts.sparse_speedups)):
        found += _judge_n_m(profile, pattern, layers, shares)
    return tuple(found)


def _gains_nothing(profile: DeviceProfile, layer: LayerWorkload, layout: Layout) -> bool:
    timing = profile.timing(layer.shape)
    is_measured = timing and any(item.layout == str(layout) for item in timing.sparse)
    return not is_measured and not skips_zeros(layer.shape, layout)


def _judge_n_m(
    profile: DeviceProfile,
    pattern: str,
    layers: Sequence[LayerWorkload],
    shares: dict[str, float],
) -> list[Granularity]:
    """By class of the layers that products of matrices compute, with the device's stated factor."""
    classes: dict[str, list[LayerWorkload]] = {}
    for layer in layers:
        if layer.shape.op == "linear" or is_lowerable(layer.shape):
            classes.setdefault(layer_class(layer.shape), []).append(layer)
    if pattern not in profile.facts.sparse_speedups:
        everything = [layer for items in classes.values() for layer in items]
        reason = f"the profile states no hardware for it, {_MULTIPLIES}"
        return [_judged(pattern, everything, shares, 1.0, reason)] if everything else []
    low, high = profile.roofline.error_band
    reason = (
        f"where the runtime uses the device's {pattern} arithmetic; expect {low:.2g} to "
        f"{high:.2g} times the estimated times, and plans hold no such layout"
    )
    found = []
    for items in classes.values():
        speedup = _n_m_speedup(profile, pattern, items)
        if speedup is not None:
            found.append(_judged(pattern, items, shares, speedup, reason))
    return found


def _n_m_speedup(
    profile: DeviceProfile, pattern: str, layers: Sequence[LayerWorkload]
) -> float | None:
    dense = pruned = 0.0
    for shape in (use for layer in layers for use in layer.uses):
        try:
            time_ms = n_m_ms(shape, pattern, profile.roofline, profile.facts)
            dense += dense_ms(shape, profile.roofline, profile.facts)
        except CostModelError:
            # Measured layers are priced without facts of their element type; n:m is not.
            return None
        if time_ms is None:
            return None
        pruned += time_ms
    return dense / pruned


def _judged(
    name: str,
    layers: Sequence[LayerWorkload],
    shares: dict[str, float],
    speedup: float,
    because: str,
) -> Granularity:
    classes = tuple(dict.fromkeys(layer_class(layer.shape) for layer in layers))
    share = sum(shares[layer.name] for layer in layers)
    return Granularity(name, classes, share, speedup, because)
