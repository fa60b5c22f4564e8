"""Every runtime really runs tiny layers: each is found, each form computes what it says."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import conv_node, conv_shape, linear_shape, onnx_model
from onnx import helper
from test_benchmark_network import SHAPES

from cost_models import CostModelError, Layout
from spartan_planner.errors import ModelError, UnknownNameError, UsageError
from spartan_planner.onnx_sessions import open_session
from spartan_planner.runtimes import LAYER_CLASSES, RUNTIMES, LayerSet, layer_class, load_runtime
from spartan_planner.runtimes.benchmark_network import network_of
from spartan_planner.runtimes.node_times import nodes_of_classes
from spartan_planner.runtimes.one_by_one import OneByOne, single_layers
from spartan_planner.runtimes.onnx_runtime import bind

ROOT = Path(__file__).parents[1]
TILE = Layout.parse("tile:32x1@16")
LOWERED = LayerSet(
    (conv_shape(64, 64, 3, 4), conv_shape(32, 32, 1, 4, has_bias=True)), TILE, (1, 2)
)
RUN_ONNX = [name for name in RUNTIMES if name != "torch"]
NUM_BURSTS = 2
FLOAT32_NOISE = 1e-4
"""Sums of 600 float32 products of figures near 1, in another order."""


def small_cnn() -> bytes:
    """Convolution, product with a constant, look-up in a table, product of two activations."""
    generator = np.random.default_rng(0)
    weights = {
        "w": generator.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "fc": generator.standard_normal((8, 5)).astype(np.float32),
        "table": generator.standard_normal((7, 8)).astype(np.float32),
        "row": np.array([3]),
    }
    nodes = [
        conv_node("w", "x", "c"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "fc"], ["y"], name="head"),
        helper.make_node("Softmax", ["f"], ["s"], name="softmax"),
        helper.make_node("Transpose", ["s"], ["t"], name="transpose"),
        helper.make_node("MatMul", ["t", "s"], ["z"], name="product"),
    ]
    return onnx_model(nodes, weights, {"x": (1, 3, 6, 6)}, ["y", "z"]).SerializeToString()


def bursts_of(timer) -> np.ndarray:
    for _ in range(NUM_BURSTS):
        timer.burst()
    return timer.times_ms()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_kind_of_layer_is_timed(runtime):
    layers = LayerSet(tuple(SHAPES.values()))
    times = bursts_of(load_runtime(runtime).time_layers(layers, 1))
    assert times.shape == (NUM_BURSTS, len(SHAPES))
    assert np.all(np.isfinite(times) & (times > 0))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_lowered_layers_are_timed(runtime):
    times = bursts_of(load_runtime(runtime).time_layers(LOWERED, 1))
    assert times.shape == (NUM_BURSTS, 2)
    assert np.all(times > 0)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_layers_are_timed_as_a_whole(runtime):
    session = load_runtime(runtime).open_layers(LOWERED, 1)
    assert session.time_ms() > 0
    assert session.burst_ms() > 0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_says_what_it_is(runtime):
    loaded = load_runtime(runtime)
    assert loaded.name == runtime
    assert loaded.version[0].isdigit()
    assert "cpu" in loaded.provider.lower()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_element_type_that_is_not_measured_is_refused(runtime):
    layers = LayerSet((replace(linear_shape(), dtype="float16"),))
    with pytest.raises(CostModelError, match="only float32 is measured"):
        load_runtime(runtime).time_layers(layers, 1)


@pytest.mark.parametrize("runtime", RUN_ONNX)
def test_classes_of_a_model_are_told_apart(runtime):
    times = bursts_of(load_runtime(runtime).time_classes(small_cnn(), 1))
    assert times.shape == (NUM_BURSTS, len(LAYER_CLASSES))
    conv, linear, embedding = times.T
    assert np.all(conv > 0)
    assert np.all(linear > 0)
    assert np.all(embedding == 0)


@pytest.mark.parametrize("runtime", RUN_ONNX)
def test_runtimes_agree_on_a_model(runtime, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(small_cnn())
    inputs = {"x": np.random.default_rng(1).standard_normal((1, 3, 6, 6)).astype(np.float32)}
    for model in (path, small_cnn()):
        outputs = load_runtime(runtime).open(model, 1, inputs).run()
        expected = open_session(path, inputs).run()
        for seen, wanted in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(seen, wanted, rtol=0, atol=FLOAT32_NOISE)


@pytest.mark.parametrize("runtime", RUN_ONNX)
def test_what_a_runtime_cannot_load_is_refused(runtime):
    loaded = load_runtime(runtime)
    for load in (loaded.open, loaded.time_classes):
        with pytest.raises(ModelError, match="cannot load a generated model"):
            load(b"nonsense", 1)


def test_torch_runs_no_onnx():
    runtime = load_runtime("torch")
    assert not runtime.runs_onnx
    for load in (runtime.open, runtime.time_classes):
        with pytest.raises(ModelError, match="torch runs no ONNX"):
            load(small_cnn(), 1)


def test_torch_computes_the_shapes_that_onnx_does():
    """The operations that torch times have the outputs that the ONNX networks have."""
    for layers in (LayerSet(tuple(SHAPES.values())), LOWERED):
        expected = open_session(network_of(layers).model).run()
        operations = load_runtime("torch").operations(layers)
        assert [tuple(run().shape) for run in operations] == [item.shape for item in expected]


def test_layers_are_timed_one_by_one_where_a_runtime_tells_nothing():
    runtime = load_runtime()
    singles = single_layers(LOWERED)
    assert [item.shapes[0] for item in singles] == list(LOWERED.shapes)
    assert [item.num_kept_blocks for item in singles] == [(1,), (2,)]
    times = bursts_of(OneByOne([runtime.open_layers(item, 1) for item in singles]))
    assert times.shape == (NUM_BURSTS, 2)
    assert np.all(times > 0)


def test_arrays_can_stay_on_the_device():
    bound = bind(open_session(small_cnn()), "cpu")
    assert bound.time_ms() > 0
    assert bound.burst_ms() > 0


def test_only_nodes_with_a_constant_weight_are_layers():
    import onnx

    conv, linear, embedding = nodes_of_classes(onnx.load_from_string(small_cnn()).graph)
    assert (conv, linear, embedding) == (["conv_c"], ["head"], [])


def test_unknown_runtime_names_the_known():
    with pytest.raises(UnknownNameError, match="'tensorrt' is not known; choose onnxruntime, open"):
        load_runtime("tensorrt")


@pytest.mark.parametrize(
    ("runtime", "allowed"),
    [("onnxruntime", "CPUExecutionProvider"), ("openvino", "CPU"), ("torch", "cpu")],
)
def test_unknown_provider_names_the_known(runtime, allowed):
    with pytest.raises(UnknownNameError, match=rf"'abacus' here; choose .*{allowed}"):
        load_runtime(runtime, "abacus")


def test_runtime_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "spartan_planner.runtimes.openvino_runtime", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'spartan-planner\[openvino\]'"):
        load_runtime("openvino")


def test_runtimes_are_imported_when_asked_for():
    code = (
        "import sys, spartan_planner.runtimes as r; r.load_runtime('openvino');"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_a_set_of_layers_must_say_what_it_keeps():
    with pytest.raises(ValueError, match="needs num_kept_blocks"):
        LayerSet((conv_shape(),), TILE)
    with pytest.raises(ValueError, match="needs num_kept_blocks"):
        LayerSet((conv_shape(),), None, (1,))


def test_layers_have_classes():
    kinds = {name: layer_class(shape) for name, shape in SHAPES.items()}
    assert kinds["conv_transpose2d"] == kinds["conv1d"] == "conv"
    assert kinds["linear on tokens"] == "linear"
    assert set(kinds.values()) == set(LAYER_CLASSES)
