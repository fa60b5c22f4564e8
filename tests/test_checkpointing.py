"""Checkpoints are there whole or not at all, and only the newest are kept."""

import subprocess
import sys
import textwrap

import pytest

from spartan_planner.errors import DocumentError
from spartan_planner.training.checkpointing import (
    checkpoint_folders,
    keep_newest,
    write_checkpoint,
)


def write_text(folder):
    (folder / "a.txt").write_text("whole", encoding="utf-8")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_checkpoints_are_found_in_the_order_of_steps(tmp_path):
    for step in (9, 100, 20):
        path = write_checkpoint(tmp_path, step, write_text)
        assert (path / "a.txt").read_text(encoding="utf-8") == "whole"
    steps = [path.name for path in checkpoint_folders(tmp_path)]
    assert steps == ["step-000000009", "step-000000020", "step-000000100"]
    assert names(tmp_path) == sorted(steps)


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (OSError(28, "No space left on device"), DocumentError),
        (DocumentError("full"), DocumentError),
        (KeyError("defect"), KeyError),
    ],
)
def test_what_fails_half_way_leaves_nothing(tmp_path, raised, seen):
    def fail(folder):
        write_text(folder)
        raise raised

    write_checkpoint(tmp_path, 1, write_text)
    with pytest.raises(seen):
        write_checkpoint(tmp_path, 2, fail)
    assert names(tmp_path) == ["step-000000001"]


def test_only_the_newest_are_kept_and_leftovers_go(tmp_path):
    for step in range(1, 6):
        write_checkpoint(tmp_path, step, write_text)
    (tmp_path / ".step-000000006.x1").mkdir()
    (tmp_path / ".step-000000006.x1" / "a.txt").touch()
    (tmp_path / "notes.txt").touch()
    keep_newest(tmp_path, 2)
    assert names(tmp_path) == ["notes.txt", "step-000000004", "step-000000005"]
    keep_newest(tmp_path / "none", 2)


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    import torch
    from torch import nn
    from spartan_planner.errors import DocumentError
    from spartan_planner.training.checkpointing import write_checkpoint
    from spartan_planner.training.run_state import write_run_state

    size, limit = int(sys.argv[1]), int(sys.argv[2])

    def write(folder):
        write_run_state(folder, nn.Linear(100, 100).state_dict(), {"momentum": torch.zeros(size)})

    write_checkpoint(Path("."), 1, write)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        write_checkpoint(Path("."), 2, write)
    except DocumentError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files cannot be limited there")
@pytest.mark.parametrize(("size", "limit"), [(10, 5_000), (50_000, 100_000)])
def test_a_disk_that_is_full_leaves_what_was_there(tmp_path, size, limit):
    """Model and state are the file that does not fit, one after the other."""
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(size), str(limit)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout
    assert names(tmp_path) == ["step-000000001"]
    assert len(names(tmp_path / "step-000000001")) == 3
