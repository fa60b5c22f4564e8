import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import Dataset

from spartan_planner.training.loading import SeededExamples, batches_from, make_loader


class Noisy(Dataset):
    """Its examples are the index and a draw from each generator."""

    def __len__(self):
        return 23

    def __getitem__(self, index):
        drawn = (random.random(), np.random.random(), float(torch.rand(())))  # noqa: NPY002
        return torch.tensor([index, *drawn], dtype=torch.float64), index


def prepared(num_workers=0):
    accelerator = Accelerator(
        dataloader_config=DataLoaderConfiguration(
            split_batches=True, use_seedable_sampler=True, data_seed=3
        )
    )
    return accelerator.prepare(make_loader(Noisy(), 4, 3, num_workers))


def whole_pass(loader, epoch, num_batches=0):
    return [inputs for inputs, _ in batches_from(loader, epoch, num_batches)]


@pytest.mark.parametrize("num_done", [0, 1, 5, 6])
def test_the_rest_of_a_pass_is_what_it_would_have_been(num_done):
    expected = whole_pass(prepared(), 2)
    loader = prepared()
    whole_pass(loader, 0)
    torch.rand(5)
    found = whole_pass(loader, 2, num_done)
    assert len(found) == 6 - num_done
    assert all(torch.equal(a, b) for a, b in zip(found, expected[num_done:], strict=True))


def test_passes_differ_and_hold_every_example_once():
    loader = prepared()
    first, second = (torch.cat(whole_pass(loader, epoch)) for epoch in (0, 1))
    assert sorted(first[:, 0].tolist()) == sorted(second[:, 0].tolist()) == list(range(23))
    assert not torch.equal(first, second)
    assert len(set(first[:, 3].tolist())) == 23


def test_loading_in_other_processes_changes_nothing():
    for a, b in zip(whole_pass(prepared(), 1), whole_pass(prepared(2), 1), strict=True):
        assert torch.equal(a, b)


def test_generators_are_left_as_they_were():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the one that transformations use
    torch.manual_seed(0)
    expected = random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - as above
    torch.manual_seed(0)
    whole_pass(prepared(), 0)
    assert (random.random(), np.random.random(), float(torch.rand(()))) == expected  # noqa: NPY002


def test_a_data_set_that_loads_batches_is_asked_for_them():
    class Batched(Noisy):
        def __getitems__(self, indices):
            return [(torch.tensor(i), i) for i in indices]

    examples = SeededExamples(Batched(), 0)
    assert [label for _, label in examples.__getitems__([3, 1])] == [3, 1]
    assert examples[7][1] == 7
