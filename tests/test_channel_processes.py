"""Two real processes with gloo keep the units that one keeps on the joined batches."""

import multiprocessing
import pickle

from channel_processes import disagree, train, work

TIME_LIMIT = 200


def started(target, folder):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=(rank, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIME_LIMIT)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]


def test_two_processes_keep_the_units_of_one(tmp_path):
    started(work, tmp_path)
    one, other = (pickle.loads((tmp_path / f"{rank}.pickle").read_bytes()) for rank in range(2))
    assert one == other == train(0, 1)


def test_processes_that_keep_different_units_are_told(tmp_path):
    started(disagree, tmp_path)
    for rank in range(2):
        said = (tmp_path / f"said{rank}.txt").read_text("utf-8")
        assert "the processes keep different units of channel group" in said
