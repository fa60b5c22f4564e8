"""``plan`` on every source of weights, as a curve and over devices."""

import json

import numpy as np
import onnx
import pytest
from builders import small_profile, small_workload
from golden_plan import onnx_weights
from safetensors.numpy import save_file

from cost_models import write_document
from spartan_planner.cli.app import run


def call(capsys, *arguments):
    code = run([str(item) for item in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path / "w.yaml", small_workload())
    write_document(tmp_path / "p.yaml", small_profile())
    random = np.random.default_rng(0)
    arrays = {
        f"inner.{layer.name}": random.standard_normal(layer.shape.weight_shape, np.float32)
        for layer in small_workload().layers
    }
    save_file(arrays, tmp_path / "s.safetensors")
    onnx_weights(tmp_path, is_external=True)
    return tmp_path


FROM_YAML = ("plan", "w.yaml", "--checkpoint", "s.safetensors")


@pytest.mark.usefixtures("folder")
def test_a_workload_with_a_checkpoint_is_planned(capsys):
    budgets = ("-b", "params=60%", "-b", "flops=60%")
    code, out, err = call(capsys, *FROM_YAML, *budgets, "--json", "-o", "plan.yaml")
    assert code == 0, err
    told = json.loads(out)
    assert [budget["cost"] for budget in told["budgets"]] == ["params", "flops"]
    for budget in told["budgets"]:
        assert set(budget) >= {"cost", "unit", "dense", "asked", "predicted"}
        assert budget["predicted"] <= budget["asked"]
    assert len(told["layers"]) == 4


@pytest.mark.usefixtures("folder")
def test_an_onnx_file_is_planned_with_its_own_weights(capsys):
    code, out, err = call(capsys, "plan", "m.onnx", "-b", "params=50%", "--json")
    assert code == 0, err
    assert {layer["name"] for layer in json.loads(out)["layers"]} == {"a", "b", "head"}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["c.csv", "c.json", "c.yaml"])
def test_a_curve_is_written(folder, capsys, name):
    sweep = ("--sweep", "--points", 5, "-o", name)
    code, out, err = call(capsys, *FROM_YAML, "-b", "latency=60%", "--profile", "p.yaml", *sweep)
    assert code == 0, err
    assert "5 budgets" in out
    assert (folder / name).read_text(encoding="utf-8").count("\n") >= 6


@pytest.mark.usefixtures("folder")
def test_devices_side_by_side(capsys):
    compare = ("--compare", "p.yaml", "--compare", "raspberry-pi-5", "--json")
    code, out, err = call(capsys, *FROM_YAML, "-b", "latency=80%", *compare)
    assert code == 0, err
    first, second = json.loads(out)["devices"]
    assert first["profile"] == "made-up"
    assert set(second["elsewhere"]) == {"made-up"}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("w.yaml",), "give --checkpoint"),
        (("m.onnx", "--checkpoint", "s.safetensors"), "cannot be used with an .onnx file"),
        (("w.yaml", "--input-shape", "1,2"), "cannot be used with a workload"),
        (("torch.nn:Identity", "--meta", "--input-shape", "1,2"), "give --checkpoint"),
        ((*FROM_YAML[1:], "--sweep", "-o", "c.txt"), "end the name with"),
        ((*FROM_YAML[1:], "--compare", "p.yaml", "--sweep"), "leave out"),
        ((*FROM_YAML[1:], "--layout", "2:4", "--profile", "p.yaml"), "can be pruned"),
    ],
)
def test_contradictions_are_refused(capsys, arguments, message):
    code, _, err = call(capsys, "plan", *arguments, "-b", "params=60%")
    assert code == 2
    assert message in " ".join(err.split())


def test_a_plan_of_another_profile_is_refused(folder, capsys):
    code, _, err = call(
        capsys, *FROM_YAML, "-b", "latency=60%", "--profile", "p.yaml", "-o", "plan.yaml"
    )
    assert code == 0, err
    verify = ("verify", "m.onnx", "--plan", "plan.yaml", "--profile", "raspberry-pi-5")
    code, _, err = call(capsys, *verify)
    assert code == 2
    assert "plan again with this profile" in " ".join(err.split())
    assert onnx.load(str(folder / "m.onnx")).graph.node
