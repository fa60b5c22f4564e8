"""Transposes that cancel: the reference evaluator computes the same from fewer of them."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from builders import onnx_model
from onnx import helper
from onnx.reference import ReferenceEvaluator

from spartan_planner.lowering.transposes import cancel_transposes

FLOAT32_ROUNDING = 1e-6
"""Absolute: the same operations on the same figures, in another order of elements."""

node = helper.make_node
SWAP = {"perm": [0, 2, 1]}


def swap(source, output):
    return node("Transpose", [source], [output], **SWAP)


CASES = {
    "two in a row": ([swap("x", "a"), swap("a", "b"), node("Neg", ["b"], ["y"])], 0),
    "around an activation": ([swap("x", "a"), node("Erf", ["a"], ["b"]), swap("b", "y")], 2),
    "around a scale per feature": (
        [
            swap("x", "a"),
            node("Mul", ["a", "c4"], ["b"]),
            swap("b", "d"),
            node("Neg", ["d"], ["y"]),
        ],
        0,
    ),
    "around a sum of two": (
        [
            *(swap("x", "a"), node("Sigmoid", ["a"], ["b"]), node("Mul", ["b", "a"], ["c"])),
            *(swap("c", "d"), node("Neg", ["d"], ["y"])),
        ],
        0,
    ),
    "of several orders": (
        [
            node("Transpose", ["x"], ["a"], perm=[2, 0, 1]),
            node("Transpose", ["a"], ["b"], perm=[1, 0, 2]),
            node("Neg", ["b"], ["y"]),
        ],
        1,
    ),
    "shared": (
        [
            *(swap("x", "a"), swap("x", "b"), node("MatMul", ["a", "x"], ["c"])),
            *(node("MatMul", ["b", "x"], ["d"]), node("Add", ["c", "d"], ["y"])),
        ],
        1,
    ),
    "before a softmax they stay": ([swap("x", "a"), node("Softmax", ["a"], ["y"])], 1),
}


@pytest.mark.parametrize(("nodes", "num_left"), CASES.values(), ids=CASES)
def test_same_outputs_from_fewer_transposes(nodes, num_left):
    constants = {"c4": np.arange(4, dtype=np.float32)}
    model = onnx_model(nodes, constants, {"x": (2, 4, 5)}, ["y"])
    if "c4" not in str([item.input for item in model.graph.node]):
        del model.graph.initializer[:]
    graph = ir.from_proto(model)
    removed = cancel_transposes(graph.graph)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    num_before = sum(item.op_type == "Transpose" for item in nodes)
    assert sum(item.op_type == "Transpose" for item in after.graph.node) == num_left
    assert removed == num_before - num_left
    x = np.random.default_rng(0).standard_normal((2, 4, 5), np.float32)
    (expected,), (seen,) = (ReferenceEvaluator(item).run(None, {"x": x}) for item in (model, after))
    np.testing.assert_allclose(seen, expected, rtol=0, atol=FLOAT32_ROUNDING)
