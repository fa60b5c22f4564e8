"""``plan --layout channel`` and ``auto``, ``inspect --channels``: on the command line."""

import json

import pytest
from channel_workloads import residual_network, weights_of, with_groups
from safetensors.numpy import save_file

from cost_models import Workload, read_document, write_document
from spartan_planner.cli.app import run
from spartan_planner.planning import read_plan


def call(capsys, *arguments):
    code = run([str(item) for item in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    workload = residual_network()
    write_document(tmp_path / "w.yaml", workload)
    write_document(tmp_path / "nameless.yaml", with_groups(workload))
    save_file(weights_of(workload), tmp_path / "s.safetensors")
    return tmp_path


PLAN = ("plan", "w.yaml", "--checkpoint", "s.safetensors", "-b", "params=50%")


def test_channels_are_planned_and_the_tables_say_why(capsys, folder):
    code, out, err = call(capsys, *PLAN, "--layout", "channel", "-o", "plan.yaml")
    assert code == 0, err
    plan = read_plan(folder / "plan.yaml")
    assert plan.kept_units
    assert plan.budget.predicted <= plan.budget.asked
    assert "Channels that can only go together" in out
    assert "goes as far as others are worth more" in out
    assert "by what they prune: channels" in out
    assert "duality" not in out


@pytest.mark.usefixtures("folder")
def test_everything_is_considered(capsys):
    code, out, err = call(capsys, *PLAN, "--layout", "auto", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert set(told["retained_by"]) >= {"channel"}
    assert told["retained_value"] == max(told["retained_by"].values())
    assert {group["name"] for group in told["groups"]} == {"stem", "a1", "b1"}
    assert told["duality_gap"] is None


@pytest.mark.usefixtures("folder")
def test_multiples_are_kept(capsys):
    wish = ("--layout", "channel", "--channel-multiple", "5")
    code, out, err = call(capsys, *PLAN, *wish, "--json")
    assert code == 0, err
    for group in json.loads(out)["groups"]:
        assert group["num_kept_units"] % 5 == 0 or group["num_kept_units"] == group["num_units"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layout", "channel", "--policy", "erk"), "leave out --policy"),
        (("--layout", "channel", "--sweep"), "--sweep and --try know no channels yet"),
        (("--channel-multiple", "8"), "needs layout channel or auto"),
        (("--layout", "chanel"), "'chanel' is not known"),
    ],
)
def test_contradictions_are_one_sentence(capsys, arguments, message):
    code, _, err = call(capsys, *PLAN, *arguments)
    assert code == 2
    assert message in " ".join(err.split())


@pytest.mark.usefixtures("folder")
def test_a_workload_without_groups_is_refused(capsys):
    nameless = ("plan", "nameless.yaml", "--checkpoint", "s.safetensors", "-b", "params=50%")
    code, _, err = call(capsys, *nameless, "--layout", "channel")
    assert code == 2
    assert "inspect --channels" in err


def test_inspect_finds_the_groups(capsys, folder):
    model = ("inspect", "torchvision:resnet18", "--input-shape", "1,3,64,64", "--no-graph")
    code, _, err = call(capsys, *model, "--channels", "-o", "found.yaml", "--json")
    assert code == 0, err
    found = read_document(folder / "found.yaml", Workload, "workload")
    assert {group.name for group in found.channel_groups} >= {"conv1.weight"}
    code, _, err = call(capsys, *model, "-o", "without.yaml", "--json")
    assert code == 0, err
    assert read_document(folder / "without.yaml", Workload, "workload").channel_groups == ()
