"""Training, dense or to a plan: a thin loop on Hugging Face Accelerate.

The same command trains on one device, on several and on several nodes; Accelerate reads from its
environment (``accelerate launch``, ``torchrun``) which it is.
"""

from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from spartan_planner.errors import NotFiniteError, TrainingError, TransportError
from spartan_planner.planning import Plan
from spartan_planner.progress import Advance, no_progress
from spartan_planner.training.accelerating import given_back, start_accelerator
from spartan_planner.training.datasets import DataSplit
from spartan_planner.training.evaluation import EVALUATION_BATCH_SIZE, share_correct
from spartan_planner.training.loading import batches_from, make_loader
from spartan_planner.training.loss_window import LossWindow
from spartan_planner.training.losses import (
    Distillation,
    compute_logits,
    distillation_loss,
    inputs_and_labels,
    task_loss,
)
from spartan_planner.training.optimization import make_optimizer, make_scheduler, num_steps
from spartan_planner.training.position import Position
from spartan_planner.training.recorder import Recorder
from spartan_planner.training.run_folder import describe_run
from spartan_planner.training.settings import Recording, TrainingSettings
from spartan_planner.training.sharded_model import sharded_copy, take_whole
from spartan_planner.training.sparsifier import Sparsifier

_LOSS_CHECK_STEPS = 10
"""Losses are fetched from the device this often, so that it need not wait after every step."""


@dataclass(frozen=True)
class TrainingResult:
    """What training came to.

    Attributes:
        accuracy: share of test labels that are predicted.
        losses: mean training loss of each epoch.
        stats: the sparsifier's figures at the end; empty without a plan.
        resumed_at_step: optimizer steps that had been done when the run was resumed; 0 for one
            that was not.
    """

    accuracy: float
    losses: tuple[float, ...]
    stats: dict[str, Any] = field(default_factory=dict)
    resumed_at_step: int = 0


def train(
    model: nn.Module,
    data: DataSplit,
    settings: TrainingSettings | None = None,
    plan: Plan | None = None,
    advance: Advance = no_progress,
    *,
    recording: Recording | None = None,
    distillation: Distillation | None = None,
) -> TrainingResult:
    """Train a model in place, to a plan when one is given.

    Args:
        model: maps inputs to logits (``settings.task`` says of which shape), or to an object that
            holds them as ``logits``.
        data: training and test examples, pairs of input and label.
        settings: how to train.
        plan: what to prune; dense training without one.
        advance: called after each step, with the loss last known.
        recording: keeps a log and checkpoints of the run in a folder; nothing is kept without it.
        distillation: a teacher to learn from beside the labels.

    Raises:
        TrainingError: the loss is not finite, the data do not fit the model, or the run in the
            folder is another one.
        PlanError: the plan belongs to another model.
        DocumentError: a log or a checkpoint cannot be written or read.
    """
    settings = settings or TrainingSettings()
    with given_back(model):
        accelerator = start_accelerator(settings, recording)
        run = _prepare(accelerator, model, data, settings, plan, distillation)
        recorder = _open_recorder(run, model, data, plan, recording)
        with closing(recorder) if recorder else nullcontext():
            position = recorder.resume() if recorder else Position()
            resumed_at_step = position.step
            for _ in range(resumed_at_step):
                advance("")
            while position.epoch < settings.num_epochs:
                position = _train_epoch(run, recorder, position, advance)
        stats = {}
        if run.sparsifier:
            run.sparsifier.finalize()
            stats = run.sparsifier.stats()
        if settings.is_sharded:
            take_whole(model, run.bare)
        return TrainingResult(run.accuracy(), position.losses, stats, resumed_at_step)


@dataclass(frozen=True)
class _Run:
    """What a run works with: what Accelerate prepared, and the sparsifier on the bare optimizer.

    ``bare`` is what is trained, without Accelerate's wrappers: the user's model or its sharded
    copy.
    """

    accelerator: Accelerator
    settings: TrainingSettings
    model: nn.Module
    bare: nn.Module
    optimizer: Optimizer
    loader: DataLoader[Any]
    test_loader: DataLoader[Any]
    scheduler: LRScheduler
    sparsifier: Sparsifier | None
    distillation: Distillation | None

    @property
    def parts(self) -> dict[str, Any]:
        """What has a state beside the model."""
        parts = {"optimizer": self.optimizer, "scheduler": self.scheduler}
        return {**parts, "sparsifier": self.sparsifier} if self.sparsifier else parts

    def loss(self, inputs: Any, labels: Tensor) -> Tensor:  # noqa: ANN401 - a tensor or several
        """Return the loss of a batch."""
        task = self.settings.task
        logits = compute_logits(self.model, inputs, labels, task)
        loss = task_loss(logits, labels, self.settings.label_smoothing)
        if not self.distillation:
            return loss
        with torch.no_grad(), self.accelerator.autocast():
            taught = compute_logits(self.distillation.teacher, inputs, labels, task).float()
        divergence = distillation_loss(logits, taught, labels, self.distillation.temperature)
        return torch.lerp(loss, divergence, self.distillation.weight)

    def step(self) -> None:
        """Step the optimizer, unless gradients are still gathered from the parts of a batch."""
        if self.accelerator.sync_gradients and self.settings.max_gradient_norm:
            self.accelerator.clip_grad_norm_(
                self.model.parameters(), self.settings.max_gradient_norm
            )
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()

    def accuracy(self) -> float:
        """Return the share of test labels that are predicted."""
        gather = self.accelerator.gather_for_metrics
        return share_correct(self.model, self.test_loader, self.settings.task, gather)


def _prepare(
    accelerator: Accelerator,
    model: nn.Module,
    data: DataSplit,
    settings: TrainingSettings,
    plan: Plan | None,
    distillation: Distillation | None,
) -> _Run:
    total_steps = num_steps(data, settings)
    trained = sharded_copy(model, plan, accelerator.device) if settings.is_sharded else model
    optimizer = make_optimizer(trained, settings)
    scheduler = make_scheduler(optimizer, settings, total_steps)
    part_size = settings.batch_size // settings.num_accumulation_steps
    loader = make_loader(data.train, part_size, settings.seed, settings.num_workers)
    test_size = EVALUATION_BATCH_SIZE * accelerator.num_processes
    test_loader = make_loader(
        data.test, test_size, settings.seed, settings.num_workers, shuffle=False
    )
    # A sharded model averages gradients by itself: it is wrapped for mixed precision only.
    wrapped = accelerator.prepare_model(trained, evaluation_mode=settings.is_sharded)
    stepped, loader, test_loader, scheduler = accelerator.prepare(
        optimizer, loader, test_loader, scheduler
    )
    # After preparing, and on what the hooks of an optimizer are really called on.
    bare = accelerator.unwrap_model(wrapped, keep_torch_compile=False)
    sparsifier = (
        Sparsifier(bare, plan, stepped.optimizer, total_steps, settings.method) if plan else None
    )
    if distillation:
        distillation.teacher.to(accelerator.device).eval().requires_grad_(False)
    return _Run(
        accelerator,
        settings,
        wrapped,
        bare,
        stepped,
        loader,
        test_loader,
        scheduler,
        sparsifier,
        distillation,
    )


def _open_recorder(
    run: _Run, model: nn.Module, data: DataSplit, plan: Plan | None, recording: Recording | None
) -> Recorder | None:
    if recording is None:
        return None
    num_examples = len(data.train)  # type: ignore[arg-type]
    taught = run.distillation
    origin = {
        **recording.origin,
        "distillation_weight": taught.weight if taught else None,
        "distillation_temperature": taught.temperature if taught else None,
    }
    num_processes = run.accelerator.num_processes
    facts = describe_run(model, run.settings, plan, num_examples, num_processes, origin)
    return Recorder(recording, run.accelerator, run.bare, run.parts, facts)


def _train_epoch(
    run: _Run, recorder: Recorder | None, position: Position, advance: Advance
) -> Position:
    """Train to the end of the pass over the data in which the position lies."""
    run.model.train()
    window = LossWindow(run.accelerator)
    log_steps = recorder.recording.log_steps if recorder else _LOSS_CHECK_STEPS
    for batch in batches_from(run.loader, position.epoch, position.num_batches):
        with run.accelerator.accumulate(run.model):
            loss = run.loss(*inputs_and_labels(batch))
            num_parts = window.add_part(loss)
            run.accelerator.backward(loss)
            _step(run, window, position)
        if not run.accelerator.sync_gradients:
            continue
        window.end_step()
        position = position.after_step(num_parts)
        # The last checkpoint of a pass is written after its test.
        is_saved = (
            recorder is not None
            and recorder.recording.is_checkpoint_due(position.step)
            and position.num_batches < len(run.loader)
        )
        if position.step % log_steps == 0 or is_saved:
            position = window.settle(position)
        if recorder and position.step % log_steps == 0:
            recorder.log(_record("step", run, position, window.last_loss))
        if recorder and is_saved:
            recorder.save(position)
        advance(window.status)
    position = window.settle(position).after_epoch()
    if recorder:
        _end_epoch(run, recorder, position)
    return position


def _step(run: _Run, window: LossWindow, position: Position) -> None:
    try:
        run.step()
    except (TransportError, NotFiniteError) as error:
        window.end_step()
        # A loss that is not finite says more than the weights that came of it.
        window.settle(position.after_step(0))
        if isinstance(error, NotFiniteError):
            raise NotFiniteError(f"in step {position.step + 1} {error}") from error
        raise TrainingError(
            f"training broke down in step {position.step + 1}: {error}; lower the learning rate"
        ) from error


def _end_epoch(run: _Run, recorder: Recorder, position: Position) -> None:
    accuracy = run.accuracy()
    recorder.log({**_record("epoch", run, position, position.losses[-1]), "accuracy": accuracy})
    every, last = recorder.recording.checkpoint_epochs, run.settings.num_epochs
    if (
        position.epoch % every == 0
        or position.epoch == last
        or recorder.recording.is_checkpoint_due(position.step)
    ):
        recorder.save(position)


def _record(event: str, run: _Run, position: Position, loss: float) -> dict[str, Any]:
    return {
        "event": event,
        "epoch": position.epoch,
        "step": position.step,
        "loss": loss,
        "accuracy": None,
        "learning_rate": run.scheduler.get_last_lr()[0],
        "sparsifier": run.sparsifier.stats() if run.sparsifier else {},
    }
