"""Lowering of graphs that nobody planned: same outputs, fewer multiply-adds, dead channels gone."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import pytest
from builders import conv_node, onnx_model, profile_of, timing_of
from lowering_checks import lowered, require_equal, shapes_of
from onnx import helper

from spartan_planner.lowering.choice import choose
from spartan_planner.lowering.forms import DENSE, candidates
from spartan_planner.lowering.measuring import Stopwatch
from spartan_planner.lowering.weight_nodes import find_weight_nodes

node = helper.make_node


def masked(*shape, group=64, density=0.12, seed=0) -> np.ndarray:
    """A weight ``[out, in, *kernel]`` whose groups of outputs read inputs of their own."""
    random = np.random.default_rng(seed)
    weight = random.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[1]))
    for start in range(0, shape[0], group):
        unread = random.permutation(shape[1])[max(1, round(density * shape[1])) :]
        weight[start : start + group, unread] = 0
    return weight


def without(weight: np.ndarray, outputs=(), inputs=()) -> np.ndarray:
    weight = weight.copy()
    weight[list(outputs)] = 0
    weight[:, list(inputs)] = 0
    return weight


def dense(*shape, seed=0) -> np.ndarray:
    return masked(*shape, density=1.0, seed=seed)


def ramp(length: int) -> np.ndarray:
    return np.linspace(-1, 1, length, dtype=np.float32)


@dataclass(frozen=True)
class Case:
    """A graph and the forms that its layers are expected to get, by weight."""

    nodes: list
    constants: dict
    shape: tuple
    forms: dict
    ops: tuple = ()
    removed: int = 0


HALF = range(0, 256, 2)
MANY = range(0, 256, 4)

CASES = {
    "matmul on a sequence": Case(
        [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])],
        {"w": masked(1024, 512, group=128).T, "b": ramp(1024)},
        (1, 128, 512),
        {"w": "groups of 128"},
        ("Transpose", "Gather", "Conv", "Transpose"),
    ),
    "no bias, and the product leaves the graph": Case(
        [node("MatMul", ["x", "w"], ["y"])],
        {"w": masked(1024, 512, group=128).T},
        (2, 128, 512),
        {"w": "groups of 128"},
        ("Transpose", "Gather", "Conv", "Transpose"),
    ),
    "weight behind a transpose": Case(
        [
            node("Transpose", ["w"], ["wt"], perm=[1, 0]),
            node("MatMul", ["x", "wt"], ["m"]),
            node("Add", ["b", "m"], ["y"]),
        ],
        {"w": masked(1024, 512, group=128), "b": ramp(1024)},
        (1, 128, 512),
        {"w": "groups of 128"},
        ("Transpose", "Gather", "Conv", "Transpose"),
    ),
    "gemm over rows, scaled": Case(
        [node("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=2.0, transB=1)],
        {"w": masked(1024, 512, group=128), "b": ramp(1024)},
        (128, 512),
        {"w": "groups of 128"},
        ("Unsqueeze", "Transpose", "Gather", "Conv", "Transpose", "Squeeze"),
    ),
    "rows first, samples second: the transpose before is taken in": Case(
        [
            node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            node("MatMul", ["t", "w"], ["y"]),
        ],
        {"w": masked(1024, 512, group=128).T},
        (2, 128, 512),
        {"w": "groups of 128"},
        ("Transpose", "Gather", "Conv", "Transpose"),
    ),
    "product on a grid, such as a Swin transformer's": Case(
        [
            node("MatMul", ["x", "w1"], ["m1"]),
            node("Add", ["m1", "b1"], ["a1"]),
            node("Gelu", ["a1"], ["g"]),
            node("Mul", ["g", "scale"], ["h"]),
            node("MatMul", ["h", "w2"], ["y"]),
        ],
        {
            "w1": masked(1000, 512, group=128).T,
            "b1": ramp(1000),
            "scale": ramp(1000),
            "w2": masked(1024, 1000, seed=1).T,
        },
        (2, 14, 7, 512),
        {"w1": "groups of 128", "w2": "groups of 64"},
        ("Transpose", "Gather", "Conv", "Slice", "Gelu", "Mul", "Gather", "Conv", "Transpose"),
    ),
    "product on few places of a volume": Case(
        [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])],
        {"w": masked(4096, 2048, group=1024, density=0.05).T, "b": ramp(4096)},
        (1, 2, 1, 2, 2048),
        {"w": "groups of 256"},
        ("Gather", "MatMul", "Reshape", "Add"),
    ),
    "weight stored inputs first, rows behind a reshape, as in GPT-2": Case(
        [
            node("Reshape", ["x", "rows"], ["r"], allowzero=1),
            node("Gemm", ["r", "w", "b"], ["g"]),
            node("Reshape", ["g", "back"], ["y"], allowzero=1),
        ],
        {
            "rows": np.array([-1, 512]),
            "back": np.array([2, 64, 1024]),
            "w": masked(1024, 512, group=128).T,
            "b": ramp(1024),
        },
        (2, 64, 512),
        {"w": "groups of 128"},
        (
            *("Reshape", "Unsqueeze", "Transpose", "Gather", "Conv", "Transpose", "Squeeze"),
            "Reshape",
        ),
    ),
    "gemm of one row": Case(
        [node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        {"w": masked(4096, 2048, group=1024, density=0.05), "b": ramp(4096)},
        (1, 2048),
        {"w": "groups of 256"},
        ("Gather", "MatMul", "Reshape", "Add"),
    ),
    "two layers stay features-major": Case(
        [
            node("MatMul", ["x", "w1"], ["m1"]),
            node("Add", ["m1", "b1"], ["a1"]),
            node("Gelu", ["a1"], ["g"]),
            node("Mul", ["g", "scale"], ["h"]),
            node("MatMul", ["h", "w2"], ["y"]),
        ],
        {
            "w1": masked(1024, 512, group=128).T,
            "b1": ramp(1024),
            "scale": ramp(1024),
            "w2": masked(1024, 1024, seed=1).T,
        },
        (2, 128, 512),
        {"w1": "groups of 128", "w2": "groups of 64"},
        ("Transpose", "Gather", "Conv", "Gelu", "Mul", "Gather", "Conv", "Transpose"),
    ),
    "convolution in groups": Case(
        [conv_node(bias="b", pads=[1, 1, 1, 1])],
        {"w": masked(256, 256, 3, 3), "b": ramp(256)},
        (1, 256, 8, 8),
        {"w": "groups of 64"},
        ("Gather", "Conv"),
    ),
    "convolutions with nothing between them": Case(
        [conv_node("w1", "x", "h"), conv_node("w2", "h", "y")],
        {"w1": masked(256, 256, 3, 3), "w2": masked(1024, 256, 1, 1, density=0.2, seed=1)},
        (1, 256, 12, 12),
        {"w1": "groups of 64", "w2": "groups of 64"},
        ("Gather", "Conv", "Gather", "Conv"),
    ),
    "inputs that nobody reads": Case(
        [conv_node(pads=[1, 1, 1, 1])],
        {"w": without(dense(64, 256, 3, 3), inputs=HALF)},
        (1, 256, 8, 8),
        {"w": "inputs dropped"},
        ("Gather", "Conv"),
    ),
    "inputs of a product that nobody reads": Case(
        [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])],
        {"w": without(dense(512, 256), inputs=HALF).T, "b": ramp(512)},
        (1, 64, 256),
        {"w": "inputs dropped"},
        ("Gather", "MatMul", "Add"),
    ),
    "constant outputs of several figures": Case(
        [conv_node(bias="b", pads=[1, 1, 1, 1])],
        {"w": without(dense(256, 256, 3, 3), HALF), "b": np.sign(ramp(256))},
        (1, 256, 8, 8),
        {"w": "outputs dropped"},
        ("Conv", "Pad", "Pad", "Gather"),
    ),
    "dead channels go through normalisation and activation": Case(
        [
            conv_node("w1", "x", "h1"),
            node("BatchNormalization", ["h1", "s", "b", "mean", "var"], ["h2"]),
            node("Relu", ["h2"], ["h3"]),
            conv_node("w2", "h3", "y"),
        ],
        {
            "w1": without(dense(256, 16, 3, 3), HALF),
            "s": ramp(256),
            "b": ramp(256)[::-1],
            "mean": ramp(256),
            "var": ramp(256) + 2,
            "w2": dense(32, 256, 3, 3, seed=1),
        },
        (1, 16, 9, 9),
        {"w1": "dense", "w2": "dense"},
        ("Conv", "BatchNormalization", "Relu", "Conv"),
        removed=128,
    ),
    "dead channels in front of padding: one stays for the border": Case(
        [
            conv_node("w1", "x", "h1", "b1"),
            node("Relu", ["h1"], ["h2"]),
            conv_node("w2", "h2", "y", pads=[1, 1, 1, 1]),
        ],
        {
            "w1": without(dense(256, 16, 3, 3), MANY),
            "b1": ramp(256),
            "w2": dense(32, 256, 3, 3, seed=1),
        },
        (1, 16, 9, 9),
        {"w1": "dense", "w2": "dense"},
        ("Conv", "Relu", "Conv"),
        removed=63,
    ),
    "dead channels through depthwise, pooling and flattening": Case(
        [
            conv_node("w1", "x", "h1"),
            conv_node("d", "h1", "h2", "db", group=256, pads=[1, 1, 1, 1]),
            node("HardSwish", ["h2"], ["h3"]),
            node("GlobalAveragePool", ["h3"], ["h4"]),
            node("Flatten", ["h4"], ["h5"]),
            node("Gemm", ["h5", "w2", "b2"], ["y"], transB=1),
        ],
        {
            "w1": without(dense(256, 16, 1, 1), HALF),
            "d": dense(256, 1, 3, 3),
            "db": ramp(256),
            "w2": dense(10, 256, seed=2),
            "b2": ramp(10),
        },
        (2, 16, 9, 9),
        {"w1": "dense", "w2": "dense"},
        ("Conv", "Conv", "HardSwish", "GlobalAveragePool", "Flatten", "Gemm"),
        removed=128,
    ),
    "outputs that no layer reads, across a residual addition": Case(
        [
            conv_node("w1", "x", "h1"),
            conv_node("w2", "x", "h2"),
            node("Add", ["h1", "h2"], ["h3"]),
            conv_node("w3", "h3", "y"),
        ],
        {
            "w1": dense(256, 16, 1, 1),
            "w2": dense(256, 16, 1, 1, seed=1),
            "w3": without(dense(16, 256, 1, 1, seed=2), inputs=HALF),
        },
        (1, 16, 9, 9),
        {"w1": "dense", "w2": "dense", "w3": "dense"},
        ("Conv", "Conv", "Add", "Conv"),
        removed=256,
    ),
    "a product without a bias takes one in": Case(
        [
            node("MatMul", ["x", "w1"], ["m1"]),
            node("Add", ["m1", "b1"], ["a1"]),
            node("Sigmoid", ["a1"], ["h"]),
            node("MatMul", ["h", "w2"], ["y"]),
        ],
        {
            "w1": without(dense(256, 64), HALF).T,
            "b1": ramp(256),
            "w2": dense(64, 256, seed=1).T,
        },
        (1, 12, 64),
        {"w1": "dense", "w2": "dense"},
        ("MatMul", "Add", "Sigmoid", "MatMul", "Add"),
        removed=128,
    ),
    "channels that leave the graph stay": Case(
        [conv_node("w1", "x", "y", "b")],
        {"w1": without(dense(16, 16, 1, 1), range(4)), "b": ramp(16)},
        (1, 16, 4, 4),
        {"w1": "dense"},
        ("Conv",),
    ),
    "nothing to gain": Case(
        [conv_node()], {"w": dense(64, 64, 3, 3)}, (1, 64, 8, 8), {"w": "dense"}, ("Conv",)
    ),
    "grouped convolutions are left alone": Case(
        [conv_node(group=4)], {"w": masked(256, 64, 3, 3)}, (1, 256, 8, 8), {}, ("Conv",)
    ),
    "nothing kept": Case(
        [conv_node(bias="b")],
        {"w": np.zeros((64, 64, 3, 3), np.float32), "b": ramp(64)},
        (1, 64, 8, 8),
        {"w": "dense"},
        ("Conv",),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_forms_and_outputs(case):
    model = onnx_model(case.nodes, case.constants, {"x": case.shape}, ["y"])
    after, report = lowered(model)
    assert {item.name: item.form for item in report.nodes} == case.forms
    assert tuple(item.op_type for item in after.graph.node) == case.ops
    assert sum(report.removed.num_channels.values()) == case.removed
    require_equal(model, after, case.shape)


@pytest.mark.parametrize("seed", range(6))
def test_random_chains_of_holed_layers_keep_their_outputs(seed):
    random = np.random.default_rng(seed)
    widths = [int(random.integers(20, 90)) for _ in range(4)]
    nodes, constants, value = [], {}, "x"
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        weight = masked(outputs, inputs, 3, 3, group=16, density=random.uniform(0.1, 1), seed=seed)
        gone = random.permutation(outputs)[: int(random.integers(0, outputs))]
        constants[f"w{index}"] = without(weight, gone)
        constants[f"b{index}"] = random.standard_normal(outputs).astype(np.float32)
        pads = [int(random.integers(0, 2))] * 4
        nodes.append(conv_node(f"w{index}", value, f"c{index}", f"b{index}", pads=pads))
        value = f"r{index}"
        nodes.append(node(str(random.choice(["Relu", "Sigmoid"])), [f"c{index}"], [value]))
    nodes.append(node("Identity", [value], ["y"]))
    shape = (1, widths[0], 9, 9)
    model = onnx_model(nodes, constants, {"x": shape}, ["y"])
    require_equal(model, lowered(model)[0], shape)


def layer_of(case: Case):
    model = onnx_model(case.nodes, case.constants, {"x": case.shape}, ["y"])
    shapes = shapes_of(model)
    (layer,) = find_weight_nodes(ir.from_proto(model).graph, shapes)
    return layer, candidates(layer, shapes["y"])


def test_measured_times_decide():
    layer, found = layer_of(CASES["convolution in groups"])
    for slow, dense_ms, expected in ((5.0, 1.0, DENSE), (0.5, 1.0, found[1].form)):
        choice = choose(
            layer,
            found,
            measure=lambda _, forms, slow=slow, dense_ms=dense_ms: [
                dense_ms,
                *[slow + 0.1 * (form != found[1].form) for form in forms[1:]],
            ],
            num_measured=10,
        )
        assert choice.candidate.form == expected
        assert choice.basis == "measured here"


def test_a_profile_that_measured_the_layer_decides():
    layer, found = layer_of(CASES["convolution in groups"])
    (group,) = (item for item in found if item.form.group_size == 64)
    for dense_ms, expected in ((1.0, group.form), (0.1, DENSE)):
        timing = timing_of(layer.shape(), ("tile:64x1@16",), dense_ms=1.0, fixed_ms=0.1)
        profile = profile_of(replace(timing, dense_ms=dense_ms))
        choice = choose(layer, (found[0], group), profile)
        assert choice.candidate.form == expected
        assert choice.basis == "profile"
        assert choice.dense_ms == dense_ms


def test_a_profile_that_did_not_measure_the_layer_estimates_both_forms():
    layer, found = layer_of(CASES["convolution in groups"])
    choice = choose(layer, found, profile_of())
    assert choice.basis == "profile's roofline"
    assert choice.speedup == pytest.approx(choice.dense_ms / choice.best_ms)


def test_stopwatch_measures_each_pattern_once():
    layer, found = layer_of(CASES["matmul on a sequence"])
    measure = Stopwatch()
    forms = [item.form for item in found[:2]]
    times = measure(layer, forms)
    assert len(times) == 2
    assert min(times) > 0
    assert measure(layer, forms) == times
