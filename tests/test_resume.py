"""A run that is killed, again and again, ends as one that was not."""

import multiprocessing
import random
import time

import pytest
import resumable_run
from safetensors.torch import load_file

from spartan_planner.training.checkpointing import checkpoint_folders

NUM_KILLS = 10


@pytest.fixture(scope="module")
def processes():
    """Processes that share the time of importing torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resumable_run", "spartan_planner.training.engine"])
    return context


@pytest.fixture(scope="module", params=["dense", "plan"])
def uninterrupted(request, processes, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    options = ()
    if request.param == "plan":
        resumable_run.noisy_plan(folder / "plan.yaml")
        options = ("--plan", str(folder / "plan.yaml"))
    process = processes.Process(target=resumable_run.train, args=(folder, *options))
    started = time.monotonic()
    process.start()
    process.join(120)
    assert process.exitcode == 0
    return folder / "run", options, time.monotonic() - started


def kill_at(processes, folder, options, delay_s):
    process = processes.Process(target=resumable_run.train, args=(folder, "--resume", *options))
    process.start()
    process.join(delay_s)
    was_running = process.is_alive()
    process.kill()
    process.join()
    return was_running


def test_a_killed_run_resumes_bit_for_bit(uninterrupted, processes, tmp_path):
    whole, options, duration_s = uninterrupted
    moments = random.Random(0)
    num_killed, steps = 0, set()
    while num_killed < NUM_KILLS:
        was_running = kill_at(processes, tmp_path, options, moments.uniform(0.1, duration_s))
        num_killed += was_running
        checkpoints = checkpoint_folders(tmp_path / "run" / "checkpoints")
        steps |= {path.name for path in checkpoints[-1:]}
        if not was_running:
            break
    assert not kill_at(processes, tmp_path, options, 120)
    run = tmp_path / "run"
    for name in ("log.jsonl", "log.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    expected, found = (load_file(folder / "weights.safetensors") for folder in (whole, run))
    assert all(expected[name].equal(found[name]) for name in expected)
