import numpy as np
import pytest
from networks import TinyNetwork, tiny_inputs, tiny_network, tiny_plan

from spartan_planner.errors import ModelError, UsageError
from spartan_planner.export import export_onnx, prune_one_shot
from spartan_planner.verification import VerifySettings, run_batch, verify

QUICK = VerifySettings(num_rounds=5)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    model = tiny_network()
    plan = tiny_plan(model)
    export_onnx(model, None, tiny_inputs(), folder / "dense.onnx")
    prune_one_shot(model, plan)
    export_onnx(model, plan, tiny_inputs(), folder / "sparse.onnx")
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
    assert set(figures["latency_ms"]) == {"dense", "sparse", "asked", "predicted"}
    assert set(figures["speedup"]) == {"measured", "ci95", "predicted"}
    assert figures["ok"] is None


def test_a_dense_file_alone_is_timed(files):
    result = verify(files[0] / "dense.onnx", settings=QUICK)
    assert result.speedup is None
    assert result.device_speed_ratio == 1


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


@pytest.mark.parametrize("options", [{"num_rounds": 4}, {"num_threads": 0}, {"tolerance": -0.1}])
def test_settings_that_prove_nothing_are_refused(options):
    with pytest.raises(UsageError):
        VerifySettings(**options)


def test_a_batch_runs_through_a_file(files):
    outputs = run_batch(files[0] / "dense.onnx", np.zeros((3, 1, 8, 8), np.float32))
    assert outputs.shape == (3, 10)
