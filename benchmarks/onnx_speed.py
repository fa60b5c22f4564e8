"""Dense against lowered ONNX files at equal density, by the commands that a user types.

    python -m benchmarks.onnx_speed                       # ResNet-50 and ViT-B/16
    python -m benchmarks.onnx_speed vit_b_16 --density 25 50 75 --threads 1

For each model and number of threads: inspect, profile here, plan for a share of the weights (the
planner chooses the layouts; the whole may not be planned slower than dense), prune random weights
in one shot, export, verify in each runtime.  Run on a quiet machine.
"""

import argparse
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import openvino

from benchmarks.commands import (
    CASES,
    Case,
    add_common_options,
    plan_and_export,
    prepare,
    verify,
    write_results,
)
from spartan_planner.profiling.device import this_device

MODELS = ("resnet50", "vit_b_16")
RUNTIMES = ("onnxruntime", "openvino")
NEVER_SLOWER = "latency=100%"


def measure(
    name: str, case: Case, folder: Path, density_percent: float, arguments: argparse.Namespace
) -> Iterator[dict[str, object]]:
    """Plan, prune and export; verify in all runtimes."""
    plan = plan_and_export(case, folder, f"params={density_percent:g}%", NEVER_SLOWER)
    kept = sum(layer["density"] * layer["num_weights"] for layer in plan["layers"])
    density = kept / sum(layer["num_weights"] for layer in plan["layers"])
    for runtime in arguments.runtimes:
        found = verify(folder, arguments.rounds, "--runtime", runtime)
        yield {
            "model": name,
            "density": round(density, 4),
            "runtime": runtime,
            "num_threads": found["num_threads"],
            "dense_ms": found["latency_ms"]["dense"],
            "lowered_ms": found["latency_ms"]["sparse"],
            "speedup": found["speedup"]["measured"],
            "ci95": found["speedup"]["ci95"],
            "max_abs_error": found["max_abs_error"],
            "retained_value": plan["retained_value"],
            "cpu": this_device(found["num_threads"]).cpu,
        }


def table(results: Sequence[dict[str, object]]) -> str:
    lines = [str(results[0]["cpu"])]
    lines.append(
        f"{'model':12} {'density':>8} {'runtime':12} {'threads':>7} {'dense ms':>9} "
        f"{'lowered ms':>10} {'speed-up':>8}  ci95"
    )
    for item in results:
        low, high = item["ci95"]  # type: ignore[misc]
        lines.append(
            f"{item['model']:12} {item['density']:8.1%} {item['runtime']:12} "
            f"{item['num_threads']:7} {item['dense_ms']:9.2f} {item['lowered_ms']:10.2f} "
            f"{item['speedup']:7.2f}x  {low:.2f} to {high:.2f}"
        )
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS, choices=list(CASES))
    parser.add_argument(
        "--density", type=float, nargs="+", default=[10, 50, 90], help="percent of weights kept"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES, choices=RUNTIMES)
    add_common_options(parser, num_rounds=30)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    print(f"openvino {openvino.__version__}")
    results: list[dict[str, object]] = []
    for name, threads in itertools.product(arguments.models, arguments.threads):
        with tempfile.TemporaryDirectory() as made:
            folder = (arguments.keep or Path(made)) / f"{name}-{threads}"
            prepare(CASES[name], folder, threads, arguments.max_seconds)
            for density in arguments.density:
                for row in measure(name, CASES[name], folder, density, arguments):
                    results.append(row)
                    write_results(arguments.results, "onnx_speed", results, table(results))
                    print(table(results[-1:]), flush=True)


if __name__ == "__main__":
    main()
