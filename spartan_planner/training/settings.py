"""How to train, and what to keep of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spartan_planner.errors import TrainingError
from spartan_planner.training.losses import NUM_LOGIT_DIMENSIONS

_CHOICES = {
    "optimizer": ("sgd", "adamw"),
    "schedule": ("one_cycle", "cosine", "constant"),
    "task": tuple(NUM_LOGIT_DIMENSIONS),
    "mixed_precision": ("no", "bf16", "fp16"),
}
TRACKERS = ("tensorboard", "wandb")


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        num_epochs: passes over the training data.
        batch_size: examples per optimizer step, over all processes and accumulation steps.
        learning_rate: highest learning rate of the schedule.
        weight_decay: on weights of at least two dimensions; none on norms and biases.
        label_smoothing: of the cross-entropy.
        optimizer: ``sgd`` (Nesterov momentum 0.9) or ``adamw``.
        seed: of shuffling, of random transformations and of what the model draws.
        schedule: of the learning rate: ``one_cycle``, ``cosine`` (down to zero) or ``constant``.
        warmup_fraction: share of the steps in which ``cosine`` and ``constant`` rise from zero.
        task: ``classification`` or ``next_token``
            (:data:`spartan_planner.training.losses.NUM_LOGIT_DIMENSIONS`).
        method: how the sparsifier trains to a plan; None for the plan's own.
        num_accumulation_steps: parts that a batch is split into, one after the other.
        max_gradient_norm: gradients are scaled down to this norm; None leaves them.
        mixed_precision: ``no``, ``bf16`` or ``fp16``.
        num_workers: processes that load data beside each training process.
        is_sharded: whether the model is spread over the processes (FSDP2), instead of copied to
            each (DDP).
    """

    num_epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    optimizer: str = "sgd"
    seed: int = 0
    schedule: str = "one_cycle"
    warmup_fraction: float = 0.0
    task: str = "classification"
    method: str | None = None
    num_accumulation_steps: int = 1
    max_gradient_norm: float | None = None
    mixed_precision: str = "no"
    num_workers: int = 0
    is_sharded: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        if self.num_epochs < 1 or self.batch_size < 1 or self.num_accumulation_steps < 1:
            raise TrainingError("epochs, batch size and accumulation steps must be at least 1")
        if self.num_workers < 0:
            raise TrainingError("the number of workers must not be negative")
        if not 0 < self.learning_rate < math.inf or not 0 <= self.weight_decay < math.inf:
            raise TrainingError("the learning rate must be positive, weight decay not negative")
        if not 0 <= self.label_smoothing < 1 or not 0 <= self.warmup_fraction < 1:
            raise TrainingError("label smoothing and the share of warm-up must lie in [0, 1)")
        if self.warmup_fraction and self.schedule == "one_cycle":
            raise TrainingError("one_cycle has a warm-up of its own; give cosine or constant one")
        if self.max_gradient_norm is not None and not self.max_gradient_norm > 0:
            raise TrainingError("the largest gradient norm must be positive")
        if self.is_sharded and self.mixed_precision == "fp16":
            raise TrainingError("a sharded model is not trained in fp16; use bf16")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise TrainingError(
                    f"{name.replace('_', ' ')} {getattr(self, name)!r} is not known; use "
                    f"{', '.join(allowed[:-1])} or {allowed[-1]}"
                )


@dataclass(frozen=True)
class Recording:
    """What is kept of a training run, and where.

    Attributes:
        folder: of the run (docs/engine.md describes it).
        resume: go on where the run in the folder stands; without it the folder must hold none.
        checkpoint_epochs: a checkpoint is written after every so many passes, and at the end.
        checkpoint_steps: and after every so many optimizer steps; None for none in between.
        num_kept_checkpoints: the newest that are kept.
        log_steps: every so many steps there is a line in the log.
        trackers: any of :data:`TRACKERS`.
        origin: what the run was made of, by name (model, data); a run is resumed with the same.
    """

    folder: Path
    resume: bool = False
    checkpoint_epochs: int = 1
    checkpoint_steps: int | None = None
    num_kept_checkpoints: int = 2
    log_steps: int = 10
    trackers: tuple[str, ...] = ()
    origin: Mapping[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be kept."""
        counts = (self.checkpoint_epochs, self.num_kept_checkpoints, self.log_steps)
        if min(*counts, self.checkpoint_steps or 1) < 1 or self.checkpoint_steps == 0:
            raise TrainingError("checkpoints, and steps between them or log lines, are at least 1")
        for name in self.trackers:
            if name not in TRACKERS:
                raise TrainingError(f"tracker {name!r} is not known; use {' or '.join(TRACKERS)}")

    def is_checkpoint_due(self, step: int) -> bool:
        """Whether a checkpoint is due after so many steps, wherever the epoch stands."""
        return self.checkpoint_steps is not None and step % self.checkpoint_steps == 0
