import numpy as np
import pytest
import torch
from torch import nn

from spartan_planner.errors import ModelError, UsageError
from spartan_planner.extraction import extract_workload
from spartan_planner.model_names import (
    example_inputs,
    import_models,
    in_floating_type,
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
        ("my_models:", "write my_models:FUNCTION"),
        ("my_models", "write my_models:FUNCTION"),
        ("my_models.py", "write my_models:FUNCTION"),
        ("models.yaml", "is a workload already"),
        ("model.onnx", "needs the torch model"),
        ("weights.safetensors", "give the weights with --checkpoint"),
        (":network", "write torchvision:NAME"),
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
        with pytest.raises(UsageError, match="cannot be read") as caught:
            example_inputs(None, tmp_path / name)
        assert "pickle" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "path", "message"),
    [(None, None, "must be run once"), ("1,2", "some.npy", "not both")],
)
def test_exactly_one_way_to_give_inputs(shape, path, message):
    with pytest.raises(UsageError, match=message):
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


class Rating(nn.Module):
    """Reads ids, then real numbers."""

    def __init__(self):
        super().__init__()
        self.table, self.few = nn.Embedding(1000, 4), nn.Embedding(5, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, ids, features):
        return self.head(self.table(ids) + self.few(ids) + features)


def small_reader():
    return nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 2))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_that_refuses_real_numbers_gets_ids(device):
    (ids,) = inputs_suiting(small_reader().to(device), parse_input_shape("2,3"))
    assert ids.dtype == torch.int64
    assert ids.max() < 7
    ids, features = inputs_suiting(Rating().to(device), parse_input_shape("2,3;2,3,4"))
    assert (ids.dtype, features.dtype) == (torch.int64, torch.float32)
    assert ids.max() < 5


def test_a_model_with_a_table_that_takes_real_numbers_gets_them():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions, self.head = nn.Embedding(6, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(x + self.positions.weight)

    model = Positions()
    (inputs,) = inputs_suiting(model, parse_input_shape("2,6,4"))
    assert inputs.dtype == torch.float32
    assert model.training


def test_of_ids_that_do_not_fit_the_reason_is_told():
    inputs = inputs_suiting(small_reader(), parse_input_shape("2,5"))
    with pytest.raises(ModelError, match=r"\(2, 5\) \(int64\).*shapes cannot.*check the shapes"):
        extract_workload(small_reader(), inputs, "reader")
    with pytest.raises(ModelError, match="give ids, int64, with --inputs"):
        extract_workload(small_reader(), torch.randn(2, 3), "reader")


def test_arrays_of_float64_become_what_the_model_is():
    inputs = (torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))
    suited = in_floating_type(nn.Linear(2, 2), inputs)
    assert [item.dtype for item in suited] == [torch.float32, torch.int64]
    assert in_floating_type(nn.Linear(2, 2).double(), inputs)[0].dtype == torch.float64
