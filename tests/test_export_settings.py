"""Files as they are asked for: element type, operators, batch, where weights lie."""

import shutil

import numpy as np
import onnx
import pytest
import torch
from networks import tiny_inputs, tiny_network, tiny_plan

from spartan_planner.errors import ExportError, ModelError, UsageError
from spartan_planner.export import (
    ExportSettings,
    Form,
    export_onnx,
    model_files,
    prune_one_shot,
)
from spartan_planner.export.checking import HALF_RELATIVE_TOLERANCE
from spartan_planner.export.torch_to_onnx import MAX_OPSET, MIN_OPSET
from spartan_planner.export_metadata import plan_in, read_graph, read_metadata
from spartan_planner.onnx_sessions import open_session


@pytest.fixture(scope="module")
def pruned():
    model = tiny_network().eval()
    plan = tiny_plan(model)
    prune_one_shot(model, plan)
    return model, plan


def export(pruned, path, form=None, **settings):
    model, plan = pruned
    return export_onnx(
        model, plan, tiny_inputs(), path, form=form, settings=ExportSettings(**settings)
    )


@torch.no_grad()
@pytest.mark.parametrize("form", [Form.LOWERED, Form.SPARSE])
def test_half_precision(tmp_path, pruned, form):
    report = export(pruned, tmp_path / "half.onnx", form, dtype="float16")
    inputs = tiny_inputs(2)[0]
    session = open_session(report.path, {"images": inputs.half().numpy()})
    (actual,) = session.run()
    expected = pruned[0](inputs).numpy()
    assert actual.dtype == np.float16
    np.testing.assert_allclose(actual, expected, atol=HALF_RELATIVE_TOLERANCE)
    graph = onnx.load(report.path).graph
    floats = {item.data_type for item in graph.initializer} - {onnx.TensorProto.INT64}
    assert floats <= {onnx.TensorProto.FLOAT16}


def test_half_precision_promises_only_what_counts_and_says_so(tmp_path, pruned):
    report = export(pruned, tmp_path / "half.onnx", dtype="float16")
    assert {cost.cost for cost in report.metadata.costs} == {"params", "flops"}
    assert "this float16 file makes no promise of them" in report.notes[0]
    assert export(pruned, tmp_path / "whole.onnx", dtype="float32").notes == ()
    assert next(pruned[0].parameters()).dtype is torch.float32


@pytest.mark.parametrize("opset", [MIN_OPSET, MAX_OPSET])
def test_the_opset_is_the_one_asked_for(tmp_path, pruned, opset):
    report = export(pruned, tmp_path / "m.onnx", opset=opset)
    (entry,) = onnx.load(report.path).opset_import
    assert (entry.domain, entry.version) == ("", opset)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"opset": MIN_OPSET - 1}, f"use one from {MIN_OPSET} to {MAX_OPSET}"),
        ({"opset": MAX_OPSET + 1}, f"use one from {MIN_OPSET} to {MAX_OPSET}"),
        ({"dtype": "int8"}, "use float32 or float16"),
    ],
)
def test_what_no_file_can_be_is_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        ExportSettings(**settings)


def test_a_fixed_batch_runs_at_its_own_size_only(tmp_path, pruned):
    report = export(pruned, tmp_path / "m.onnx", is_batch_dynamic=False)
    images = tiny_inputs(2)[0].numpy()
    assert open_session(report.path, {"images": images[:1]}).run()[0].shape == (1, 10)
    with pytest.raises(ModelError, match="cannot run the model"):
        open_session(report.path, {"images": images}).run()


@pytest.mark.parametrize("form", list(Form))
def test_external_data_lie_beside_the_model_and_move_with_it(tmp_path, pruned, form):
    report = export(pruned, tmp_path / "a" / "m.onnx", form, external_data=True)
    data = tmp_path / "a" / "m.onnx.data"
    assert report.files == (report.path, data)
    assert report.num_bytes == report.path.stat().st_size + data.stat().st_size
    assert sorted(item.name for item in (tmp_path / "a").iterdir()) == ["m.onnx", "m.onnx.data"]
    shutil.move(tmp_path / "a", tmp_path / "b")
    images = tiny_inputs(3)[0].numpy()
    (outputs,) = open_session(tmp_path / "b" / "m.onnx", {"images": images}).run()
    (expected,) = open_session(
        export(pruned, tmp_path / "inside.onnx", form).path, {"images": images}
    ).run()
    np.testing.assert_array_equal(outputs, expected)


def test_weights_that_do_not_fit_inside_go_beside(tmp_path, pruned, monkeypatch):
    monkeypatch.setattr(model_files, "MAX_INLINE_BYTES", 1000)
    assert len(export(pruned, tmp_path / "m.onnx").files) == 2
    with pytest.raises(ExportError, match="write them as external data"):
        export(pruned, tmp_path / "n.onnx", external_data=False)
    assert not (tmp_path / "n.onnx").exists()


def test_the_plan_travels_inside_the_file(tmp_path, pruned):
    path = export(pruned, tmp_path / "m.onnx").path
    assert plan_in(read_graph(path), path) == pruned[1]


def test_metadata_name_the_nodes_of_every_layer_and_the_weights(tmp_path, pruned):
    lowered, masked = (
        export(pruned, tmp_path / f"{form.value}.onnx", form)
        for form in (Form.LOWERED, Form.MASKED)
    )
    for report in (lowered, masked):
        present = {node.name for node in onnx.load(report.path).graph.node}
        layers = read_metadata(report.path).layers
        assert [layer.name for layer in layers] == [layer.name for layer in pruned[1].layers]
        assert all(layer.nodes and set(layer.nodes) <= present for layer in layers)
    gathers = {
        name for layer in lowered.metadata.layers for name in layer.nodes if "gather" in name
    }
    assert gathers == {f"{layer.name}.gather" for layer in pruned[1].sparse_layers}
    assert lowered.metadata.weights_fingerprint == masked.metadata.weights_fingerprint
    dense = export_onnx(tiny_network(), None, tiny_inputs(), tmp_path / "d.onnx").metadata
    assert dense.weights_fingerprint != masked.metadata.weights_fingerprint


def test_the_lowered_form_needs_a_plan(tmp_path):
    with pytest.raises(ExportError, match="give the plan, or use the form masked"):
        export_onnx(tiny_network(), None, tiny_inputs(), tmp_path / "m.onnx", form=Form.LOWERED)
