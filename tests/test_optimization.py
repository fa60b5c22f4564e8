import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import tiny_network
from torch import nn
from torch.utils.data import TensorDataset

from spartan_planner.training import DataSplit, TrainingSettings, make_optimizer, num_steps
from spartan_planner.training.optimization import learning_rate_factor, make_scheduler


def test_only_weights_decay():
    model = tiny_network()
    decayed, others = make_optimizer(model, TrainingSettings(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {p.dim() for p in others["params"]} == {1}
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_steps_are_counted_by_whole_batches():
    examples = TensorDataset(torch.zeros(33))
    split = DataSplit(examples, examples)
    for accumulation in (1, 2, 4):
        settings = TrainingSettings(
            num_epochs=3, batch_size=16, num_accumulation_steps=accumulation
        )
        assert num_steps(split, settings) == 9


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_the_learning_rate_never_exceeds_the_highest(schedule):
    settings = TrainingSettings(learning_rate=0.3, schedule=schedule)
    optimizer = make_optimizer(nn.Linear(2, 2), settings)
    scheduler = make_scheduler(optimizer, settings, 20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(0.3)
    if schedule != "constant":
        assert rates[-1] < 0.01


@given(st.integers(2, 500), st.floats(0, 0.99), st.sampled_from(["cosine", "constant"]))
def test_warm_up_rises_and_then_nothing_does(total, warmup, schedule):
    factors = [learning_rate_factor(i, total, schedule, warmup) for i in range(total)]
    top = round(warmup * total)
    rising, falling = factors[: top + 1], factors[top:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert all(0 <= factor <= 1 for factor in factors)


def test_cosine_is_half_way_down_in_the_middle():
    assert learning_rate_factor(50, 100, "cosine", 0.0) == pytest.approx(0.5)
    assert learning_rate_factor(60, 100, "cosine", 0.2) == pytest.approx(0.5)
    assert learning_rate_factor(100, 100, "cosine", 0.2) == pytest.approx(0, abs=1e-12)
    assert math.isclose(learning_rate_factor(0, 100, "constant", 0.1), 1 / 11)
