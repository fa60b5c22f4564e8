"""``train`` on the command line: its run folder, its mistakes, and a disk that is full."""

import json
import resource
from contextlib import contextmanager

import pytest
import resumable_run
import torch
from networks import TinyNetwork
from safetensors.torch import load_file

from spartan_planner.checkpoints import save_weights
from spartan_planner.cli.app import run

MODEL = ("train", "resumable_run:network")
DIGITS = (*MODEL, "--data", "resumable_run:data", "--epochs", "1")
LARGEST_BYTES = 30_000
"""Less than the weights, more than a line of the log."""


def call(capsys, *arguments):
    code = run([str(item) for item in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def files_limited_to(num_bytes):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_run_is_kept_and_told(folder, capsys):
    resumable_run.noisy_plan(folder / "plan.yaml")
    options = (*DIGITS, "--run-dir", "run", "--plan", "plan.yaml", "--method", "magnitude")
    code, out, err = call(capsys, *options, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["weights"] == "run/weights.safetensors"
    assert told["stats"]["method"] == "magnitude"
    assert told["resumed_at_step"] == 0
    files = ["checkpoints", "log.csv", "log.jsonl", "run.json", "weights.safetensors"]
    assert names(folder / "run") == files
    assert json.loads((folder / "run" / "run.json").read_text("utf-8"))["origin"] == {
        "model": "resumable_run:network",
        "data": "resumable_run:data",
        "checkpoint": None,
        "teacher": None,
        "distillation_weight": None,
        "distillation_temperature": None,
    }
    code, out, err = call(capsys, *options, "--resume", "-o", "again.safetensors")
    assert code == 0, err
    assert "resumed after step 4" in out
    first, again = load_file(folder / told["weights"]), load_file(folder / "again.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_student_is_trained_with_the_weights_of_its_teacher(folder, capsys):
    save_weights(resumable_run.network(), folder / "teacher.safetensors")
    options = (*DIGITS, "--distill", "teacher.safetensors", "--distill-weight", "0.9")
    code, _, err = call(capsys, *options, "-o", "student.safetensors")
    assert code == 0, err
    save_weights(TinyNetwork(8), folder / "other.safetensors")
    code, _, err = call(capsys, *DIGITS, "--distill", "other.safetensors", "-o", "x.safetensors")
    assert code == 2
    assert "other.safetensors does not fit the model" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*DIGITS,), "give --out, --run-dir or both"),
        ((*DIGITS, "-o", "x.safetensors", "--resume"), "--resume needs the folder of a run"),
        ((*DIGITS, "-o", "x.safetensors", "--tracker", "wandb"), "--tracker needs the folder"),
        ((*DIGITS, "--run-dir", "file"), "file is not a folder"),
        ((*DIGITS, "--run-dir", "r", "--tracker", "paper"), "tensorboard or wandb"),
        ((*DIGITS, "--run-dir", "r", "--checkpoint-steps", "0"), "at least 1"),
        ((*DIGITS, "--run-dir", "r", "--method", "best"), "method 'best' is not known"),
        ((*DIGITS, "--run-dir", "r", "--task", "speech"), "classification or next_token"),
        ((*DIGITS, "--run-dir", "r", "--schedule", "step"), "schedule 'step' is not known"),
        ((*DIGITS, "--run-dir", "r", "--mixed-precision", "int8"), "use no, bf16 or fp16"),
        ((*DIGITS, "--run-dir", "r", "--distill", "none.safetensors"), "does not exist"),
        ((*MODEL, "--data", "none.npz", "--run-dir", "r"), "none.npz"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(folder, capsys, arguments, message):
    (folder / "file").touch()
    if "--method" in arguments:
        resumable_run.noisy_plan(folder / "plan.yaml")
        arguments = (*arguments, "--plan", "plan.yaml")
    before = names(folder)
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert names(folder) == before


def test_a_disk_that_is_full_is_told_and_can_be_resumed_from(folder, capsys):
    options = (*DIGITS, "--run-dir", "run", "--checkpoint-steps", "1", "--keep-checkpoints", "9")
    with files_limited_to(LARGEST_BYTES):
        code, out, err = call(capsys, *options)
    assert (code, out) == (2, "")
    assert "cannot be written" in err
    assert names(folder / "run" / "checkpoints") == []
    code, _, err = call(capsys, *options, "--resume")
    assert code == 0, err
    with files_limited_to(LARGEST_BYTES):
        code, _, err = call(capsys, *options, "--resume")
    assert code == 2
    assert "weights.safetensors cannot be written" in err
    assert len(names(folder / "run" / "checkpoints")) == 4
