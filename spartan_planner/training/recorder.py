"""What is kept of a run while it goes on: log, trackers, checkpoints."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from spartan_planner.training.checkpointing import keep_newest, write_checkpoint
from spartan_planner.training.position import Position
from spartan_planner.training.processes import on_main_process
from spartan_planner.training.run_folder import CHECKPOINTS, open_run_folder
from spartan_planner.training.run_log import RunLog, flat_figures
from spartan_planner.training.run_state import (
    collect_state,
    collect_weights,
    restore_state,
    write_run_state,
)
from spartan_planner.training.settings import Recording

_PROJECT = "spartan-planner"


class Recorder:
    """Keeps a run in its folder.  Every process calls every method; the main one writes.

    Args:
        recording: what to keep.
        accelerator: of the run.
        model: the model that is trained: the user's, or its sharded copy.
        parts: what else has a state: optimizer, scheduler, sparsifier.
        facts: what the run must be resumed with.

    Raises:
        TrainingError: the folder holds another run, or one that is not to be resumed.
        DocumentError: the folder cannot be read or written.
    """

    def __init__(
        self,
        recording: Recording,
        accelerator: Accelerator,
        model: nn.Module,
        parts: dict[str, Any],
        facts: Mapping[str, Any],
    ) -> None:
        self.recording = recording
        self._accelerator = accelerator
        self._model = model
        self._parts = parts
        self._run_id, self._newest = on_main_process(lambda: open_run_folder(recording, facts))
        self._facts = facts

    def resume(self) -> Position:
        """Put everything back to the newest checkpoint and return where it stands.

        Raises:
            DocumentError: the checkpoint cannot be read.
        """
        folder, position, log_sizes = self.recording.folder, Position(), {}
        if self._newest:
            state = restore_state(self._newest, self._accelerator, self._model, self._parts)
            position, log_sizes = Position(**state["position"]), state["log_sizes"]
        self._log = on_main_process(lambda: RunLog(folder, log_sizes))
        self._start_trackers(position.step)
        return position

    def log(self, record: Mapping[str, Any]) -> None:
        """Write a record to the log and the trackers.

        Raises:
            DocumentError: the disk is full.
        """
        on_main_process(lambda: self._log.write(record))
        figures = {n: v for n, v in flat_figures(record).items() if isinstance(v, int | float)}
        self._accelerator.log(figures, step=record["step"])

    def save(self, position: Position) -> None:
        """Write a checkpoint and remove those that are older than the kept ones.

        Raises:
            DocumentError: the disk is full; the checkpoints before it are intact.
        """
        state = collect_state(self._accelerator, self._parts)
        weights = collect_weights(self._accelerator, self._model)
        on_main_process(lambda: self._save(position, weights, state))

    def close(self) -> None:
        """End the trackers' runs."""
        for tracker in self._accelerator.trackers:
            tracker.finish()

    def _save(
        self, position: Position, weights: Mapping[str, Tensor], state: dict[str, Any]
    ) -> None:
        parent = self.recording.folder / CHECKPOINTS
        whole = {**state, "position": asdict(position), "log_sizes": self._log.sizes()}
        write_checkpoint(
            parent, position.step, lambda folder: write_run_state(folder, weights, whole)
        )
        keep_newest(parent, self.recording.num_kept_checkpoints)

    def _start_trackers(self, step: int) -> None:
        if not self.recording.trackers:
            return
        config = {name: v for name, v in flat_figures(self._facts).items() if v is not None}
        folder = str(self.recording.folder)
        options = {
            # What was logged after the checkpoint will be logged again.
            "tensorboard": {"purge_step": step + 1} if step else {},
            "wandb": {"dir": folder, "id": self._run_id, "resume": "allow"},
        }
        self._accelerator.init_trackers(_PROJECT, config, options)
