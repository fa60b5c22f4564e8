import numpy as np
import pytest
import torch

from spartan_planner.errors import ModelError, UsageError
from spartan_planner.model_names import example_inputs, load_model, parse_input_shape

FACTORY = """
import torch
def network():
    return torch.nn.Linear(4, 2)
def number():
    return 7
def broken():
    raise RuntimeError("no such luck")
"""


@pytest.fixture
def factory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_models.py").write_text(FACTORY, encoding="utf-8")


@pytest.mark.usefixtures("factory")
def test_a_factory_in_the_current_folder_is_found_and_seeded():
    one, other = load_model("my_models:network", 3), load_model("my_models:network", 3)
    assert torch.equal(one.weight, other.weight)
    assert not torch.equal(one.weight, load_model("my_models:network", 4).weight)


@pytest.mark.usefixtures("factory")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", "write torchvision:NAME"),
        ("my_models:", "write torchvision:NAME"),
        ("my_models:netwerk", "did you mean network"),
        ("no_such_module:network", "cannot import 'no_such_module'"),
        ("my_models:number", "must return a torch.nn.Module"),
        ("my_models:broken", "fails to build: no such luck"),
    ],
)
def test_names_that_stand_for_nothing(name, message):
    with pytest.raises(ModelError, match=message):
        load_model(name)


def test_input_shapes():
    first, second = parse_input_shape("1,3,4,5;2,6")
    assert (first.shape, second.shape) == ((1, 3, 4, 5), (2, 6))
    assert torch.equal(first, parse_input_shape("1,3,4,5;2,6")[0])


@pytest.mark.parametrize("text", ["", "1,x", "1,,2", "0,3", "-1,3", "1 3"])
def test_input_shapes_that_make_no_sense(text):
    with pytest.raises(UsageError, match="such as 1,3,224,224"):
        parse_input_shape(text)


def test_inputs_from_files(tmp_path):
    np.save(tmp_path / "one.npy", np.ones((1, 2), np.float32))
    np.savez(tmp_path / "two.npz", a=np.zeros((1, 3)), b=np.ones((1, 4)))
    assert example_inputs(None, tmp_path / "one.npy")[0].tolist() == [[1, 1]]
    assert [t.shape[1] for t in example_inputs(None, tmp_path / "two.npz")] == [3, 4]


def test_inputs_that_cannot_be_read(tmp_path):
    (tmp_path / "text.npy").write_text("not an array", encoding="utf-8")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    for name in ("text.npy", "objects.npy", "missing.npy"):
        with pytest.raises(UsageError, match="cannot be read"):
            example_inputs(None, tmp_path / name)


@pytest.mark.parametrize(("shape", "path"), [(None, None), ("1,2", "some.npy")])
def test_exactly_one_way_to_give_inputs(shape, path):
    with pytest.raises(UsageError, match="give either"):
        example_inputs(shape, path)
