"""The whole path of a plan that removes channels, on the command line."""

import json

import pytest
import torch
from test_channel_training import Residual

from spartan_planner.channels import load_pruned
from spartan_planner.checkpoints import load_weights
from spartan_planner.cli.app import run
from spartan_planner.export_metadata import read_metadata
from spartan_planner.planning import read_plan

MODEL = "test_channels_path:model"
SAME = 1e-5
"""Of outputs in float32, relative to the largest: sums over fewer terms, in another order."""


def model():
    return Residual(32, 64)


def call(capsys, *arguments, codes=(0,)):
    code = run([str(item) for item in arguments])
    captured = capsys.readouterr()
    assert code in codes, captured.err
    return captured.out


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_channels_go_from_a_profile_to_a_verified_file(folder, capsys):
    shape = ("--input-shape", "1,1,8,8")
    call(capsys, "inspect", MODEL, *shape, "--channels", "-o", "w.yaml")
    rounds = ("--rounds", "5", "--max-seconds", "5", "--channels")
    call(capsys, "profile", "w.yaml", "-o", "p.yaml", *rounds)
    wish = ("--profile", "p.yaml", "-b", "latency=70%", "--layout", "channel")
    call(capsys, "plan", MODEL, *shape, *wish, "-o", "plan.yaml")
    plan = read_plan(folder / "plan.yaml")
    assert plan.kept_units

    given = (MODEL, "--plan", "plan.yaml")
    data = ("--data", "resumable_run:data", "--epochs", "1", "-o", "t.safetensors", "--json")
    trained = json.loads(call(capsys, "train", *given, *data))
    assert trained["stats"]["kept_units"] == plan.kept_units
    weights = ("--checkpoint", "t.safetensors")
    call(capsys, "export", *given, *weights, "-o", "small.onnx")
    promise = read_metadata(folder / "small.onnx")
    assert promise.latency.predicted <= promise.latency.asked
    assert promise.density < 1
    # Whether a promise is kept is no matter of this test, and 1 says that it is not.
    told = call(capsys, "verify", "small.onnx", "--rounds", "5", "--json", codes=(0, 1))
    assert json.loads(told)["latency_ms"]["predicted"] > 0

    call(capsys, "export", *given, *weights, "-o", "small.safetensors")
    masked = model()
    load_weights(masked, folder / "t.safetensors")
    smaller = load_pruned(model(), folder / "small.safetensors")
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = masked.eval()(images), smaller.eval()(images)
    assert float((one - other).abs().max()) <= SAME * float(one.abs().max())
    sizes = [sum(item.numel() for item in net.parameters()) for net in (masked, smaller)]
    assert sizes[0] - sizes[1] > sum(layer.num_removed_weights for layer in plan.layers)


def test_torch_models_are_for_plans_that_remove_channels(folder, capsys):
    code = run(["export", MODEL, "--input-shape", "1,1,8,8", "-o", "small.safetensors"])
    assert code == 2
    assert "plan --layout channel" in " ".join(capsys.readouterr().err.split())
    assert not list(folder.iterdir())
