from types import SimpleNamespace

import pytest
import torch
from torch import nn

from spartan_planner.errors import TrainingError
from spartan_planner.training import Distillation
from spartan_planner.training.losses import (
    IGNORED_LABEL,
    compute_logits,
    count_correct,
    distillation_loss,
    logits_of,
    task_loss,
)

LOGITS = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[0, 1, 4], [2, IGNORED_LABEL, IGNORED_LABEL]])
ROUNDING = 1e-6
"""Float32 sums of a handful of terms."""


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: SimpleNamespace(logits=x), lambda x: {"logits": x}]
)
def test_logits_are_found_in_what_models_return(wrap):
    assert torch.equal(logits_of(wrap(LOGITS)), LOGITS)


@pytest.mark.parametrize(
    "output", [None, (LOGITS,), {"loss": LOGITS}, SimpleNamespace(logits=None)]
)
def test_outputs_without_logits_are_refused(output):
    with pytest.raises(TrainingError, match="the model returns"):
        logits_of(output)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_text_is_the_mean_over_the_tokens_that_count(smoothing):
    found = task_loss(LOGITS, LABELS, smoothing)
    rows = [(0, 0), (0, 1), (0, 2), (1, 0)]
    log_p = torch.stack([LOGITS[row].log_softmax(0) for row in rows])
    labels = torch.stack([LABELS[row] for row in rows])
    right = log_p[torch.arange(4), labels]
    expected = -((1 - smoothing) * right + smoothing * log_p.mean(1)).mean()
    torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=ROUNDING)


def test_the_loss_of_a_classification_is_torchs():
    logits, labels = LOGITS[:, 0], torch.tensor([1, 4])
    expected = nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(task_loss(logits, labels, 0.0), expected)


def test_distillation_is_the_divergence_of_softened_distributions():
    teacher = LOGITS.flip(0)
    found = distillation_loss(LOGITS, teacher, LABELS, 2.0)
    p, q = ((x.reshape(-1, 5)[[0, 1, 2, 3]] / 2).softmax(1) for x in (teacher, LOGITS))
    expected = 4 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=ROUNDING)
    assert distillation_loss(LOGITS, LOGITS, LABELS, 3.0).abs() < ROUNDING


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"weight": 1.5}, {"temperature": 0.0}])
def test_distillation_that_means_nothing_is_refused(options):
    with pytest.raises(TrainingError, match="distillation"):
        Distillation(nn.Identity(), **options)


def test_right_predictions_are_counted_by_example():
    logits = nn.functional.one_hot(torch.tensor([[0, 1, 2], [2, 0, 0]]), 5).float()
    assert count_correct(logits, LABELS).tolist() == [[2, 3], [1, 1]]
    assert count_correct(logits[:, 0], torch.tensor([0, 1])).tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("model", "labels", "task", "message"),
    [
        (nn.Identity(), LABELS[:, 0], "classification", "found logits (2, 3, 5)"),
        (nn.Identity(), LABELS[:, :2], "next_token", "found logits (2, 3, 5)"),
        (nn.Linear(4, 4), LABELS, "next_token", "mat1 and mat2"),
    ],
)
def test_data_that_do_not_fit_are_explained(model, labels, task, message):
    with pytest.raises(TrainingError, match="do not fit the model") as raised:
        compute_logits(model, LOGITS, labels, task)
    assert message in str(raised.value)


def test_labels_that_are_no_classes_are_explained():
    with pytest.raises(TrainingError, match="for 5 classes"):
        task_loss(LOGITS[:, 0], torch.tensor([1, 9]), 0.0)


def test_several_inputs_go_by_keyword():
    class Adder(nn.Module):
        def forward(self, left, right):
            return left - right

    inputs = {"right": LOGITS[:, 0], "left": LOGITS[:, 1]}
    found = compute_logits(Adder(), inputs, LABELS[:, 0], "classification")
    assert torch.equal(found, LOGITS[:, 1] - LOGITS[:, 0])
