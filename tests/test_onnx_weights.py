"""Weights of ONNX files: quantized ones are worth the numbers that they stand for."""

import numpy as np
import onnx
import pytest
from builders import onnx_model
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from spartan_planner.errors import PlanError
from spartan_planner.onnx_workload import workload_of_onnx
from spartan_planner.planning import OnnxWeights, plan_workload

ROUNDING = 1e-6
"""Relative; a sum of float32 products in another order."""
INPUTS, OUTPUTS = 48, 32


def integers(dtype):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return np.random.default_rng(0).integers(low, high, (INPUTS, OUTPUTS)).astype(dtype)


def figures(dtype, count):
    random = np.random.default_rng(1)
    scale = random.uniform(0.001, 0.1, count or ()).astype(np.float32)
    return scale, random.integers(0, 9, count or ()).astype(dtype)


def written(path, dtype, count, **attributes):
    """A float product and a product with a quantized weight ``[in, out]``; the latter's values."""
    scale, zero = figures(dtype, count)
    dequantize = helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], **attributes)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        dequantize,
        helper.make_node("MatMul", ["h", "d"], ["y"]),
    ]
    constants = {
        "w": np.random.default_rng(2).standard_normal((INPUTS, INPUTS), np.float32),
        "q": integers(dtype),
        "scale": scale,
        "zero": zero,
    }
    model = onnx_model(nodes, constants, {"x": (1, 5, INPUTS)}, ["y"])
    onnx.save(model, str(path))
    alone = onnx_model([dequantize], {k: constants[k] for k in ("q", "scale", "zero")}, {}, ["d"])
    return ReferenceEvaluator(alone).run(None, {})[0]


@pytest.mark.parametrize(
    ("dtype", "count", "attributes"),
    [
        (np.int8, 0, {}),
        (np.uint8, 0, {}),
        (np.int8, OUTPUTS, {}),
        (np.int8, OUTPUTS, {"axis": -1}),
        (np.uint8, INPUTS, {"axis": 0}),
    ],
)
def test_a_quantized_weight_is_worth_what_it_stands_for(tmp_path, dtype, count, attributes):
    path = tmp_path / "m.onnx"
    expected = written(path, dtype, count, **attributes)
    workload, weights = workload_of_onnx(path), OnnxWeights.of(path)
    found = weights.values(workload.layer("q"), ())
    assert found.total == pytest.approx(float(np.abs(expected).sum()), rel=ROUNDING)
    made = plan_workload(workload, weights, {"params": "70%"})
    (sparse,) = made.sparse_layers
    assert sparse.name == "w"
    kept = sparse.density * np.abs(weights.values(workload.layer("w"), ()).total)
    assert made.retained_value > found.total / (found.total + kept / sparse.density)


def test_scales_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "m.onnx"
    written(path, np.int8, OUTPUTS)
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if tensor.name in ("scale", "zero"):
            (tensor.dims[0],) = (OUTPUTS - 1,)
            tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // OUTPUTS * (OUTPUTS - 1)]
    onnx.save(model, str(path))
    weights = OnnxWeights.of(path)
    with pytest.raises(PlanError, match=r"scales of the quantized weight 'q' .* do not fit it"):
        weights.values(workload_of_onnx(path).layer("q"), ())


def test_a_quantized_weight_without_its_scale_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    nodes = [helper.make_node("MatMulInteger", ["x", "q"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("x", onnx.TensorProto.INT8, (1, 5, INPUTS))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, None)],
        [numpy_helper.from_array(integers(np.int8), "q")],
    )
    onnx.save(helper.make_model(graph), str(path))
    weights = OnnxWeights.of(path)
    with pytest.raises(PlanError, match="is quantized and no scale is stored beside it"):
        weights.values(workload_of_onnx(path).layer("q"), ())
