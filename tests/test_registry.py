"""Cost models by name, built in and from packages that are installed beside this one."""

import importlib
import sys

import pytest

from cost_models import CostModel, CostModelError, UnknownNameError, cost_model, cost_model_names

SOURCE = """
from cost_models import LinearCost

class Water:
    name, unit, needs_profile = "water", "l", False
    def dense_cost(self, layer, profile): return float(layer.num_weights)
    def linear_cost(self, layer, layout, profile): return LinearCost(1.0, 0.0, 1.0, self.unit)
    def rest(self, workload, profile): return 0.0

class Broken:
    def __init__(self): raise RuntimeError("no sensor")

class Partial:
    name, unit = "partial", "l"
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Pretend to install a package with these entry points, ``name = module:object``."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "water_plug_in.py").write_text(SOURCE)

    def install_package(package: str, *entry_points: str) -> None:
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = ["[spartan_planner.cost_models]", *entry_points]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
        importlib.invalidate_caches()

    yield install_package
    sys.modules.pop("water_plug_in", None)


@pytest.mark.parametrize("name", ["latency", "flops", "params", "memory", "energy"])
def test_built_in_models_answer_to_their_name(name):
    assert name in cost_model_names()
    assert cost_model(name).name == name


def test_unknown_name_lists_the_known_ones(install):
    install("water", "water = water_plug_in:Water")
    with pytest.raises(UnknownNameError, match="'joules' is not known") as caught:
        cost_model("joules")
    for name in cost_model_names():
        assert name in str(caught.value)


def test_plug_in_is_found_by_name(install):
    install("water", "water = water_plug_in:Water")
    assert cost_model_names()[-1] == "water"
    model = cost_model("water")
    assert isinstance(model, CostModel)
    assert model.unit == "l"


@pytest.mark.parametrize(
    "entry_points",
    [
        ("flops = water_plug_in:Water",),
        ("water = water_plug_in:Water", "water = water_plug_in:Partial"),
    ],
)
def test_name_that_is_taken_is_refused(install, entry_points):
    for index, line in enumerate(entry_points):
        install(f"package{index}", line)
    with pytest.raises(CostModelError, match="is provided twice"):
        cost_model_names()


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("water_plug_in:Broken", "no sensor"),
        ("water_plug_in:Missing", "Missing"),
        ("no_such_module:Water", "no_such_module"),
        ("water_plug_in:Partial", "lacks a part of the CostModel protocol"),
    ],
)
def test_plug_in_that_cannot_be_used_says_why(install, target, reason):
    install("water", f"water = {target}")
    with pytest.raises(CostModelError, match=reason) as caught:
        cost_model("water")
    assert target in str(caught.value)


def test_broken_plug_in_does_not_disturb_the_others(install):
    install("water", "water = water_plug_in:Broken")
    assert "water" in cost_model_names()
    assert cost_model("flops").name == "flops"
