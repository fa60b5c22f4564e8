"""What a hard selection keeps, as thresholds: the masks that it would have written."""

import pytest
import torch

from spartan_planner.errors import TransportError
from spartan_planner.transport import Cut, solve_hard_topk

COSTS = [1.0, 3.0, 0.5]
SHARES = [0.0, 0.1, 0.5, 0.9, 1.0]


def values_of(kind, dtype, sizes=(300_000, 70_000, 40)):
    """Three tensors, more than one chunk long; ties are many or none."""
    generator = torch.Generator().manual_seed(0)
    found = [torch.rand(size, generator=generator).to(dtype) for size in sizes]
    return [(v * 8).round() / 8 for v in found] if kind == "ties" else found


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["ties", "random"])
def test_cuts_are_the_masks(kind, dtype, share):
    values = values_of(kind, dtype)
    total = sum(v.numel() * c for v, c in zip(values, COSTS, strict=True))
    masked = solve_hard_topk(values, COSTS, share * total)
    found = solve_hard_topk(values, COSTS, share * total, writes_masks=False)
    assert found.masks == ()
    assert masked.cuts == ()
    for figure in ("threshold", "cost", "num_kept", "status", "relative_budget_error"):
        assert getattr(found, figure) == getattr(masked, figure)
    for cut, value, mask in zip(found.cuts, values, masked.masks, strict=True):
        assert torch.equal(cut.mask(value), mask)
        assert cut.num_kept == int(mask.sum())


@pytest.mark.parametrize("is_soft", [False, True])
@pytest.mark.parametrize("position", [0, 7, 200_000, 300_000])
def test_a_cut_is_applied_in_place(position, is_soft):
    (values,) = values_of("ties", torch.float32, (300_000,))
    weight = values * torch.where(torch.rand_like(values) < 0.5, -1.0, 1.0)
    soft = torch.rand_like(values) if is_soft else None
    cut = Cut(0.5, 0.625, position, 0)
    kept = torch.cat([values[:position] >= 0.5, values[position:] >= 0.625])
    assert torch.equal(cut.mask(values), kept)
    expected = torch.where(kept, weight * (soft if is_soft else 1.0), 0.0)
    cut.apply(values, weight, soft)
    assert torch.equal(values, expected)


@pytest.mark.parametrize(
    ("weight", "soft"),
    [
        (torch.ones(3), None),
        (torch.ones(4).double(), None),
        (torch.ones(4), torch.ones(8)[::2]),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(weight, soft):
    with pytest.raises(TransportError, match="contiguous tensors of one size and dtype"):
        Cut(0.5, 0.5, 0, 4).apply(torch.ones(4), weight, soft)


def test_costs_of_single_blocks_have_no_cuts():
    with pytest.raises(TransportError, match="ask for masks instead"):
        solve_hard_topk([torch.ones(4)], [torch.ones(4)], 2.0, writes_masks=False)
