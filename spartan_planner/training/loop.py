"""A thin training loop on Hugging Face Accelerate."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from spartan_planner.errors import TrainingError
from spartan_planner.planning import Plan
from spartan_planner.progress import Advance, no_progress
from spartan_planner.training.datasets import DataSplit, Examples
from spartan_planner.training.sparsifier import Sparsifier

_MOMENTUM = 0.9
_EVALUATION_BATCH_SIZE = 256


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        num_epochs: passes over the training data.
        batch_size: examples per step and process.
        learning_rate: highest learning rate of a one-cycle schedule.
        weight_decay: on weights of at least two dimensions; none on norms and biases.
        label_smoothing: of the cross-entropy.
        optimizer: ``sgd`` (Nesterov momentum 0.9) or ``adamw``.
        seed: of shuffling and of torch's generator.
    """

    num_epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    optimizer: str = "sgd"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        if self.num_epochs < 1 or self.batch_size < 1:
            raise TrainingError("epochs and batch size must be at least 1")
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise TrainingError("the learning rate must be positive, weight decay not negative")
        if not 0 <= self.label_smoothing < 1:
            raise TrainingError("label smoothing must lie in [0, 1)")
        if self.optimizer not in ("sgd", "adamw"):
            raise TrainingError(f"optimizer {self.optimizer!r} is not known; use sgd or adamw")


@dataclass(frozen=True)
class TrainingResult:
    """What training came to.

    Attributes:
        accuracy: share of test examples that are classified correctly.
        losses: mean training loss of each epoch.
        stats: the sparsifier's figures at the end; empty without a plan.
    """

    accuracy: float
    losses: tuple[float, ...]
    stats: dict[str, Any] = field(default_factory=dict)


def train(
    model: nn.Module,
    data: DataSplit,
    settings: TrainingSettings | None = None,
    plan: Plan | None = None,
    advance: Advance = no_progress,
) -> TrainingResult:
    """Train a classifier in place, to a plan when one is given.

    Args:
        model: maps inputs to logits ``[batch, classes]``.
        data: training and test examples.
        settings: how to train.
        plan: what to prune; dense training without one.
        advance: called after each step with the current loss.

    Raises:
        TrainingError: the loss is not finite, or the data do not fit the model.
        PlanError: the plan belongs to another model.
    """
    settings = settings or TrainingSettings()
    torch.manual_seed(settings.seed)
    device = next(model.parameters()).device
    accelerator = Accelerator()
    optimizer = make_optimizer(model, settings)
    loader = _training_loader(data.train, settings)
    total_steps = len(loader) * settings.num_epochs
    sparsifier = Sparsifier(model, plan, optimizer, total_steps) if plan else None
    scheduler = OneCycleLR(optimizer, settings.learning_rate, total_steps=total_steps)
    run = _Run(accelerator, *accelerator.prepare(model, optimizer, loader, scheduler))
    model.train()
    losses = [_train_epoch(run, settings, advance) for _ in range(settings.num_epochs)]
    stats = {}
    if sparsifier:
        sparsifier.finalize()
        stats = sparsifier.stats()
    # Accelerate moves the model to its device in place; the caller finds it where it was.
    model.to(device)
    return TrainingResult(evaluate(model, data.test), tuple(losses), stats)


def num_steps(data: DataSplit, settings: TrainingSettings) -> int:
    """Return the number of optimizer steps of a training run."""
    num_examples = len(data.train)  # type: ignore[arg-type]
    return math.ceil(num_examples / settings.batch_size) * settings.num_epochs


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> Optimizer:
    """Build the optimizer, with weight decay only on weights of at least two dimensions."""
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return AdamW(groups, lr=settings.learning_rate)
    return SGD(groups, lr=settings.learning_rate, momentum=_MOMENTUM, nesterov=True)


def _training_loader(examples: Examples, settings: TrainingSettings) -> DataLoader[Any]:
    return DataLoader(
        examples,
        settings.batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(settings.seed),
    )


@dataclass(frozen=True)
class _Run:
    """What Accelerate prepared."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: Optimizer
    loader: DataLoader[Any]
    scheduler: OneCycleLR


def _train_epoch(run: _Run, settings: TrainingSettings, advance: Advance) -> float:
    losses = []
    for inputs, labels in run.loader:
        run.optimizer.zero_grad()
        loss = _loss(run.model, inputs, labels, settings.label_smoothing)
        run.accelerator.backward(loss)
        run.optimizer.step()
        run.scheduler.step()
        losses.append(_finite(loss))
        advance(f"loss {losses[-1]:.3f}")
    return sum(losses) / len(losses)


def _loss(model: nn.Module, inputs: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    try:
        logits = model(inputs)
        return nn.functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    except (RuntimeError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise TrainingError(
            f"the data do not fit the model (a batch of inputs {tuple(inputs.shape)} and labels "
            f"{tuple(labels.shape)}; the model must map it to logits [batch, classes]): {error}"
        ) from error


def _finite(loss: Tensor) -> float:
    figure = float(loss.detach())
    if not math.isfinite(figure):
        raise TrainingError(f"the loss became {figure}; lower the learning rate")
    return figure


@torch.no_grad()
def evaluate(model: nn.Module, examples: Examples) -> float:
    """Return the share of examples that the model classifies correctly."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    num_correct = num_examples = 0
    for inputs, labels in DataLoader(examples, _EVALUATION_BATCH_SIZE):
        predicted = model(inputs.to(device)).argmax(1).cpu()
        num_correct += int((predicted == labels).sum())
        num_examples += len(labels)
    model.train(was_training)
    return num_correct / num_examples
