"""How often a model is right."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader

from spartan_planner.training.datasets import Examples
from spartan_planner.training.losses import compute_logits, count_correct, inputs_and_labels

EVALUATION_BATCH_SIZE = 256
"""Examples per batch and process."""


def evaluate(model: nn.Module, examples: Examples, task: str = "classification") -> float:
    """Return the share of labels that the model predicts, on the device where it lies.

    Args:
        model: left in the mode it was in.
        examples: pairs of input and label.
        task: a key of :data:`spartan_planner.training.losses.NUM_LOGIT_DIMENSIONS`.

    Raises:
        TrainingError: the data do not fit the model.
    """
    device = next(model.parameters()).device
    # A generator of its own: torch draws from it at the start of every pass.
    loader = DataLoader(examples, EVALUATION_BATCH_SIZE, generator=torch.Generator())
    return share_correct(model, (send_to_device(batch, device) for batch in loader), task)


@torch.no_grad()
def share_correct(
    model: nn.Module,
    batches: Iterable[Any],
    task: str,
    gather: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """Return the share of labels that the model predicts.

    Args:
        model: left in the mode it was in.
        batches: pairs of inputs and labels, on the model's device.
        task: as in :func:`evaluate`.
        gather: collects ``[batch, 2]`` counts from all processes; None where there is one.

    Raises:
        TrainingError: the data do not fit the model.
    """
    was_training = model.training
    model.eval()
    num_correct = num_labels = 0
    for batch in batches:
        inputs, labels = inputs_and_labels(batch)
        counts = count_correct(compute_logits(model, inputs, labels, task), labels)
        correct, counted = (gather(counts) if gather else counts).sum(0).tolist()
        num_correct, num_labels = num_correct + correct, num_labels + counted
    model.train(was_training)
    return num_correct / max(1, num_labels)
