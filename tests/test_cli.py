"""The command line: what users type, what they see, and what is left behind when they err."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import profile_of, small_workload
from onnx.numpy_helper import to_array

from cost_models import DeviceProfile, Workload, read_document, write_document
from spartan_planner.cli.app import run
from spartan_planner.graph_skeleton import graph_of_text
from spartan_planner.planning import read_plan

NETWORK = """
import sys
sys.path.insert(0, {tests!r})
from networks import TinyNetwork

def network():
    return TinyNetwork(128)

from torch import nn

class Ending(nn.Linear):
    def forward(self, x):
        raise SystemExit(0)

class Deciding(nn.Linear):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.layer = nn.Linear(8, 8)

    def forward(self, ids):
        return self.layer(self.embedding(ids))

def tokens():
    return Tokens()

class Table(Tokens):
    # Looks rows up in a parameter that no module says is a table.

    def __init__(self):
        super().__init__()
        self.embedding = None
        self.table = nn.Parameter(Tokens().embedding.weight.detach())

    def forward(self, ids):
        return self.layer(nn.functional.embedding(ids, self.table))

def table():
    return Table()

def bert():
    from model_zoo import import_models
    transformers = import_models("transformers")
    config = transformers.AutoConfig.for_model(
        "bert", hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, vocab_size=50,
    )
    return transformers.AutoModel.from_config(config)

def lazy():
    return nn.LazyLinear(2)

def ending():
    return Ending(3, 2)

def deciding():
    return Deciding(3, 2)
"""


def call(capsys, *arguments):
    code = run([str(item) for item in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def folder(tmp_path, monkeypatch, request):
    tests = str(request.path.parent)
    (tmp_path / "mine.py").write_text(NETWORK.format(tests=tests), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.end_to_end
@pytest.mark.usefixtures("folder")
def test_the_readmes_path_for_a_model_of_ones_own(capsys):
    shape = ("--input-shape", "1,1,8,8")
    assert call(capsys, "inspect", "mine:network", *shape, "-o", "w.yaml")[0] == 0
    code, out, _ = call(
        capsys, "profile", "w.yaml", "-o", "p.yaml", "--rounds", 10, "--name", "box", "--json"
    )
    assert code == 0, _
    assert json.loads(out)["name"] == "box"
    plan = ("plan", "mine:network", *shape, "--profile", "p.yaml", "-b", "latency=70%")
    code, out, _ = call(capsys, *plan, "-o", "plan.yaml", "--json")
    assert code == 0, _
    (budget,) = json.loads(out)["budgets"]
    assert budget["cost"] == "latency"
    assert budget["unit"] == "ms"
    assert budget["predicted"] <= budget["asked"] == pytest.approx(0.7 * budget["dense"])
    train = ("train", "mine:network", "--data", "digits", "--plan", "plan.yaml", "--epochs", 1)
    code, out, _ = call(capsys, *train, "-o", "s.safetensors", "--json")
    assert code == 0, _
    assert json.loads(out)["stats"]["predicted"] <= budget["asked"]
    export = ("export", "mine:network", "--plan", "plan.yaml", "--checkpoint", "s.safetensors")
    code, out, _ = call(capsys, *export, "-o", "m.onnx", "--json")
    assert code == 0, _
    assert json.loads(out)["predicted"]["latency"] <= budget["asked"]
    assert call(capsys, "export", "mine:network", *shape, "-o", "d.onnx")[0] == 0
    verify = ("verify", "m.onnx", "--dense", "d.onnx", "--plan", "plan.yaml", "--rounds", 10)
    code, out, _ = call(capsys, *verify, "--tolerance", 100, "--json")
    assert code == 0, _
    assert set(json.loads(out)) >= {"latency_ms", "speedup", "ok"}
    # A masked file has no lowered layers, so that its dense twin alone corrects the profile.
    masked = ("export", "mine:network", "--plan", "plan.yaml", "--form", "masked")
    code, out, _ = call(capsys, *masked, "-o", "m.onnx")
    assert code == 0, _
    assert "written to m.onnx: form masked" in out
    assert "no checkpoint: the initial weights were pruned in one shot" in out
    verify = ("verify", "m.onnx", "--dense", "d.onnx", "--rounds", 10, "--tolerance", 100)
    corrected = ("--layers", "--profile", "p.yaml", "--recalibrated", "r.yaml")
    code, out, _ = call(capsys, *verify, *corrected)
    assert code == 0, _
    assert "(rest)" in out
    assert read_document(Path("r.yaml"), DeviceProfile, "profile").name == "box (recalibrated)"
    for command in (("profiles", "p.yaml"), ("cost-models",), ("inspect", "mine:network", *shape)):
        assert call(capsys, *command)[0] == 0


@pytest.mark.end_to_end
@pytest.mark.usefixtures("folder")
def test_two_of_four_is_planned_trained_and_exported(capsys):
    plan = ("plan", "mine:network", "--input-shape", "1,1,8,8", "--layout", "2:4", "-b")
    code, out, err = call(capsys, *plan, "params=60%", "-o", "p.yaml")
    assert code == 0, err
    assert "not trained" not in out
    train = ("train", "mine:network", "--data", "digits", "--plan", "p.yaml", "--epochs", 1)
    code, out, err = call(capsys, *train, "-o", "s.safetensors", "--json")
    assert code == 0, err
    budget = read_plan(Path("p.yaml")).budget
    assert json.loads(out)["stats"]["predicted"] <= budget.asked
    export = ("export", "mine:network", "--plan", "p.yaml", "--checkpoint", "s.safetensors")
    code, out, err = call(capsys, *export, "-o", "m.onnx", "--json")
    assert code == 0, err
    assert json.loads(out)["form"] == "masked"
    tensors = {item.name: to_array(item) for item in onnx.load("m.onnx").graph.initializer}
    patterned = [layer for layer in read_plan(Path("p.yaml")).layers if layer.is_sparse]
    assert patterned
    for layer in patterned:
        # Ranks of four inputs in the order in which a layer multiplies them.
        weight = np.moveaxis(tensors[layer.name], 1, -1)
        assert np.all(np.count_nonzero(weight.reshape(-1, 4), axis=1) <= 2)


@pytest.mark.usefixtures("folder")
def test_weights_that_were_not_planned_are_told(capsys):
    plan = ("plan", "mine:network", "--input-shape", "1,1,8,8", "-b", "flops=70%", "-o", "p.yaml")
    assert call(capsys, *plan)[0] == 0
    train = ("train", "mine:network", "--data", "digits", "--plan", "p.yaml", "--epochs", 1)
    one_shot = ("export", "mine:network", "--plan", "p.yaml", "-o", "m.onnx")
    for seed, is_told in ((0, False), (1, True)):
        code, out, err = call(capsys, *train, "--seed", seed, "-o", "s.safetensors", "--json")
        assert code == 0, err
        assert any("other weights than these" in note for note in json.loads(out)["notes"]) is (
            is_told
        )
        assert ("note: the plan for mine:network was made from other weights" in err) is is_told
        code, out, err = call(capsys, *one_shot, "--seed", seed, "--json")
        assert code == 0, err
        assert any("other weights than these" in note for note in json.loads(out)["notes"]) is (
            is_told
        )
    assert "notice: the plan for mine:network" in call(capsys, *one_shot, "--seed", 1)[1]


def test_help_is_whole_and_calls_no_flag_a_bool(capsys):
    commands = ("quickstart", "inspect", "profile", "plan", "train", "export", "lower", "verify")
    for command in ((), *((name,) for name in commands), ("recipes",), ("profiles",)):
        code, out, _ = call(capsys, *command, "--help")
        assert code == 0
        assert "<bool>" not in out
        assert "..." not in out.replace("COMMAND [ARGS]...", "").replace("FILE...", "")
        assert "\N{HORIZONTAL ELLIPSIS}" not in out
    assert "blocks.*=tile:64x1@16" in call(capsys, "plan", "--help")[1]


@pytest.mark.usefixtures("folder")
def test_a_planned_language_model_is_exported_with_token_ids_of_the_planned_shape(capsys):
    plan = ("plan", "mine:bert", "--input-shape", "1,6", "-b", "flops=70%", "-o", "p.yaml")
    assert call(capsys, *plan)[0] == 0
    code, out, _ = call(capsys, "export", "mine:bert", "--plan", "p.yaml", "-o", "m.onnx", "--json")
    assert code == 0, _
    figures = json.loads(out)
    assert (figures["form"], figures["pruned_in_one_shot"]) == ("masked", True)
    assert "no lowered form" in figures["notes"][0]
    assert call(capsys, "verify", "m.onnx", "--rounds", 5)[0] == 0


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("meta", [(), ("--meta",)])
def test_a_model_that_looks_ids_up_is_inspected_by_their_shape(capsys, meta):
    code, out, err = call(capsys, "inspect", "mine:tokens", "--input-shape", "1,4", "--json", *meta)
    assert code == 0, err
    assert json.loads(out)["macs"] == 4 * 8 * 8
    code, _, err = call(capsys, "inspect", "mine:table", "--input-shape", "1,4", *meta)
    assert (code, "give ids, int64, with --inputs" in err) == (2, True)


@pytest.mark.usefixtures("folder")
def test_inputs_that_cannot_be_made_up_from_their_shape_are_asked_for(capsys):
    np.save("ids.npy", np.arange(4).reshape(1, 4))
    ids = ("--inputs", "ids.npy")
    plan = ("plan", "mine:table", *ids, "-b", "flops=70%", "-o", "p.yaml")
    assert call(capsys, *plan)[0] == 0
    export = ("export", "mine:table", "--plan", "p.yaml", "-o", "m.onnx")
    code, _, error = call(capsys, *export)
    assert (code, error) == (2, "error: the model's inputs are of type int64; give --inputs\n")
    assert call(capsys, *export, *ids)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspekt",), "No such command"),
        (("inspect",), "Missing argument"),
        (("inspect", "mine:network", "--input-shap", "1"), "No such option"),
        (("inspect", "mine:network"), "give either --input-shape"),
        (("inspect", "mine:network", "--input-shape", "1,2"), "(--input-shape or --inputs)"),
        (("inspect", "mine:netwerk"), "did you mean network"),
        (("inspect", "mine"), "write mine:FUNCTION"),
        (("inspect", "mine.yaml"), "is a workload already"),
        (
            ("inspect", "mine:network", "--input-shape", "1,1,8,8", "--inputs", "x.npy"),
            "not both",
        ),
        (
            ("inspect", "mine:network", "--input-shape", "1,1,8,8", "--checkpoint", "mine.py"),
            "neither a safetensors nor a torch file",
        ),
        (("inspect", "mine:netwerk", "--input-shape", "1,1,8,8"), "did you mean network"),
        (("inspect", "resnet50", "--input-shape", "1,3,8,8"), "write torchvision:NAME"),
        (("profile", "none.yaml", "-o", "x"), "none.yaml does not exist"),
        (("profile", "mine.py", "-o", "x"), "workload mine.py"),
        (("profile", "none.yaml", "-o", "x", "--threads", "0"), "must be positive"),
        (("profile", "none.yaml", "-o", "."), "is a folder"),
        (("profile", "none.onnx", "-o", "x"), "none.onnx"),
        (("profile", "mine.py", "-o", "mine.py"), "mine.py is read by this command"),
        (("profile", "mine.py", "-o", "./mine.py"), "mine.py is read by this command"),
        (("inspect", "mine.py", "-o", "mine.py"), "mine.py is read by this command"),
        (
            ("plan", "m:n", "-b", "flops=50%", "-o", "mine.py", "--profile", "mine.py"),
            "mine.py is read by this command",
        ),
        (("export", "m:n", "-o", "mine.py", "--plan", "mine.py"), "is read by this command"),
        (("train", "m:n", "-o", "mine.py", "--data", "mine.py"), "is read by this command"),
        (("profile", "none.yaml", "-o", "x", "--name", " "), "name of the device is empty"),
        (("inspect", "mine:lazy", "--input-shape", "1,3"), "parameter weight of mine:lazy has no"),
        (("inspect", "mine:ending", "--input-shape", "1,3"), "ends the program with SystemExit(0)"),
        (("inspect", "mine:deciding", "--input-shape", "1,3", "--meta"), "or leave out --meta"),
        (("profile", "none.yaml", "-o", "x", "--half-width", "-1"), "a share such as 0.03"),
        (("plan", "mine:network", "-b", "latency", "-o", "x"), "such as latency=50%"),
        (("plan", "mine:network", "-b", "speed=2", "-o", "x"), "known are: latency"),
        (("plan", "mine:network", "-b", "latency=5kg", "-o", "x"), "is not understood"),
        (
            ("plan", "mine:network", "-b", "latency=50%", "-o", "x", "--input-shape", "1,1,8,8"),
            "give a profile",
        ),
        (
            ("plan", "mine:network", "-b", "flops=1%", "-o", "x", "--input-shape", "1,1,8,8"),
            "cannot be reached: the least achievable is",
        ),
        (
            ("plan", "mine:network", "-b", "flops=50%", "-o", "x", "--layout", "diagonal"),
            "layout 'diagonal' is not known",
        ),
        (
            ("train", "mine:network", "--data", "none.npz", "-o", "x.safetensors"),
            "none.npz cannot be read",
        ),
        (
            ("train", "mine:network", "--data", "digits", "-o", "x.safetensors", "--epochs", "0"),
            "at least 1",
        ),
        (
            ("train", "mine:network", "--data", "digits", "-o", "x.safetensors", "--plan", "p"),
            "plan p does not",
        ),
        (("export", "mine:network", "-o", "x", "--form", "tiny"), "use masked, sparse or lowered"),
        (
            (
                "export",
                "mine:network",
                "-o",
                "x",
                "--checkpoint",
                "c.pt",
                "--input-shape",
                "1,1,8,8",
            ),
            "checkpoint c.pt does not exist",
        ),
        (
            ("plan", "mine:network", "-b", "flops=50%", "-o", "x", "--beta", "-1"),
            "must be positive",
        ),
        (("plan", "mine:network", "-b", "flops=50%", "-o", "mine.py/x/y"), "is not a folder"),
        (("inspect", "mine:network", "--input-shape", "1,1000000,1000000,1000"), "too large"),
        (("inspect", "mine:network", "--input-shape", "1,9" + 30 * "9"), "too large"),
        (("inspect", "none.onnx", "--meta"), "--meta cannot be used with an .onnx file"),
        (("inspect", "none.onnx"), "none.onnx"),
        (("inspect", "none.onnx", "--input-shape", "1,x"), "such as 1,3,224,224"),
        (
            ("inspect", "mine:network", "--meta", "--checkpoint", "c.pt", "--input-shape", "1,2"),
            "has no values to load",
        ),
        (("inspect", "transformers:gtp2", "--input-shape", "1,8"), "did you mean gpt2"),
        (("inspect", "mine:network", "--seed", "9" * 30), "--seed"),
        (("inspect", "mine:network", "--inputs", "mine.py"), "mine.py cannot be read"),
        (("train", "mine:network", "--data", "digits", "-o", "w.pt"), "with .safetensors"),
        (("verify", "none.onnx", "--tolerance", "nan"), "tolerance"),
        (("verify", "none.onnx"), "none.onnx"),
        (("verify", "mine.py"), "mine.py is not an ONNX file"),
        (("verify", "none.onnx", "--rounds", "1"), "at least 5 rounds"),
        (("verify", "none.onnx", "--runtime", "torch"), "use onnxruntime or openvino"),
        (("verify", "none.onnx", "--recalibrated", "x"), "give --profile and --dense"),
        (("export", "mine:network", "-o", "x", "--opset", "9"), "use one from 18 to"),
        (("export", "mine:network", "-o", "x", "--dtype", "int4"), "use float32 or float16"),
        (("profiles", "none"), "none does not exist"),
        (("quickstart", "--out", "mine.py"), "mine.py is a file"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_leaves_nothing(folder, capsys, arguments, message):
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    left = {path.name for path in folder.iterdir()} - {"__pycache__"}
    assert left == {"mine.py"}


def test_what_inspect_prints(folder, capsys):
    inspect = ("inspect", "mine:network", "--input-shape", "1,1,8,8")
    code, out, err = call(capsys, *inspect, "-o", "w.yaml", "--json")
    assert (code, err) == (0, "")
    printed = json.loads(out)
    assert set(printed) == {"model", "parameters", "macs", "layers", "products", "unpriced"}
    assert printed["macs"] == sum(layer["macs"] for layer in printed["layers"])
    needed = {"name", "op", "weight_shape", "groups", "positions", "macs", "prunable"}
    assert all(needed | {"not_prunable_because"} <= set(layer) for layer in printed["layers"])
    workload = read_document(folder / "w.yaml", Workload, "workload")
    (shape,) = graph_of_text(workload.graph).input_shapes
    assert (shape, workload.macs) == ((1, 1, 8, 8), printed["macs"])
    assert call(capsys, *inspect, "-o", "n.yaml", "--no-graph")[::2] == (0, "")
    assert read_document(folder / "n.yaml", Workload, "workload").graph == ""


def test_inspect_of_a_model_without_values_says_what_is_missing(folder, capsys):
    inspect = ("inspect", "mine:network", "--input-shape", "1,1,8,8", "-o", "w.yaml")
    assert call(capsys, *inspect)[0] == 0
    code, _, err = call(capsys, *inspect[:-1], "m.yaml", "--meta")
    assert code == 0
    assert "the whole model cannot be timed and its other operations will be estimated" in err
    real, meta = (
        read_document(folder / name, Workload, "workload") for name in ("w.yaml", "m.yaml")
    )
    assert meta == replace(real, graph="")


def test_arrays_of_float64_are_used_as_the_model_is_and_that_is_said(folder, capsys):
    np.save(folder / "x.npy", np.zeros((1, 1, 8, 8)))
    code, _, err = call(capsys, "inspect", "mine:network", "--inputs", "x.npy")
    assert code == 0
    assert err.startswith("notice: the float64 arrays of x.npy are used as float32")


@pytest.mark.usefixtures("folder")
def test_inspect_shows_products_and_why_weights_are_not_prunable(capsys):
    code, out, err = call(capsys, "inspect", "transformers:gpt2", "--meta", "--input-shape", "1,8")
    assert code == 0, err
    text = " ".join(out.split())
    for part in ("Products without a weight", "bmm", "stored transposed", "not priced"):
        assert part in text


@pytest.mark.usefixtures("folder")
def test_inspect_of_an_onnx_file(capsys):
    shape = ("--input-shape", "1,1,8,8")
    assert call(capsys, "export", "mine:network", *shape, "-o", "d.onnx")[0] == 0
    code, out, err = call(capsys, "inspect", "d.onnx", *shape, "--json")
    assert code == 0, err
    _, torch_out, _ = call(capsys, "inspect", "mine:network", *shape, "--json")
    assert json.loads(out)["macs"] == json.loads(torch_out)["macs"]


@pytest.mark.parametrize(
    ("lines", "message"), [(4, "3 rounds are kept in p.yaml.partial"), (0, "nothing is kept")]
)
def test_an_interrupted_profile_says_what_is_kept(folder, capsys, monkeypatch, lines, message):
    def interrupted(*_):
        if lines:
            (folder / "p.yaml.partial").write_text("{}\n" * lines)
        raise KeyboardInterrupt

    write_document(folder / "w.yaml", small_workload())
    monkeypatch.setattr("spartan_planner.profiling.write_profile", interrupted)
    code, _, err = call(capsys, "profile", "w.yaml", "-o", "p.yaml")
    assert (code, message in err) == (130, True), err


def test_the_graph_of_another_model_is_not_profiled(folder, capsys):
    for name in ("network", "deciding"):
        shape = "1,1,8,8" if name == "network" else "1,3"
        inspect = ("inspect", f"mine:{name}", "--input-shape", shape, "-o", f"{name}.yaml")
        code, _, err = call(capsys, *inspect)
        assert code == 0
        if name == "deciding":
            assert err.startswith("notice: torch cannot export this model to ONNX: ")
            assert len(err) < 600
            assert "without a graph" in err
    own = read_document(folder / "network.yaml", Workload, "workload")
    other = read_document(folder / "deciding.yaml", Workload, "workload")
    write_document(folder / "mixed.yaml", replace(other, graph=own.graph))
    code, _, err = call(capsys, "profile", "mixed.yaml", "-o", "p.yaml")
    assert code == 2
    assert err.count("\n") == 1
    assert "the graph in the workload of mine:deciding is not known to be that model's" in err
    assert not (folder / "p.yaml").exists()


@pytest.mark.usefixtures("folder")
def test_advice_for_an_onnx_file_is_that_for_its_workload(capsys):
    shape = ("--input-shape", "1,1,8,8")
    assert call(capsys, "export", "mine:network", *shape, "-o", "m.onnx")[0] == 0
    assert call(capsys, "inspect", "m.onnx", "-o", "w.yaml")[0] == 0
    shown = [
        json.loads(call(capsys, "profiles", "raspberry-pi-5", "--workload", file, "--json")[1])
        for file in ("m.onnx", "w.yaml")
    ]
    assert shown[0] == shown[1]


def test_a_plan_for_another_model_is_refused_everywhere(folder, capsys):
    other = (
        (folder / "mine.py")
        .read_text(encoding="utf-8")
        .replace("TinyNetwork(128)", "TinyNetwork(96)")
    )
    (folder / "other.py").write_text(other, encoding="utf-8")
    plan = ("plan", "mine:network", "-b", "flops=50%", "--input-shape", "1,1,8,8", "-o", "p.yaml")
    assert call(capsys, *plan)[0] == 0
    for command in (
        ("train", "other:network", "--data", "digits", "--plan", "p.yaml", "-o", "x.safetensors"),
        ("export", "other:network", "--plan", "p.yaml", "-o", "x"),
    ):
        code, _, err = call(capsys, *command)
        assert code == 2
        assert "make a plan for this model" in err
    assert not (folder / "x").exists()


def test_plan_warns_of_layers_that_nobody_measured(folder, capsys):
    write_document(folder / "facts.yaml", profile_of())
    plan = ("plan", "mine:network", "--input-shape", "1,1,8,8", "--profile", "facts.yaml")
    code, out, err = call(capsys, *plan, "-b", "latency=70%", "-o", "plan.yaml")
    assert code == 0, err
    warning = (
        "warning: the latency of every layer and of the rest of the model was estimated, since"
    )
    assert warning in " ".join(out.split())
    code, out, err = call(capsys, *plan, "-b", "latency=70%", "-o", "plan.yaml", "--json")
    assert code == 0, err
    (told,) = json.loads(out)["warnings"]
    assert told.endswith("or profile this workload on the device")


COMMANDS = (
    "quickstart",
    "inspect",
    "profile",
    "plan",
    "train",
    "export",
    "verify",
    "profiles",
    "cost-models",
)


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_every_command_explains_itself(capsys, command):
    code, out, _ = call(capsys, *command, "--help")
    assert code == 0, _
    assert "Usage" in out


def test_the_version(capsys):
    code, out, _ = call(capsys, "--version")
    assert code == 0, _
    assert out.startswith("spartan-planner ")
