"""Value curves: exact where blocks are few, within a bin's width where they are many."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models import Layout
from spartan_planner.planning.streamed_sums import StreamedSums
from spartan_planner.planning.value_curves import (
    MAX_EXACT_BLOCKS,
    added,
    histogram_of,
    merged_curve,
    value_curve,
)

ROUNDING = 1e-6
"""Relative; float32 values summed in float64."""

BIN_WIDTH = 2.0**-8
"""Relative; a bin of values whose leading bits agree, and half a bin to either side."""

VALUES = st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=40).map(np.array)


@given(VALUES, st.integers(0, 40))
def test_prefix_holds_the_most_valuable(values, num_kept):
    curve = value_curve(values, np.ones(1))
    num_kept = min(num_kept, values.size)
    kept = curve.prefix(num_kept)
    assert kept.num_blocks == kept.size == num_kept
    assert kept.value == pytest.approx(np.sort(values)[::-1][:num_kept].sum(), rel=ROUNDING)


@given(VALUES, st.floats(0, 1e6))
def test_bins_above_a_price_are_those_blocks(values, price):
    curve = value_curve(values, np.ones(1))
    assert curve.cumulative_counts[curve.num_bins_above(price)] == np.count_nonzero(values > price)


@given(VALUES, st.floats(0, 50))
def test_least_prefix_is_the_shortest_of_that_size(values, min_size):
    sizes = np.linspace(0.25, 1, values.size)
    curve = value_curve(values, sizes)
    least = curve.least_prefix(min_size)
    assert least.size >= min(min_size, curve.size) * (1 - ROUNDING)
    if least.num_blocks > 1:
        assert curve.prefix(least.num_blocks - 1).size < min_size


def test_many_blocks_share_bins_within_their_width():
    values = np.random.default_rng(0).lognormal(size=8 * MAX_EXACT_BLOCKS).astype(np.float32)
    curve = value_curve(values, np.ones(1))
    assert curve.counts.size < MAX_EXACT_BLOCKS
    assert (curve.num_blocks, curve.size) == (values.size, values.size)
    ordered = np.sort(values.astype(np.float64))[::-1]
    for num_kept in (1, 100, 5000, values.size // 2, values.size):
        assert curve.prefix(num_kept).value == pytest.approx(
            ordered[:num_kept].sum(), rel=BIN_WIDTH
        )


def test_histograms_of_parts_add_up():
    values = np.random.default_rng(1).exponential(size=10_000)
    whole = merged_curve([histogram_of(values)])
    parts = merged_curve([added(histogram_of(values[:3000]), histogram_of(values[3000:]))])
    assert np.array_equal(whole.counts, parts.counts)
    assert np.allclose(whole.ratios, parts.ratios, rtol=ROUNDING)


def test_ragged_blocks_keep_their_sizes_in_bins():
    values = np.random.default_rng(2).exponential(size=3 * MAX_EXACT_BLOCKS)
    sizes = np.where(np.arange(values.size) % 3 == 0, 0.5, 1.0)
    curve = value_curve(values * sizes, sizes)
    assert curve.size == pytest.approx(sizes.sum(), rel=ROUNDING)
    assert curve.value == pytest.approx((values * sizes).sum(), rel=ROUNDING)


@pytest.mark.parametrize("values", [[], [-1.0], [np.nan], [np.inf]])
def test_values_that_cannot_be_ordered_are_refused(values):
    with pytest.raises(ValueError, match="finite, not negative and not empty"):
        value_curve(np.array(values), np.ones(1))


def slow_values(weight, layout: Layout) -> np.ndarray:
    """Block values by the definition, one block at a time."""
    absolute = np.abs(weight.astype(np.float64)).reshape(*weight.shape[:2], -1).sum(2)
    outputs, inputs = absolute.shape
    step = layout.balanced_step
    if not step:
        return np.array(
            [
                absolute[i : i + layout.tile_outputs, j : j + layout.tile_inputs].sum()
                for i in range(0, outputs, layout.tile_outputs)
                for j in range(0, inputs, layout.tile_inputs)
            ]
        )
    values = np.zeros(-(-inputs // step))
    for i in range(0, outputs, layout.tile_outputs):
        ranked = sorted(absolute[i : i + layout.tile_outputs].sum(0), reverse=True)
        for rank, value in enumerate(ranked):
            values[rank // step] += value
    return values


def curves_of(weight, *layouts):
    sums = StreamedSums(layouts, weight.shape)
    sums.add(weight)
    return sums.curves()


@pytest.mark.parametrize("text", ["tile:4x1", "tile:4x3", "tile:64x1", "tile:4x1@3", "tile:3x1@4"])
@pytest.mark.parametrize("shape", [(8, 6), (10, 7, 3, 3), (1, 1), (5, 12, 1)])
def test_block_values_by_the_definition(text, shape):
    weight = np.random.default_rng(3).standard_normal(shape, np.float32)
    layout = Layout.parse(text)
    expected = slow_values(weight, layout)
    (curve,) = curves_of(weight, layout)
    assert curve.value == pytest.approx(expected.sum(), rel=ROUNDING)
    ratios = np.sort(expected / layout.block_sizes(shape))[::-1]
    assert np.allclose(curve.ratios, ratios, rtol=ROUNDING)


def test_elements_are_blocks_of_their_own():
    weight = np.array([[1.0, -2.0], [0.0, 3.0]], np.float32)
    (curve,) = curves_of(weight, Layout.parse("element"))
    assert curve.ratios.tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("shape", [(3, 8), (4, 8, 3, 3)])
def test_n_m_ranks_are_sums_over_all_groups(shape):
    weight = np.random.default_rng(3).standard_normal(shape, np.float32)
    (curve,) = curves_of(weight, Layout.n_m(2, 4))
    groups = np.moveaxis(np.abs(weight.astype(np.float64)), 1, -1).reshape(-1, 4)
    expected = np.sort(groups, axis=1)[:, ::-1].sum(0)
    assert np.allclose(curve.ratios, expected, rtol=ROUNDING)
    kept = curve.head(2)
    assert (kept.num_blocks, kept.size) == (2, 2.0)
    assert kept.value == pytest.approx(expected[:2].sum(), rel=ROUNDING)


@given(VALUES, st.integers(1, 40))
def test_head_is_the_curve_of_the_first_blocks(values, num_blocks):
    curve = value_curve(values, np.ones(1))
    num_blocks = min(num_blocks, values.size)
    head = curve.head(num_blocks)
    assert head.prefix(num_blocks) == curve.prefix(num_blocks)
    assert head.num_blocks == num_blocks
