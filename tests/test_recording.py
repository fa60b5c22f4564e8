"""What is kept of a run, and what happens when it cannot be."""

import csv
import json
import shutil
from dataclasses import replace

import pytest
import torch
from networks import tiny_network, tiny_plan
from safetensors.torch import load_file
from torch.utils.data import TensorDataset

from spartan_planner.digits import digits_data
from spartan_planner.errors import DocumentError, TrainingError
from spartan_planner.training import DataSplit, Recording, TrainingSettings, train
from spartan_planner.training import recorder as recorder_module
from spartan_planner.training.checkpointing import checkpoint_folders

SETTINGS = TrainingSettings(num_epochs=3, batch_size=32, learning_rate=3e-3, optimizer="adamw")
NUM_STEPS = 3 * 4


@pytest.fixture(scope="module")
def data():
    training, test = digits_data()
    return DataSplit(TensorDataset(*training[:128]), TensorDataset(*test[:64]))


@pytest.fixture(scope="module")
def recorded(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded") / "run"
    model = tiny_network()
    plan = tiny_plan(model)
    recording = Recording(folder, log_steps=2, checkpoint_steps=3, num_kept_checkpoints=3)
    result = train(model, data, SETTINGS, plan, recording=recording)
    return folder, plan, recording, model, result


@pytest.fixture
def run(recorded, tmp_path):
    """A copy of the run, to do things to."""
    folder, plan, recording, *_ = recorded
    shutil.copytree(folder, tmp_path / "run")
    return plan, replace(recording, folder=tmp_path / "run", resume=True)


def test_the_log_holds_every_second_step_and_every_epoch(recorded):
    folder, plan, _, _, result = recorded
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    epochs = [line for line in lines if line["event"] == "epoch"]
    assert [line["step"] for line in lines if line["event"] == "step"] == [2, 4, 6, 8, 10, 12]
    assert [line["loss"] for line in epochs] == list(result.losses)
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    assert epochs[-1]["accuracy"] == result.accuracy
    assert epochs[-1]["sparsifier"]["costs"]["flops"] <= plan.budget.asked
    with (folder / "log.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == [line["step"] for line in lines]
    assert [float(row["loss"]) for row in rows] == [line["loss"] for line in lines]
    assert float(rows[-1]["sparsifier/costs/flops"]) <= plan.budget.asked


def test_checkpoints_are_those_asked_for_and_hold_sparse_weights(recorded):
    folder, _, _, model, _ = recorded
    newest = checkpoint_folders(folder / "checkpoints")
    # After every third step and every epoch of four.
    assert [path.name[-2:] for path in newest] == ["08", "09", "12"]
    for path in newest:
        files = sorted(file.name for file in path.iterdir())
        assert files == ["model.safetensors", "state.json", "state.safetensors"]
    early = load_file(newest[0] / "model.safetensors")["body.weight"]
    last = load_file(newest[-1] / "model.safetensors")["body.weight"]
    assert 0 < last.count_nonzero() < early.numel()
    assert early.count_nonzero() < early.numel()
    assert torch.equal(last, model.state_dict()["body.weight"])


def test_a_finished_run_can_be_resumed_to_the_same_end(run, data, recorded):
    plan, recording = run
    model = tiny_network(7)
    result = train(model, data, SETTINGS, plan, recording=recording)
    *_, expected, finished = recorded
    assert result == replace(finished, resumed_at_step=NUM_STEPS)
    assert torch.equal(model.body.weight, expected.body.weight)


@pytest.mark.parametrize(
    ("settings", "origin", "message"),
    [
        ({"batch_size": 64}, {}, "was started with batch_size 32, not 64"),
        ({}, {"model": "other"}, "was started with model None, not other"),
    ],
)
def test_another_run_is_not_resumed(run, data, settings, origin, message):
    plan, recording = run
    with pytest.raises(TrainingError, match=message):
        train(
            tiny_network(),
            data,
            replace(SETTINGS, **settings),
            plan,
            recording=replace(recording, origin=origin),
        )


def test_another_plan_or_none_is_not_resumed(run, data):
    _, recording = run
    model = tiny_network()
    for other in (None, tiny_plan(model, "50%")):
        with pytest.raises(TrainingError, match="was started with plan"):
            train(model, data, SETTINGS, other, recording=recording)


def test_a_run_is_not_overwritten(run, data):
    plan, recording = run
    with pytest.raises(TrainingError, match="holds a run; resume it, or name another folder"):
        train(tiny_network(), data, SETTINGS, plan, recording=replace(recording, resume=False))


@pytest.mark.parametrize("text", ["{", "[]", '{"run_id": "a"}'])
def test_a_folder_that_holds_something_else_is_told(run, data, text):
    plan, recording = run
    (recording.folder / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(DocumentError, match=r"run\.json"):
        train(tiny_network(), data, SETTINGS, plan, recording=recording)


def test_a_checkpoint_that_was_harmed_is_told_and_the_one_before_it_will_do(run, data, recorded):
    plan, recording = run
    newest = checkpoint_folders(recording.folder / "checkpoints")[-1]
    (newest / "state.json").write_text("{", encoding="utf-8")
    with pytest.raises(DocumentError, match=r"remove .*step-000000012 to go on"):
        train(tiny_network(), data, SETTINGS, plan, recording=recording)
    shutil.rmtree(newest)
    model = tiny_network()
    assert train(model, data, SETTINGS, plan, recording=recording).resumed_at_step == 9
    assert torch.equal(model.body.weight, recorded[3].body.weight)


def test_a_full_disk_stops_training_and_the_last_checkpoint_is_intact(
    data, recorded, tmp_path, monkeypatch
):
    _, plan, recording, expected, finished = recorded
    recording = replace(recording, folder=tmp_path / "run")
    write = recorder_module.write_run_state

    def full(folder, model, state):
        write(folder, model, state)
        if state["position"]["step"] == 8:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder_module, "write_run_state", full)
    with pytest.raises(DocumentError, match="No space left on device; make room"):
        train(tiny_network(), data, SETTINGS, plan, recording=recording)
    left = sorted(path.name[-2:] for path in (recording.folder / "checkpoints").iterdir())
    assert left == ["03", "04", "06"]
    monkeypatch.undo()
    model = tiny_network(3)
    again = replace(recording, resume=True)
    assert train(model, data, SETTINGS, plan, recording=again) == replace(
        finished, resumed_at_step=6
    )
    assert torch.equal(model.body.weight, expected.body.weight)


def test_a_loss_that_explodes_is_in_no_checkpoint(data, tmp_path):
    recording = Recording(tmp_path / "run", checkpoint_steps=1, num_kept_checkpoints=99)
    settings = replace(SETTINGS, optimizer="sgd", learning_rate=1e18, schedule="constant")
    with pytest.raises(TrainingError, match="the loss became"):
        train(tiny_network(), data, settings, recording=recording)
    for path in checkpoint_folders(recording.folder / "checkpoints"):
        step = int(path.name[-2:])
        state = json.loads((path / "state.json").read_text("utf-8"))
        assert state["position"]["step"] == step
        assert isinstance(state["position"]["epoch_loss"], float)


def test_tensorboard_has_the_figures_of_the_log(data, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recording = Recording(tmp_path / "run", log_steps=2, trackers=("tensorboard",))
    result = train(tiny_network(), data, SETTINGS, recording=recording)
    (folder,) = (tmp_path / "run" / "tensorboard").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert events.Scalars("accuracy")[-1].value == pytest.approx(result.accuracy)
    assert len(events.Scalars("loss")) == 6 + 3
    newest = checkpoint_folders(recording.folder / "checkpoints")[-1]
    shutil.rmtree(newest)
    train(tiny_network(), data, SETTINGS, recording=replace(recording, resume=True))
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("accuracy")] == [4, 8, 12]


def test_wandb_keeps_an_offline_run(data, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    recording = Recording(tmp_path / "run", log_steps=2, trackers=("wandb",))
    train(tiny_network(), data, SETTINGS, recording=recording)
    (found,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert found.stat().st_size > 0


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint_steps": 0},
        {"checkpoint_epochs": 0},
        {"num_kept_checkpoints": 0},
        {"log_steps": 0},
        {"trackers": ("paper",)},
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path, options):
    with pytest.raises(TrainingError):
        Recording(tmp_path, **options)
