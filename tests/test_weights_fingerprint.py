"""The fingerprint of weights: the same wherever they come from, another for any other weights."""

import numpy as np
import pytest
import torch
from builders import small_workload
from golden_plan import arrays, onnx_weights
from hypothesis import given
from hypothesis import strategies as st
from networks import TinyNetwork, tiny_inputs
from safetensors.numpy import save_file

from spartan_planner.errors import PlanError
from spartan_planner.plan_model import plan
from spartan_planner.planned_parameters import require_weights, weights_match
from spartan_planner.planning import (
    ArrayWeights,
    SafetensorsWeights,
    fingerprint_of,
    plan_workload,
    read_index,
)
from spartan_planner.planning.weights_fingerprint import checksum, joined, weights_fingerprint

LAYERS = small_workload().layers


def small_weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        layer.name: random.standard_normal(layer.shape.weight_shape, np.float32) for layer in LAYERS
    }


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40), st.integers(0, 40))
def test_a_checksum_is_the_sum_of_the_bits_whatever_the_pieces(values, place):
    array = np.array(values, np.float32)
    expected = sum(int.from_bytes(np.float32(v).tobytes(), "little") for v in array) % 2**64
    assert checksum(array) == expected
    assert joined(checksum(array[:place]), checksum(array[place:])) == expected


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_a_type_that_holds_the_same_numbers_has_the_same_checksum(dtype):
    array = np.arange(-8, 8, dtype=np.float32).reshape(4, 4)
    assert checksum(array.astype(dtype).T) == checksum(array)


@pytest.mark.parametrize("layouts", [[], ["element"], ["tile:24x3", "2:4"], ["tile:64x1@16"]])
def test_the_layouts_do_not_matter(layouts):
    weights = ArrayWeights(small_weights())
    made = plan_workload(small_workload(), weights, {"params": "90%"}, layouts=layouts)
    assert made.weights_fingerprint == fingerprint_of(LAYERS, weights)


def test_every_source_of_the_same_weights_has_the_same_fingerprint(tmp_path):
    from golden_plan import LAYERS as GOLDEN_LAYERS

    held = arrays()
    save_file(held, tmp_path / "all.safetensors")
    sources = [
        ArrayWeights(held),
        SafetensorsWeights(read_index(tmp_path / "all.safetensors")),
        onnx_weights(tmp_path, is_external=False),
    ]
    assert len({fingerprint_of(GOLDEN_LAYERS, source) for source in sources}) == 1


def test_any_other_weight_or_name_has_another_fingerprint():
    fingerprints = {fingerprint_of(LAYERS, ArrayWeights(small_weights()))}
    for name in small_weights():
        changed = small_weights()
        changed[name].reshape(-1)[-1] *= np.float32(1 + 2**-20)
        fingerprints.add(fingerprint_of(LAYERS, ArrayWeights(changed)))
    for factor in (-1, 2, 0.5):
        changed = small_weights()
        changed["head.weight"] *= np.float32(factor)
        fingerprints.add(fingerprint_of(LAYERS, ArrayWeights(changed)))
    assert len(fingerprints) == 1 + len(LAYERS) + 3
    assert weights_fingerprint({"a": 1, "b": 2}) == weights_fingerprint({"b": 2, "a": 1})
    assert weights_fingerprint({"a": 1, "b": 2}) != weights_fingerprint({"a": 2, "b": 1})


def test_a_model_with_other_weights_than_planned_is_told():
    model = TinyNetwork()
    made = plan(model, tiny_inputs(), budgets={"params": "60%"})
    assert weights_match(model, made)
    require_weights(model, made)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    assert not weights_match(model, made)
    with pytest.raises(PlanError, match="made from other weights than these"):
        require_weights(model, made)


def test_weights_without_values_are_refused():
    model = TinyNetwork()
    made = plan(model, tiny_inputs(), budgets={"params": "60%"})
    with pytest.raises(PlanError, match="on the meta device"):
        weights_match(model.to("meta"), made)
