"""``train --recipe``: what options change, what is written, what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spartan_planner.cli.app import run
from spartan_planner.planning import read_plan
from spartan_planner.training.recipes import read_recipe

RECIPE = """\
schema_version: 1
description: A small network on a part of the digits.
model: resumable_run:network
data: {source: "resumable_run:data"}
training: {num_epochs: 2, batch_size: 32, mixed_precision: bf16}
pruning: {budgets: {flops: 60%}, layouts: [element], keep_dense: ["network.classifier*"]}
"""
FILES = [
    *("checkpoints", "log.csv", "log.jsonl", "plan.yaml", "recipe.yaml", "result.json"),
    *("run.json", "weights.safetensors"),
]
TRAIN = ("train", "--recipe", "small.yaml")
SHORT = (*TRAIN, "--epochs", "1", "--mixed-precision", "no")


def call(capsys, *arguments):
    code = run([str(item) for item in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_recipe_is_carried_out_refused_and_resumed(folder, capsys):
    code, out, err = call(capsys, *SHORT, "--json")
    assert code == 0, err
    told = json.loads(out)
    # Without --out the folder has the recipe's name.
    assert told["run_dir"] == "small"
    assert told["notes"] == []
    written = folder / "small"
    assert names(written) == FILES
    budget = read_plan(written / "plan.yaml").budget
    assert told["stats"]["predicted"] <= budget.asked == pytest.approx(0.6 * budget.dense)
    before = contents(written)
    other = ("--recipe", "small.yaml", "--set", "pruning.budgets.flops=50%", "--epochs", "1")
    for arguments in (SHORT, ("train", *other, "--mixed-precision", "no", "--resume")):
        code, _, err = call(capsys, *arguments)
        assert code == 2
        assert "small" in err
        assert contents(written) == before
    code, out, err = call(
        capsys, "train", "--recipe", "small/recipe.yaml", "--resume", "-o", "small"
    )
    assert code == 0, err
    assert "resumed after step 7" in out
    assert contents(written).keys() == before.keys()
    assert contents(written)["weights.safetensors"] == before["weights.safetensors"]


def test_options_replace_what_the_recipe_says(folder, capsys):
    options = ("--learning-rate", "0.02", "--set", "training.log_none=1")
    code, _, err = call(capsys, *SHORT, *options)
    assert code == 2
    assert "training.log_none" in err
    options = ("--learning-rate", "0.02", "--set", "training.batch_size=64", "--data", "digits")
    code, _, err = call(capsys, *SHORT, "resumable_run:network", *options, "-o", "run")
    assert code == 0, err
    found = read_recipe(folder / "run" / "recipe.yaml")
    assert found.data.source == "digits"
    assert found.training.learning_rate == 0.02
    assert found.training.batch_size == 64
    # Options that were not given leave the recipe's values, their own defaults too.
    assert found.training.label_smoothing == 0.1
    assert found.pruning.budgets == {"flops": "60%"}


@pytest.mark.parametrize(("variable", "expected"), [("no", "bf16"), ("fp16", "fp16")])
def test_accelerates_variables_count_where_they_ask_for_something(
    folder, capsys, monkeypatch, variable, expected
):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", variable)
    arguments = (*TRAIN, "--epochs", "1", "--set", "pruning=null", "--json")
    code, _, err = call(capsys, *arguments)
    if expected == "fp16" and not torch.cuda.is_available():
        assert (code, "fp16" in err) == (2, True)
        return
    assert code == 0, err
    settings = json.loads((folder / "small" / "run.json").read_text("utf-8"))["settings"]
    assert settings["mixed_precision"] == expected


def test_a_recipe_without_pruning_is_dense_and_a_given_plan_is_followed(folder, capsys):
    code, _, err = call(capsys, *SHORT, "-o", "sparse")
    assert code == 0, err
    dense = (*SHORT, "--set", "pruning=null")
    assert call(capsys, *dense, "-o", "dense")[0] == 0
    assert "plan.yaml" not in names(folder / "dense")
    code, _, err = call(capsys, *dense, "--plan", "sparse/plan.yaml", "-o", "again", "--json")
    assert code == 0, err
    first, again = (load_file(folder / x / "weights.safetensors") for x in ("sparse", "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--recipe", "none"), "recipe none does not exist"),
        (("train",), "give MODEL and --data, or a --recipe"),
        (("train", "resumable_run:network", "-o", "x.safetensors"), "give MODEL and --data"),
        (("train", "m:n", "--data", "digits", "--set", "a=1"), "give --recipe too"),
        ((*TRAIN, "--set", "a"), "write training.num_epochs=3"),
        ((*TRAIN, "-o", "a", "--run-dir", "b"), "give --out alone"),
        ((*TRAIN, "-o", "a.safetensors"), "a.safetensors is the name of a file"),
        ((*TRAIN, "-o", "small.yaml"), "small.yaml is not a folder"),
        ((*TRAIN, "--epochs", "0"), "at least 1"),
        ((*TRAIN, "--method", "best"), "method 'best' is not known"),
        ((*TRAIN, "--data", "none.npz"), "none.npz"),
        ((*TRAIN, "--distill", "none.safetensors"), "none.safetensors does not exist"),
        ((*TRAIN, "--tracker", "paper"), "tensorboard or wandb"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(folder, capsys, arguments, message):
    before = names(folder)
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert names(folder) == before


@pytest.mark.usefixtures("folder")
def test_the_recipes_that_there_are_are_listed_and_shown(capsys):
    code, out, err = call(capsys, "recipes")
    assert code == 0, err
    assert "fashion-mnist-cnn" in out
    assert set(json.loads(call(capsys, "recipes", "--json")[1])) >= {"imagenet-resnet50"}
    shown = call(capsys, "recipes", "small.yaml")[1]
    Path("copy.yaml").write_text(shown, encoding="utf-8")
    assert read_recipe("copy.yaml") == read_recipe("small.yaml")
    assert json.loads(call(capsys, "recipes", "--json", "small.yaml")[1])["training"]["seed"] == 0
    assert call(capsys, "recipes", "none.yaml")[0] == 2
