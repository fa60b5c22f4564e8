"""A short training run that draws random numbers everywhere, for other processes to kill."""

import random

import numpy as np
import torch
from networks import TinyNetwork, tiny_plan
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from cost_models import write_document
from spartan_planner.digits import digits_data

COMMAND = (
    *("train", "resumable_run:network", "--data", "resumable_run:data", "--run-dir", "run"),
    *("--epochs", "4", "--batch-size", "32", "--accumulation-steps", "2", "--clip-norm", "1"),
    *("--optimizer", "adamw", "--learning-rate", "3e-3"),
    *("--checkpoint-steps", "3", "--log-steps", "1", "--keep-checkpoints", "2"),
)
NUM_STEPS = 4 * 7


class NoisyNetwork(nn.Module):
    """Draws from torch's generator in training."""

    def __init__(self) -> None:
        super().__init__()
        self.network = TinyNetwork(32)
        self.dropout = nn.Dropout(0.1)

    def forward(self, images):
        return self.network(self.dropout(images))


def network():
    return NoisyNetwork()


def noisy_plan(path):
    torch.manual_seed(0)
    write_document(path, tiny_plan(network(), "60%"))


class NoisyExamples(Dataset):
    """Draws from all three generators, as users' transformations do."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        image, label = self.examples[index]
        factor = random.uniform(0.9, 1.1) + np.random.uniform(-0.1, 0.1)  # noqa: NPY002
        return image * factor + 0.1 * torch.rand(()), label


def data():
    train, test = digits_data()
    # The last batch of a pass is a small one.
    return NoisyExamples(TensorDataset(*train[:209])), TensorDataset(*test[:64])
