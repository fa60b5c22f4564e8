"""What a plan for milliseconds retains, against plans for FLOPs and parameters as fast as it.

ResNet-50 is profiled here; the latency plan is made; then the FLOPs and params budgets whose plans
are as fast are searched.  All files are exported (lowered, weights pruned in one shot) and timed,
interleaved, beside the yardstick.

    python benchmarks/plan_comparison.py --profile resnet50.yaml --latency 50%
"""

import argparse
import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import spartan_planner as sp
from cost_models import DeviceProfile
from spartan_planner.errors import InfeasibleBudgetError
from spartan_planner.export.one_shot import prune_one_shot
from spartan_planner.model_names import load_model
from spartan_planner.onnx_sessions import open_session, session_options
from spartan_planner.planning import Plan
from spartan_planner.profiling import Yardstick, quiet_rounds

RESULTS = Path(__file__).parent / "results"
INPUTS = (torch.zeros(1, 3, 224, 224),)
NUM_BISECTIONS = 10


def plan_for(model: nn.Module, profile: DeviceProfile, cost: str, share: float) -> Plan:
    return sp.plan(model, INPUTS, budgets={cost: f"{100 * share:.6f}%"}, profile=profile)


def latency_of(plan: Plan) -> float:
    return next(item.predicted for item in plan.all_costs if item.cost == "latency")


def as_fast(model: nn.Module, profile: DeviceProfile, cost: str, latency_ms: float) -> Plan:
    """The plan for another cost whose predicted latency comes nearest from below."""
    low, high, best = 0.02, 1.0, None
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        try:
            plan = plan_for(model, profile, cost, middle)
        except InfeasibleBudgetError:
            low = middle
            continue
        if latency_of(plan) <= latency_ms:
            low, best = middle, plan
        else:
            high = middle
    if best is None:
        raise SystemExit(f"no plan for {cost} is as fast as {latency_ms:.2f} ms")
    return best


def exported(model: nn.Module, plan: Plan | None, path: Path) -> Path:
    pruned = copy.deepcopy(model)
    if plan is not None:
        prune_one_shot(pruned, plan)
    sp.export_onnx(pruned, plan, INPUTS, path)
    return path


def timed(paths: list[Path], num_threads: int, num_rounds: int) -> np.ndarray:
    """Median times of the files over the quiet rounds, ms."""
    sessions = [open_session(path, options=session_options(num_threads)) for path in paths]
    yardstick = Yardstick(num_threads)
    rows = np.array(
        [
            [yardstick.time_ms(), *(session.burst_ms() for session in sessions)]
            for _ in range(num_rounds)
        ]
    )
    quiet = rows[quiet_rounds(rows[:, 0])]
    return np.median(quiet[:, 1:] / quiet[:, :1], axis=0) * np.median(quiet[:, 0])


def compare(
    model: nn.Module, profile: DeviceProfile, share: float, num_rounds: int
) -> list[dict[str, object]]:
    num_threads = profile.measurement.device.num_threads
    plans = {"latency": plan_for(model, profile, "latency", share)}
    target = latency_of(plans["latency"])
    for cost in ("flops", "params"):
        plans[cost] = as_fast(model, profile, cost, target)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [exported(model, None, folder / "dense.onnx")]
        paths += [exported(model, plan, folder / f"{cost}.onnx") for cost, plan in plans.items()]
        times = timed(paths, num_threads, num_rounds)
    rows = [{"plan": "dense", "measured_ms": round(float(times[0]), 3), "retained_value": 1.0}]
    for (cost, plan), measured_ms in zip(plans.items(), times[1:], strict=True):
        rows.append(
            {
                "plan": cost,
                "measured_ms": round(float(measured_ms), 3),
                "predicted_ms": round(latency_of(plan), 3),
                "retained_value": round(plan.retained_value, 4),
                "asked_share": round(plan.budgets[0].asked / plan.budgets[0].dense, 4),
                "costs": {item.cost: item.predicted / item.dense for item in plan.all_costs},
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--latency", type=float, nargs="*", default=[0.7, 0.5, 0.35])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    profile = sp.load_profile(arguments.profile)
    model = load_model(arguments.model).eval()
    results = {
        f"{share:.0%}": compare(model, profile, share, arguments.rounds)
        for share in arguments.latency
    }
    device = profile.measurement.device
    about = {
        "model": arguments.model,
        "weights": "random, seed 0",
        "cpu": device.cpu,
        "num_threads": device.num_threads,
        "runtime": f"{profile.measurement.runtime.name} {profile.measurement.runtime.version}",
        "date": profile.measurement.provenance.date,
        "versions": profile.measurement.provenance.versions,
    }
    lines = [f"{about['model']}, {about['cpu']}, {about['num_threads']} thread(s), {about['date']}"]
    for share, rows in results.items():
        lines.append(f"\nlatency={share}")
        for row in rows:
            lines.append(
                f"{row['plan']:8} measured {row['measured_ms']:8.2f} ms   predicted "
                f"{row.get('predicted_ms', float('nan')):8.2f} ms   retains "
                f"{row['retained_value']:.2%}"
            )
    print("\n".join(lines))
    arguments.results.mkdir(parents=True, exist_ok=True)
    stem = arguments.results / "plan_comparison"
    stem.with_suffix(".json").write_text(json.dumps({**about, "results": results}, indent=2))
    stem.with_suffix(".txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
