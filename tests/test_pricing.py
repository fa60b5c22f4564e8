"""Prices of a whole model by every cost model that can tell."""

import pytest
from builders import profile_of, small_profile, small_workload

from cost_models import CostModelError
from cost_models.flops import FlopsCost
from cost_models.latency import LatencyCost
from spartan_planner.planning.pricing import price_by_others, price_model

ALL_DENSE = [None] * len(small_workload().layers)


def test_dense_layers_cost_what_the_model_says():
    workload = small_workload()
    priced = price_model(FlopsCost(), workload, ALL_DENSE, None)
    assert [cost.dense for cost in priced.layers] == [2.0 * layer.macs for layer in workload.layers]
    assert (priced.cost, priced.unit, priced.rest) == ("flops", "FLOPs", 0.0)


def test_a_layer_that_was_not_measured_has_no_price():
    with pytest.raises(CostModelError, match="no measurement for layer"):
        price_model(LatencyCost(), small_workload(), ALL_DENSE, profile_of())


@pytest.mark.parametrize(
    ("profile", "told", "not_told"),
    [
        (None, {"params", "memory"}, set()),
        (small_profile(), {"params", "memory", "latency", "energy"}, set()),
        (profile_of(), {"params", "memory", "energy"}, {"latency"}),
    ],
)
def test_others_are_told_or_reported_never_zero(profile, told, not_told):
    workload = small_workload()
    flops = price_model(FlopsCost(), workload, ALL_DENSE, None)
    others, reasons = price_by_others(flops, workload, ALL_DENSE, profile)
    assert {priced.cost for priced in others} == told
    assert set(reasons) == not_told
    assert all("no measurement" in reason for reason in reasons.values())
