"""ONNX Runtime sessions: inputs are made up, what cannot be loaded is refused."""

import numpy as np
import pytest
from builders import conv_node, onnx_model
from onnx import TensorProto, helper

from spartan_planner.errors import ModelError
from spartan_planner.onnx_sessions import open_session, session_options


def identity_model(kind: int, shape) -> bytes:
    value = helper.make_tensor_value_info("x", kind, shape)
    output = helper.make_tensor_value_info("y", kind, shape)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [output])
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT, np.float32),
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.INT64, np.int64),
        (TensorProto.INT32, np.int32),
        (TensorProto.BOOL, np.bool_),
    ],
)
def test_inputs_are_made_up_with_dynamic_sizes_of_one(kind, dtype):
    session = open_session(identity_model(kind, ["batch", 3, None]))
    (output,) = session.run()
    assert (output.dtype, output.shape) == (dtype, (1, 3, 1))
    np.testing.assert_array_equal(output, session.inputs["x"])


def test_made_up_inputs_are_the_same_every_time():
    model = identity_model(TensorProto.FLOAT, [4])
    np.testing.assert_array_equal(open_session(model).inputs["x"], open_session(model).inputs["x"])


def test_given_inputs_are_used(tmp_path):
    path = tmp_path / "a.onnx"
    weight = np.full((2, 1, 1, 1), 2, np.float32)
    model = onnx_model([conv_node()], {"w": weight}, {"x": (1, 1, 1, 1)}, ["y"])
    path.write_bytes(model.SerializeToString())
    session = open_session(path, {"x": np.full((1, 1, 1, 1), 3, np.float32)}, session_options(2))
    assert session.run()[0].tolist() == [[[[6.0]], [[6.0]]]]
    assert session.time_ms() > 0
    assert session.burst_ms() > 0


def test_input_that_cannot_be_made_up_is_refused():
    with pytest.raises(ModelError, match=r"input x of type tensor\(string\) cannot be made up"):
        open_session(identity_model(TensorProto.STRING, [1]))


def test_what_cannot_be_loaded_is_refused_by_name(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"cannot load .*a\.onnx: "):
        open_session(path)
    with pytest.raises(ModelError, match="cannot load a generated model"):
        open_session(b"nonsense")
