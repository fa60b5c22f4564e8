"""Imports run one way, and what serves on a target device needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from builders import small_workload

from cost_models import write_document
from spartan_planner.runtimes.benchmark_network import dense_network

ROOT = Path(__file__).parents[1]
PACKAGES = ("cost_models", "spartan_planner")
TORCH_FREE = (
    "cost_models",
    "spartan_planner",
    "spartan_planner.planning",
    "spartan_planner.lowering",
    "spartan_planner.lowering.files",
    "spartan_planner.lowering.measuring",
    "spartan_planner.profiling",
    "spartan_planner.graph_skeleton",
    "spartan_planner.onnx_workload",
    "spartan_planner.runtimes",
    "spartan_planner.runtimes.onnx_runtime",
    "spartan_planner.runtimes.openvino_runtime",
    "spartan_planner.verification",
    "spartan_planner.verification.recalibrating",
    "spartan_planner.verification_report",
    "spartan_planner.recalibration",
    "spartan_planner.trial_rounds",
    "spartan_planner.advice",
    "spartan_planner.report",
    "spartan_planner.cli",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")
}


def statements_at_import(body: list[ast.stmt]):
    """The statements that run when a module is imported: no functions, no type checking."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for field in ("body", "orelse", "finalbody"):
                yield from statements_at_import(getattr(node, field, []))


def imports_of(name: str) -> set[str]:
    """The project's modules that a module imports when it is imported."""
    found = set()
    for node in statements_at_import(ast.parse(MODULES[name].read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            modules = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            found |= modules or {str(node.module)}
    return found & set(MODULES) - {name}


def test_imports_without_torch():
    """One after the other in one process: the first that brings torch in is told."""
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules:\n"
        "        sys.exit(f'{name} imports torch')"
    )
    command = [sys.executable, "-c", code, *TORCH_FREE]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_cost_models_never_import_the_planner():
    for name, path in MODULES.items():
        if name.split(".")[0] == "cost_models":
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for node in nodes:
                origin = getattr(node, "module", None) if isinstance(node, ast.ImportFrom) else None
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [origin]
                assert not any(str(n).startswith(("spartan_planner", "torch")) for n in names), name


def test_no_import_cycle():
    """Modules leave the graph once all they import has left; a cycle never leaves.

    A package's ``__init__`` and its own modules import one another only downwards.
    """
    remaining = {name: imports_of(name) for name in MODULES}
    while ready := [name for name, needs in remaining.items() if not needs & set(remaining)]:
        for name in ready:
            del remaining[name]
    assert not remaining, f"import cycle among {sorted(remaining)}"


WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is blocked")

sys.meta_path.insert(0, Blocked())
from spartan_planner.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("profile", "w.yaml", "-o", "p.yaml", "--rounds", "1"), 0),
        (("verify", "m.onnx", "--rounds", "5"), 0),
        (("lower", "m.onnx", "-o", "l.onnx", "--measure"), 0),
        (("profiles",), 0),
        (("cost-models",), 0),
        (("inspect", "torch.nn:Identity", "--input-shape", "1,2"), 2),
    ],
)
def test_commands_of_the_target_device_run_where_there_is_no_torch(tmp_path, arguments, code):
    write_document(tmp_path / "w.yaml", small_workload())
    shapes = [layer.shape for layer in small_workload().layers]
    (tmp_path / "m.onnx").write_bytes(dense_network(shapes).model)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
