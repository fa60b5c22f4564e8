"""The measured layer tables as profiles: read right, fitted right, written and read again."""

import json

import pytest

from benchmarks.layer_timings import (
    SPARSITIES,
    compare,
    profile_of,
    read_node_table,
    read_pruning_table,
)
from benchmarks.resnet50 import resnet50_workload
from cost_models import DeviceProfile, Layout, cost_model, read_document, write_document

WORKLOAD = resnet50_workload()
DENSE_MS, FIXED_MS, WHOLE_MS = 1.0, 0.25, 1.5
"""Made up: all weights kept cost 1.75 ms in the sparse form, so it pays below half of them."""

WHOLE_ELEMENTS = 2e-3
"""Relative; 1 % of the 4096 elements of the smallest weight is 40.96, counted as 41."""


def seconds(level: float) -> float:
    return 1e-3 * (DENSE_MS if level == 0 else FIXED_MS + WHOLE_MS * (1 - level))


@pytest.fixture
def pruning_table(tmp_path):
    times = {str(level): seconds(level) for level in SPARSITIES}
    plain = {
        "value": {level: 40 * figure for level, figure in times.items()},
        "attributes": {"num_cores": 16, "iterations_per_check": 10},
        "layer_results": {layer.name: {"value": times} for layer in WORKLOAD.layers},
    }
    (tmp_path / "table.json").write_text(json.dumps(plain))
    return read_pruning_table(tmp_path / "table.json")


def test_the_line_and_its_break_even_are_recovered(pruning_table):
    profile = profile_of(pruning_table, WORKLOAD)
    assert len(profile.layers) == len(WORKLOAD.shape_counts())
    for row in compare(pruning_table, profile.layers, WORKLOAD):
        assert row.fitted_ms == pytest.approx(row.table_ms, rel=WHOLE_ELEMENTS)
        assert row.break_even_density == pytest.approx(0.5, rel=WHOLE_ELEMENTS)
    assert profile.models[0].dense_ms == pytest.approx(40.0)


def test_the_profile_is_a_document_that_prices_the_model(pruning_table, tmp_path):
    write_document(tmp_path / "p.yaml", profile_of(pruning_table, WORKLOAD))
    profile = read_document(tmp_path / "p.yaml", DeviceProfile, "profile")
    cost = cost_model("latency").linear_cost(WORKLOAD.layers[5], Layout.parse("element"), profile)
    assert cost.dense == pytest.approx(DENSE_MS)
    assert cost.fixed == pytest.approx(FIXED_MS, rel=WHOLE_ELEMENTS)


def test_nodes_are_matched_in_order_and_medians_taken(tmp_path):
    levels = [0.008, 0.4, 0.8, 0.99]  # the file's own name of the baseline does not matter

    def node(name, scale):
        times = [[s, [scale, 3 * scale, 2 * scale]] for s in levels]
        return {"name": name, "sparse_measurements": times}

    names = ["conv_pool_0", "conv_pool_0", *(f"convolution_{i}" for i in range(1, 53))]
    results = [
        node(name, 1e-3 * index) for index, name in enumerate([*names, "gevm_54", "softmax"])
    ]
    plain = {"results_model": node("model", 0.1), "results": results}
    (tmp_path / "nodes.json").write_text(json.dumps(plain))
    table = read_node_table(tmp_path / "nodes.json")
    assert len(table.layers_ms) == len(WORKLOAD.layers)
    firsts = [times[0.0] for times in table.layers_ms]
    assert firsts == pytest.approx([2.0 * index for index in range(1, 55)])
    assert table.model_ms[0.99] == pytest.approx(200)
