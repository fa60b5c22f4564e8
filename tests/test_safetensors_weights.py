"""Weights streamed from safetensors: the same curves as from memory, and damage refused."""

import json
import struct

import numpy as np
import pytest
from builders import conv_shape, linear_shape
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from cost_models import LayerWorkload, Layout
from spartan_planner.errors import PlanError
from spartan_planner.planning import ArrayWeights, weights
from spartan_planner.planning.safetensors_weights import SafetensorsWeights, read_index

ROUNDING = 1e-5
"""Relative; float32 sums in another order, and values that share a bin."""

LAYOUTS = [
    Layout.parse(text)
    for text in ("element", "tile:4x1", "tile:8x3", "tile:12x1@4", "tile:8x1@4", "tile:99x1")
]


@pytest.mark.parametrize("piece_elements", [1, 1024, 2**23])
@pytest.mark.parametrize("shape", [(24, 10, 3, 3), (31, 17), (5, 40)])
def test_streamed_curves_are_those_from_memory(tmp_path, monkeypatch, shape, piece_elements):
    monkeypatch.setattr(weights, "PIECE_ELEMENTS", piece_elements)
    weight = np.random.default_rng(0).standard_normal(shape, np.float32)
    save_file({"a.weight": weight}, tmp_path / "model.safetensors")
    kernel = shape[2] if len(shape) > 2 else 0
    layer = LayerWorkload(
        "a.weight", conv_shape(*shape[:2], kernel) if kernel else linear_shape(*shape), 1
    )
    streamed = SafetensorsWeights(read_index(tmp_path)).values(layer, LAYOUTS)
    held = ArrayWeights({"a.weight": weight}).values(layer, LAYOUTS)
    assert streamed.total == pytest.approx(held.total, rel=ROUNDING)
    for mine, other in zip(streamed.curves, held.curves, strict=True):
        assert mine.num_blocks == other.num_blocks
        assert mine.size == pytest.approx(other.size, rel=ROUNDING)
        for share in (0.1, 0.5, 1.0):
            kept = max(1, int(share * mine.num_blocks))
            assert mine.prefix(kept).value == pytest.approx(other.prefix(kept).value, rel=0.01)


def test_bfloat16_is_widened_exactly(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    weight = torch.randn(32, 16, dtype=torch.bfloat16)
    save_torch({"a.weight": weight}, tmp_path / "m.safetensors")
    layer = LayerWorkload("a.weight", linear_shape(32, 16), 1)
    values = SafetensorsWeights(read_index(tmp_path / "m.safetensors")).values(layer, LAYOUTS[1:2])
    assert values.total == pytest.approx(float(weight.double().abs().sum()), rel=1e-12)


def test_shards_are_one_checkpoint(tmp_path):
    save_file({"a": np.ones((2, 2), np.float32)}, tmp_path / "model-1.safetensors")
    save_file({"b": np.ones((3, 2), np.float32)}, tmp_path / "model-2.safetensors")
    assert set(read_index(tmp_path)) == {"a", "b"}
    save_file({"b": np.ones((3, 2), np.float32)}, tmp_path / "model-3.safetensors")
    with pytest.raises(PlanError, match="tensor 'b' is in"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 8), np.float32), "has shape"),
        (np.full((4, 8), np.nan, np.float32), "NaN or infinity"),
        (np.ones((4, 8), np.int8), "of type I8"),
    ],
)
def test_wrong_tensors_are_refused(tmp_path, array, message):
    save_file({"a": array}, tmp_path / "m.safetensors")
    weights = SafetensorsWeights(read_index(tmp_path))
    with pytest.raises(PlanError, match=message):
        weights.values(LayerWorkload("a", linear_shape(4, 8), 1), LAYOUTS[:1])
    with pytest.raises(PlanError, match="has no 'b'"):
        weights.values(LayerWorkload("b", linear_shape(4, 8), 1), [])


@given(st.binary(max_size=64))
def test_damaged_files_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("damaged") / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(PlanError, match="not a sound safetensors file"):
        read_index(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 1000]},
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [2, 2]},
        {"dtype": "F32", "shape": "ab", "data_offsets": [0, 16]},
        [],
    ],
)
def test_headers_that_lie_are_refused(tmp_path, entry):
    header = json.dumps({"a": entry}).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    with pytest.raises(PlanError, match="not a sound safetensors file"):
        read_index(path)


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(PlanError, match=r"holds no \.safetensors file"):
        read_index(tmp_path)
