"""Prices of a whole model by every cost model that can tell."""

from dataclasses import replace

import pytest
from builders import FACTS, profile_of, small_profile, small_workload, workload_of

from cost_models import CostModelError, DeviceProfile, Workload
from cost_models.flops import FlopsCost
from cost_models.latency import LatencyCost
from spartan_planner.planning.pricing import price_by_others, price_model

ALL_DENSE = [None] * len(small_workload().layers)


def double_workload() -> Workload:
    """In an element type of which the made-up device states no peak rate."""
    return workload_of(
        *(
            replace(layer, shape=replace(layer.shape, dtype="float64"))
            for layer in small_workload().layers
        )
    )


def with_peak(dtype: str) -> DeviceProfile:
    peaks = {**FACTS.peak_gflop_per_s, dtype: FACTS.peak_gflop_per_s["float32"]}
    return replace(profile_of(), facts=replace(FACTS, peak_gflop_per_s=peaks))


def test_dense_layers_cost_what_the_model_says():
    workload = small_workload()
    priced = price_model(FlopsCost(), workload, ALL_DENSE, None)
    assert [cost.dense for cost in priced.layers] == [2.0 * layer.macs for layer in workload.layers]
    assert (priced.cost, priced.unit, priced.rest) == ("flops", "FLOPs", 0.0)


def test_a_layer_that_cannot_be_estimated_has_no_price():
    with pytest.raises(CostModelError, match=r"layer stem.weight: .* no peak rate for float64"):
        price_model(LatencyCost(), double_workload(), ALL_DENSE, profile_of())


@pytest.mark.parametrize(
    ("profile", "source"), [(profile_of(), "estimated"), (small_profile(), "measured")]
)
def test_dense_layers_say_where_their_time_comes_from(profile, source):
    priced = price_model(LatencyCost(), small_workload(), ALL_DENSE, profile)
    assert {cost.source for cost in priced.layers} == {source}
    counted = price_model(FlopsCost(), small_workload(), ALL_DENSE, profile)
    assert {cost.source for cost in counted.layers} == {"exact"}


@pytest.mark.parametrize(
    ("profile", "told", "not_told"),
    [
        (None, {"params", "memory"}, set()),
        (with_peak("float64"), {"params", "memory", "latency"}, {"energy"}),
        (profile_of(), {"params", "memory"}, {"latency", "energy"}),
    ],
)
def test_others_are_told_or_reported_never_zero(profile, told, not_told):
    workload = double_workload()
    flops = price_model(FlopsCost(), workload, ALL_DENSE, None)
    others, reasons = price_by_others([flops], workload, ALL_DENSE, profile)
    assert {priced.cost for priced in others} == told
    assert set(reasons) == not_told
    assert all("float64" in reason for reason in reasons.values())
