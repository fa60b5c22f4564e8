import pytest
import torch
from networks import tiny_network, tiny_plan
from torch.utils.data import TensorDataset

from spartan_planner.errors import TrainingError
from spartan_planner.export.kept_sizes import kept_sizes
from spartan_planner.training import (
    DataSplit,
    TrainingSettings,
    evaluate,
    load_data,
    num_steps,
    train,
)

SHORT = TrainingSettings(num_epochs=6, batch_size=32, learning_rate=3e-3, optimizer="adamw")
CHANCE = 0.1


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


def test_a_loss_that_explodes_stops_training(digits):
    model = tiny_network()
    with torch.no_grad():
        model.classifier.bias.fill_(float("inf"))
    with pytest.raises(TrainingError, match="lower the learning rate"):
        train(model, digits, SHORT)


def test_data_that_do_not_fit_are_explained():
    wrong = TensorDataset(torch.zeros(8, 3, 8, 8), torch.zeros(8, dtype=torch.int64))
    with pytest.raises(TrainingError, match="do not fit the model"):
        train(tiny_network(), DataSplit(wrong, wrong), SHORT)


@pytest.mark.parametrize(
    "options",
    [
        {"num_epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
        {"label_smoothing": 1.0},
        {"optimizer": "lion"},
    ],
)
def test_settings_that_cannot_train_are_refused(options):
    with pytest.raises(TrainingError):
        TrainingSettings(**options)
