"""Packing a convolution: the same outputs from fewer weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spartan_planner.lowering import pack_convolution
from spartan_planner.lowering.convolution import kept_inputs

FLOAT64_ROUNDING = 1e-12
"""Absolute, for sums of at most a few hundred products of figures near 1, in another order."""


def convolve(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A plain convolution of ``x [in, H, W]`` by ``weight [out, in, kh, kw]``, no padding."""
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(1, 2))
    return np.einsum("ihwkl,oikl->ohw", windows, weight)


def convolve_packed(x: np.ndarray, packed) -> np.ndarray:
    """What the lowered operators compute: a gather, then one convolution per group."""
    gathered = np.split(x[packed.inputs], packed.num_groups)
    weights = np.split(packed.weight, packed.num_groups)
    outputs = [convolve(*pair) for pair in zip(gathered, weights, strict=True)]
    return np.concatenate(outputs)[: packed.num_outputs]


def masked_weight(seed, outputs, inputs, kernel, tile, density) -> np.ndarray:
    random = np.random.default_rng(seed)
    weight = random.standard_normal((outputs, inputs, kernel, kernel))
    for start in range(0, outputs, tile):
        weight[start : start + tile, random.random(inputs) >= density] = 0
    return weight


WEIGHTS = st.builds(
    masked_weight,
    st.integers(0, 2**32 - 1),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from([1, 2, 3]),
    st.integers(1, 8),
    st.floats(0, 1),
)


@given(WEIGHTS, st.integers(1, 24), st.integers(1, 8))
def test_outputs_equal_the_dense_convolution(weight, group_size, step):
    packed = pack_convolution(weight, group_size, step)
    x = np.random.default_rng(0).standard_normal((weight.shape[1], 4, 5))
    np.testing.assert_allclose(
        convolve_packed(x, packed), convolve(x, weight), rtol=0, atol=FLOAT64_ROUNDING
    )


@given(WEIGHTS, st.integers(1, 24), st.integers(1, 8))
def test_groups_are_as_narrow_as_the_longest_allows(weight, group_size, step):
    packed = pack_convolution(weight, group_size, step)
    num_outputs, num_inputs = weight.shape[:2]
    used = (weight != 0).any(axis=(2, 3))
    longest = max(
        used[start : start + group_size].any(axis=0).sum()
        for start in range(0, num_outputs, group_size)
    )
    width = packed.num_inputs_per_group
    assert max(1, longest) <= width <= num_inputs
    assert width == num_inputs or (width % step == 0 and width < max(1, longest) + step)
    assert packed.num_groups == -(-num_outputs // group_size)
    assert packed.has_padded_outputs == bool(num_outputs % group_size)
    assert packed.weight.shape == (packed.num_groups * group_size, width, *weight.shape[2:])
    for inputs in np.split(packed.inputs, packed.num_groups):
        assert np.all(np.diff(inputs) > 0), "a group reads each channel once, in order"


def test_kept_inputs_of_each_group():
    weight = np.zeros((5, 4, 1, 1))
    weight[0, 1] = weight[1, 3] = weight[4, 0] = 1
    assert [group.tolist() for group in kept_inputs(weight, 2)] == [[1, 3], [], [0]]


def test_packing_keeps_the_element_type():
    for kind in (np.float16, np.float32, np.float64):
        assert pack_convolution(np.ones((4, 4, 1), kind), 2).weight.dtype == kind


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (-2, 1)])
def test_sizes_that_are_not_positive_are_refused(sizes):
    with pytest.raises(ValueError, match="must be at least 1"):
        pack_convolution(np.ones((4, 4, 1, 1)), *sizes)
