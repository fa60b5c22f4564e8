"""Training and test examples, and a fixed share held out where no test set is given."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from spartan_planner.errors import TrainingError

Examples = Dataset[tuple[Tensor, ...]]
TEST_SHARE = 0.2
_SPLIT_SEED = 0


@dataclass(frozen=True)
class DataSplit:
    """Training and test examples, each an (input, label) pair."""

    train: Examples
    test: Examples


def num_examples(examples: Examples) -> int:
    """Return the number of examples."""
    return len(cast("Sized", examples))


def held_out_indices(count: int) -> tuple[list[int], list[int]]:
    """Return positions of training and test examples: a fifth, always the same, is for testing.

    Raises:
        TrainingError: there are not two examples to divide.
    """
    if count < 2:
        raise TrainingError(f"{count} examples cannot be divided into training and test examples")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_SPLIT_SEED)).tolist()
    num_test = max(1, round(count * TEST_SHARE))
    return order[num_test:], order[:num_test]


def hold_out(training: Examples, testing: Examples) -> DataSplit:
    """Divide one data set, given twice: as it is prepared for training and for testing."""
    for_training, for_testing = held_out_indices(num_examples(training))
    return DataSplit(Subset(training, for_training), Subset(testing, for_testing))
