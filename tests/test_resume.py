"""A run that is killed, again and again, ends as one that was not."""

import random
import signal
import time

import pytest
from forked_processes import run_command, warm_context
from resumable_run import COMMAND, NUM_STEPS, noisy_plan
from safetensors.torch import load_file

from spartan_planner.training.checkpointing import checkpoint_folders

NUM_KILLS = 10


@pytest.fixture(scope="module")
def processes():
    return warm_context()


def run_to_the_end(processes, folder, *options):
    process = processes.Process(target=run_command, args=(folder, (*COMMAND, *options)))
    process.start()
    process.join(120)
    return process.exitcode


def run_and_kill(processes, folder, step, delay_s, *options):
    """Run the command in a process of its own; kill it ``delay_s`` after it has logged a step."""
    process = processes.Process(target=run_command, args=(folder, (*COMMAND, *options)))
    process.start()
    log = folder / "run" / "log.jsonl"
    while process.is_alive() and step and f'"step": {step}, ' not in read(log):
        time.sleep(0.002)
    process.join(delay_s)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def read(log):
    return log.read_text(encoding="utf-8") if log.exists() else ""


def test_a_killed_run_resumes_bit_for_bit(processes, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    folder.mkdir()
    noisy_plan(tmp_path / "plan.yaml")
    plan = ("--plan", str(tmp_path / "plan.yaml"))
    assert run_to_the_end(processes, whole, *plan) == 0
    moments = random.Random(0)
    reached = set()
    for step in sorted(moments.sample(range(NUM_STEPS - 1), NUM_KILLS)):
        run_and_kill(processes, folder, step, moments.uniform(0, 0.05), "--resume", *plan)
        reached |= {path.name for path in checkpoint_folders(folder / "run" / "checkpoints")[-1:]}
    assert run_to_the_end(processes, folder, "--resume", *plan) == 0
    # Else hardly anything was resumed in the middle.
    assert len(reached) > NUM_KILLS // 2
    expected, found = whole / "run", folder / "run"
    for name in ("log.jsonl", "log.csv"):
        assert (found / name).read_bytes() == (expected / name).read_bytes()
    weights = [load_file(run / "weights.safetensors") for run in (expected, found)]
    assert weights[0].keys() == weights[1].keys()
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    # Nothing half written is left over.
    kept = [path.name for path in sorted((found / "checkpoints").iterdir())]
    assert kept == ["step-000000027", "step-000000028"]
