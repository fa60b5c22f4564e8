import pickle

import pytest
import torch
from networks import TinyNetwork, tiny_network
from torch import nn

from spartan_planner.checkpoints import load_weights, save_weights
from spartan_planner.errors import DocumentError, ModelError


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
def test_weights_come_back(tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    source, target = tiny_network(1), tiny_network(2)
    if suffix == "safetensors":
        save_weights(source, path)
    else:
        torch.save({"state_dict": source.state_dict()}, path)
    load_weights(target, path)
    assert all(
        torch.equal(tensor, target.state_dict()[key]) for key, tensor in source.state_dict().items()
    )


def test_tied_weights_can_be_saved(tmp_path):
    first = nn.Linear(3, 3)
    model = nn.Sequential(first, first)
    save_weights(model, tmp_path / "tied.safetensors")
    load_weights(model, tmp_path / "tied.safetensors")


class Dangerous:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    "name", ["missing.pt", "text.pt", "text.safetensors", "pickle.pt", "model.pt"]
)
def test_files_that_are_no_weights(tmp_path, name, capsys):
    (tmp_path / "text.pt").write_text("hello", encoding="utf-8")
    (tmp_path / "text.safetensors").write_text("hello", encoding="utf-8")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Dangerous()))
    torch.save(tiny_network(), tmp_path / "model.pt")
    with pytest.raises(DocumentError, match=name) as caught:
        load_weights(tiny_network(), tmp_path / name)
    assert "weights_only" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out


def test_weights_of_another_model_are_refused(tmp_path):
    save_weights(TinyNetwork(width=32), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="does not fit the model"):
        load_weights(tiny_network(), tmp_path / "w.safetensors")
