"""What an exported file says about itself."""

import numpy as np
import pytest
from builders import conv_node, onnx_model, small_plan
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto

from cost_models import DocumentError, SpartanPlannerError
from cost_models.documents import parse_document
from spartan_planner.errors import ModelError
from spartan_planner.export_metadata import (
    METADATA_KEY,
    ExportMetadata,
    dump_metadata,
    metadata_of,
    read_metadata,
)
from spartan_planner.planning import PlanBudget

PLAN = small_plan()
METADATA = metadata_of(PLAN, {"a.weight": 2.0}, "lowered")


def model_with(**properties: str) -> ModelProto:
    model = onnx_model(
        [conv_node()], {"w": np.ones((2, 2, 1, 1), np.float32)}, {"x": (1, 2, 4, 4)}, ["y"]
    )
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value)
    return model


def write(path, **properties: str):
    path.write_bytes(model_with(**properties).SerializeToString())
    return path


def test_metadata_tell_what_was_really_kept():
    assert METADATA.densities == {"a.weight": 2 / 8}
    assert METADATA.density == (1000 * 2 / 8 + 50) / 1050
    latency, flops = METADATA.costs
    assert latency == PlanBudget("latency", "ms", 5.5, 3.0, 0.5 + (0.125 + 0.5 * 2) + 1.0, 0.5)
    assert flops.asked is None
    assert METADATA.profile == PLAN.profile
    assert METADATA.form == "lowered"


def test_metadata_survive_the_file(tmp_path):
    path = write(tmp_path / "a.onnx", **{METADATA_KEY: dump_metadata(METADATA), "author": "me"})
    assert read_metadata(path) == METADATA


@given(st.floats(0, allow_infinity=False), st.text(st.characters(exclude_categories=["Cs"])))
def test_any_figure_and_name_survive(figure, name):
    cost = PlanBudget("latency", "ms", figure, None, figure, figure)
    metadata = ExportMetadata(name, "f", "masked", 1e-05, {name: 1e-05}, (cost,), None)
    assert parse_document(dump_metadata(metadata), ExportMetadata, "text") == metadata


def test_file_of_another_origin_has_none(tmp_path):
    assert read_metadata(write(tmp_path / "a.onnx", author="me")) is None


@pytest.mark.parametrize("text", ["", "{}", "nonsense", '{"model": 1}', "[" * 10_000])
def test_damaged_metadata_are_refused(tmp_path, text):
    path = write(tmp_path / "a.onnx", **{METADATA_KEY: text})
    with pytest.raises(DocumentError, match="metadata of") as caught:
        read_metadata(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"not an onnx file", bytes(range(256))])
def test_what_is_no_onnx_file_is_refused(tmp_path, content):
    path = tmp_path / "a.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="is not an ONNX file that can be read") as caught:
        read_metadata(path)
    assert isinstance(caught.value, SpartanPlannerError)
    assert str(path) in str(caught.value)
