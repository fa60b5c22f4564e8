"""Two real processes with gloo, under DDP and FSDP2, prune as one does on the joined batches."""

import multiprocessing
import pickle

import numpy as np
import pytest
from sparsifier_processes import CASES, Run, train_both_ways, work

SAME_LOSS = 1e-5
"""Processes add gradients in another order; float32, fifty steps."""
TIME_LIMIT = 240


def in_processes(folder, job, num_processes=2):
    """Return what ``job(rank)`` returned in each process."""
    context = multiprocessing.get_context("spawn")
    started = [
        context.Process(target=work, args=(rank, num_processes, folder, job))
        for rank in range(num_processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(TIME_LIMIT)
        process.kill()
    assert [process.exitcode for process in started] == [0] * num_processes
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(num_processes)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return in_processes(tmp_path_factory.mktemp("both"), train_both_ways)


@pytest.fixture(scope="module", params=list(CASES))
def case(request):
    return request.param, Run(CASES[request.param]).finish().record()


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_masks_and_losses_are_those_of_one_process(case, runs, way):
    name, (losses, masks, stats) = case
    for rank in (0, 1):
        found_losses, found_masks, found_stats = runs[rank][name, way]
        assert found_losses == pytest.approx(losses, rel=SAME_LOSS)
        for step, (expected, found) in enumerate(zip(masks, found_masks, strict=True)):
            for layer in expected:
                assert np.array_equal(found[layer], expected[layer]), (step, layer)
        for figure in ("kept_sizes", "densities", "phase", "costs"):
            assert found_stats[figure] == stats[figure]
    assert stats["density"] < 1
