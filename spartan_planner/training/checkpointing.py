"""A folder of checkpoints: each is there whole or not at all, and only the newest are kept.

A checkpoint is a folder ``step-00000120``, named after the optimizer steps that were done.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from spartan_planner.errors import DocumentError

_PREFIX = "step-"
_HIDDEN = "."
"""Begins the name of a folder that is being written or removed; a killed run may leave some."""


def checkpoint_folders(parent: Path) -> list[Path]:
    """Return the whole checkpoints in ``parent``, oldest first."""
    return sorted(path for path in parent.glob(f"{_PREFIX}*") if path.is_dir())


def write_checkpoint(parent: Path, step: int, write: Callable[[Path], None]) -> Path:
    """Call ``write`` with an empty folder, sync what it wrote to disk and rename the folder.

    Args:
        parent: of the checkpoints; made when it does not exist.
        step: optimizer steps done; names the checkpoint.
        write: fills the folder.

    Returns:
        The checkpoint.

    Raises:
        DocumentError: the disk is full, or the folder cannot be written; checkpoints written
            before are as they were, and nothing is left of this one.
    """
    # Nine digits, so that the order of names is that of steps.
    path = parent / f"{_PREFIX}{step:09d}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{_HIDDEN}{path.name}.", dir=parent))
        try:
            write(temporary)
            _sync_tree(temporary)
            temporary.chmod(0o755)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _sync(parent)
    except OSError as error:
        raise DocumentError(
            f"checkpoint {path} cannot be written: {error.strerror or error}; make room, or name "
            "another folder, and resume"
        ) from error
    return path


def keep_newest(parent: Path, num_kept: int) -> None:
    """Remove all checkpoints but the newest ``num_kept``, and what a killed run left half done.

    Raises:
        DocumentError: a folder cannot be removed.
    """
    try:
        for path in checkpoint_folders(parent)[:-num_kept]:
            # Renamed first: a run that is killed here leaves no half checkpoint behind.
            path.rename(parent / f"{_HIDDEN}{path.name}.removed")
        for path in parent.glob(f"{_HIDDEN}{_PREFIX}*"):
            shutil.rmtree(path)
    except OSError as error:
        raise DocumentError(f"old checkpoints in {parent} cannot be removed: {error}") from error


def _sync_tree(folder: Path) -> None:
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
