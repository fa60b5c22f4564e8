"""What units are worth, and the weights that are left, against plain numpy; every source alike."""

import numpy as np
import pytest
from builders import conv_shape, workload_of
from channel_workloads import attention, part, residual_network, units, weights_of, with_groups
from safetensors.numpy import save_file

from cost_models import ChannelGroup, LayerWorkload
from spartan_planner.errors import PlanError
from spartan_planner.planning import ArrayWeights, SafetensorsWeights, read_index
from spartan_planner.planning.channel_values import (
    ReducedWeights,
    by_value,
    kept_units,
    read_all_sums,
    read_sums,
    slice_values,
    unit_values,
)
from spartan_planner.planning.weights import values_of_rows

ROUNDING = 1e-6
"""Relative: float32 weights, added up in another order."""


def by_hand(group, arrays):
    """The sum of absolute weights over all slices of each unit."""
    values = np.zeros(group.num_units)
    for item in group.slices:
        if item.role != "vector":
            for unit, entries in enumerate(item.indices):
                values[unit] += np.abs(np.take(arrays[item.tensor], entries, axis=item.dim)).sum()
    return values


@pytest.mark.parametrize("workload", [residual_network(), attention()], ids=lambda w: w.model)
def test_values_of_units(workload):
    arrays = weights_of(workload)
    sums = read_all_sums(workload, ArrayWeights(arrays))
    for group in workload.channel_groups:
        np.testing.assert_allclose(unit_values(group, sums), by_hand(group, arrays), rtol=ROUNDING)
    for layer in workload.layers:
        assert sums[layer.name].total == pytest.approx(
            np.abs(arrays[layer.name]).sum(dtype=np.float64), rel=ROUNDING
        )


def test_a_checkpoint_is_worth_what_its_arrays_are(tmp_path):
    workload = residual_network()
    arrays = weights_of(workload)
    save_file(arrays, tmp_path / "w.safetensors")
    stored = SafetensorsWeights(read_index(tmp_path / "w.safetensors"))
    held, streamed = (read_all_sums(workload, w) for w in (ArrayWeights(arrays), stored))
    for layer in workload.layers:
        assert held[layer.name].total == streamed[layer.name].total
        assert held[layer.name].checksum == streamed[layer.name].checksum
        for axis, sums in held[layer.name].by_axis.items():
            np.testing.assert_array_equal(sums, streamed[layer.name].by_axis[axis])


def test_pieces_add_up(monkeypatch):
    workload = residual_network()
    arrays = weights_of(workload)
    layer = workload.layer("a1")
    whole = read_sums(layer, ArrayWeights(arrays), [0, 1])
    monkeypatch.setattr("spartan_planner.planning.channel_values.PIECE_ELEMENTS", 1000)
    pieces = read_sums(layer, ArrayWeights(arrays), [0, 1])
    assert pieces.checksum == whole.checksum
    for axis in (0, 1):
        np.testing.assert_allclose(pieces.by_axis[axis], whole.by_axis[axis], rtol=ROUNDING)


def test_the_most_valuable_stay_and_ties_go_by_position():
    values = np.array([1.0, 3.0, 2.0, 3.0])
    assert by_value(values).tolist() == [1, 3, 2, 0]
    assert kept_units(values, 2) == (1, 3)
    assert kept_units(np.ones(4), 2) == (0, 1)


def test_what_is_left_of_weights():
    workload = residual_network()
    arrays = weights_of(workload)
    kept = {"stem": tuple(range(0, 32, 3)), "a1": (1, 5, 6, 63)}
    left = ReducedWeights.of(workload, ArrayWeights(arrays), kept)
    expected = {
        "stem": arrays["stem"][list(kept["stem"])],
        "a1": arrays["a1"][list(kept["a1"])][:, list(kept["stem"])],
        "b2": arrays["b2"],
        "head": arrays["head"].reshape(10, 32, 4)[:, list(kept["stem"])].reshape(10, -1),
    }
    for name, array in expected.items():
        layer = workload.layer(name)
        assert left.stored_shape(layer) == array.shape
        rows = left.rows(layer)
        np.testing.assert_array_equal(rows(0, len(array)), array)
        np.testing.assert_array_equal(rows(1, 3), array[1:3])
        held = values_of_rows(layer, array.shape, lambda a, b, array=array: array[a:b], ())
        assert left.values(layer, ()) == held


def test_weights_of_another_model_are_refused():
    layer = LayerWorkload("w", conv_shape(8, 8), 64)
    group = ChannelGroup("w", "channel", 8, (part("w", 0, units(8)),))
    workload = with_groups(workload_of(layer), group)
    sums = read_all_sums(workload, ArrayWeights({"w": np.ones((4, 8, 3, 3), np.float32)}))
    with pytest.raises(PlanError, match="reaches beyond the 4 entries of w"):
        slice_values(group, sums)
    with pytest.raises(PlanError, match="cut axis 3"):
        read_sums(layer, ArrayWeights({"w": np.ones((8, 8), np.float32)}), [3])
    with pytest.raises(PlanError, match="NaN or infinity"):
        read_all_sums(workload, ArrayWeights({"w": np.full((8, 8, 3, 3), np.nan, np.float32)}))
    with pytest.raises(PlanError, match="have no 'w'"):
        read_all_sums(workload, ArrayWeights({}))
