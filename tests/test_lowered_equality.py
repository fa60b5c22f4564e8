"""Lowered against masked files of models that others made: equal, and as small as what is kept."""

import pytest
import torch
from model_zoo import import_models

from benchmarks.lowered_equality import (
    ALLOWED_ERROR,
    ALLOWED_EXCESS,
    compare_forms,
    is_kept,
    table,
)
from spartan_planner.model_names import load_model

SIDE = 64
MODELS = (
    "torchvision:mobilenet_v3_small",
    "torchvision:resnet18",
    "torchvision:squeezenet1_1",
    "timm:convnext_atto",
    "timm:regnety_002",
)


@pytest.mark.parametrize("name", MODELS)
def test_lowered_and_masked_files_agree(tmp_path, name):
    import_models(name.partition(":")[0])
    model = load_model(name).eval()
    images = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = compare_forms(model, (images,), tmp_path)
    assert found["num_lowered"] > 0
    assert found["relative_error"] <= ALLOWED_ERROR
    assert abs(found["size_excess"]) <= ALLOWED_EXCESS
    assert found["lowered_bytes"] < found["masked_bytes"]


FINE = {
    "num_lowered": 2,
    "density": 0.5,
    "relative_error": 1e-6,
    "masked_bytes": 10,
    "lowered_bytes": 5,
    "size_excess": 0.01,
}


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, True),
        ({"relative_error": 2e-4}, False),
        ({"size_excess": 0.06}, False),
        ({"error": "it broke"}, False),
        ({"num_lowered": 0, "note": "no layer can be lowered"}, True),
    ],
)
def test_what_counts_as_kept(changes, kept):
    item = {**FINE, **changes}
    assert is_kept(item) is kept
    assert f"{int(kept)} of 1 as promised" in table({"m": item}, "torch")
