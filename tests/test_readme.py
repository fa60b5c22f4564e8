"""What README tells users to type works, and what all documents name exists."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer.main

import spartan_planner as sp
from spartan_planner.checkpoints import save_weights
from spartan_planner.cli.app import app, run

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
MODULE = """
from torch import nn

def network():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(32, 128, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(128, 128, 3, 1, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 2),
    )
"""
SHORTER = {
    "profile": ("--rounds", "10"),
    "train": ("--epochs", "1"),
    # No test asserts a time: whether the promise is kept here is for users to see.
    "verify": ("--rounds", "10", "--tolerance", "1000"),
}
"""Options that keep the commands short and change nothing of what they do."""


def blocks(path, language=""):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)


def commands(text):
    """The lines that call the program, continued lines joined, without the program's name."""
    joined = text.replace("\\\n", " ")
    called = [line for line in joined.splitlines() if line.startswith("spartan-planner ")]
    return [shlex.split(line, comments=True)[1:] for line in called]


@pytest.fixture(scope="module")
def own_model(tmp_path_factory):
    """A folder in which README's commands for a model of one's own have been typed."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "mine.py").write_text(MODULE, encoding="utf-8")
    namespace: dict[str, object] = {}
    exec(MODULE, namespace)
    save_weights(namespace["network"](), folder / "trained.safetensors")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(40) % 2)
    typed = next(commands(text) for text in blocks(ROOT / "README.md") if "mine:network" in text)
    # Other tests have modules of this name too.
    others = sys.modules.pop("mine", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        codes = [run([*line, *SHORTER.get(line[0], ())]) for line in typed]
    yield folder, typed, codes
    del sys.modules["mine"]
    if others is not None:
        sys.modules["mine"] = others


@pytest.mark.end_to_end
def test_the_path_for_a_model_of_ones_own(own_model):
    folder, typed, codes = own_model
    named = ["inspect", "profile", "plan", "train", "export", "export", "verify"]
    assert [line[0] for line in typed] == named
    assert codes == [0] * len(typed)
    assert sp.read_plan(folder / "plan.yaml").sparse_layers


@pytest.mark.end_to_end
def test_the_path_from_python(own_model, monkeypatch):
    folder, _, _ = own_model
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    (text,) = (item for item in blocks(ROOT / "README.md", "python") if "sp.Sparsifier" in item)
    head, loop, tail = text.partition("...  # optimizer.step() does the rest\n")
    assert loop
    from mine import network

    model = network()
    names = {
        "torch": torch,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
        "loader": [(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1]))] * 3,
        "num_epochs": 2,
    }
    exec(head, names)
    for inputs, labels in names["loader"] * names["num_epochs"]:
        names["optimizer"].zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        names["optimizer"].step()
    exec(tail, names)
    weights = [model.state_dict()[layer.name] for layer in names["plan"].sparse_layers]
    num_kept = sum(int(weight.count_nonzero()) for weight in weights)
    assert 0 < num_kept < sum(weight.numel() for weight in weights)


def test_a_pruned_file_is_lowered_as_readme_says(own_model, monkeypatch):
    folder, _, _ = own_model
    monkeypatch.chdir(folder)
    (line,) = (
        line for text in blocks(ROOT / "README.md") for line in commands(text) if line[0] == "lower"
    )
    masked = ("--plan", "plan.yaml", "--checkpoint", "sparse.safetensors", "--form", "masked")
    assert run(["export", "mine:network", *masked, "-o", line[1]]) == 0
    assert run(line) == 0
    assert (folder / "fast.onnx").exists()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_in_documents_exist(path):
    root = typer.main.get_command(app)
    for text in blocks(path):
        for line in commands(text):
            command = root.commands[line[0]]
            known = {name for item in command.params for name in (*item.opts, *item.secondary_opts)}
            for nested in getattr(command, "commands", {}).values():
                known |= {name for item in nested.params for name in item.opts}
            options = {item.split("=")[0] for item in line[1:] if item.startswith("-")}
            assert options <= known, line


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text("utf-8")):
        name, _, heading = target.partition("#")
        if "://" in name:
            continue
        found = path.parent / name if name else path
        assert found.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", found.read_text("utf-8"), re.M)
            assert heading in [title.lower().replace(" ", "-") for title in titles]
