"""Lowered against masked files: equal outputs, and as small as what is kept.

Every classification model of torchvision and ten of timm, of different families, with random
weights pruned in one shot; each in a process of its own.  Nothing is timed, so the machine need not
be quiet.  Models that are in the results already are left out, so that an interrupted run goes on:

    python benchmarks/lowered_equality.py                  # all of them, an hour or two
    python benchmarks/lowered_equality.py torchvision:resnet18 timm:dla34 --again
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from spartan_planner.errors import InfeasibleBudgetError, PlanError
from spartan_planner.export import ExportReport, Form, export_onnx, prune_one_shot
from spartan_planner.model_names import import_models, load_model
from spartan_planner.onnx_sessions import open_session
from spartan_planner.plan_model import plan
from spartan_planner.planning import Plan

RESULTS = Path(__file__).parent / "results"
TIMM = (
    "convnext_atto",
    "dla34",
    "efficientnet_lite0",
    "hrnet_w18_small",
    "mixer_s32_224",
    "mobilenetv3_small_050",
    "regnety_002",
    "repvgg_a0",
    "resnetv2_50",
    "vit_tiny_patch16_224",
)
INPUT_SHAPE = (1, 3, 224, 224)
LAYOUTS = ("tile:32x1@16", "tile:64x1@16", "tile:128x1@16")
SHARES = (30, 50, 70, 90)
"""Percent of the weights to ask for: the first that the model's prunable layers can reach."""

ALLOWED_ERROR = 1e-4
"""Of outputs, relative to the largest."""

ALLOWED_EXCESS = 0.05
"""Of the lowered file's size over what it keeps, with its indices."""

INDEX_BYTES = 8


def compare_forms(model: nn.Module, inputs: Sequence[Tensor], folder: Path) -> dict[str, object]:
    """Prune a model in one shot, write it masked and lowered, and compare the two files."""
    made = affordable_plan(model, inputs)
    if made is None:
        return {"num_lowered": 0, "note": "no layer can be lowered"}
    prune_one_shot(model, made)
    masked, lowered = (
        export_onnx(model, made, inputs, folder / f"{form.value}.onnx", form=form)
        for form in (Form.MASKED, Form.LOWERED)
    )
    expected = expected_bytes(masked, lowered, made)
    return {
        "num_lowered": len(lowered.lowered),
        "density": lowered.metadata.density,
        "relative_error": relative_error(masked.path, lowered.path, inputs),
        "masked_bytes": masked.num_bytes,
        "lowered_bytes": lowered.num_bytes,
        "expected_bytes": expected,
        "size_excess": lowered.num_bytes / expected - 1,
    }


def affordable_plan(model: nn.Module, inputs: Sequence[Tensor]) -> Plan | None:
    """Return the plan of the least share of weights that can be reached, if any can."""
    for share in SHARES:
        try:
            return plan(model, inputs, budgets={"params": f"{share}%"}, layouts=LAYOUTS)
        except InfeasibleBudgetError:
            continue
        except PlanError:
            return None
    return None


def expected_bytes(masked: ExportReport, lowered: ExportReport, made: Plan) -> float:
    """Return the masked file's bytes less what lowered layers leave out, with their indices."""
    names = {layer.name: layer for layer in made.layers}
    planned = {item.name: item for item in lowered.metadata.layers if item.layout != "dense"}
    left_out = sum(
        (1 - lowered.metadata.densities[name]) * 4 * names[name].num_weights for name in planned
    )
    indices = sum(
        INDEX_BYTES * item.num_groups * item.num_inputs_per_group for item in lowered.lowered
    )
    return masked.num_bytes - left_out + indices


def relative_error(masked: Path, lowered: Path, inputs: Sequence[Tensor]) -> float:
    """Return the largest difference of outputs on three inputs, relative to the largest output."""
    worst = 0.0
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        fed = [torch.randn(item.shape, generator=generator).numpy() for item in inputs]
        sides = []
        for path in (masked, lowered):
            session = open_session(path, {})
            names = [item.name for item in session.inference.get_inputs()]
            sides.append(session.inference.run(None, dict(zip(names, fed, strict=True))))
        for left, right in zip(*sides, strict=True):
            difference = np.max(np.abs(left.astype(np.float64) - right))
            worst = max(worst, float(difference / np.max(np.abs(left))))
    return worst


def all_models() -> list[str]:
    models = import_models("torchvision.models")
    names = models.list_models(module=models)
    return [*(f"torchvision:{name}" for name in names), *(f"timm:{name}" for name in TIMM)]


def is_kept(item: dict[str, object]) -> bool:
    """Whether a model keeps what is promised of it, which is nothing without a lowered layer."""
    if "error" in item:
        return False
    if not item["num_lowered"]:
        return True
    return item["relative_error"] <= ALLOWED_ERROR and item["size_excess"] <= ALLOWED_EXCESS


def table(results: dict[str, dict[str, object]], versions: str) -> str:
    """Return the results as text."""
    lines = [
        f"{versions}, random weights, one-shot masks, inputs {INPUT_SHAPE}",
        f"{'model':34} {'lowered':>7} {'density':>8} {'error':>9} {'masked MB':>10} "
        f"{'lowered MB':>11} {'excess':>7}",
    ]
    for name, item in results.items():
        if "error" in item or not item["num_lowered"]:
            lines.append(f"{name:34} {item.get('error') or item.get('note', 'nothing lowered')}")
            continue
        lines.append(
            f"{name:34} {item['num_lowered']:7} {item['density']:8.1%} "
            f"{item['relative_error']:9.1e} {item['masked_bytes'] / 1e6:10.2f} "
            f"{item['lowered_bytes'] / 1e6:11.2f} {item['size_excess']:+7.2%}"
        )
    kept = sum(map(is_kept, results.values()))
    lowered = sum(bool(item.get("num_lowered")) for item in results.values())
    lines.append(f"{kept} of {len(results)} as promised, {lowered} with lowered layers")
    return "\n".join(lines) + "\n"


def measured_apart(name: str, timeout_s: float) -> dict[str, object]:
    """Compare the forms of a model in a process of its own; what fails is told in ``error``."""
    command = [sys.executable, __file__, name, "--one"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {timeout_s:g} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1][:300] if lines else f"ended with code {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def measure_one(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = load_model(name).eval(), (torch.randn(INPUT_SHAPE),)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare_forms(model, inputs, Path(folder))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--again", action="store_true", help="also those with results")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds per model")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure_one(arguments.models[0])
        return
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / "lowered_equality.json"
    results = json.loads(path.read_text("utf-8")) if path.exists() else {}
    versions = f"torch {torch.__version__}, onnx {onnx.__version__}"
    for name in arguments.models or all_models():
        if name in results and not arguments.again:
            continue
        results[name] = measured_apart(name, arguments.timeout)
        # What is known so far survives whatever happens to the next model.
        path.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
        path.with_suffix(".txt").write_text(table(results, versions), "utf-8")
        print(name, results[name], flush=True)
    print(table(results, versions))


if __name__ == "__main__":
    main()
