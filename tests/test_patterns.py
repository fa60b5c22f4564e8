import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spartan_planner.training.patterns import (
    from_groups,
    hard_pattern,
    pattern_budget,
    pattern_gradient,
    pattern_surplus,
    soft_pattern,
    to_groups,
)
from spartan_planner.transport import soft_topk

FLOAT64 = 1e-9
SHAPES = [((6, 8), 1), ((4, 8, 3, 3), 1), ((4, 3, 3, 8), 3)]
"""Linear, convolution, and a convolution in channels_last order."""


def positive(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64) + 0.01


@pytest.mark.parametrize(("shape", "input_dim"), SHAPES)
def test_groups_are_consecutive_inputs_and_come_back(shape, input_dim):
    weight = positive(shape)
    groups = to_groups(weight, input_dim, 4)
    assert torch.equal(from_groups(groups, input_dim), weight)
    first = weight.select(input_dim, 0)
    assert torch.equal(groups[..., 0, 0], first)


@pytest.mark.parametrize(("shape", "input_dim"), SHAPES)
def test_every_group_keeps_its_greatest(shape, input_dim):
    weight = positive(shape)
    hard = hard_pattern(weight, input_dim, 4, 2.0)
    groups, kept = to_groups(weight, input_dim, 4), to_groups(hard, input_dim, 4)
    assert torch.equal(kept.sum(-1), torch.full_like(kept.sum(-1), 2))
    least = torch.where(kept, groups, torch.inf).amin(-1)
    assert (least >= torch.where(kept, 0.0, groups).amax(-1)).all()


@given(share=st.floats(0, 1), beta=st.floats(0.1, 100), seed=st.integers(0, 100))
def test_soft_masks_spend_the_budget_of_every_group(share, beta, seed):
    budget = pattern_budget(2, 4, share)
    soft = soft_pattern(positive((5, 8), seed), 1, 4, budget, beta)
    spent = to_groups(soft, 1, 4).sum(-1)
    torch.testing.assert_close(spent, torch.full_like(spent, budget), rtol=FLOAT64, atol=0)


@pytest.mark.parametrize(("shape", "input_dim"), SHAPES)
def test_the_gradient_is_that_of_the_soft_mask(shape, input_dim):
    values, slopes, beta = positive(shape).requires_grad_(), positive(shape, 1), 3.0
    masks = from_groups(soft_topk(to_groups(values, input_dim, 4), 1.0, 1.5, beta), input_dim)
    (expected,) = torch.autograd.grad(masks, values, slopes)
    found = pattern_gradient(masks.detach(), slopes, input_dim, 4, beta)
    torch.testing.assert_close(found, expected, rtol=FLOAT64, atol=FLOAT64)


def test_hard_masks_have_no_gradient():
    masks = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert not pattern_gradient(masks, torch.ones(1, 4), 1, 4, 5.0).any()


def test_the_surplus_is_what_is_kept_less_the_greatest_dropped():
    values = torch.tensor([[4.0, 2.0, 1.0, 0.0], [6.0, 4.0, 0.0, 3.0]])
    hard = hard_pattern(values, 1, 4, 2.0)
    assert pattern_surplus(values, hard, 1, 4) == pytest.approx(4.0 - 2.0)
