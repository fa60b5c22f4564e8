"""True cost of a model from which channels are gone, and its derivative by one unit of a group.

The cost of a layer is that of its reduced shape, by the cost model itself: bilinear in the inputs
and outputs that are left where a cost model counts, by vector steps and measured times where it
tells milliseconds.  So nothing here knows a cost model by name, and plug-ins are priced as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cost_models.channel_shapes import (
    Cuts,
    KeptUnits,
    activation_share,
    cuts_of,
    reduced_layer,
    reduced_workload,
)
from cost_models.device_profile import DeviceProfile
from cost_models.layer_timing import ModelTiming
from cost_models.protocol import CostModel
from cost_models.shapes_digest import shapes_digest
from cost_models.workload import Workload


@dataclass(frozen=True)
class Reduced:
    """A model from which channels are gone.

    Attributes:
        workload: what is left of it.
        profile: the profile as it is to be read for it (see ``profile_of_reduced``).
    """

    workload: Workload
    profile: DeviceProfile | None


def reduce(
    workload: Workload,
    kept: KeptUnits,
    profile: DeviceProfile | None = None,
    cuts: Cuts | None = None,
) -> Reduced:
    """Return the model that is left when so many units of each group are kept.

    Args:
        workload: the whole model.
        kept: units that are kept.
        profile: of the device, where costs depend on one.
        cuts: ``cuts_of(workload)``, where it is known already.

    Raises:
        CostModelError: the groups do not fit the layers.
    """
    reduced = reduced_workload(workload, kept, cuts)
    if profile is None:
        return Reduced(reduced, None)
    return Reduced(reduced, profile_of_reduced(profile, workload, reduced))


def profile_of_reduced(
    profile: DeviceProfile, workload: Workload, reduced: Workload
) -> DeviceProfile:
    """Return a profile whose measured rest of the whole model is that of the reduced one.

    The rest is what operations beside layers take, and the run itself:

        rest = run + (measured rest - run) * numbers written by reduced layers / by all layers

    where the run's own overhead stays.  Layers need nothing: ``latency`` tells any shape.
    """
    timing = profile.model_timing(workload)
    if timing is None or reduced == workload:
        return profile
    share = activation_share(workload.layers, reduced.layers)
    run_ms = min(timing.rest_ms, profile.run_overhead_ms)
    rest_ms = run_ms + share * (timing.rest_ms - run_ms)
    scaled = ModelTiming(
        timing.model,
        timing.fingerprint,
        dense_ms=timing.layers_ms + rest_ms,
        layers_ms=timing.layers_ms,
        rest_ms=rest_ms,
        shapes_digest=shapes_digest(reduced),
    )
    others = (item for item in profile.models if item.fingerprint != timing.fingerprint)
    return replace(profile, models=(*others, scaled))


def reduced_cost(
    model: CostModel, workload: Workload, kept: KeptUnits, profile: DeviceProfile | None = None
) -> float:
    """Return the cost of the whole model when so many units of each group are kept, dense else.

    Raises:
        CostModelError: a layer cannot be priced, or the groups do not fit the layers.
    """
    found = reduce(workload, kept, profile)
    layers = sum(model.dense_cost(layer, found.profile) for layer in found.workload.layers)
    return model.rest(found.workload, found.profile) + layers


def linearised_cost(
    model: CostModel,
    workload: Workload,
    kept: KeptUnits,
    profile: DeviceProfile | None = None,
    *,
    num_units: int = 1,
) -> dict[str, float]:
    """Return by group what one unit of it costs at these counts (DESIGN 4.9).

        (cost(kept) - cost(kept less num_units of the group)) / num_units

    the derivative of the true cost, taken backwards over whole steps of the device where
    ``num_units`` is one; a group with no more than that many units left is taken down to one.

    Raises:
        CostModelError: as ``reduced_cost``.
    """
    whole = reduced_cost(model, workload, kept, profile)
    found: dict[str, float] = {}
    for group in workload.channel_groups:
        now = kept.get(group.name, group.num_units)
        fewer = max(1, now - num_units)
        if fewer == now:
            continue
        less = reduced_cost(model, workload, {**kept, group.name: fewer}, profile)
        found[group.name] = (whole - less) / (now - fewer)
    return found


class LayerCosts:
    """Costs of single layers at kept units, each told once."""

    def __init__(
        self, workload: Workload, models: Sequence[CostModel], profile: DeviceProfile | None
    ) -> None:
        self.cuts = cuts_of(workload)
        self._layers = {layer.name: layer for layer in workload.layers}
        self._models, self._profile = tuple(models), profile
        self._known: dict[tuple[str, tuple[int, ...]], tuple[float, ...]] = {}

    def of(self, layer: str, kept: KeptUnits) -> tuple[float, ...]:
        """Return ``[models]``, the cost of a layer, dense, with so many units of its groups.

        Raises:
            CostModelError: the layer cannot be priced.
        """
        cuts = self.cuts.of(layer)
        key = layer, tuple(cut.num_removed(kept) for cut in cuts)
        if key not in self._known:
            reduced = reduced_layer(self._layers[layer], cuts, kept)
            self._known[key] = tuple(
                model.dense_cost(reduced, self._profile) for model in self._models
            )
        return self._known[key]
