"""Cost models by name: the built-in ones and those that other packages provide.

A package provides a cost model by an entry point in the group ``spartan_planner.cost_models``
that names a class without constructor arguments.
"""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

from cost_models.energy import EnergyCost
from cost_models.errors import CostModelError, UnknownNameError
from cost_models.flops import FlopsCost
from cost_models.latency import LatencyCost
from cost_models.memory import MemoryCost
from cost_models.params import ParamsCost
from cost_models.protocol import CostModel

ENTRY_POINT_GROUP = "spartan_planner.cost_models"

BUILT_IN: Mapping[str, type[CostModel]] = {
    "latency": LatencyCost,
    "flops": FlopsCost,
    "params": ParamsCost,
    "memory": MemoryCost,
    "energy": EnergyCost,
}


def cost_model_names() -> tuple[str, ...]:
    """Names of all cost models, built-in ones first.

    Raises:
        CostModelError: two packages provide the same name.
    """
    return (*BUILT_IN, *_plug_ins())


def cost_model(name: str) -> CostModel:
    """Return the cost model of that name.

    Raises:
        UnknownNameError: there is none; the message lists the known ones.
        CostModelError: a plug-in cannot be loaded, or two have the same name.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]()
    plug_ins = _plug_ins()
    if name not in plug_ins:
        known = ", ".join((*BUILT_IN, *plug_ins))
        raise UnknownNameError(f"cost model {name!r} is not known; known are: {known}")
    return _load(plug_ins[name])


def _plug_ins() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: (p.name, p.value)):
        if point.name in BUILT_IN or point.name in found:
            raise CostModelError(
                f"cost model {point.name!r} is provided twice (by {point.value}); "
                "uninstall one of the packages"
            )
        found[point.name] = point
    return found


def _load(point: EntryPoint) -> CostModel:
    try:
        model = point.load()()
    except Exception as error:
        raise CostModelError(f"cost model {point.name!r} ({point.value}): {error}") from error
    if not isinstance(model, CostModel):
        raise CostModelError(
            f"cost model {point.name!r} ({point.value}) lacks a part of the CostModel protocol"
        )
    return model
