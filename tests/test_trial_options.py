"""``plan --try`` as users type it."""

import json

import pytest
import yaml
from builders import profile_of
from networks import TinyNetwork
from test_cli import call, folder  # noqa: F401
from test_trial import profile_here

from cost_models import DeviceProfile, read_document, write_document
from spartan_planner.planning import profile_fingerprint, read_plan

PLAN = ("plan", "mine:network", "--input-shape", "1,1,8,8", "-o", "plan.yaml")
LATENCY = ("-b", "latency=70%")


@pytest.fixture
def profiles(folder):  # noqa: F811
    write_document(folder / "here.yaml", profile_here(TinyNetwork(128)))
    write_document(folder / "there.yaml", profile_of())
    return folder


def test_a_tried_plan_tells_every_round_and_writes_its_profile(profiles, capsys):
    arguments = (*PLAN, *LATENCY, "--profile", "here.yaml", "--try", "--try-profile", "new.yaml")
    code, out, err = call(capsys, *arguments, "--try-tolerance", 1e9, "--json")
    assert code == 0, err
    trial = json.loads(out)["trial"]
    assert set(trial) == {"rounds", "agrees", "reason"}
    assert (trial["agrees"], trial["reason"]) == (True, None)
    (only,) = trial["rounds"]
    assert {"asked_ms", "predicted_ms", "measured_ms", "error", "scatter"} <= set(only)
    assert only["predicted_ms"] <= only["asked_ms"]
    profile = read_document(profiles / "new.yaml", DeviceProfile, "profile")
    plan = read_plan(profiles / "plan.yaml")
    assert plan.profile.fingerprint == profile_fingerprint(profile)
    assert json.loads(out)["budgets"][0]["predicted"] == plan.budget.predicted


def test_the_table_of_a_trial_that_agrees(profiles, capsys):  # noqa: ARG001
    arguments = (*PLAN, "-b", "flops=60%", "--profile", "here.yaml", "--try")
    code, out, err = call(capsys, *arguments, "--try-tolerance", 1e9)
    assert code == 0, err
    text = " ".join(out.split())
    for part in ("Trial of the plan for mine:network", "off by", "scatter", "agrees with the plan"):
        assert part in text


def test_a_trial_that_cannot_agree_says_why_and_still_writes_the_plan(profiles, capsys):
    code, out, _ = call(capsys, *PLAN, *LATENCY, "--profile", "there.yaml", "--try", "--json")
    assert code == 1
    trial = json.loads(out)["trial"]
    assert (trial["rounds"], trial["agrees"]) == ([], False)
    assert "is of another device (a processor; this is" in trial["reason"]
    assert read_plan(profiles / "plan.yaml").sparse_layers
    code, out, _ = call(capsys, *PLAN, *LATENCY, "--profile", "there.yaml", "--try")
    assert code == 1
    assert "warning: what was measured does not agree with the plan" in " ".join(out.split())


def test_a_plan_that_is_not_tried_tells_nothing_of_it(profiles, capsys):  # noqa: ARG001
    code, out, err = call(capsys, *PLAN, *LATENCY, "--profile", "here.yaml", "--json")
    assert code == 0, err
    assert "trial" not in json.loads(out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-b", "flops=50%", "--try"), "give --profile"),
        ((*LATENCY, "--profile", "here.yaml", "--try-tolerance", "0.1"), "belong to --try"),
        ((*LATENCY, "--profile", "here.yaml", "--try-profile", "x.yaml"), "belong to --try"),
        (
            (*LATENCY, "--profile", "here.yaml", "--try", "--try-tolerance", "0"),
            "must be a positive share",
        ),
        ((*LATENCY, "--profile", "here.yaml", "--try", "--try-profile", "."), "is a folder"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_leaves_nothing(profiles, capsys, arguments, message):
    before = {path.name for path in profiles.iterdir()}
    code, out, err = call(capsys, *PLAN, *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert {path.name for path in profiles.iterdir()} - {"__pycache__"} == before


BOUNDS = ("--keep-dense", "tail*", "--min-density", "body*=50%", "--layer-layout", "body*=element")


def test_bounds_and_policies_on_the_command_line(folder, capsys):  # noqa: F811
    for policy in ("cost", "uniform", "erk", "magnitude"):
        options = ("-b", "params=80%", "--policy", policy, "--layout", "element", *BOUNDS)
        code, out, err = call(capsys, *PLAN, *options, "--json")
        assert code == 0, err
        printed = json.loads(out)
        layers = {layer["name"]: layer for layer in printed["layers"]}
        assert printed["policy"] == policy
        assert layers["tail.weight"]["layout"] == "dense"
        assert layers["body.weight"]["layout"] == "element"
        assert layers["body.weight"]["density"] >= 0.5
        assert yaml.safe_load((folder / "plan.yaml").read_text())["policy"] == policy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "random"), "known are: cost, uniform, erk, magnitude"),
        (("--keep-dense", "haed*"), "no layer matches 'haed*'"),
        (("--min-density", "body*"), "write PATTERN=VALUE"),
        (("--min-density", "body*=half"), "write a share such as"),
        (("--layer-layout", "body*=diagonal"), "layout 'diagonal' is not known"),
        (("--min-density", "*=99%"), "cannot be reached"),
    ],
)
def test_bounds_and_policies_that_cannot_be_are_refused(folder, capsys, arguments, message):  # noqa: F811
    code, out, err = call(capsys, *PLAN, "-b", "params=50%", *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert not (folder / "plan.yaml").exists()


def test_several_budgets_go_all_the_way_to_the_file(folder, capsys):  # noqa: F811
    options = ("-b", "flops=60%", "-b", "params=65%", "-b", "memory=75%", "--json")
    code, out, err = call(capsys, *PLAN, *options)
    assert code == 0, err
    asked = {budget["cost"]: budget["asked"] for budget in json.loads(out)["budgets"]}
    assert set(asked) == {"flops", "params", "memory"}
    train = ("train", "mine:network", "--data", "digits", "--plan", "plan.yaml", "--epochs", 1)
    code, out, err = call(capsys, *train, "-o", "s.safetensors", "--json")
    assert code == 0, err
    spent = json.loads(out)["stats"]["costs"]
    assert all(spent[cost] <= limit for cost, limit in asked.items())
    export = ("export", "mine:network", "--plan", "plan.yaml", "--checkpoint", "s.safetensors")
    code, out, err = call(capsys, *export, "-o", "m.onnx", "--json")
    assert code == 0, err
    predicted = json.loads(out)["predicted"]
    assert all(predicted[cost] <= limit for cost, limit in asked.items())
    assert (folder / "m.onnx").stat().st_size <= predicted["memory"] + 20_000
