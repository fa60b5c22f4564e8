"""What a plan says about figures that nobody measured."""

from collections.abc import Sequence

from cost_models import DeviceProfile, Workload
from cost_models.latency import LatencyCost
from spartan_planner.planning.document import PlanLayer

MAX_NAMES = 8
"""Layers named one by one; of more, the number says enough."""


def estimate_warnings(
    workload: Workload, layers: Sequence[PlanLayer], profile: DeviceProfile
) -> tuple[str, ...]:
    """Return a sentence about the layers whose latency the roofline estimated; none if none was."""
    cost = LatencyCost.name
    told = [layer for layer in layers if cost in layer.costs]
    names = [layer.name for layer in told if layer.costs[cost].source == "estimated"]
    if not names:
        return ()
    which = "every layer" if len(names) == len(told) else _listed(names)
    low, high = profile.roofline.error_band
    return (
        f"the {cost} of {which} was estimated, since profile {profile.name!r} did not measure it"
        f"{_nearest(names, workload, profile)}; expect {low:.2g} to {high:.2g} times the estimate, "
        "or profile this workload on the device",
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{len(names)} layer(s) ({', '.join(names[:MAX_NAMES])}{more})"


def _nearest(names: Sequence[str], workload: Workload, profile: DeviceProfile) -> str:
    """Say at which other inputs the first layer was measured: most often the batch differs."""
    shape = workload.layer(names[0]).shape
    if profile.timing(shape):
        return " in this layout"
    others = sorted(
        {
            str(timing.shape.input_shape)
            for timing in profile.layers
            if timing.shape.weight_shape == shape.weight_shape
        }
    )
    return f" at input {shape.input_shape}, only at {' and '.join(others)}" if others else ""
