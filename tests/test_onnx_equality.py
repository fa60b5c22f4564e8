"""Files compared on random inputs: equal ones pass, unequal ones are told."""

import numpy as np
import pytest
from builders import conv_node, onnx_model
from onnx import TensorProto, helper

from spartan_planner.errors import ExportError
from spartan_planner.lowering.equality import RunShapes, require_same_outputs

RUNS = RunShapes(((1, 4, 6, 6),))


def saved(path, factor=1.0, add=0.0, is_integer=False):
    weight = np.arange(16, dtype=np.float32).reshape(4, 4, 1, 1) * np.float32(factor)
    constants = {"w": weight, "b": np.full(4, add, np.float32)}
    model = onnx_model([conv_node(bias="b")], constants, {"x": (1, 4, 6, 6)}, ["y"])
    if is_integer:
        model.graph.node[0].output[0] = "h"
        model.graph.node.append(helper.make_node("Cast", ["h"], ["y"], to=TensorProto.INT64))
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(("factor", "add"), [(1.01, 0.0), (1.0, 1.0), (1.0, np.nan), (1.0, np.inf)])
def test_another_result_is_refused(tmp_path, factor, add):
    before = saved(tmp_path / "a.onnx")
    after = saved(tmp_path / "b.onnx", factor, add)
    with pytest.raises(ExportError, match="differs by"):
        require_same_outputs(before, after, RUNS)


def test_the_largest_difference_is_returned(tmp_path):
    before, after = saved(tmp_path / "a.onnx"), saved(tmp_path / "b.onnx", 1 + 1e-5)
    assert require_same_outputs(before, before, RUNS) == 0.0
    assert 0 < require_same_outputs(before, after, RUNS) < 1e-2


def test_not_a_number_equals_itself(tmp_path):
    path = saved(tmp_path / "a.onnx", add=np.nan)
    assert require_same_outputs(path, path, RUNS) == 0.0


def test_outputs_of_another_type_are_refused(tmp_path):
    before = saved(tmp_path / "a.onnx")
    after = saved(tmp_path / "b.onnx", is_integer=True)
    with pytest.raises(ExportError, match=r"is int64 .* float32"):
        require_same_outputs(before, after, RUNS)


def test_integers_must_be_the_same(tmp_path):
    before = saved(tmp_path / "a.onnx", 10, is_integer=True)
    assert require_same_outputs(before, before, RUNS) == 0.0
    after = saved(tmp_path / "b.onnx", 10, add=3.0, is_integer=True)
    with pytest.raises(ExportError, match="differs from the given"):
        require_same_outputs(before, after, RUNS)
