"""Processes that share the time of importing torch, for tests to launch and to kill."""

import multiprocessing
import os
import sys
from pathlib import Path

from spartan_planner.cli.app import run


def warm_context():
    """Processes that start with everything imported that training needs."""
    context = multiprocessing.get_context("forkserver")
    # The last are imported only when they are needed.
    late = ["torch._dynamo", "sklearn.datasets"]
    context.set_forkserver_preload(["networks", "spartan_planner.training.engine", *late])
    first = context.Process(target=_nothing)
    first.start()
    first.join()
    return context


def run_command(folder, arguments, output=None, environment=None):
    """Run the command line in ``folder`` and end this process with its exit code.

    What it prints goes to the file ``output``, its errors to ``output.err``.
    """
    import torch

    os.chdir(folder)
    os.environ.update(environment or {})
    torch.set_num_threads(1)
    if output:
        for stream, name in ((sys.stdout, output), (sys.stderr, f"{output}.err")):
            os.dup2(os.open(Path(name), os.O_WRONLY | os.O_CREAT), stream.fileno())
    raise SystemExit(run([str(argument) for argument in arguments]))


def _nothing():
    pass
