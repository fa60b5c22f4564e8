import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from spartan_planner.errors import DocumentError
from spartan_planner.training.state_files import read_state, write_state

TREE = {
    "text": "a",
    "nothing": None,
    "number": 0.1 + 0.2,
    "limits": [math.inf, -math.inf],
    "pair": (0.9, 0.999),
    "by_number": {0: {"momentum": torch.arange(3.0)}, 1: {}},
    "$odd": {"a.b": torch.zeros(2, dtype=torch.uint8), "a": {"b": torch.ones(())}},
    "empty": torch.zeros(0, 3),
    "flags": [True, torch.tensor([True, False])],
}


def same(found, expected):
    """The same types, values and order, bit for bit."""
    if type(found) is not type(expected):
        return False
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, dict):
        items = zip(found.items(), expected.items(), strict=True)
        return len(found) == len(expected) and all(
            a == b and same(x, y) for (a, x), (b, y) in items
        )
    if isinstance(expected, list | tuple):
        return all(same(a, b) for a, b in zip(found, expected, strict=True))
    return found == expected


def test_a_tree_comes_back(tmp_path):
    write_state(tmp_path, "state", TREE)
    found = read_state(tmp_path, "state")
    assert same(found, TREE)
    assert not same(found, {**TREE, "flags": [True, torch.tensor([True, True])]})


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e-320, 2**63])
def test_every_number_comes_back_exactly(tmp_path, value):
    write_state(tmp_path, "state", value)
    found = read_state(tmp_path, "state")
    assert found == value or (math.isnan(value) and math.isnan(found))
    assert type(found) is type(value)


def test_tensors_may_share_memory_and_lie_in_any_order(tmp_path):
    whole = torch.arange(24.0).reshape(1, 2, 3, 4)
    tree = [whole, whole[..., 0], whole.contiguous(memory_format=torch.channels_last)]
    write_state(tmp_path, "state", tree)
    found = read_state(tmp_path, "state")
    assert all(torch.equal(a, b) for a, b in zip(found, tree, strict=True))


def test_arrays_come_back_as_tensors(tmp_path):
    array = np.random.default_rng(0).integers(0, 2**32, 5, dtype=np.uint32)
    write_state(tmp_path, "state", {"key": array})
    assert np.array_equal(read_state(tmp_path, "state")["key"].numpy(), array)


def test_the_state_of_an_optimizer_comes_back(tmp_path):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    write_state(tmp_path, "state", optimizer.state_dict())
    torch.testing.assert_close(
        read_state(tmp_path, "state"), optimizer.state_dict(), rtol=0, atol=0
    )


def test_what_cannot_be_kept_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"model\.1 is a Linear"):
        write_state(tmp_path, "state", {"model": [1, nn.Linear(1, 1)]})


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "state.json").unlink(),
        lambda folder: (folder / "state.safetensors").unlink(),
        lambda folder: (folder / "state.json").write_text("{", encoding="utf-8"),
        lambda folder: (folder / "state.json").write_text('{"$tensor": "none"}', encoding="utf-8"),
        lambda folder: (folder / "state.json").write_text(
            json.dumps({"$pairs": [1]}), encoding="utf-8"
        ),
        lambda folder: (folder / "state.safetensors").write_bytes(b"\xff" * 100),
    ],
)
def test_files_that_were_harmed_are_told(tmp_path, harm):
    write_state(tmp_path, "state", TREE)
    harm(tmp_path)
    with pytest.raises(DocumentError, match=r"state\.\* cannot be read"):
        read_state(tmp_path, "state")


def test_a_folder_that_is_missing_is_told(tmp_path):
    with pytest.raises(DocumentError, match="cannot be written"):
        write_state(tmp_path / "none", "state", TREE)
