"""Lowered against masked files: equal outputs, and as small as what is kept.

Every classification model of torchvision and ten of timm, of different families, with random
weights pruned in one shot; each in a process of its own, of bounded memory.  Each masked file is
lowered twice: by its plan (``export``), and as a file that somebody else pruned (``lower``).
Nothing is timed, so the machine need not be quiet.  One line of JSON per model, appended when it is
done; models that are there already are left out, so that an interrupted run goes on:

    python -m benchmarks.lowered_equality                  # all of them, several hours
    python -m benchmarks.lowered_equality torchvision:resnet18 timm:dla34 --again
    python -m benchmarks.lowered_equality --failed         # once more what was not kept
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from spartan_planner.errors import InfeasibleBudgetError, PlanError
from spartan_planner.export import ExportReport, Form, export_onnx, prune_one_shot
from spartan_planner.lowering.files import lower_file
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

LEAST_RESPONSE = 1e-3
"""Of outputs to another input, relative to the largest: below it, equal outputs say little."""

SETTLING_BATCH = 4

INDEX_BYTES = 8


def compare_forms(model: nn.Module, inputs: Sequence[Tensor], folder: Path) -> dict[str, Any]:
    """Prune a model in one shot, write it masked and lowered, and compare the files."""
    open_closed_branches(model)
    settle_normalisations(model, inputs)
    made, why_not = affordable_plan(model, inputs)
    if made is None:
        return {"num_lowered": 0, "note": why_not}
    prune_one_shot(model, made)
    masked, lowered = (
        export_onnx(model, made, inputs, folder / f"{form.value}.onnx", form=form)
        for form in (Form.MASKED, Form.LOWERED)
    )
    expected = expected_bytes(masked, lowered, made)
    outputs = outputs_of(masked.path, inputs)
    by_plan = relative_error(outputs, outputs_of(lowered.path, inputs))
    for path in lowered.files:
        path.unlink()
    by_rule = lower_file(masked.path, folder / "any.onnx")
    return {
        "num_lowered": len(lowered.lowered),
        "density": lowered.metadata.density,
        "relative_error": by_plan,
        "response": response(outputs),
        "masked_bytes": masked.num_bytes,
        "lowered_bytes": lowered.num_bytes,
        "expected_bytes": expected,
        "size_excess": lowered.num_bytes / expected - 1,
        "num_lowered_by_rule": by_rule.report.num_lowered,
        "relative_error_by_rule": relative_error(outputs, outputs_of(by_rule.path, inputs)),
        "by_rule_bytes": by_rule.num_bytes_after,
    }


@torch.no_grad()
def open_closed_branches(model: nn.Module) -> None:
    """Give weights that are made as zeros, in closed branches and heads, others than zero.

    A layer of zeros would be empty when lowered, and a head of zeros makes all outputs equal.
    """
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or weight.any():
            continue
        if isinstance(module, nn.BatchNorm2d):
            weight.fill_(1.0)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)


@torch.no_grad()
def settle_normalisations(model: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Let batch normalisations see one random batch.

    With the statistics that they are made with, signals die out in deep untrained models: their
    outputs hardly respond to their inputs, and comparing those would say nothing.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [module.momentum for module in norms]
    for module in norms:
        module.train()
        module.momentum = 1.0
    generator = torch.Generator().manual_seed(0)
    model(*(torch.randn(SETTLING_BATCH, *x.shape[1:], generator=generator) for x in inputs))
    for module, momentum in zip(norms, momenta, strict=True):
        module.eval()
        module.momentum = momentum


def affordable_plan(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[Plan | None, str]:
    """Return the plan of the least share of weights that can be reached, or why there is none."""
    why_not = ""
    for share in SHARES:
        try:
            return plan(model, inputs, budgets={"params": f"{share}%"}, layouts=LAYOUTS), ""
        except InfeasibleBudgetError as error:
            why_not = str(error)
        except PlanError as error:
            return None, str(error)
    return None, why_not


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


Outputs = list[list[np.ndarray]]


def outputs_of(path: Path, inputs: Sequence[Tensor], num_runs: int = 3) -> Outputs:
    """Return what a file computes, ``[runs][outputs]``, on random inputs of these shapes."""
    session = open_session(path, {})
    names = [item.name for item in session.inference.get_inputs()]
    found = []
    for seed in range(num_runs):
        generator = torch.Generator().manual_seed(seed)
        fed = [torch.randn(item.shape, generator=generator).numpy() for item in inputs]
        found.append(session.inference.run(None, dict(zip(names, fed, strict=True))))
    return found


def relative_error(masked: Outputs, lowered: Outputs) -> float:
    """Return the largest difference of outputs, each relative to the largest of its run.

    Raises:
        ValueError: outputs that are not finite, or all zero, with which nothing can be compared.
    """
    return max(
        largest_difference(left, right)
        for sides in zip(masked, lowered, strict=True)
        for left, right in zip(*sides, strict=True)
    )


def response(outputs: Outputs) -> float:
    """Return the least difference of an output between two inputs, relative to the largest."""
    first, *others = outputs
    return min(
        largest_difference(left, right)
        for other in others
        for left, right in zip(first, other, strict=True)
    )


def largest_difference(left: np.ndarray, right: np.ndarray) -> float:
    """Return the largest difference relative to the largest figure of the left side.

    Raises:
        ValueError: figures that are not finite, or a left side of zeros.
    """
    scale = float(np.max(np.abs(left)))
    # A maximum would pass over what is not a number.
    if not (np.isfinite(left).all() and np.isfinite(right).all()) or not scale:
        raise ValueError(f"outputs cannot be compared: largest {scale}, or not finite")
    return float(np.max(np.abs(left.astype(np.float64) - right)) / scale)


def all_models() -> list[str]:
    models = import_models("torchvision.models")
    names = models.list_models(module=models)
    return [*(f"torchvision:{name}" for name in names), *(f"timm:{name}" for name in TIMM)]


def misses(item: Mapping[str, Any]) -> list[str]:
    """Return what a model does not keep of what is promised, in words."""
    if "error" in item:
        return [f"error: {item['error']}"]
    if not item["num_lowered"]:
        return []
    found = [
        f"{name} {item[name]:.1e}"
        for name in ("relative_error", "relative_error_by_rule")
        if not item[name] <= ALLOWED_ERROR
    ]
    if not item["size_excess"] <= ALLOWED_EXCESS:
        found.append(f"size {item['size_excess']:+.1%}")
    if not item["response"] >= LEAST_RESPONSE:
        found.append(f"outputs hardly respond to inputs ({item['response']:.1e})")
    return found


def table(results: Mapping[str, Mapping[str, Any]], versions: str) -> str:
    """Return the results as text; models that miss the promise, and why, stand last."""
    lines = [
        f"{versions}, random weights, one-shot masks, inputs {INPUT_SHAPE}",
        "error: largest difference of outputs relative to the largest; response: the same between "
        "two inputs;",
        "excess: of the file lowered by its plan over density x dense + indices",
        "",
        f"{'model':34} {'lowered':>7} {'density':>8} {'error':>8} {'by rule':>8} {'response':>8} "
        f"{'masked MB':>10} {'lowered MB':>11} {'excess':>7}",
        *(_row(name, item) for name, item in results.items() if item.get("num_lowered")),
    ]
    untouched = {n: i for n, i in results.items() if "error" not in i and not i["num_lowered"]}
    missing = {name: found for name, item in results.items() if (found := misses(item))}
    num_kept = len(results) - len(untouched) - len(missing)
    lines += [
        "",
        f"{len(results)} models: {num_kept} as promised, {len(missing)} not, "
        f"{len(untouched)} without a layer that can be lowered",
        *(f"not as promised: {name}: {'; '.join(found)}" for name, found in missing.items()),
        *(f"nothing lowered: {name}: {i.get('note', '')}" for name, i in untouched.items()),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, item: Mapping[str, Any]) -> str:
    return (
        f"{name:34} {item['num_lowered']:7} {item['density']:8.1%} "
        f"{item['relative_error']:8.1e} {item['relative_error_by_rule']:8.1e} "
        f"{item['response']:8.1e} {item['masked_bytes'] / 1e6:10.2f} "
        f"{item['lowered_bytes'] / 1e6:11.2f} {item['size_excess']:+7.2%}"
    )


def measured_apart(name: str, timeout_s: float, memory_gb: float) -> dict[str, Any]:
    """Compare the forms of a model in a process of its own; what fails is told in ``error``."""
    command = [sys.executable, "-m", "benchmarks.lowered_equality", name, "--one"]
    command += ["--memory-gb", str(memory_gb)]
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {timeout_s:g} s"}
    seconds = round(time.monotonic() - started)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        why = lines[-1][:300] if lines else ""
        return {"error": f"ended with code {done.returncode}: {why}", "seconds": seconds}
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": seconds}


def measure_one(name: str, memory_gb: float) -> None:
    # A model that needs more fails with a message, instead of taking the machine with it.
    num_bytes = int(memory_gb * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, num_bytes))
    torch.manual_seed(0)
    model, inputs = load_model(name).eval(), (torch.randn(INPUT_SHAPE),)
    with tempfile.TemporaryDirectory() as folder:
        found = compare_forms(model, inputs, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**found, "peak_memory_bytes": peak}))


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Return the last line of each model."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {line.pop("model"): line for line in lines}


def wanted_models(arguments: argparse.Namespace, results: Mapping[str, Any]) -> list[str]:
    """Return the models to go through: those named, or all, less those that are done."""
    names = arguments.models or all_models()
    if arguments.again:
        return list(names)
    return [
        name
        for name in names
        if name not in results or (arguments.failed and misses(results[name]))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--again", action="store_true", help="also those with results")
    parser.add_argument("--failed", action="store_true", help="also those that missed the promise")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds per model")
    parser.add_argument("--memory-gb", type=float, default=14.0, help="per model")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure_one(arguments.models[0], arguments.memory_gb)
        return
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / "lowered_equality.jsonl"
    results = read_results(path)
    versions = (
        f"torch {torch.__version__}, onnx {onnx.__version__}, "
        f"ONNX Runtime {onnxruntime.__version__}"
    )
    for name in wanted_models(arguments, results):
        results[name] = measured_apart(name, arguments.timeout, arguments.memory_gb)
        # What is known so far survives whatever happens to the next model.
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"model": name, **results[name]}) + "\n")
        path.with_suffix(".txt").write_text(table(results, versions), "utf-8")
        print(name, results[name], flush=True)
    print(table(results, versions))


if __name__ == "__main__":
    main()
