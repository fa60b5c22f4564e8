"""Nodes that a runtime runs, given to the layers of the file."""

import pytest
from onnx import helper

from spartan_planner.runtimes import RunNode
from spartan_planner.verification.layer_nodes import parts_of_layers, trace_layers


def node(op, name, inputs, output):
    return helper.make_node(op, inputs, [output], name=name)


GRAPH = helper.make_graph(
    [
        node("Conv", "c1", ["x", "w1"], "v1"),
        node("Relu", "r1", ["v1"], "v2"),
        node("Gather", "w2.gather", ["v2", "i"], "v3"),
        node("Conv", "c2", ["v3", "w2"], "v4"),
        node("Conv", "c3", ["v2", "w3"], "v5"),
        node("Add", "a", ["v4", "v5"], "v6"),
        node("Relu", "r2", ["v6"], "v7"),
        node("MatMul", "m", ["v7", "w4"], "v8"),
    ],
    "test",
    [],
    [],
)
LAYERS = [("c1",), ("c2", "w2.gather"), ("c3",), ("m",)]


def run(name, op, *origins, reads=()):
    return RunNode(name, op, frozenset({name, *origins}), tuple(reads))


UNFUSED = [run(item.name, item.op_type, *item.output) for item in GRAPH.node]


def test_a_runtime_that_fuses_nothing():
    parts = parts_of_layers(trace_layers(GRAPH, LAYERS), len(LAYERS), UNFUSED)
    assert parts == [["c1"], ["w2.gather", "c2"], ["c3"], ["m"], ["r1", "a", "r2"]]


def test_fused_nodes_are_found_by_the_last_value_that_they_compute():
    """c2 takes in the addition and the activation; c3 stays; the blocked c1 is named anew."""
    ran = [
        run("v2_nchwc", "Conv", "v2"),
        run("back", "ReorderOutput", "v2", reads=["v2_nchwc"]),
        run("w2.gather", "Gather", "v3", reads=["back"]),
        run("in", "ReorderInput", reads=["w2.gather"]),
        run("c3", "Conv", "v5", reads=["v2_nchwc"]),
        run("v7_nchwc", "Conv", "v7", reads=["in", "c3"]),
        run("out", "ReorderOutput", "v7", reads=["v7_nchwc"]),
        run("m", "MatMul", "v8", reads=["out"]),
    ]
    parts = parts_of_layers(trace_layers(GRAPH, LAYERS), len(LAYERS), ran)
    assert parts == [
        ["v2_nchwc"],
        ["back", "w2.gather", "in", "v7_nchwc"],
        ["c3"],
        ["out", "m"],
        [],
    ]


def test_reorderings_for_several_layers_are_nobodys():
    ran = [*UNFUSED[:1], run("re", "Reorder"), *UNFUSED[1:]]
    ran[4] = run("c2", "Conv", "v4", reads=["re"])
    ran[5] = run("c3", "Conv", "v5", reads=["re"])
    parts = parts_of_layers(trace_layers(GRAPH, LAYERS), len(LAYERS), ran)
    assert parts[-1] == ["re", "r1", "a", "r2"]


@pytest.mark.parametrize("missing", ["c1", "m"])
def test_layers_that_the_runtime_made_part_of_others_have_no_nodes(missing):
    ran = [item for item in UNFUSED if item.name != missing]
    parts = parts_of_layers(trace_layers(GRAPH, LAYERS), len(LAYERS), ran)
    assert parts[[layer[0] for layer in LAYERS].index(missing)] == []
    assert sum(map(len, parts)) == len(ran)
