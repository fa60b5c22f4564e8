"""Optimizers and learning rates."""

import math

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from spartan_planner.training.datasets import DataSplit
from spartan_planner.training.settings import TrainingSettings

_MOMENTUM = 0.9


def num_steps(data: DataSplit, settings: TrainingSettings) -> int:
    """Return the number of optimizer steps of a training run: ``epochs ceil(examples / batch)``."""
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


def make_scheduler(
    optimizer: Optimizer, settings: TrainingSettings, total_steps: int
) -> LRScheduler:
    """Build the schedule of the learning rate over ``total_steps`` optimizer steps."""
    if settings.schedule == "one_cycle":
        return OneCycleLR(optimizer, settings.learning_rate, total_steps=total_steps)

    def factor(step: int) -> float:
        return learning_rate_factor(step, total_steps, settings.schedule, settings.warmup_fraction)

    return LambdaLR(optimizer, factor)


def learning_rate_factor(
    step: int, total_steps: int, schedule: str, warmup_fraction: float
) -> float:
    """Return the share of the highest learning rate that step ``step`` of ``total_steps`` has.

    It rises linearly over ``w = warmup_fraction total_steps`` steps, ``(step + 1) / (w + 1)``;
    then ``constant`` stays at 1 and ``cosine`` falls as ``(1 + cos(pi (step - w) / (total_steps -
    w))) / 2``.

    Args:
        step: from 0.
        total_steps: of the run.
        schedule: ``cosine`` or ``constant``.
        warmup_fraction: in [0, 1).
    """
    num_warmup_steps = round(warmup_fraction * total_steps)
    if step < num_warmup_steps:
        return (step + 1) / (num_warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - num_warmup_steps) / max(1, total_steps - num_warmup_steps)
    return (1 + math.cos(math.pi * min(1.0, progress))) / 2
