"""Zero structure of weights: counted by hand and against plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spartan_planner.lowering.structure import group_widths, padded_width, zero_structure


def holed(seed: int, outputs: int, inputs: int, kernel: int, density: float) -> np.ndarray:
    random = np.random.default_rng(seed)
    weight = random.standard_normal((outputs, inputs, kernel))
    weight[random.random((outputs, inputs)) >= density] = 0
    return weight


WEIGHTS = st.builds(
    holed,
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 3),
    st.floats(0, 1),
)


@given(WEIGHTS)
def test_alive_inputs_and_outputs_are_those_with_a_weight(weight):
    found = zero_structure(weight)
    outputs = [o for o in range(len(weight)) if any(w != 0 for w in weight[o].flat)]
    inputs = [i for i in range(weight.shape[1]) if any(w != 0 for w in weight[:, i].flat)]
    assert found.outputs.tolist() == outputs
    assert found.inputs.tolist() == inputs
    assert found.density == pytest.approx(sum(w != 0 for w in weight.flat) / weight.size)


@given(WEIGHTS, st.integers(1, 6), st.integers(1, 5))
def test_padded_width_holds_every_group_and_is_whole_steps(weight, group_size, step):
    widths = group_widths(weight, group_size)
    assert len(widths) == -(-len(weight) // group_size)
    width = padded_width(weight, group_size, step)
    assert max(widths) <= width <= weight.shape[1]
    assert width == weight.shape[1] or width % step == 0


def test_a_matrix_has_no_kernel():
    weight = np.array([[0, 1, 0], [0, 0, 0], [2, 0, 0]], np.float32)
    found = zero_structure(weight)
    assert found.inputs.tolist() == [0, 1]
    assert found.outputs.tolist() == [0, 2]
    assert group_widths(weight, 2) == (1, 1)
