"""Booleans counted by words."""

import pytest
import torch

from spartan_planner.transport import count_true


@pytest.mark.parametrize("size", [0, 7, 1023, 1024, 1025, 9 * 1024 + 5])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_counts_every_true(size, density):
    flags = torch.rand(size + 1, generator=torch.Generator().manual_seed(size)) < density
    # The whole, and a part that starts off the boundary of a word.
    assert int(count_true(flags[:-1])) == sum(flags[:-1].tolist())
    assert int(count_true(flags[1:])) == sum(flags[1:].tolist())


def test_counts_what_is_not_contiguous():
    flags = torch.rand(64, 96, generator=torch.Generator().manual_seed(0)) < 0.5
    assert int(count_true(flags[:, ::2])) == sum(flags[:, ::2].flatten().tolist())
