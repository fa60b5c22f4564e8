"""Promised against measured latency of whole models, by the commands that a user types.

    python -m benchmarks.promised_latency                  # all four, one thread
    python -m benchmarks.promised_latency vit_b_16 --latency 50 --threads 2

For each model: inspect, profile here, plan for a share of the dense latency, prune random weights
in one shot, export, verify.  Run on a quiet machine.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.commands import (
    CASES,
    Case,
    add_common_options,
    plan_and_export,
    prepare,
    verify,
    write_results,
)


def measure(name: str, case: Case, folder: Path, percent: float, rounds: int) -> dict[str, object]:
    """Plan, prune, export and verify; return what was asked, promised and measured."""
    budget = f"latency={percent:g}%"
    plan = plan_and_export(case, folder, budget)
    found = verify(folder, rounds)
    latency = found["latency_ms"]
    return {
        "model": name,
        "budget": budget,
        "dense_ms": latency["dense"],
        "asked_ms": latency["asked"],
        "predicted_ms": latency["predicted"],
        "measured_ms": latency["sparse"],
        "measured_over_predicted": round(latency["sparse"] / latency["predicted"], 4),
        "speedup": found["speedup"],
        "device_speed_ratio": found["device_speed_ratio"],
        "retained_value": plan["retained_value"],
        "ok": found["ok"],
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
    add_common_options(parser, num_rounds=40)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    results: list[dict[str, object]] = []
    for name in arguments.models:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as made:
            folder = (arguments.keep or Path(made)) / f"{name}-{arguments.threads}"
            prepare(case, folder, arguments.threads, arguments.max_seconds)
            for percent in arguments.latency or [case.latency_percent]:
                results.append(measure(name, case, folder, percent, arguments.rounds))
                write_results(arguments.results, "promised_latency", results, table(results))
                print(table(results[-1:]), flush=True)


if __name__ == "__main__":
    main()
