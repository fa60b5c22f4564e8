"""Lowered against masked files of models that others made: equal, and as small as what is kept."""

import numpy as np
import pytest
import torch
from model_zoo import import_models

from benchmarks.lowered_equality import (
    ALLOWED_ERROR,
    ALLOWED_EXCESS,
    LEAST_RESPONSE,
    compare_forms,
    largest_difference,
    misses,
    read_results,
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
    assert found["relative_error_by_rule"] <= ALLOWED_ERROR
    assert found["response"] >= LEAST_RESPONSE
    assert abs(found["size_excess"]) <= ALLOWED_EXCESS
    assert found["lowered_bytes"] < found["masked_bytes"]


FINE = {
    "num_lowered": 2,
    "density": 0.5,
    "relative_error": 1e-6,
    "relative_error_by_rule": 1e-6,
    "response": 0.5,
    "masked_bytes": 10,
    "lowered_bytes": 5,
    "size_excess": 0.01,
}
NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "missed", "counted"),
    [
        ({}, "", "1 as promised, 0 not, 0 without"),
        ({"relative_error": 2e-4}, "relative_error 2.0e-04", "0 as promised, 1 not, 0 without"),
        ({"relative_error": NAN}, "relative_error nan", "0 as promised, 1 not, 0 without"),
        ({"relative_error_by_rule": 1.0}, "by_rule", "0 as promised, 1 not, 0 without"),
        ({"size_excess": 0.06}, "size +6.0%", "0 as promised, 1 not, 0 without"),
        ({"response": 1e-5}, "hardly respond", "0 as promised, 1 not, 0 without"),
        ({"error": "it broke"}, "error: it broke", "0 as promised, 1 not, 0 without"),
        ({"num_lowered": 0, "note": "all too small"}, "", "0 as promised, 0 not, 1 without"),
    ],
)
def test_what_misses_the_promise(changes, missed, counted):
    item = {**FINE, **changes}
    assert missed in "; ".join(misses(item))
    assert bool(misses(item)) is bool(missed)
    assert counted in table({"m": item}, "torch")


@pytest.mark.parametrize("side", [[0.0, 0.0], [1.0, NAN], [float("inf"), 1.0]])
def test_outputs_that_cannot_be_compared_do_not_count_as_equal(side):
    with pytest.raises(ValueError, match="cannot be compared"):
        largest_difference(np.array(side), np.array(side))


def test_last_line_of_a_model_counts(tmp_path):
    path = tmp_path / "results.jsonl"
    assert read_results(path) == {}
    path.write_text('{"model": "a", "error": "x"}\n{"model": "a", "num_lowered": 1}\n', "utf-8")
    assert read_results(path) == {"a": {"num_lowered": 1}}
