from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from networks import tiny_network, tiny_plan
from torch import nn
from torch.utils.data import TensorDataset

from spartan_planner.errors import TrainingError
from spartan_planner.export.kept_sizes import kept_sizes
from spartan_planner.training import (
    DataSplit,
    Distillation,
    TrainingSettings,
    evaluate,
    load_data,
    num_steps,
    train,
)
from spartan_planner.training.losses import IGNORED_LABEL

SHORT = TrainingSettings(num_epochs=6, batch_size=32, learning_rate=3e-3, optimizer="adamw")
CHANCE = 0.1
SAME = 1e-4
"""Float32 gradients, added up in another order."""


@pytest.fixture(scope="module")
def digits():
    data = load_data("digits")
    return DataSplit(TensorDataset(*data.train[:512]), data.test)


def test_dense_and_sparse_training_learn_digits(digits):
    model = tiny_network()
    dense = train(model, digits, SHORT)
    assert dense.accuracy > 5 * CHANCE
    assert dense.losses[-1] < dense.losses[0]
    assert dense.stats == {}
    plan = tiny_plan(model)
    steps = []
    sparse = train(model, digits, SHORT, plan, steps.append)
    assert len(steps) == num_steps(digits, SHORT) == 96
    assert sparse.accuracy > 5 * CHANCE
    assert sparse.stats["predicted"] <= plan.budget.asked
    assert plan.predicted("flops", kept_sizes(model, plan)) <= plan.budget.asked
    assert evaluate(model, digits.test) == sparse.accuracy


def test_the_same_seed_gives_the_same_weights(digits):
    states = []
    for _ in range(2):
        model = tiny_network()
        train(model, digits, TrainingSettings(num_epochs=1), tiny_plan(model))
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


class NextToken(nn.Module):
    """The next token is the sum of the last two; returns an object, as Hugging Face models do."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 64)
        self.mixing = nn.Linear(128, 64)
        self.head = nn.Linear(64, 5)

    def forward(self, tokens):
        now = self.embedding(tokens)
        before = nn.functional.pad(now, (0, 0, 1, 0))[:, :-1]
        return SimpleNamespace(logits=self.head(self.mixing(torch.cat([before, now], 2)).relu()))


def sums(num_texts):
    tokens = torch.randint(0, 5, (num_texts, 9), generator=torch.Generator().manual_seed(0))
    for i in range(2, 9):
        tokens[:, i] = (tokens[:, i - 1] + tokens[:, i - 2]) % 5
    labels = tokens[:, 1:].clone()
    labels[:, 0] = IGNORED_LABEL
    return TensorDataset(tokens[:, :-1], labels)


def test_a_model_learns_which_token_is_next():
    torch.manual_seed(0)
    settings = replace(SHORT, task="next_token", num_epochs=4, learning_rate=1e-2)
    result = train(NextToken(), DataSplit(sums(512), sums(64)), settings)
    assert result.accuracy > 0.95


def test_a_student_learns_from_its_teacher_alone(digits):
    """With labels that say nothing, all that is learnt comes from the teacher."""
    teacher = tiny_network()
    accuracy = train(teacher, digits, SHORT).accuracy
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    images, labels = digits.train.tensors
    unlabelled = DataSplit(TensorDataset(images, torch.zeros_like(labels)), digits.test)
    student = tiny_network(1)
    distillation = Distillation(teacher, weight=1.0, temperature=2.0)
    taught = train(student, unlabelled, SHORT, distillation=distillation)
    assert taught.accuracy > 0.8 * accuracy
    assert not teacher.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_parts_of_a_batch_add_up_to_it(digits):
    """Without batch normalisation: its statistics are those of a part."""
    losses = []
    for num_parts in (1, 4):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        settings = replace(SHORT, num_epochs=2, num_accumulation_steps=num_parts)
        losses.append(train(model, digits, settings).losses)
    assert losses[1] == pytest.approx(losses[0], rel=SAME)


def test_clipping_bounds_what_a_step_changes(digits):
    model = tiny_network()
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    norm = 1e-3
    settings = TrainingSettings(
        num_epochs=1, batch_size=512, learning_rate=1.0, schedule="constant", weight_decay=0,
        max_gradient_norm=norm,
    )  # fmt: skip
    train(model, digits, settings)
    change = nn.utils.parameters_to_vector(model.parameters()).detach() - before
    # One step of Nesterov momentum: 1.9 times the gradient.
    assert float(change.norm()) == pytest.approx(1.9 * norm, rel=1e-2)


def test_a_model_trained_in_bfloat16_is_given_back_in_float32(digits):
    model = tiny_network()
    result = train(model, digits, replace(SHORT, mixed_precision="bf16"), tiny_plan(model))
    assert result.accuracy > 5 * CHANCE
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(torch.zeros(1, 1, 8, 8)).dtype == torch.float32
    assert "forward" not in vars(model)
    # Another precision in the same process.
    train(model, digits, replace(SHORT, num_epochs=1))


def test_a_precision_that_the_device_lacks_is_refused(digits):
    if torch.cuda.is_available():
        pytest.skip("this device has it")
    with pytest.raises(TrainingError, match="fp16 cannot be trained on this"):
        train(tiny_network(), digits, replace(SHORT, mixed_precision="fp16"))


def test_a_loss_that_explodes_stops_training(digits):
    model = tiny_network()
    with torch.no_grad():
        model.classifier.bias.fill_(float("inf"))
    with pytest.raises(TrainingError, match=r"loss became .* in step 1; lower the learning rate"):
        train(model, digits, SHORT)


def test_weights_that_explode_under_a_plan_are_told_as_the_loss_that_did(digits):
    model = tiny_network()
    settings = replace(SHORT, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"in step \d+.*; lower the learning rate"):
        train(model, digits, settings, tiny_plan(model))


def test_data_that_do_not_fit_are_explained():
    wrong = TensorDataset(torch.zeros(8, 3, 8, 8), torch.zeros(8, dtype=torch.int64))
    with pytest.raises(TrainingError, match="do not fit the model"):
        train(tiny_network(), DataSplit(wrong, wrong), SHORT)


def test_examples_that_are_no_pairs_are_explained(digits):
    alone = TensorDataset(torch.zeros(8, 1, 8, 8))
    with pytest.raises(TrainingError, match="must be a pair of an input and a label"):
        train(tiny_network(), DataSplit(alone, digits.test), SHORT)
    with pytest.raises(TrainingError, match="must be a pair of an input and a label"):
        evaluate(tiny_network(), alone)


@pytest.mark.parametrize(
    "options",
    [
        {"num_epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
        {"label_smoothing": 1.0},
        {"optimizer": "lion"},
        {"learning_rate": float("nan")},
        {"schedule": "step"},
        {"warmup_fraction": 0.1},
        {"task": "segmentation"},
        {"mixed_precision": "fp8"},
        {"num_accumulation_steps": 0},
        {"max_gradient_norm": 0.0},
        {"num_workers": -1},
    ],
)
def test_settings_that_cannot_train_are_refused(options):
    with pytest.raises(TrainingError):
        TrainingSettings(**options)
