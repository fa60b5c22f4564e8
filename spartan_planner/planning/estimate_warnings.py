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
    """Return a sentence about what of the latency the roofline estimated; none if nothing was."""
    cost = LatencyCost()
    told = [layer for layer in layers if cost.name in layer.costs]
    names = [layer.name for layer in told if layer.costs[cost.name].source == "estimated"]
    is_rest = bool(told) and cost.rest_source(workload, profile) == "estimated"
    if names:
        return (_about_layers(names, len(told), is_rest, workload, profile),)
    return (_about_rest(workload, profile),) if is_rest else ()


def _about_layers(
    names: Sequence[str], num_told: int, is_rest: bool, workload: Workload, profile: DeviceProfile
) -> str:
    which = "every layer" if len(names) == num_told else _listed(names)
    if is_rest:
        which += " and of the rest of the model"
    low, high = profile.roofline.error_band
    return (
        f"the {LatencyCost.name} of {which} was estimated, since profile {profile.name!r} did not "
        f"measure it{_nearest(names, workload, profile)}; expect {low:.2g} to {high:.2g} times the "
        "estimate, or profile this workload on the device"
    )


def _about_rest(workload: Workload, profile: DeviceProfile) -> str:
    known = any(model.fingerprint == workload.fingerprint for model in profile.models)
    where = "ran the model at other input shapes" if known else "did not run the whole model"
    return (
        f"the {LatencyCost.name} of what belongs to no layer was estimated, since profile "
        f"{profile.name!r} {where}; profile this workload on the device, with its graph"
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
