"""Runs of the profiler: they end when certain, go on when interrupted, and know the whole model."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from builders import conv_node, conv_shape, linear_shape, onnx_model, small_workload, workload_of
from onnx import helper

from cost_models import (
    DeviceProfile,
    LayerWorkload,
    Workload,
    cost_model,
    read_document,
    write_document,
)
from spartan_planner.cli.app import run
from spartan_planner.errors import ProfileError
from spartan_planner.graph_skeleton import graph_text
from spartan_planner.profiling import ProfileSettings, make_profile, write_profile
from spartan_planner.profiling import pinning as pinning_module
from spartan_planner.profiling import profile as profile_module
from spartan_planner.profiling.facts import measure_facts
from spartan_planner.profiling.partial_file import FORMAT
from spartan_planner.profiling.whole_model import whole_model
from spartan_planner.runtimes import RUNTIMES

ROOT = Path(__file__).parents[1]
SETTINGS = ProfileSettings(name="tiny", num_rounds=3, min_rounds=3)
FIVE_DIGITS = 1e-4
"""Relative: profiles keep five significant digits of each figure."""
SIDE = 8


def cnn_workload() -> Workload:
    """A convolution, used twice, pooling and a classifier, with the graph of the whole."""
    generator = np.random.default_rng(0)
    weights = {
        "a": generator.standard_normal((32, 32, 3, 3)).astype(np.float32),
        "head": generator.standard_normal((32, 10)).astype(np.float32),
    }
    nodes = [
        conv_node("a", "x", "c", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        conv_node("a", "r", "d", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["d"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "head"], ["y"]),
    ]
    model = onnx_model(nodes, weights, {"x": ("batch", 32, SIDE, SIDE)}, ["y"])
    head = replace(linear_shape(10, 32), has_bias=False)
    layers = (
        LayerWorkload("a", conv_shape(32, 32, 3, SIDE), SIDE * SIDE, num_uses=2),
        LayerWorkload("head", head, 1),
    )
    graph = graph_text(
        ir.from_proto(model), [(1, 32, SIDE, SIDE)], fingerprint=workload_of().fingerprint
    )
    return replace(workload_of(*layers), graph=graph)


@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if name != "torch"])
def test_layers_and_rest_are_the_whole_model(runtime):
    workload = cnn_workload()
    profile = make_profile(workload, replace(SETTINGS, runtime=runtime))
    timing = profile.model_timing(workload)
    assert timing.model == workload.model
    model = cost_model("latency")
    layers_ms = sum(model.dense_cost(layer, profile) for layer in workload.layers)
    assert layers_ms == pytest.approx(timing.layers_ms, rel=FIVE_DIGITS)
    assert layers_ms + timing.rest_ms == pytest.approx(timing.dense_ms, rel=FIVE_DIGITS)
    assert profile.measurement.runtime.name == runtime
    factors = profile.measurement.provenance.in_situ_factors
    assert set(factors) in ({"conv", "linear"}, {"all"})
    assert all(factor > 0 for factor in factors.values())


def test_whole_model_has_fixed_shapes_and_a_name_per_node():
    import onnx

    graph = onnx.load_from_string(whole_model(cnn_workload())).graph
    sizes = [size.dim_value for size in graph.input[0].type.tensor_type.shape.dim]
    assert sizes == [1, 32, SIDE, SIDE]
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert all(names)


@pytest.mark.parametrize(
    ("workload", "changes", "told"),
    [
        (small_workload(), {}, "holds no graph"),
        (cnn_workload(), {"runtime": "torch"}, "torch runs no ONNX"),
        (cnn_workload(), {"whole_model": False}, None),
    ],
)
def test_layers_can_be_measured_without_the_whole(workload, changes, told):
    sentences = []
    profile = make_profile(workload, replace(SETTINGS, **changes), tell=sentences.append)
    assert profile.models == ()
    assert profile.measurement.provenance.in_situ_factors == {}
    assert len(sentences) == (told is not None)
    assert all(told in sentence for sentence in sentences)
    assert {layer.shape for layer in profile.layers} == set(workload.shape_counts())


def test_rounds_end_when_the_figures_are_certain():
    """With any interval wide enough, the least rounds that bound a median suffice."""
    settings = ProfileSettings(
        num_rounds=10_000, min_rounds=12, max_half_width=1e9, max_pass_s=0.001, max_duration_s=300
    )
    workload = workload_of(LayerWorkload("a", linear_shape(3, 5), 1))
    told = []
    profile = make_profile(workload, settings, told.append)
    provenance = profile.measurement.provenance
    assert 12 <= provenance.num_rounds == len(told) < 100
    assert 0 <= provenance.widest_half_width < np.inf
    assert any("figures within" in state for state in told)


def test_too_few_rounds_for_an_interval_are_admitted():
    profile = make_profile(workload_of(LayerWorkload("a", linear_shape(3, 5), 1)), SETTINGS)
    assert profile.measurement.provenance.widest_half_width is None


INTERRUPTED = """
import sys
from pathlib import Path
from cost_models import Workload, read_document
from spartan_planner.profiling import ProfileSettings, write_profile
settings = ProfileSettings(num_rounds=100_000, min_rounds=100_000, max_pass_s=0.001)
write_profile(read_document(Path("w.yaml"), Workload, "workload"), Path("p.yaml"), settings)
"""


@pytest.fixture
def interrupted(tmp_path) -> Path:
    """A folder in which a run was killed once it had kept some rounds."""
    write_document(tmp_path / "w.yaml", cnn_workload())
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 120
    while _num_lines(tmp_path / "p.yaml.partial") < 6 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return tmp_path


def _num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_an_interrupted_run_goes_on_where_it_was(interrupted):
    partial = interrupted / "p.yaml.partial"
    header, *lines = [json.loads(line) for line in partial.read_bytes().split(b"\n")[:-1]]
    assert header["format"] == FORMAT
    # Rounds that nothing could mistake for measured ones: the first figures must be used.
    for line in lines:
        line["times_ms"] = [1e6 + place for place in range(len(line["times_ms"]))]
    partial.write_text("".join(json.dumps(item) + "\n" for item in [header, *lines]))
    settings = ProfileSettings(num_rounds=len(lines) + 1, min_rounds=len(lines) + 1)
    sentences = []
    profile = write_profile(cnn_workload(), interrupted / "p.yaml", settings, tell=sentences.append)
    # The made-up layers take more than the made-up whole, which is told as well.
    assert sentences[0] == f"going on from {len(lines)} rounds of an earlier run"
    assert all("leaves too little" in sentence for sentence in sentences[1:])
    assert profile.measurement.provenance.num_rounds == len(lines) + 1
    assert profile.model_timing(cnn_workload()).dense_ms > 1e4
    assert not partial.exists()
    assert read_document(interrupted / "p.yaml", DeviceProfile, "profile") == profile


def test_rounds_of_another_workload_are_refused(interrupted):
    message = r"p\.yaml\.partial holds rounds of another workload \(of model 'small'\); delete it"
    with pytest.raises(ProfileError, match=message):
        write_profile(small_workload(), interrupted / "p.yaml", SETTINGS)
    assert (interrupted / "p.yaml.partial").exists()
    assert not (interrupted / "p.yaml").exists()


def test_a_finished_run_leaves_the_profile_alone(tmp_path):
    write_profile(workload_of(LayerWorkload("a", linear_shape(), 1)), tmp_path / "p.yaml", SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["p.yaml"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_profiles_of_every_runtime(runtime):
    profile = make_profile(small_workload(), replace(SETTINGS, runtime=runtime))
    assert {layer.shape for layer in profile.layers} == set(small_workload().shape_counts())
    assert profile.measurement.runtime.name == runtime
    assert profile.run_overhead_ms > 0
    assert runtime in profile.measurement.provenance.versions
    assert "ONNX Runtime" in profile.facts.bandwidth_gb_per_s.reference


needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system cannot pin a process"
)


@needs_affinity
def test_a_pinned_run_says_which_cores_and_measures_facts_on_them(monkeypatch):
    before = os.sched_getaffinity(0)
    workload = workload_of(LayerWorkload("a", linear_shape(), 1))
    seen = []

    def measure(num_threads):
        seen.append(os.sched_getaffinity(0))
        return measure_facts(num_threads)

    monkeypatch.setattr(profile_module, "measure_facts", measure)
    profile = make_profile(workload, replace(SETTINGS, is_pinned=True))
    assert profile.measurement.provenance.pinned_cores == (min(before),)
    assert os.sched_getaffinity(0) == before
    assert seen == [{min(before)}]


@needs_affinity
def test_more_threads_than_cores_cannot_be_pinned():
    with (
        pytest.raises(ProfileError, match=r"1000 threads cannot be pinned: .* ask for fewer"),
        pinning_module.pinned(1000),
    ):
        pass


def test_where_the_system_cannot_pin_that_is_said(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(ProfileError, match="leave --pin out"), pinning_module.pinned(1):
        pass


def test_the_command_profiles_an_onnx_file_on_another_runtime(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(whole_model(cnn_workload()))
    command = ["profile", "m.onnx", "-o", "p.yaml", "--rounds", "3", "--runtime", "openvino"]
    assert run([*command, "--json"]) == 0
    profile = read_document(Path("p.yaml"), DeviceProfile, "profile")
    captured = capsys.readouterr()
    assert json.loads(captured.out)["measurement"]["runtime"]["name"] == "openvino"
    assert "too few rounds were run to say how certain" in captured.err
    assert {layer.shape.op for layer in profile.layers} == {"conv2d", "linear"}
    assert len(profile.models) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--runtime", "abacus"), "choose onnxruntime, openvino, torch"),
        (("--provider", "abacus"), "choose .*CPUExecutionProvider"),
    ],
)
def test_the_command_refuses_runtimes_that_are_not_here(tmp_path, capsys, options, message):
    write_document(tmp_path / "w.yaml", small_workload())
    assert run(["profile", str(tmp_path / "w.yaml"), "-o", str(tmp_path / "p"), *options]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not (tmp_path / "p").exists()


def test_the_command_tells_of_the_whole_model_and_of_figures_that_stay_uncertain(tmp_path, capsys):
    """No two rounds are alike to the last digit, so an interval of no width is never reached."""
    write_document(tmp_path / "w.yaml", cnn_workload())
    command = ["profile", str(tmp_path / "w.yaml"), "-o", str(tmp_path / "p"), "--half-width", "0"]
    assert run([*command, "--rounds", "14"]) == 0
    captured = capsys.readouterr()
    assert "small as a whole: " in captured.out
    assert re.search(r"some figures are certain to \S+% only, 0.0% were asked for", captured.err)
