"""Weights stored as their non-zero elements."""

import numpy as np
import onnx
import pytest
from builders import conv_node, onnx_model

from spartan_planner.export.sparse_initializers import store_sparse
from spartan_planner.onnx_sessions import open_session

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((1, 8, 4, 4), np.float32)


def weight_of(num_nonzero, dtype=np.float32):
    weight = np.zeros(16 * 8, dtype)
    weight[RNG.permutation(weight.size)[:num_nonzero]] = RNG.standard_normal(num_nonzero) + 3
    return weight.reshape(16, 8, 1, 1)


def model_with(weight):
    return onnx_model([conv_node()], {"w": weight}, {"x": (1, 8, 4, 4)}, ["y"])


@pytest.mark.parametrize("num_nonzero", [0, 1, 20, 42])
def test_a_runtime_computes_the_same(num_nonzero):
    weight = weight_of(num_nonzero)
    model = model_with(weight)
    (expected,) = open_session(model.SerializeToString(), {"x": IMAGE}).run()
    # 4 bytes of each element against 4 + 8 of each one kept.
    assert store_sparse(model) == 4 * 128 - 12 * max(1, num_nonzero)
    onnx.checker.check_model(model)
    assert not model.graph.initializer
    (actual,) = open_session(model.SerializeToString(), {"x": IMAGE}).run()
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("num_nonzero", [43, 128])
def test_what_would_be_larger_stays_dense(num_nonzero):
    model = model_with(weight_of(num_nonzero))
    before = model.SerializeToString()
    assert store_sparse(model) == 0
    assert model.SerializeToString() == before


@pytest.mark.parametrize("shape", [(), (0,), (0, 3)])
def test_numbers_and_empty_tensors_stay_as_they_are(shape):
    model = model_with(weight_of(128))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(shape, np.float32), "n"))
    assert store_sparse(model) == 0


def test_integers_stay_as_they_are():
    weight = weight_of(1)
    model = model_with(weight)
    indices = onnx.numpy_helper.from_array(np.zeros(100, np.int64), "i")
    model.graph.initializer.append(indices)
    store_sparse(model)
    assert [item.name for item in model.graph.initializer] == ["i"]
