"""The whole path, shortened: every step is real, only fewer epochs and rounds."""

import json

import onnx
import pytest
from torch.utils.data import TensorDataset

from cost_models import DeviceProfile, Workload, read_document
from spartan_planner.export_metadata import read_metadata
from spartan_planner.planning import read_plan
from spartan_planner.profiling import ProfileSettings
from spartan_planner.quickstart import QuickstartSettings, Summary, run_quickstart
from spartan_planner.training import DataSplit, TrainingSettings, load_data
from spartan_planner.verification import VerifySettings

SHORT = QuickstartSettings(
    dense_training=TrainingSettings(num_epochs=1),
    sparse_training=TrainingSettings(num_epochs=1),
    profile=ProfileSettings(num_rounds=10),
    verify=VerifySettings(num_rounds=10),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "summary.json").write_text("stale", encoding="utf-8")
    digits = load_data("digits")
    data = DataSplit(TensorDataset(*digits.train[:256]), TensorDataset(*digits.test[:64]))
    return folder, run_quickstart(folder, SHORT, data, quiet=True)


@pytest.mark.end_to_end
def test_the_summary_has_the_documented_shape(finished):
    folder, summary = finished
    written = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert isinstance(summary, Summary)
    assert written == summary.to_json()
    assert set(written["latency_ms"]) == {"dense", "asked", "predicted", "measured"}
    assert set(written["speedup"]) == {"predicted", "measured", "ci95"}
    assert set(written["accuracy"]) == {"dense", "sparse"}
    assert {"density", "max_abs_error"} <= set(written)


@pytest.mark.end_to_end
def test_the_promise_is_consistent_from_plan_to_file(finished):
    folder, summary = finished
    plan = read_plan(folder / "plan.yaml")
    promise = read_metadata(folder / "model.onnx").latency
    assert promise.asked == plan.budget.asked == pytest.approx(plan.budget.dense / 2)
    assert promise.predicted <= promise.asked
    figures = summary.to_json()["latency_ms"]
    assert figures["predicted"] <= figures["asked"]
    assert 0 < summary.density < 1
    assert summary.max_abs_error <= 1e-3


@pytest.mark.end_to_end
def test_every_file_can_be_read_again(finished):
    folder, _ = finished
    workload = read_document(folder / "workload.yaml", Workload, "workload")
    profile = read_document(folder / "profile.yaml", DeviceProfile, "profile")
    assert {layer.shape for layer in workload.layers} == {layer.shape for layer in profile.layers}
    for name in ("dense.onnx", "model.onnx"):
        onnx.checker.check_model(str(folder / name), full_check=True)
    assert (folder / "model.onnx").stat().st_size < (folder / "dense.onnx").stat().st_size
