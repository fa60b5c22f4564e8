"""A cost model of a third party, installed as the package that it is and used as any other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import TILE, profile_of, timing_of
from networks import tiny_inputs, tiny_network

from cost_models import write_document
from spartan_planner.extraction import extract_workload
from spartan_planner.profiling.treatments import candidate_layouts

CHECKOUT = Path(__file__).resolve().parent.parent
EXAMPLE = CHECKOUT / "examples" / "cost_model_plugin"
ROUNDING = 1e-12
"""Relative; one more multiplication."""

NAMES = "from cost_models import cost_model_names; print(*cost_model_names())"
COMMAND = "import sys; from spartan_planner.cli.app import run; sys.exit(run(sys.argv[1:]))"
INTENSITY = 360.0
GRAMS_PER_JOULE = 1e-4

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the example, installed by pip without network."""
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(target), str(EXAMPLE)], check=True
    )
    return target


def python(folder, site, *arguments, intensity=str(INTENSITY)):
    paths = [str(site), str(CHECKOUT), str(CHECKOUT / "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment["GRAMS_CO2_PER_KWH"] = intensity
    return subprocess.run(
        [sys.executable, "-c", *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def profile(tmp_path):
    """A profile file with a time, and so a layout, for every layer that can be lowered."""
    workload = extract_workload(tiny_network(), tiny_inputs(), "tiny")
    shapes = {layer.shape for layer in workload.layers}
    timings = [timing_of(shape, (TILE,) if candidate_layouts(shape) else ()) for shape in shapes]
    write_document(tmp_path / "p.yaml", profile_of(*timings))
    return tmp_path / "p.yaml"


def test_the_name_is_known_only_where_the_package_is_installed(installed, tmp_path):
    known = python(tmp_path, installed, NAMES).stdout.split()
    assert known[-1] == "carbon"
    assert python(tmp_path, tmp_path, NAMES).stdout.split() == known[:-1]


def test_the_command_line_lists_it(installed, tmp_path):
    done = python(tmp_path, installed, COMMAND, "cost-models", "--json")
    assert done.returncode == 0, done.stderr
    row = {"name": "carbon", "unit": "gCO2", "needs_profile": True}
    assert row in json.loads(done.stdout)


def plan(folder, site, profile, **options):
    command = ["plan", "networks:tiny_network", "--input-shape", "1,1,8,8", "--profile", profile]
    command += ["-b", "carbon=70%", "-o", "plan.yaml", "--json"]
    return python(folder, site, COMMAND, *command, **options)


def test_a_plan_meets_a_budget_in_it(installed, tmp_path, profile):
    done = plan(tmp_path, installed, profile)
    assert done.returncode == 0, done.stderr
    costs = {item["cost"]: item for item in json.loads(done.stdout)["budgets"]}
    carbon = costs["carbon"]
    assert carbon["predicted"] <= carbon["asked"] == pytest.approx(0.7 * carbon["dense"])
    totals = {item["cost"]: item for item in json.loads(done.stdout)["totals"]}
    expected = GRAMS_PER_JOULE * totals["energy"]["dense"]
    assert carbon["dense"] == pytest.approx(expected, rel=ROUNDING)


def test_what_it_cannot_tell_is_one_sentence(installed, tmp_path, profile):
    done = plan(tmp_path, installed, profile, intensity="dirty")
    assert done.returncode == 2
    assert "GRAMS_CO2_PER_KWH is 'dirty'; set it to the grams" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "plan.yaml").exists()
