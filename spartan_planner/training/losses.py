"""Losses by task, and distillation.

Every function takes logits ``[..., classes]``: one row per target.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spartan_planner.errors import TrainingError

IGNORED_LABEL = -100
"""A target that counts for nothing: padding of a text."""

NUM_LOGIT_DIMENSIONS = {"classification": 2, "next_token": 3}
"""Tasks, and how many dimensions their logits have: ``[batch, classes]`` for labels ``[batch]``, or
``[batch, tokens, vocabulary]`` for labels ``[b, t]``, each the token that follows input ``[b, t]``.
"""


def inputs_and_labels(batch: object) -> tuple[Any, Tensor]:
    """Return the two parts of a batch.

    Raises:
        TrainingError: it is no pair of inputs and a tensor of labels.
    """
    if isinstance(batch, list | tuple) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return batch[0], batch[1]
    raise TrainingError(
        f"the data's batches are {type(batch).__name__} objects; an example must be a pair of an "
        "input and a label"
    )


def logits_of(output: object) -> Tensor:
    """Return the logits in what a model returned: a tensor, or an object that holds ``logits``.

    Raises:
        TrainingError: neither.
    """
    found = output.get("logits") if isinstance(output, Mapping) else None
    found = getattr(output, "logits", None) if found is None else found
    logits = output if isinstance(output, Tensor) else found
    if not isinstance(logits, Tensor):
        raise TrainingError(
            f"the model returns {type(output).__name__}; a tensor of logits, or an object with "
            "the attribute logits, can be trained"
        )
    return logits


def compute_logits(model: nn.Module, inputs: Any, labels: Tensor, task: str) -> Tensor:  # noqa: ANN401 - a tensor or a mapping of them
    """Run the model on a batch and check the shape of its logits.

    Args:
        model: called with ``inputs``, by keyword where it is a mapping.
        inputs: a tensor ``[batch, ...]``, or a mapping of them.
        labels: ``[batch]``, or ``[batch, tokens]`` of the task ``next_token``.
        task: a key of :data:`NUM_LOGIT_DIMENSIONS`.

    Raises:
        TrainingError: the data do not fit the model.
    """
    try:
        output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"a batch of {len(labels)} examples does not fit into the device's memory; lower the "
            "batch size or raise the accumulation steps"
        ) from error
    except (RuntimeError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise TrainingError(_misfit(inputs, labels, task, str(error))) from error
    logits = logits_of(output)
    if logits.dim() != NUM_LOGIT_DIMENSIONS[task] or logits.shape[:-1] != labels.shape:
        raise TrainingError(_misfit(inputs, labels, task, f"found logits {tuple(logits.shape)}"))
    return logits


def task_loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean cross-entropy over all labels that count.

    Raises:
        TrainingError: a label that is no class of the logits, or of a type that is none.
    """
    rows, targets = logits.flatten(0, -2), labels.flatten()
    try:
        return nn.functional.cross_entropy(
            rows, targets, ignore_index=IGNORED_LABEL, label_smoothing=label_smoothing
        )
    except (RuntimeError, IndexError) as error:
        raise TrainingError(
            f"the data do not fit the model (labels of type {labels.dtype} for "
            f"{logits.shape[-1]} classes): {error}"
        ) from error


@dataclass(frozen=True)
class Distillation:
    """Learning from the logits of a teacher beside the labels.

    Attributes:
        teacher: usually the dense model; only run, never changed.
        weight: of the teacher's part of the loss; the labels have the rest.
        temperature: by which both models' logits are divided.
    """

    teacher: nn.Module
    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        """Refuse a weight or a temperature that mean nothing."""
        if not 0 < self.weight <= 1:
            raise TrainingError(f"the weight of distillation is {self.weight}; it lies in (0, 1]")
        if not 0 < self.temperature < float("inf"):
            raise TrainingError(
                f"the temperature of distillation is {self.temperature}; it must be positive"
            )


def distillation_loss(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """Return ``T^2 KL(softmax(teacher / T) || softmax(student / T))``, mean over labels that count.

    The factor keeps the size of its gradient when the temperature changes (Hinton, Vinyals and
    Dean 2015, section 2.1).

    Args:
        logits: ``[..., classes]`` of the student.
        teacher_logits: the same of the teacher.
        labels: ``[...]``.
        temperature: T > 0.
    """
    counts = labels.flatten() != IGNORED_LABEL
    student = nn.functional.log_softmax(logits.flatten(0, -2)[counts] / temperature, -1)
    teacher = nn.functional.log_softmax(teacher_logits.flatten(0, -2)[counts] / temperature, -1)
    divergence = nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ``[batch, 2]``: right predictions and labels that count, of each example."""
    counts = labels != IGNORED_LABEL
    right = (logits.argmax(-1) == labels) & counts
    return torch.stack([tensor.reshape(len(labels), -1).sum(1) for tensor in (right, counts)], 1)


def _misfit(inputs: Any, labels: Tensor, task: str, problem: str) -> str:  # noqa: ANN401 - as above
    shapes = (
        {name: tuple(tensor.shape) for name, tensor in inputs.items()}
        if isinstance(inputs, Mapping)
        else tuple(getattr(inputs, "shape", ()))
    )
    wanted = {
        "classification": "logits [batch, classes] for labels [batch]",
        "next_token": "logits [batch, tokens, vocabulary] for labels [batch, tokens]",
    }[task]
    return (
        f"the data do not fit the model (a batch of inputs {shapes} and labels "
        f"{tuple(labels.shape)}; task {task} wants {wanted}): {problem}"
    )
