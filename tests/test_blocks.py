import numpy as np
import pytest
import torch

from cost_models import Layout
from spartan_planner.blocks import assign_blocks, tile_shape
from spartan_planner.export.kept_sizes import kept_size

SUM_TOLERANCE = 1e-5
"""float32 sums of some hundred terms, in another order."""

LAYOUTS = ["element", "tile:4x1", "tile:3x2", "tile:4x1@2", "tile:8x1@3", "tile:5x1@4"]
SHAPES = [(8, 6, 3, 3), (7, 5, 1, 1), (9, 4), (8, 7, 3)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_of_all_blocks_add_up_to_the_weight(layout, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values, assignment = assign_blocks(weight, Layout.parse(layout))
    assert values.shape == (Layout.parse(layout).num_blocks(shape),)
    assert float(values.sum()) == pytest.approx(float(weight.abs().sum()), rel=SUM_TOLERANCE)
    assert assignment.expand(torch.ones_like(values)).shape == weight.shape


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_value_of_a_block_is_the_sum_over_its_own_elements(layout, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    values, assignment = assign_blocks(weight, Layout.parse(layout))
    for block in range(values.numel()):
        only = torch.zeros_like(values)
        only[block] = 1
        expected = (weight.abs() * assignment.expand(only)).sum()
        assert float(values[block]) == pytest.approx(float(expected), rel=SUM_TOLERANCE)


@pytest.mark.parametrize("layout", [text for text in LAYOUTS if "@" not in text])
@pytest.mark.parametrize("shape", SHAPES)
def test_block_sizes_match_the_elements_that_blocks_hold(layout, shape):
    parsed = Layout.parse(layout)
    _, assignment = assign_blocks(torch.ones(shape), parsed)
    held, _ = assign_blocks(torch.ones(shape), parsed)
    expected = parsed.block_sizes(shape) * parsed.num_elements_per_block(shape)
    np.testing.assert_allclose(held.numpy(), expected, rtol=SUM_TOLERANCE)
    assert assignment.num_blocks == parsed.num_blocks(shape)


def test_rank_slices_take_the_best_inputs_of_every_group():
    weight = torch.tensor([[5.0, 1.0, 3.0, 2.0], [1.0, 9.0, 7.0, 8.0]])
    values, assignment = assign_blocks(weight, Layout.parse("tile:1x1@2"))
    assert values.tolist() == [5 + 3 + 9 + 8, 2 + 1 + 7 + 1]
    first = assignment.expand(torch.tensor([1.0, 0.0]))
    assert first.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]]


def test_rank_slices_break_ties_by_position_and_never_rise():
    values, assignment = assign_blocks(torch.ones(4, 6), Layout.parse("tile:2x1@2"))
    assert values.tolist() == [8, 8, 8]
    expected = [[1, 1, 0, 0, 0, 0]] * 4
    assert assignment.expand(torch.tensor([1.0, 0.0, 0.0])).tolist() == expected


def test_every_group_keeps_equally_many_inputs():
    weight = torch.randn(8, 12, 3, 3, generator=torch.Generator().manual_seed(3))
    _, assignment = assign_blocks(weight, Layout.parse("tile:4x1@4"))
    mask = assignment.expand(torch.tensor([1.0, 1.0, 0.0]))
    kept = mask.reshape(2, 4, 12, 9).amax(dim=(1, 3)).sum(1)
    assert kept.tolist() == [8, 8]


def test_sum_of_tiles_is_the_adjoint_of_spreading_blocks():
    weight = torch.randn(8, 12, generator=torch.Generator().manual_seed(4)).double()
    _, assignment = assign_blocks(weight, Layout.parse("tile:4x1@3"))
    tiles = torch.randn(2, 12, dtype=torch.float64)
    blocks = torch.randn(4, dtype=torch.float64)
    left = (assignment.per_tile(blocks) * tiles).sum()
    right = (assignment.sum_tiles(tiles) * blocks).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-12)


def test_tiles_are_cut_to_the_weight():
    assert tile_shape(Layout.parse("tile:64x1"), (10, 4, 3, 3)) == (10, 1, 3, 3)


@pytest.mark.parametrize("shape", [(3, 8), (4, 8, 3, 3)])
def test_n_m_keeps_the_best_of_every_group(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    layout = Layout.parse("2:4")
    values, assignment = assign_blocks(weight, layout)
    kept = weight * assignment.expand(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    groups = kept.reshape(shape[0], 2, 4, *shape[2:])
    assert bool((groups.count_nonzero(2) == 2).all())
    best = weight.abs().reshape(shape[0], 2, 4, *shape[2:]).topk(2, dim=2).values
    assert torch.allclose(groups.abs().sum(2), best.sum(2))
    assert torch.allclose(values[:2].sum(), best.sum())
    assert kept_size(kept, layout) == 2.0
    assert kept_size(weight, layout) == 4.0
