"""Damaged and hostile files given to ``verify``: one sentence, exit code 2, no crash."""

import numpy as np
import onnx
import pytest
from builders import conv_node, onnx_model
from onnx import TensorProto, external_data_helper

from spartan_planner.cli.app import run
from spartan_planner.verification import VerifySettings, verify
from spartan_planner.verification.reading import read_checked

QUICK = VerifySettings(num_rounds=5, is_detailed=False)


def model():
    weight = np.random.default_rng(0).standard_normal((16, 8, 3, 3), np.float32)
    return onnx_model([conv_node()], {"w": weight}, {"x": (1, 8, 6, 6)}, ["y"])


def with_data(path, **changes):
    """Write a model whose weight is kept in ``data.bin``, its entries then changed."""
    made = model()
    (tensor,) = made.graph.initializer
    content = tensor.raw_data
    (path.parent / "data.bin").write_bytes(content)
    external_data_helper.set_external_data(tensor, "data.bin", 0, len(content))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in changes.items():
        entries = [item for item in tensor.external_data if item.key == key]
        entries[0].value = value
    path.write_bytes(made.SerializeToString())
    return path


def verified(capsys, path):
    code = run(["verify", str(path), "--rounds", "5"])
    captured = capsys.readouterr()
    return code, captured.err


def test_external_data_in_the_models_own_folder_are_read(tmp_path):
    path = with_data(tmp_path / "m.onnx")
    assert read_checked(path)[1] == (tmp_path / "data.bin",)
    assert verify(path, settings=QUICK).sparse_size.num_bytes == sum(
        item.stat().st_size for item in tmp_path.iterdir()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"location": "/etc/passwd"}, "outside its own folder"),
        ({"location": "../secret.bin"}, "outside its own folder"),
        ({"location": "a/../../secret.bin"}, "outside its own folder"),
        ({"location": "link.bin"}, "outside its own folder"),
        ({"location": ""}, "outside its own folder"),
        ({"location": "none.bin"}, "are not there"),
        ({"location": "."}, "are not there"),
        ({"location": "nul\0byte"}, "is damaged"),
        ({"offset": "99999999"}, "cut off or of another model"),
        ({"length": "99999999999999999999"}, "cut off or of another model"),
        ({"offset": "-4"}, "no number"),
        ({"length": "many"}, "no number"),
    ],
)
def test_external_data_that_are_not_there_or_elsewhere(tmp_path, capsys, changes, message):
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    code, error = verified(capsys, with_data(folder / "m.onnx", **changes))
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_files_that_are_cut_off(tmp_path, capsys, share):
    content = model().SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(content[: int(share * len(content))])
    code, error = verified(capsys, path)
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("seed", range(12))
def test_files_with_changed_bytes_run_or_are_refused(tmp_path, capsys, seed):
    generator = np.random.default_rng(seed)
    content = bytearray(model().SerializeToString())
    # Bytes of the weight are as good as any other; what describes it comes before and after.
    places = [*range(120), *range(len(content) - 120, len(content))]
    for place in generator.choice(places, 3):
        content[place] = generator.integers(256)
    path = tmp_path / "m.onnx"
    path.write_bytes(bytes(content))
    code, error = verified(capsys, path)
    assert code in (0, 2)
    assert error.count("\n") == (code == 2)


@pytest.mark.parametrize("sizes", [(2**40,), (2**20, 2**20)])
def test_inputs_too_large_to_make_are_refused(tmp_path, capsys, sizes):
    made = model()
    dimensions = made.graph.input[0].type.tensor_type.shape
    dimensions.ClearField("dim")
    for size in sizes:
        dimensions.dim.add(dim_value=size)
    onnx.save(made, tmp_path / "m.onnx")
    code, error = verified(capsys, tmp_path / "m.onnx")
    assert (code, "too large to run" in error) == (2, True)
