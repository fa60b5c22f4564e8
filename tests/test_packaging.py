"""The wheel, built and used outside the checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
IMPORTS = """
import sys
from pathlib import Path
import cost_models, spartan_planner
from spartan_planner.bundled_profiles import profiles_folder
target = Path(sys.argv[1])
assert Path(cost_models.__file__).is_relative_to(target), cost_models.__file__
assert Path(spartan_planner.__file__).is_relative_to(target), spartan_planner.__file__
assert profiles_folder() == target / "spartan_planner" / "_profiles"
assert (profiles_folder() / "README.md").is_file()
from spartan_planner.cli.app import run
sys.exit(run(["cost-models"]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(CHECKOUT)], check=True)
    (path,) = folder.glob("spartan_planner-*.whl")
    return path


@pytest.mark.end_to_end
def test_the_wheel_holds_both_packages_the_profiles_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"cost_models", "spartan_planner"}
    assert "spartan_planner/_profiles/README.md" in names
    assert "spartan_planner/recipes/imagenet-resnet50.yaml" in names
    assert {"spartan_planner/py.typed", "cost_models/py.typed"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.end_to_end
def test_the_wheel_works_outside_the_checkout(wheel, tmp_path):
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    script = tmp_path / "use.py"
    script.write_text(IMPORTS, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(target)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(target), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "latency" in done.stdout


def test_versions_agree():
    from importlib.metadata import version

    changelog = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased" in changelog or f"## {version('spartan-planner')}" in changelog
