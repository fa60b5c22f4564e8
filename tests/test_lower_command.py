"""``lower``: what is written, what is told, and what hostile files meet with."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import conv_node, onnx_model
from onnx import TensorProto, helper, numpy_helper

from spartan_planner.cli.app import run
from spartan_planner.lowering import files

FLOAT32_ROUNDING = 2e-5
"""Absolute, for sums of at most 600 float32 products of figures near 1, in another order."""


def pruned_model(batch=1) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    weight = random.standard_normal((128, 64, 3, 3), np.float32) / 24
    weight[:, 8:] = 0
    model = onnx_model(
        [conv_node(bias="b", pads=[1, 1, 1, 1])],
        {"w": weight, "b": random.standard_normal(128).astype(np.float32)},
        {"x": (1, 64, 12, 12)},
        ["y"],
    )
    if batch is None:
        for item in (*model.graph.input, *model.graph.output):
            item.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def call(capsys, *arguments):
    code = run(["lower", *(str(item) for item in arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def pruned(tmp_path):
    path = tmp_path / "in.onnx"
    path.write_bytes(pruned_model(batch=None).SerializeToString())
    return path


def outputs(path, batch):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(3).standard_normal((batch, 64, 12, 12), np.float32)
    return session.run(None, {"x": x})[0]


def test_fewer_multiply_adds_and_the_same_outputs_at_any_batch(capsys, tmp_path, pruned):
    out = tmp_path / "out.onnx"
    code, text, error = call(capsys, pruned, "-o", out, "--json")
    assert code == 0, error
    told = json.loads(text)
    (layer,) = told["nodes"]
    assert layer["form"] == "inputs dropped"
    assert layer["macs"]["after"] * 8 == layer["macs"]["before"]
    assert told["num_lowered"] == 1
    assert told["num_bytes"]["after"] == out.stat().st_size < pruned.stat().st_size / 4
    for batch in (1, 3):
        np.testing.assert_allclose(
            outputs(out, batch), outputs(pruned, batch), rtol=0, atol=FLOAT32_ROUNDING
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "out.onnx"]


@pytest.mark.parametrize("is_linear", [True, False], ids=["linear indices", "coordinates"])
def test_sparse_initializers_are_read(capsys, tmp_path, is_linear):
    model = pruned_model()
    weight = numpy_helper.to_array(model.graph.initializer[0])
    places = np.flatnonzero(weight) if is_linear else np.argwhere(weight)
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(weight[weight != 0], "w"),
            numpy_helper.from_array(places.astype(np.int64), "w.places"),
            weight.shape,
        )
    )
    del model.graph.initializer[0]
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    source.write_bytes(model.SerializeToString())
    code, text, error = call(capsys, source, "-o", out, "--json")
    assert code == 0, error
    assert json.loads(text)["num_lowered"] == 1
    np.testing.assert_allclose(outputs(out, 1), outputs(source, 1), rtol=0, atol=FLOAT32_ROUNDING)


def test_table_says_what_was_done_and_why(capsys, tmp_path, pruned):
    code, text, _ = call(capsys, pruned, "-o", tmp_path / "out.onnx", "--measure")
    assert code == 0
    assert "inputs" in text
    assert "measured" in text
    assert "1 layers" in text


def test_weights_beside_the_model(capsys, tmp_path, pruned, monkeypatch):
    monkeypatch.setattr(files, "MAX_INLINE_BYTES", 1000)
    out = tmp_path / "sub" / "out.onnx"
    code, _, error = call(capsys, pruned, "-o", out)
    assert code == 0, error
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.onnx", "out.onnx.data"]
    np.testing.assert_allclose(outputs(out, 2), outputs(pruned, 2), rtol=0, atol=FLOAT32_ROUNDING)
    again = tmp_path / "again.onnx"
    assert call(capsys, out, "-o", again)[0] == 0


def test_a_graph_that_computes_something_else_is_never_written(
    capsys, tmp_path, pruned, monkeypatch
):
    def break_graph(model, *_):
        value = model.graph.initializers["w"]
        value.const_value = files.ir.tensor(2 * value.const_value.numpy(), name="w")
        return files.LoweringReport((), None)

    monkeypatch.setattr(files, "lower_model", break_graph)
    code, _, error = call(capsys, pruned, "-o", tmp_path / "out.onnx")
    assert code == 2
    assert "differs by" in error
    assert list(tmp_path.iterdir()) == [pruned]


def test_profile_and_measure_exclude_each_other(capsys, tmp_path, pruned):
    code, _, error = call(capsys, pruned, "-o", tmp_path / "o.onnx", "--measure", "--profile", "p")
    assert code == 2
    assert "give one of them" in error


def test_the_file_that_is_read_is_not_written(capsys, pruned):
    assert call(capsys, pruned, "-o", pruned)[0] == 2


def external_model(location: str, **entries) -> bytes:
    model = pruned_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return model.SerializeToString()


def huge_shape() -> bytes:
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["y"]),
    ]
    shape = np.array([2**20, 2**20, 64, 12, 12])
    return onnx_model(nodes, {"shape": shape}, {"x": (1, 64, 12, 12)}, ["y"]).SerializeToString()


def lying_dims() -> bytes:
    model = pruned_model()
    model.graph.initializer[0].dims[0] = 2**40
    return model.SerializeToString()


HOSTILE = {
    "empty": b"",
    "text": b"not an ONNX model",
    "truncated": pruned_model().SerializeToString()[:-1000],
    "no graph": onnx.ModelProto(ir_version=10).SerializeToString(),
    "data in the folder above": external_model("../secret.bin"),
    "data at an absolute path": external_model("/etc/hostname"),
    "data in a missing file": external_model("gone.bin"),
    "data that is a folder": external_model("."),
    "data beyond the end": external_model("in.onnx", offset=10**12, length=100),
    "data of negative length": external_model("in.onnx", offset=0, length=-5),
    "data at no number": external_model("in.onnx", offset="x"),
    "dimensions beyond the data": lying_dims(),
    "activation of 2^50 elements": huge_shape(),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_meet_one_sentence_and_nothing_is_written(capsys, tmp_path, content):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(128 * 64 * 9 * 4))
    (folder / "in.onnx").write_bytes(content)
    code, out, error = call(capsys, folder / "in.onnx", "-o", folder / "out.onnx")
    assert code == 2
    assert out == ""
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert [path.name for path in folder.iterdir()] == ["in.onnx"]


def test_a_link_out_of_the_folder_is_not_followed(capsys, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(128 * 64 * 9 * 4))
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "in.onnx").write_bytes(external_model("w.bin"))
    code, _, error = call(capsys, folder / "in.onnx", "-o", folder / "out.onnx")
    assert code == 2
    assert "no file in the model's folder" in error


def test_a_missing_file_is_told(capsys, tmp_path):
    code, _, error = call(capsys, tmp_path / "gone.onnx", "-o", tmp_path / "out.onnx")
    assert code == 2
    assert "cannot be read" in error


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_never_crash(capsys, tmp_path, seed):
    """Some bytes of the structure changed: an error, or a file that computes the same."""
    random = np.random.default_rng(seed)
    content = bytearray(pruned_model().SerializeToString())
    structure = [i for i, byte in enumerate(content) if byte][-250:] + list(range(250))
    for place in random.choice(structure, int(random.integers(1, 4)), replace=False):
        content[place] = int(random.integers(0, 256))
    source = tmp_path / "in.onnx"
    source.write_bytes(bytes(content))
    code, _, error = call(capsys, source, "-o", tmp_path / "out.onnx")
    assert code in (0, 2), error
    assert (tmp_path / "out.onnx").exists() == (code == 0)
    assert {path.name for path in tmp_path.iterdir()} <= {"in.onnx", "out.onnx"}
