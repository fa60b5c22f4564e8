"""A short training run whose result does not depend on how batches are split."""

import torch
from networks import tiny_plan
from torch import nn
from torch.utils.data import TensorDataset

from cost_models import write_document
from spartan_planner.digits import digits_data

BATCH_SIZE, NUM_EPOCHS, NUM_STEPS = 32, 8, 56
COMMAND = (
    *("train", "distributed_run:network", "--data", "distributed_run:data"),
    *("--epochs", NUM_EPOCHS, "--batch-size", BATCH_SIZE, "--plan", "plan.yaml"),
    *("--optimizer", "adamw", "--learning-rate", "1e-3"),
    *("--log-steps", 1, "--keep-checkpoints", 9, "--json"),
)


class Network(nn.Module):
    """No batch normalisation: its statistics would be those of each process."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 64, 3, padding=1)
        self.body = nn.Conv2d(64, 64, 3, padding=1)
        self.classifier = nn.Linear(64, 10)

    def forward(self, images):
        hidden = torch.relu(self.body(torch.relu(self.stem(images))))
        return self.classifier(hidden.mean((2, 3)))


def network():
    return Network()


def data():
    train, test = digits_data()
    # Whole batches only: a last one that is short is filled up where there are several processes.
    return TensorDataset(*train[: 7 * BATCH_SIZE]), TensorDataset(*test[:100])


def write_plan(path):
    torch.manual_seed(0)
    write_document(path, tiny_plan(network(), "40%"))
