"""What an exported file says about itself."""

from dataclasses import replace

import numpy as np
import pytest
from builders import conv_node, onnx_model, small_plan
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto

from cost_models import DocumentError, LinearCost, SpartanPlannerError
from cost_models.documents import parse_document
from spartan_planner.errors import ModelError
from spartan_planner.export_metadata import (
    LOWERED,
    METADATA_KEY,
    ExportMetadata,
    dump_metadata,
    lowered_layers,
    metadata_of,
    read_metadata,
)
from spartan_planner.planning import PlanBudget, PlanLayer

PLAN = small_plan()
METADATA = metadata_of(PLAN, {"a.weight": 2.0}, "lowered")


def model_with(**properties: str) -> ModelProto:
    model = onnx_model(
        [conv_node()], {"w": np.ones((2, 2, 1, 1), np.float32)}, {"x": (1, 2, 4, 4)}, ["y"]
    )
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value)
    return model


def write(path, **properties: str):
    path.write_bytes(model_with(**properties).SerializeToString())
    return path


def test_metadata_tell_what_was_really_kept():
    assert METADATA.densities == {"a.weight": 2 / 8}
    assert METADATA.density == (1000 * 2 / 8 + 50) / 1050
    latency, flops = METADATA.costs
    assert latency == PlanBudget("latency", "ms", 5.5, 3.0, 0.5 + (0.125 + 0.5 * 2) + 1.0, 0.5)
    assert flops.asked is None
    assert METADATA.profile == PLAN.profile
    assert METADATA.form == "lowered"


LATENCY = LinearCost(4.0, 0.125, 0.5, "ms")
MEMORY = LinearCost(100.0, 20.0, 5.0, "bytes")
FLOPS = LinearCost(1000.0, 0.0, 100.0, "FLOPs")
NUM_BLOCKS = 10


def plan_on(*budgets: str, latency=LATENCY, memory=MEMORY, flops=FLOPS):
    """One layer of ten blocks, all but the budgeted costs only reported."""
    costs = {"latency": latency, "memory": memory, "flops": flops}
    totals = {
        name: PlanBudget(name, cost.unit, cost.dense + 1.0, None, 0.0, 1.0)
        for name, cost in costs.items()
    }
    return replace(
        PLAN,
        budgets=tuple(replace(totals.pop(name), asked=1e9) for name in budgets),
        totals=tuple(totals.values()),
        layers=(PlanLayer("a.weight", "tile:32x1@16", 100, NUM_BLOCKS, 4, 4.0, 0.4, costs),),
    )


SLOW, LARGE = LinearCost(4.0, 3.9, 0.5, "ms"), LinearCost(100.0, 99.0, 5.0, "bytes")


@pytest.mark.parametrize(
    ("plan", "is_lowered"),
    [
        (plan_on("latency"), True),
        (plan_on("latency", latency=SLOW), False),
        (plan_on("latency", memory=LARGE), True),
        (plan_on("memory"), True),
        (plan_on("memory", latency=SLOW), True),
        (plan_on("memory", memory=LARGE), False),
        (plan_on("latency", "memory", latency=SLOW), True),
        (plan_on("latency", "memory", memory=LARGE), True),
        (plan_on("latency", "memory", latency=SLOW, memory=LARGE), False),
        (plan_on("flops"), True),
        (plan_on("flops", latency=SLOW), False),
    ],
)
def test_a_layer_is_lowered_where_that_saves_a_budgeted_cost_and_every_cost_is_told_so(
    plan, is_lowered
):
    kept = {"a.weight": 4.0}
    assert lowered_layers(plan, kept) == ({"a.weight"} if is_lowered else set())
    told = {cost.cost: cost.predicted for cost in metadata_of(plan, kept, LOWERED).costs}
    for name in ("latency", "memory"):
        cost = plan.layers[0].costs[name]
        assert told[name] == 1.0 + (cost.sparse(4.0) if is_lowered else cost.dense)
    assert told["flops"] == 1.0 + 400.0


@given(st.floats(0.0, NUM_BLOCKS))
def test_no_budgeted_cost_is_above_that_of_all_layers_lowered(size):
    """So a plan whose layers, all lowered, keep every budget keeps them in the file."""
    plan = plan_on("latency", "memory", latency=SLOW)
    metadata = metadata_of(plan, {"a.weight": size}, LOWERED)
    for cost in metadata.costs[:2]:
        assert cost.predicted <= 1.0 + plan.layers[0].costs[cost.cost].sparse(size)


def test_a_masked_file_costs_what_the_dense_one_does_but_for_what_is_counted():
    costs = metadata_of(plan_on("flops"), {"a.weight": 4.0}, "masked").costs
    for cost in costs:
        assert cost.predicted == (401.0 if cost.cost == "flops" else cost.dense)


def test_metadata_survive_the_file(tmp_path):
    path = write(tmp_path / "a.onnx", **{METADATA_KEY: dump_metadata(METADATA), "author": "me"})
    assert read_metadata(path) == METADATA


@given(st.floats(0, allow_infinity=False), st.text(st.characters(exclude_categories=["Cs"])))
def test_any_figure_and_name_survive(figure, name):
    cost = PlanBudget("latency", "ms", figure, None, figure, figure)
    metadata = ExportMetadata(name, "f", "masked", 1e-05, {name: 1e-05}, (cost,), None)
    assert parse_document(dump_metadata(metadata), ExportMetadata, "text") == metadata


def test_file_of_another_origin_has_none(tmp_path):
    assert read_metadata(write(tmp_path / "a.onnx", author="me")) is None


@pytest.mark.parametrize("text", ["", "{}", "nonsense", '{"model": 1}', "[" * 10_000])
def test_damaged_metadata_are_refused(tmp_path, text):
    path = write(tmp_path / "a.onnx", **{METADATA_KEY: text})
    with pytest.raises(DocumentError, match="metadata of") as caught:
        read_metadata(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"not an onnx file", bytes(range(256))])
def test_what_is_no_onnx_file_is_refused(tmp_path, content):
    path = tmp_path / "a.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="is not an ONNX file that can be read") as caught:
        read_metadata(path)
    assert isinstance(caught.value, SpartanPlannerError)
    assert str(path) in str(caught.value)
