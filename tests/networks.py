"""Small networks and plans that several test files use."""

import torch
from torch import nn

from spartan_planner.plan_model import plan
from spartan_planner.planning import Plan

SIDE = 8


class TinyNetwork(nn.Module):
    """Two prunable convolutions with batch normalisation and a classifier."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.tail = nn.Conv2d(width, 2 * width, 1, stride=2, bias=False)
        self.classifier = nn.Linear(2 * width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.stem(images)))
        hidden = torch.relu(self.body(hidden))
        return self.classifier(torch.relu(self.tail(hidden)).mean((2, 3)))


def tiny_network(seed: int = 0) -> TinyNetwork:
    torch.manual_seed(seed)
    return TinyNetwork()


def tiny_inputs(batch: int = 1) -> tuple[torch.Tensor]:
    return (torch.randn(batch, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)),)


def tiny_plan(model: nn.Module, budget: str = "35%", cost: str = "flops", **options) -> Plan:
    return plan(model, tiny_inputs(), budgets={cost: budget}, **options)
