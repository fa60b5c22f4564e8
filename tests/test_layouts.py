"""Layouts per layer: wanted, measured, lowerable, or what a device has hardware for."""

from dataclasses import replace

import pytest
from builders import FACTS, TILE, conv_shape, linear_shape, profile_of, timing_of

from cost_models import Fact, LayerWorkload, Layout, LayoutKind
from spartan_planner.errors import PlanError
from spartan_planner.planning.layouts import layouts_of, rows_are_outputs

CONV = LayerWorkload("conv", conv_shape(64, 64), 64)
LINEAR = LayerWorkload("linear", linear_shape(64, 64), 1)
ODD = LayerWorkload("odd", linear_shape(64, 63), 1)
GROUPED = LayerWorkload("grouped", conv_shape(64, 1, groups=64, input_shape=(1, 64, 8, 8)), 64)
TENSOR_CORES = replace(
    profile_of(), facts=replace(FACTS, sparse_speedups={"2:4": Fact(2.0, "data_sheet", "x")})
)


@pytest.mark.parametrize(
    ("layer", "profile", "wanted", "expected"),
    [
        (CONV, None, "", "tile:32x1@16 tile:64x1@16"),
        (LINEAR, None, "", "tile:64x1@16"),
        (ODD, None, "", "tile:64x1"),
        (GROUPED, None, "", ""),
        (LINEAR, profile_of(), "", "tile:64x1@16"),
        (ODD, profile_of(), "", ""),
        (CONV, profile_of(timing_of(CONV.shape, (TILE,))), "", TILE),
        (CONV, TENSOR_CORES, "", "tile:32x1@16 tile:64x1@16 2:4"),
        (LINEAR, TENSOR_CORES, "", "tile:64x1@16 2:4"),
        (ODD, TENSOR_CORES, "", ""),
        (LINEAR, None, "2:4 tile:64x1@16 element", "2:4 tile:64x1@16 element"),
        (ODD, None, "2:4 tile:7x5", "tile:7x5"),
        (CONV, profile_of(), "2:4 element tile:48x1@16", "tile:48x1@16"),
        (LINEAR, TENSOR_CORES, "2:4 1:4", "2:4"),
    ],
)
def test_layouts_of_a_layer(layer, profile, wanted, expected):
    layouts = [Layout.parse(text) for text in wanted.split()]
    assert " ".join(map(str, layouts_of(layer, profile, layouts))) == expected


def test_n_m_is_priced_by_the_hardware_or_as_dense():
    from cost_models import cost_model

    latency, pattern = cost_model("latency"), Layout.n_m(2, 4)
    assert pattern.kind is LayoutKind.N_M
    fast = latency.linear_cost(LINEAR, pattern, TENSOR_CORES)
    assert fast.best(2) < fast.dense
    slow = latency.linear_cost(LINEAR, pattern, profile_of())
    assert slow.sparse(2) == slow.dense


@pytest.mark.parametrize(("shape", "expected"), [((64, 63), True), ((63, 64), False)])
def test_transposed_weights_are_not_pruned(shape, expected):
    assert rows_are_outputs(ODD, shape) is expected


def test_weights_of_another_model_are_refused():
    with pytest.raises(PlanError, match="give the weights of this model"):
        rows_are_outputs(ODD, (64, 62))
