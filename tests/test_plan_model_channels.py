"""Channels planned from a torch model; what cannot use such a plan yet says so."""

import torch
from torch import nn

import spartan_planner as sp


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).eval()


def test_channels_go_and_the_figures_are_those_of_the_smaller_network():
    model = network()
    plan = sp.plan(model, torch.zeros(1, 3, 8, 8), budgets={"params": "40%"}, layouts=["channel"])
    kept = {group.name: group.num_kept_units for group in plan.groups}
    assert set(kept) == {"0.weight", "3.weight"}
    first, second = kept["0.weight"], kept["3.weight"]
    convolutions = 27 * first + first + 9 * first * second
    norms = 2 * first + 2 * second
    assert plan.budget.predicted == convolutions + norms + 10 * second + 10
    assert plan.budget.dense == sum(parameter.numel() for parameter in model.parameters())
