import zlib
from dataclasses import replace

import numpy as np
import onnx
import pytest
from networks import TinyNetwork, tiny_inputs, tiny_network, tiny_plan

from spartan_planner.errors import ModelError, UsageError
from spartan_planner.export import Form, export_onnx, prune_one_shot
from spartan_planner.export_metadata import ExportMetadata
from spartan_planner.onnx_sessions import Session
from spartan_planner.planning import PlanBudget, PlanMeasurement, PlanProfile
from spartan_planner.runtimes import load_runtime
from spartan_planner.verification import VerifySettings, run_batch, verify
from spartan_planner.verification.judging import device_notes, judge
from spartan_planner.verification.measuring import _num_threads
from spartan_planner.verification.results import REST

MAX_ABS_ERROR = 1e-4
"""Outputs are of order one; float32 sums of a few thousand terms in another order."""

QUICK = VerifySettings(num_rounds=5)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    model = tiny_network()
    plan = tiny_plan(model)
    export_onnx(model, None, tiny_inputs(), folder / "dense.onnx")
    prune_one_shot(model, plan)
    export_onnx(model, plan, tiny_inputs(), folder / "sparse.onnx")
    export_onnx(model, plan, tiny_inputs(), folder / "masked.onnx", form=Form.MASKED)
    return folder, plan


def test_sparse_and_dense_are_timed(files):
    folder, plan = files
    rounds = []
    result = verify(
        folder / "sparse.onnx",
        dense=folder / "dense.onnx",
        plan=plan,
        settings=QUICK,
        advance=rounds.append,
    )
    low, high = result.speedup.ci95
    assert low <= result.speedup.measured <= high
    assert result.sparse_ms > 0
    assert result.dense_ms > 0
    assert (len(rounds), result.num_rounds) == (5, 5)
    # The plan promised FLOPs, not milliseconds, so there is nothing to miss.
    assert result.ok is None
    assert result.asked_ms is None


def test_json_has_the_documented_keys(files):
    folder, _ = files
    figures = verify(folder / "sparse.onnx", dense=folder / "dense.onnx", settings=QUICK).to_json()
    assert set(figures) == {
        *("latency_ms", "speedup", "max_abs_error", "size", "nodes", "device_speed_ratio"),
        *("num_rounds", "num_threads", "runtime", "ok", "notes"),
    }
    assert set(figures["latency_ms"]) == {"dense", "sparse", "asked", "predicted"}
    assert set(figures["speedup"]) == {"measured", "ci95", "predicted"}
    assert figures["ok"] is None


def test_a_dense_file_alone_is_timed(files):
    result = verify(files[0] / "dense.onnx", settings=QUICK)
    assert result.speedup is None
    assert result.device_speed_ratio == 1


def test_files_of_the_same_weights_are_compared(files):
    folder, plan = files
    for runtime in ("onnxruntime", "openvino"):
        settings = VerifySettings(num_rounds=5, runtime=runtime, is_detailed=False)
        masked = folder / "masked.onnx"
        result = verify(folder / "sparse.onnx", plan, dense=masked, settings=settings)
        assert 0 <= result.max_abs_error <= MAX_ABS_ERROR
        assert result.ok is None
        assert result.runtime.startswith(f"{runtime} ")


def test_files_of_other_weights_are_not_compared(files):
    result = verify(files[0] / "sparse.onnx", dense=files[0] / "dense.onnx", settings=QUICK)
    assert result.max_abs_error is None
    assert any("the two files hold other weights" in note for note in result.notes)


def test_a_file_that_computes_something_else_is_a_missed_promise(files, tmp_path):
    """Its metadata still claim the weights that it was exported from."""
    model = onnx.load(files[0] / "masked.onnx")
    (bias,) = (item for item in model.graph.initializer if item.name == "classifier.bias")
    changed = onnx.numpy_helper.to_array(bias) + np.float32(0.1)
    bias.CopyFrom(onnx.numpy_helper.from_array(changed, bias.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    result = verify(files[0] / "sparse.onnx", dense=tmp_path / "wrong.onnx", settings=QUICK)
    assert result.ok is False
    assert result.max_abs_error == pytest.approx(0.1, rel=1e-3)
    assert any("not rounding" in note for note in result.notes)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_layer_and_the_rest_are_timed_inside_the_whole(files, runtime):
    folder, plan = files
    settings = VerifySettings(num_rounds=5, runtime=runtime)
    result = verify(folder / "sparse.onnx", settings=settings)
    assert [item.name for item in result.layers] == [*(item.name for item in plan.layers), REST]
    assert all(item.measured_ms > 0 for item in result.layers)
    # The plan was made without a device.
    assert {item.ok for item in result.layers} == {None}


def test_sizes_are_those_on_disk(files):
    folder, _ = files
    paths = {"dense": folder / "dense.onnx", "sparse": folder / "sparse.onnx"}
    result = verify(paths["sparse"], dense=paths["dense"], settings=QUICK)
    for name, size in (("dense", result.dense_size), ("sparse", result.sparse_size)):
        content = paths[name].read_bytes()
        assert size.num_bytes == len(content)
        assert size.num_compressed_bytes == len(zlib.compress(content))


def test_a_plan_of_another_model_is_refused(files):
    other = tiny_plan(TinyNetwork(96))
    for name in ("sparse.onnx", "dense.onnx"):
        with pytest.raises(UsageError, match="give the plan that it was exported with"):
            verify(files[0] / name, plan=other, settings=QUICK)


@pytest.mark.parametrize("content", [None, b"", b"no model", b"\x00" * 64])
def test_files_that_are_no_models(tmp_path, content):
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx"):
        verify(path, settings=QUICK)


@pytest.mark.parametrize(
    "options", [{"num_rounds": 4}, {"num_threads": 0}, {"tolerance": -0.1}, {"runtime": "torch"}]
)
def test_settings_that_prove_nothing_are_refused(options):
    with pytest.raises(UsageError):
        VerifySettings(**options)


def test_a_batch_runs_through_a_file(files):
    outputs = run_batch(files[0] / "dense.onnx", np.zeros((3, 1, 8, 8), np.float32))
    assert outputs.shape == (3, 10)


def test_files_are_timed_at_the_shapes_that_they_were_exported_for(tmp_path, monkeypatch):
    seen = []
    run = Session.run

    def watched(session):
        seen.append([array.shape for array in session.inputs.values()])
        return run(session)

    monkeypatch.setattr(Session, "run", watched)
    export_onnx(tiny_network(), None, tiny_inputs(batch=3), tmp_path / "three.onnx")
    verify(tmp_path / "three.onnx", settings=QUICK)
    assert [(3, 1, 8, 8)] in seen
    assert [(1, 1, 8, 8)] not in seen


def test_a_stricter_plan_for_the_same_model_is_refused(files):
    folder, _ = files
    with pytest.raises(UsageError, match="give the plan that it was exported with"):
        verify(folder / "sparse.onnx", tiny_plan(tiny_network(), "30%"), settings=QUICK)


def test_a_dense_file_of_another_model_is_refused(files, tmp_path):
    export_onnx(TinyNetwork(96), None, tiny_inputs(), tmp_path / "other.onnx")
    with pytest.raises(UsageError, match="exported from another model"):
        verify(files[0] / "sparse.onnx", dense=tmp_path / "other.onnx", settings=QUICK)


MEASURED = PlanMeasurement("no such processor", "onnxruntime 0", 2, 1.0)
PROFILE = PlanProfile("box", "0" * 64, MEASURED)


def metadata_with(asked, is_relative):
    cost = PlanBudget("latency", "ms", 10.0, asked, 4.0, 0.0, is_relative)
    return ExportMetadata("m", "f", "lowered", 0.5, {}, (cost,), PROFILE)


@pytest.mark.parametrize(
    ("is_relative", "sparse_ms", "ok"),
    [(True, 8.0, True), (True, 12.0, False), (False, 5.0, True), (False, 8.0, False)],
)
def test_shares_move_with_the_device_and_deadlines_do_not(is_relative, sparse_ms, ok):
    """The yardstick takes 2 ms where it took 1 ms: the device is at half its speed."""
    times = np.array([[2.0, sparse_ms, 20.0]] * 5)
    result = judge(times, metadata_with(5.0, is_relative), 0.1, "onnxruntime")
    assert result.ratio == 2.0
    assert result.asked_ms == (10.0 if is_relative else 5.0)
    assert result.predicted_ms == 8.0
    assert result.ok is ok


def test_another_processor_and_another_version_are_told():
    notes = device_notes(MEASURED, load_runtime())
    assert any("the profile is of another processor (no such processor" in note for note in notes)
    assert any("the profile is of onnxruntime 0; this is onnxruntime" in note for note in notes)
    assert device_notes(None, load_runtime()) == ()


def test_a_promise_for_another_runtime_is_not_judged():
    """Its yardstick ran on that runtime: the times of the two do not compare."""
    profile = replace(PROFILE, measurement=replace(MEASURED, runtime="openvino 2026"))
    metadata = replace(metadata_with(5.0, True), profile=profile)
    times = np.array([[2.0, 8.0, 20.0]] * 5)
    result = judge(times, metadata, 0.1, "onnxruntime")
    assert (result.ratio, result.asked_ms, result.predicted_ms, result.ok) == (None,) * 4
    assert judge(times, metadata, 0.1, "openvino").ratio == 2.0


def test_another_number_of_threads_than_profiled_is_refused():
    with pytest.raises(UsageError, match=r"promise is for 2 thread\(s\), 1 were asked for"):
        _num_threads(VerifySettings(num_threads=1), metadata_with(5.0, True))
