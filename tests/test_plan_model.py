"""Planning for a torch model: which layouts a profile lets it choose from."""

import pytest
from builders import TILE, profile_of, timing_of
from networks import tiny_inputs, tiny_network

from cost_models import DeviceProfile, LayerShape
from spartan_planner.errors import PlanError
from spartan_planner.extraction import extract_workload
from spartan_planner.plan_model import plan

OTHER = "tile:64x1@16"


def shapes() -> dict[str, LayerShape]:
    workload = extract_workload(tiny_network(), tiny_inputs(), "tiny")
    return {layer.name: layer.shape for layer in workload.layers}


def body_in_32() -> DeviceProfile:
    """A profile that measured one of the two prunable layers, in one layout."""
    return profile_of(timing_of(shapes()["body.weight"], (TILE,)))


def layouts(profile, wanted=(), budget="80%") -> dict[str, set[str]]:
    made = plan(
        tiny_network(),
        tiny_inputs(),
        budgets={"latency": budget},
        profile=profile,
        layouts=wanted,
    )
    return {layer.name: layer.layout for layer in made.layers if layer.is_sparse}


def test_measured_layouts_are_preferred_and_other_layers_estimated():
    chosen = layouts(body_in_32())
    assert chosen["body.weight"] == TILE
    assert set(chosen) <= {"body.weight", "tail.weight"}


def test_a_wanted_layout_need_not_be_measured():
    assert layouts(body_in_32(), [OTHER])["body.weight"] == OTHER


def test_facts_alone_suffice():
    assert layouts(profile_of())


@pytest.mark.parametrize("wanted", ["element"])
def test_layouts_that_save_nothing_on_a_device_are_not_considered(wanted):
    with pytest.raises(PlanError, match="can be pruned"):
        layouts(body_in_32(), [wanted])
