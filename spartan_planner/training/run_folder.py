"""The folder of a training run: what it was started with, its log and its checkpoints.

Only the main process uses it.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from cost_models.documents import dump_document, write_json
from spartan_planner.errors import DocumentError, TrainingError
from spartan_planner.planning import Plan
from spartan_planner.training.checkpointing import checkpoint_folders, keep_newest
from spartan_planner.training.settings import Recording, TrainingSettings

RUN, CHECKPOINTS = "run.json", "checkpoints"
_SCHEMA_VERSION = 1
_PACKAGES = ("spartan-planner", "torch", "accelerate", "numpy")


def describe_run(
    model: nn.Module,
    settings: TrainingSettings,
    plan: Plan | None,
    num_examples: int,
    num_processes: int,
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a run must be resumed with, as plain data."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    return {
        "settings": asdict(settings),
        "plan": _digest(dump_document(plan)) if plan else None,
        "model_tensors": _digest(json.dumps(shapes)),
        "num_training_examples": num_examples,
        "num_processes": num_processes,
        "origin": dict(origin),
    }


def holds_run(folder: Path) -> bool:
    """Whether a run was started in the folder."""
    return (folder / RUN).exists()


def require_free(recording: Recording) -> None:
    """Refuse the folder of a run that is not to be resumed.

    Raises:
        TrainingError: there is one.
    """
    if holds_run(recording.folder) and not recording.resume:
        raise TrainingError(
            f"folder {recording.folder} holds a run; resume it, or name another folder"
        )


def open_run_folder(recording: Recording, facts: Mapping[str, Any]) -> tuple[str, Path | None]:
    """Start a run in its folder, or find where it stands.

    Args:
        recording: names the folder.
        facts: from :func:`describe_run`.

    Returns:
        The name of the run, made up when it started, and the checkpoint to go on from; None at
        the beginning.

    Raises:
        TrainingError: the folder holds a run and is not to be resumed, or holds another one.
        DocumentError: the folder cannot be read or written.
    """
    require_free(recording)
    path = recording.folder / RUN
    if not path.exists():
        run_id = uuid.uuid4().hex[:12]
        versions = {package: version(package) for package in _PACKAGES}
        written = {"schema_version": _SCHEMA_VERSION, "run_id": run_id, **facts}
        write_json(path, {**written, "versions": versions})
    held = _read_run(path)
    _require_same(recording.folder, held, facts)
    checkpoints = recording.folder / CHECKPOINTS
    keep_newest(checkpoints, recording.num_kept_checkpoints)
    newest = checkpoint_folders(checkpoints)[-1:]
    return str(held["run_id"]), newest[0] if newest else None


def _read_run(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DocumentError(f"run {path} cannot be read: {error}") from error
    if not isinstance(held, dict) or "run_id" not in held:
        raise DocumentError(f"{path} does not describe a run; name another folder")
    if held.get("schema_version") != _SCHEMA_VERSION:
        raise DocumentError(
            f"{path} has schema version {held.get('schema_version')}, and this version reads "
            f"{_SCHEMA_VERSION}; start the run anew in another folder"
        )
    return held


def _require_same(folder: Path, held: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    # As JSON knows them: tuples are lists there.
    wanted = _flat(json.loads(json.dumps(facts)))
    found = _flat(held)
    for name, value in wanted.items():
        if found.get(name) != value:
            raise TrainingError(
                f"the run in {folder} was started with {name} {found.get(name)}, not {value}; "
                "resume it with what it was started with, or name another folder"
            )


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {name: value}
    return flat


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
