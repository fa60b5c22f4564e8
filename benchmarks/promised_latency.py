"""Promised against measured latency of whole models, by the commands that a user types.

    python -m benchmarks.promised_latency                  # all four, one thread
    python -m benchmarks.promised_latency vit_b_16 --latency 50 --threads 2

For each model: inspect, profile here, plan for a share of the dense latency, prune random weights
in one shot, export, verify.  Run on a quiet machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Case:
    """A model by name, the options that say what it is fed, and the share of latency asked for."""

    model: str
    inputs: tuple[str, ...]
    latency_percent: float


IMAGE = ("--input-shape", "1,3,224,224")
CASES = {
    "resnet50": Case("torchvision:resnet50", IMAGE, 40),
    "vit_b_16": Case("torchvision:vit_b_16", IMAGE, 40),
    "mobilenet_v2": Case("torchvision:mobilenet_v2", IMAGE, 70),
    "bert_base": Case("transformers:bert", ("--input-shape", "1,128"), 40),
}


def command(folder: Path, *words: object) -> str:
    """Run a command of the planner in a folder; return what it prints on standard output."""
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


def prepare(case: Case, folder: Path, num_threads: int, max_seconds: float) -> None:
    """Write ``workload.yaml`` and ``profile.yaml``, and the dense file."""
    command(folder, "inspect", case.model, *case.inputs, "-o", "workload.yaml")
    options = ("--threads", num_threads, "--max-seconds", max_seconds)
    command(folder, "profile", "workload.yaml", "-o", "profile.yaml", *options)
    command(folder, "export", case.model, *case.inputs, "-o", "dense.onnx")


def measure(
    name: str, case: Case, folder: Path, latency_percent: float, num_rounds: int
) -> dict[str, object]:
    """Plan, prune, export and verify; return what was asked, promised and measured."""
    budget = f"latency={latency_percent:g}%"
    planned = ("--profile", "profile.yaml", "--budget", budget, "-o", "plan.yaml", "--json")
    plan = json.loads(command(folder, "plan", case.model, *case.inputs, *planned))
    command(folder, "export", case.model, "--plan", "plan.yaml", "-o", "model.onnx")
    against = ("--dense", "dense.onnx", "--plan", "plan.yaml", "--rounds", num_rounds, "--json")
    found = json.loads(command(folder, "verify", "model.onnx", *against))
    latency, speedup = found["latency_ms"], found["speedup"]
    return {
        "model": name,
        "budget": budget,
        "num_threads": found.get("num_threads"),
        "dense_ms": latency["dense"],
        "asked_ms": latency.get("asked"),
        "predicted_ms": latency["predicted"],
        "measured_ms": latency["sparse"],
        "measured_over_predicted": round(latency["sparse"] / latency["predicted"], 4),
        "speedup": speedup,
        "retained_value": plan["retained_value"],
        "ok": found["ok"],
        "runtime": found.get("runtime"),
    }


def table(results: list[dict[str, object]]) -> str:
    lines = [
        f"{'model':13} {'budget':13} {'dense ms':>9} {'predicted ms':>12} {'measured ms':>11} "
        f"{'measured/predicted':>18} {'retained':>9}"
    ]
    for item in results:
        lines.append(
            f"{item['model']:13} {item['budget']:13} {item['dense_ms']:9.2f} "
            f"{item['predicted_ms']:12.2f} {item['measured_ms']:11.2f} "
            f"{item['measured_over_predicted']:18.3f} {item['retained_value']:9.1%}"
        )
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--latency", type=float, nargs="*", help="percent; by default per model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-seconds", type=float, default=240.0, help="of each profile")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--keep", type=Path, help="folder in which to keep what was made")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    arguments.results.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, object]] = []
    for name in arguments.models:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as made:
            folder = arguments.keep / name if arguments.keep else Path(made)
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "dense.onnx").exists():
                prepare(case, folder, arguments.threads, arguments.max_seconds)
            for percent in arguments.latency or [case.latency_percent]:
                results.append(measure(name, case, folder, percent, arguments.rounds))
                # What is known so far survives whatever happens to the next model.
                content = json.dumps(results, indent=2) + "\n"
                (arguments.results / "promised_latency.json").write_text(content, "utf-8")
                (arguments.results / "promised_latency.txt").write_text(table(results), "utf-8")
                print(table(results[-1:]), flush=True)


if __name__ == "__main__":
    main()
