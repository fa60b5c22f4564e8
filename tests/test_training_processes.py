"""Two real processes with gloo train as one does on the joined batches."""

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from distributed_run import COMMAND, NUM_EPOCHS, NUM_STEPS, write_plan
from forked_processes import run_command, warm_context
from safetensors.torch import load_file

SAME = 1e-5
"""Two processes add gradients in another order; float32, some fifty steps."""


def launch(context, folder, num_processes, *options):
    """Run the command in so many processes; return the code, output and errors of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(num_processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started, outputs = [], []
    for rank in range(num_processes):
        environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        outputs.append(folder / f"{port}.{rank}")
        arguments = (folder, (*COMMAND, *options), str(outputs[-1]), environment)
        started.append(context.Process(target=run_command, args=arguments))
        started[-1].start()
    for process in started:
        process.join(200)
        process.kill()
    return [
        (process.exitcode, output.read_text("utf-8"), Path(f"{output}.err").read_text("utf-8"))
        for process, output in zip(started, outputs, strict=True)
    ]


@pytest.fixture(scope="module")
def context():
    return warm_context()


@pytest.fixture(scope="module")
def folder(context, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_plan(folder / "plan.yaml")
    for num_processes, name in ((1, "one"), (2, "two")):
        done = launch(context, folder, num_processes, "--run-dir", name)
        assert [code for code, _, _ in done] == [0] * num_processes, done
        (folder / f"{name}.json").write_text(done[0][1], encoding="utf-8")
        # Only the main process prints.
        assert all(output == "" for _, output, _ in done[1:])
    return folder


def records(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]


def test_losses_and_masks_are_those_of_one_process(folder):
    one, two = records(folder / "one"), records(folder / "two")
    assert len(one) == len(two) == NUM_STEPS + NUM_EPOCHS
    for expected, found in zip(one, two, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=SAME)
        assert found["accuracy"] == expected["accuracy"]
        assert found["sparsifier"]["kept_sizes"] == expected["sparsifier"]["kept_sizes"]
        assert found["learning_rate"] == expected["learning_rate"]
    weights = [load_file(folder / name / "weights.safetensors") for name in ("one", "two")]
    for name, expected in weights[0].items():
        assert torch.equal(weights[1][name] == 0, expected == 0), name
    assert weights[0]["body.weight"].count_nonzero() < weights[0]["body.weight"].numel()


def test_every_result_is_that_of_one_process(folder):
    one, two = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("one", "two"))
    assert two["accuracy"] == one["accuracy"]
    assert two["losses"] == pytest.approx(one["losses"], rel=SAME)


def test_two_processes_resume_bit_for_bit(context, folder):
    shutil.copytree(folder / "two", folder / "again")
    for step in (NUM_STEPS, NUM_STEPS - 7):
        shutil.rmtree(folder / "again" / "checkpoints" / f"step-{step:09d}")
    done = launch(context, folder, 2, "--run-dir", "again", "--resume")
    assert [code for code, _, _ in done] == [0, 0], done
    assert json.loads(done[0][1])["resumed_at_step"] == NUM_STEPS - 14
    expected, found = folder / "two", folder / "again"
    assert (found / "log.jsonl").read_bytes() == (expected / "log.jsonl").read_bytes()
    weights = [load_file(run / "weights.safetensors") for run in (expected, found)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_a_run_is_refused_by_all_processes(context, folder):
    done = launch(context, folder, 2, "--run-dir", "two")
    assert [code for code, _, _ in done] == [2, 2]
    assert all("holds a run" in message for _, _, message in done)


def test_a_batch_that_cannot_be_split_is_refused(context, folder):
    done = launch(context, folder, 2, "--run-dir", "odd", "--batch-size", "33")
    assert [code for code, _, _ in done] == [2, 2]
    assert all("give a multiple of 2" in message for _, _, message in done)
    assert not (folder / "odd").exists()
