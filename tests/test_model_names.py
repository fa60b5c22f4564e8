import numpy as np
import pytest
import torch

from spartan_planner.errors import ModelError, UsageError
from spartan_planner.model_names import (
    example_inputs,
    import_models,
    inputs_suiting,
    load_model,
    parse_input_shape,
)

FACTORY = """
import torch
def network():
    return torch.nn.Linear(4, 2)
def lazy():
    return torch.nn.LazyLinear(2)
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
        ("transformers:gtp2", "did you mean gpt2"),
        ("torchvision:resnet5", "did you mean resnet"),
        ("timm:resnet5O", "did you mean"),
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


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18", "transformers:bert"])
def test_models_on_the_meta_device(name):
    model = load_model(name, on_meta=True)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


@pytest.mark.usefixtures("factory")
def test_a_factory_on_the_meta_device():
    assert load_model("my_models:network", on_meta=True).weight.is_meta


@pytest.mark.parametrize(
    ("name", "num_inputs"), [("gpt2", 1), ("t5", 3)], ids=["decoder", "encoder and decoder"]
)
def test_a_model_of_tokens_gets_ids_of_its_vocabulary(name, num_inputs):
    model = load_model(f"transformers:{name}", on_meta=True)
    inputs = inputs_suiting(model, parse_input_shape("2,300"))
    assert len(inputs) == num_inputs
    assert all((item.shape, item.dtype) == ((2, 300), torch.int64) for item in inputs)
    assert inputs[0].min() >= 0
    assert inputs[0].max() < model.config.vocab_size
    ids, mask = inputs_suiting(model, parse_input_shape("2,7;2,7"))
    assert torch.equal(ids, inputs_suiting(model, parse_input_shape("2,7"))[0])
    assert torch.equal(mask, torch.ones(2, 7, dtype=torch.int64))


def test_other_inputs_keep_their_values():
    inputs = parse_input_shape("1,3,8,8")
    (suiting,) = inputs_suiting(torch.nn.Linear(2, 2), inputs)
    assert suiting is inputs[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_have_the_floating_type_of_the_model(dtype):
    (suiting,) = inputs_suiting(torch.nn.Linear(2, 2).to(dtype), parse_input_shape("1,2"))
    assert suiting.dtype == dtype


@pytest.mark.parametrize("on_meta", [False, True])
def test_backbones_are_built_without_their_weights(monkeypatch, on_meta):
    def refuse(*_, **__):
        raise AssertionError("nothing may be downloaded")

    import_models("torchvision.models")
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    model = load_model("torchvision:lraspp_mobilenet_v3_large", on_meta=on_meta)
    assert sum(item.numel() for item in model.parameters()) == 3_221_538


@pytest.mark.usefixtures("factory")
def test_lazy_parameters_are_refused():
    with pytest.raises(ModelError, match="parameter weight of my_models:lazy has no shape"):
        load_model("my_models:lazy")
