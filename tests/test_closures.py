"""Steps whose loss the optimizer evaluates itself, against loops that do not."""

import math

import pytest
import torch
from accelerate import Accelerator
from networks import tiny_network, tiny_plan
from torch import nn
from torch.nn.functional import cross_entropy

from spartan_planner.errors import TrainingError
from spartan_planner.export.kept_sizes import kept_sizes
from spartan_planner.plan_model import plan as make_plan
from spartan_planner.planning import Schedule
from spartan_planner.training import Sparsifier

NUM_STEPS = 12
METHODS = ["spartan", "dual_averaging", "magnitude"]
OPTIMIZERS = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3},
    "AdamW": {"lr": 1e-3},
    "Rprop": {"lr": 1e-3},
}
MUCH_LOWER = 0.5
"""Of the loss at the start: L-BFGS goes far below it in twelve steps, a broken one nowhere."""
ROUNDING = 1e-9
"""Costs are sums in float64."""


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, 1, 8, 8, generator=generator)
    return images, torch.randint(0, 10, (8,), generator=generator)


def closure_of(model, optimizer, seed, losses):
    def closure():
        images, labels = batch(seed)
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        losses.append(loss.item())
        return loss

    return closure


def trained(name, method, layout, way):
    """Losses, weights and figures of a run that is stepped in one of three ways."""
    model = tiny_network()
    plan = tiny_plan(model, layouts=[layout])
    optimizer = getattr(torch.optim, name)(model.parameters(), **OPTIMIZERS[name])
    sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS, method)
    losses = []
    for seed in range(NUM_STEPS):
        closure = closure_of(model, optimizer, seed, losses)
        if way == "plain":
            closure()
            optimizer.step()
        elif way == "positional":
            assert optimizer.step(closure).item() == losses[-1]
        else:
            optimizer.step(closure=closure)
    stats = sparsifier.stats()
    sparsifier.finalize()
    return losses, dict(model.named_parameters()), stats


@pytest.mark.parametrize("layout", ["element", "tile:16x1@16"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_closure_is_the_same_as_backward_and_step(name, method, layout):
    losses, weights, stats = trained(name, method, layout, "plain")
    for way in ("positional", "named"):
        found_losses, found_weights, found_stats = trained(name, method, layout, way)
        assert found_losses == losses
        assert found_stats == stats
        for key, weight in weights.items():
            assert torch.equal(found_weights[key], weight)


def problem():
    """A small network without batch normalisation, whose loss L-BFGS brings down quickly."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))
    inputs = torch.randn(64, 16)
    targets = torch.tanh(inputs @ torch.randn(16, 4))
    return model, inputs, targets


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
@pytest.mark.parametrize("layout", ["element", "tile:4x1", "2:4"])
@pytest.mark.parametrize("method", METHODS)
def test_lbfgs_evaluates_sparse_weights_and_brings_the_loss_down(method, layout, line_search):
    model, inputs, targets = problem()
    plan = make_plan(model, (inputs,), budgets={"params": "70%"}, layouts=[layout])
    rate = 1.0 if line_search else 0.2
    optimizer = torch.optim.LBFGS(
        model.parameters(), lr=rate, max_iter=6, line_search_fn=line_search
    )
    schedule = Schedule(budget_fraction=0.25, frozen_fraction=0.4, method=method)
    sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS, method, schedule)
    losses, spent = [], []

    def closure():
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        losses.append(loss.item())
        if sparsifier.num_steps_done > NUM_STEPS * schedule.budget_fraction:
            spent.append(plan.predicted("params", kept_sizes(model, plan)))
        return loss

    for _ in range(NUM_STEPS):
        optimizer.step(closure)
    sparsifier.finalize()
    assert len(spent) > NUM_STEPS
    assert max(spent) <= plan.budget.asked * (1 + ROUNDING)
    with torch.no_grad():
        last = (model(inputs) - targets).square().mean().item()
    assert math.isfinite(last)
    assert last < MUCH_LOWER * losses[0]


class Evaluating(torch.optim.Optimizer):
    """Moves the weights, evaluates several times without moving them, then descends."""

    def __init__(self, parameters, num_evaluations, move=0.0):
        super().__init__(parameters, {"lr": 0.05})
        self.num_evaluations, self.move = num_evaluations, move

    @torch.no_grad()
    def step(self, closure):
        group = self.param_groups[0]
        if self.move:
            torch._foreach_add_(group["params"], self.move)
        for _ in range(self.num_evaluations):
            with torch.enable_grad():
                closure()
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.add_(parameter.grad, alpha=-group["lr"])


def test_how_often_an_optimizer_evaluates_does_not_move_the_schedule():
    states = []
    for num_evaluations in (1, 4):
        model = tiny_network()
        optimizer = Evaluating(model.parameters(), num_evaluations)
        sparsifier = Sparsifier(model, tiny_plan(model), optimizer, NUM_STEPS)
        for seed in range(NUM_STEPS // 2):
            optimizer.step(closure_of(model, optimizer, seed, []))
        states.append(sparsifier.state_dict())
    assert states[0]["numbers"] == states[1]["numbers"]
    for name, tensor in states[0]["tensors"].items():
        assert torch.equal(tensor, states[1]["tensors"][name])


@pytest.mark.parametrize(
    ("num_evaluations", "move", "sentence"),
    [
        (0, 0.0, "took a step without calling the closure"),
        (1, 0.1, "was changed by Evaluating before it called its closure"),
    ],
)
def test_what_cannot_see_sparse_weights_is_told(num_evaluations, move, sentence):
    model = tiny_network()
    optimizer = Evaluating(model.parameters(), num_evaluations, move)
    Sparsifier(model, tiny_plan(model), optimizer, NUM_STEPS)
    if move:
        optimizer.move = 0.0
        optimizer.step(closure_of(model, optimizer, 0, []))
        optimizer.move = move
    closure = closure_of(model, optimizer, 1, [])
    with pytest.raises(TrainingError, match=sentence):
        optimizer.step(closure)


def test_accelerates_optimizer_passes_closures_on():
    model = tiny_network()
    plan = tiny_plan(model)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    model, wrapped = Accelerator(cpu=True).prepare(model, optimizer)
    sparsifier = Sparsifier(model, plan, wrapped, NUM_STEPS)
    losses = []
    for _ in range(NUM_STEPS):
        wrapped.step(closure_of(model, wrapped, 0, losses))
    sparsifier.finalize()
    assert len(losses) > NUM_STEPS
    assert plan.predicted("flops", kept_sizes(model, plan)) <= plan.budget.asked
