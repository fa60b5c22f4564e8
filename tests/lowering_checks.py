"""Graphs lowered and held against an independent evaluator, for several test files."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx.reference import ReferenceEvaluator

from spartan_planner.lowering.any_model import lower_model

FLOAT32_ROUNDING = 2e-4
"""Absolute, for sums of a few hundred float32 products of figures near 1 through three layers."""


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    graph = model.graph
    return {
        item.name: tuple(size.dim_value for size in item.type.tensor_type.shape.dim)
        for item in (*graph.input, *graph.value_info, *graph.output)
    }


def lowered(model: onnx.ModelProto, **options):
    graph = ir.from_proto(model)
    report = lower_model(graph, shapes_of(model), **options)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    return after, report


def require_equal(before: onnx.ModelProto, after: onnx.ModelProto, shape) -> None:
    x = np.random.default_rng(7).standard_normal(shape, np.float32)
    (expected,) = ReferenceEvaluator(before).run(None, {"x": x})
    session = onnxruntime.InferenceSession(
        after.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert [item.name for item in session.get_outputs()] == ["y"]
    (seen,) = session.run(None, {"x": x})
    np.testing.assert_allclose(seen, expected, rtol=0, atol=FLOAT32_ROUNDING)
