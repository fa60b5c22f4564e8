"""What a model costs by every cost model that can tell, layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass

from cost_models import (
    CostModel,
    CostModelError,
    DeviceProfile,
    LayerWorkload,
    Layout,
    LinearCost,
    Workload,
    cost_model,
    cost_model_names,
)
from cost_models.protocol import TellsSource


@dataclass(frozen=True)
class PricedModel:
    """A model's cost by one cost model.

    Attributes:
        cost: name of the cost model.
        unit: unit of its figures.
        rest: what belongs to no layer.
        layers: one linear cost per layer; where it stays dense, only ``dense`` counts.
    """

    cost: str
    unit: str
    rest: float
    layers: tuple[LinearCost, ...]


def price_model(
    model: CostModel,
    workload: Workload,
    layouts: Sequence[Layout | None],
    profile: DeviceProfile | None,
) -> PricedModel:
    """Price every layer of a workload in its layout, ``None`` standing for dense.

    Raises:
        CostModelError: a layer cannot be priced.
    """
    costs = [
        layer_cost(model, layer, layout, profile)
        for layer, layout in zip(workload.layers, layouts, strict=True)
    ]
    return PricedModel(model.name, model.unit, model.rest(workload, profile), tuple(costs))


def price_by_others(
    known: Sequence[PricedModel],
    workload: Workload,
    layouts: Sequence[Layout | None],
    profile: DeviceProfile | None,
) -> tuple[tuple[PricedModel, ...], dict[str, str]]:
    """Price a workload by all other cost models.

    A cost model that needs a device when none is given is left out; one that fails is reported.

    Returns:
        The priced models, and by name the reason why others could not tell.
    """
    priced: list[PricedModel] = []
    reasons: dict[str, str] = {}
    for name in cost_model_names():
        if name in {priced_model.cost for priced_model in known}:
            continue
        try:
            model = cost_model(name)
            if profile is not None or not model.needs_profile:
                priced.append(price_model(model, workload, layouts, profile))
        except CostModelError as error:
            reasons[name] = str(error)
    return tuple(priced), reasons


def layer_cost(
    model: CostModel, layer: LayerWorkload, layout: Layout | None, profile: DeviceProfile | None
) -> LinearCost:
    """Return a layer's cost in a layout; where dense (``None``) only the dense figure counts.

    Raises:
        CostModelError: the layer cannot be priced.
    """
    if layout is None:
        source = model.source(layer, profile) if isinstance(model, TellsSource) else "exact"
        return LinearCost(model.dense_cost(layer, profile), 0.0, 0.0, model.unit, source)
    return model.linear_cost(layer, layout, profile)
