"""The hash of a mask."""

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from spartan_planner.training import agreement
from spartan_planner.training.agreement import mask_digest

MASKS = st.lists(st.booleans(), max_size=80)


@settings(max_examples=50)
@given(MASKS, MASKS)
def test_only_equal_masks_have_the_same_hash(first, second):
    one, two = (torch.tensor(mask, dtype=torch.bool) for mask in (first, second))
    # Dropped elements at the end count for nothing: masks that are compared are of one size.
    size = max(len(first), len(second))
    same = [*first, *[False] * size][:size] == [*second, *[False] * size][:size]
    assert (mask_digest(one) == mask_digest(two)).item() == same


def test_the_hash_is_that_of_any_chunks(monkeypatch):
    mask = torch.rand(1000, generator=torch.Generator().manual_seed(0)) < 0.5
    expected = mask_digest(mask.reshape(10, 100))
    monkeypatch.setattr(agreement, "_CHUNK", 37)
    assert mask_digest(mask) == expected
