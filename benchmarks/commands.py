"""The commands that a user types, run by benchmarks: models, profiles, plans, files, proofs."""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
IMAGE = ("--input-shape", "1,3,224,224")


@dataclass(frozen=True)
class Case:
    """A model by name, the options that say what it is fed, and the share of latency asked for."""

    model: str
    inputs: tuple[str, ...]
    latency_percent: float


CASES = {
    "resnet50": Case("torchvision:resnet50", IMAGE, 40),
    "vit_b_16": Case("torchvision:vit_b_16", IMAGE, 40),
    "mobilenet_v2": Case("torchvision:mobilenet_v2", IMAGE, 70),
    "bert_base": Case("transformers:bert", ("--input-shape", "1,128"), 40),
}


def command(folder: Path, *words: object) -> str:
    """Run a command of the planner in a folder; return what it prints on standard output.

    Raises:
        SystemExit: the command refused (1, a promise missed, is a result and no refusal).
    """
    start = "from spartan_planner.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(map(str, words))}: {done.stderr}")
    return done.stdout


def prepare(
    case: Case, folder: Path, num_threads: int, max_seconds: float, *, with_channels: bool = False
) -> None:
    """Write ``workload.yaml``, ``profile.yaml`` and ``dense.onnx`` where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "workload.yaml").exists():
        wanted = ("--channels",) if with_channels else ()
        command(folder, "inspect", case.model, *case.inputs, *wanted, "-o", "workload.yaml")
    if not (folder / "profile.yaml").exists():
        options = ("--threads", num_threads, "--max-seconds", max_seconds)
        command(folder, "profile", "workload.yaml", "-o", "profile.yaml", *options)
    if not (folder / "dense.onnx").exists():
        command(folder, "export", case.model, *case.inputs, "-o", "dense.onnx")


def plan_and_export(
    case: Case, folder: Path, *budgets: str, options: Sequence[str] = ()
) -> dict[str, Any]:
    """Write ``plan.yaml`` and ``model.onnx``, pruned in one shot; return the plan."""
    asked = [word for budget in budgets for word in ("--budget", budget)]
    wanted = ("--profile", "profile.yaml", *asked, *options, "-o", "plan.yaml", "--json")
    plan: dict[str, Any] = json.loads(command(folder, "plan", case.model, *case.inputs, *wanted))
    command(folder, "export", case.model, "--plan", "plan.yaml", "-o", "model.onnx")
    return plan


def verify(folder: Path, num_rounds: int, *options: object) -> dict[str, Any]:
    """Return what ``verify`` found of ``model.onnx`` beside ``dense.onnx``."""
    against = ("--dense", "dense.onnx", "--plan", "plan.yaml", "--rounds", num_rounds, "--json")
    found: dict[str, Any] = json.loads(command(folder, "verify", "model.onnx", *against, *options))
    return found


def add_common_options(parser: argparse.ArgumentParser, num_rounds: int) -> None:
    """Add the options of all benchmarks that profile models and keep what was made."""
    parser.add_argument("--max-seconds", type=float, default=240.0, help="of each profile")
    parser.add_argument("--rounds", type=int, default=num_rounds)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--keep", type=Path, help="folder in which to keep what was made")


def write_results(folder: Path, name: str, rows: Sequence[dict[str, Any]], table: str) -> None:
    """Write rows and their table: after each model, so that they survive a failure of the next."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=2) + "\n", "utf-8")
    (folder / f"{name}.txt").write_text(table, "utf-8")
