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


def launch(context, folder, num_processes, *options, environment=None):
    """Run the command in so many processes; return the code, output and errors of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(num_processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= environment or {}
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
    for num_processes, name, *options in ((1, "one"), (2, "two"), (2, "sharded", "--fsdp")):
        done = launch(context, folder, num_processes, "--run-dir", name, *options)
        assert [code for code, _, _ in done] == [0] * num_processes, done
        (folder / f"{name}.json").write_text(done[0][1], encoding="utf-8")
        # Only the main process prints.
        assert all(output == "" for _, output, _ in done[1:])
    return folder


def records(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", ["two", "sharded"])
def test_losses_and_masks_are_those_of_one_process(folder, name):
    one, two = records(folder / "one"), records(folder / name)
    assert len(one) == len(two) == NUM_STEPS + NUM_EPOCHS
    for expected, found in zip(one, two, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=SAME)
        assert found["accuracy"] == expected["accuracy"]
        assert found["sparsifier"]["kept_sizes"] == expected["sparsifier"]["kept_sizes"]
        assert found["learning_rate"] == expected["learning_rate"]
    weights = [load_file(folder / run / "weights.safetensors") for run in ("one", name)]
    for layer, expected in weights[0].items():
        assert torch.equal(weights[1][layer] == 0, expected == 0), layer
    assert weights[0]["body.weight"].count_nonzero() < weights[0]["body.weight"].numel()


@pytest.mark.parametrize("name", ["two", "sharded"])
def test_every_result_is_that_of_one_process(folder, name):
    one, two = (json.loads((folder / f"{run}.json").read_text("utf-8")) for run in ("one", name))
    assert two["accuracy"] == one["accuracy"]
    assert two["losses"] == pytest.approx(one["losses"], rel=SAME)


def test_a_sharded_checkpoint_holds_what_that_of_one_process_does(folder):
    """In names, shapes and kinds; what it holds is checked by resuming."""
    runs = [folder / name / "checkpoints" / f"step-{NUM_STEPS:09d}" for name in ("one", "sharded")]
    for file in ("model.safetensors", "state.safetensors"):
        one, sharded = (load_file(run / file) for run in runs)
        shapes = [
            # The generators of the second process are held as well.
            {name: t.shape for name, t in held.items() if not name.startswith("generators.1.")}
            for held in (one, sharded)
        ]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("name", "options"), [("two", ()), ("sharded", ("--fsdp",))])
def test_two_processes_resume_bit_for_bit(context, folder, name, options):
    again = folder / f"{name}-again"
    shutil.copytree(folder / name, again)
    for step in (NUM_STEPS, NUM_STEPS - 7):
        shutil.rmtree(again / "checkpoints" / f"step-{step:09d}")
    done = launch(context, folder, 2, "--run-dir", again.name, "--resume", *options)
    assert [code for code, _, _ in done] == [0, 0], done
    assert json.loads(done[0][1])["resumed_at_step"] == NUM_STEPS - 14
    expected, found = folder / name, again
    assert (found / "log.jsonl").read_bytes() == (expected / "log.jsonl").read_bytes()
    weights = [load_file(run / "weights.safetensors") for run in (expected, found)]
    assert all(weights[0][layer].equal(weights[1][layer]) for layer in weights[0])


def test_a_single_process_has_nothing_to_shard_over(context, folder):
    ((code, _, message),) = launch(context, folder, 1, "--run-dir", "alone", "--fsdp")
    assert code == 2
    assert "torchrun" in message


def test_a_run_is_refused_by_all_processes(context, folder):
    done = launch(context, folder, 2, "--run-dir", "two")
    assert [code for code, _, _ in done] == [2, 2]
    assert all("holds a run" in message for _, _, message in done)


def test_accelerates_fsdp_plugin_is_refused_with_what_to_do(context, folder):
    """As ``accelerate launch --use_fsdp --fsdp_version 2`` tells its processes."""
    plugin = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    done = launch(context, folder, 2, "--run-dir", "plugin", environment=plugin)
    assert [code for code, _, _ in done] == [2, 2]
    assert all("launch plain processes" in message for _, _, message in done)
    assert not (folder / "plugin").exists()


def test_a_batch_that_cannot_be_split_is_refused(context, folder):
    done = launch(context, folder, 2, "--run-dir", "odd", "--batch-size", "33")
    assert [code for code, _, _ in done] == [2, 2]
    assert all("give a multiple of 2" in message for _, _, message in done)
    assert not (folder / "odd").exists()
