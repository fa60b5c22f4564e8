"""Channel groups of known models: how many, what is left out, and whether removing them is exact.

Every classification model of torchvision and ten of timm, with random weights: random units are
removed, and the smaller model is compared with the masked one.  Each model in a process of its own,
one line per model; those that are in the results already are left out, so that an interrupted run
goes on.  Nothing is timed but the search itself, roughly:

    python benchmarks/channel_groups.py                  # all of them, the smallest first
    python benchmarks/channel_groups.py torchvision:resnet18 timm:dla34 --again
"""

import argparse
import collections
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cost_models import ChannelGroup
from spartan_planner.channels import find_channels, mask_channels, remove_channels
from spartan_planner.channels.verified import outputs_of, relative_error
from spartan_planner.model_names import import_models, load_model

RESULTS = Path(__file__).parent / "results"
TIMM = (
    "convnext_atto",
    "dla34",
    "ghostnet_100",
    "hrnet_w18_small",
    "mobilenetv3_small_050",
    "regnety_002",
    "res2net50_26w_4s",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
    "cspresnet50",
)
NEEDS_224 = ("vit_", "maxvit", "swin_tiny")
"""Models that are built for one size of image; the others are run on smaller ones."""

ALLOWED_ERROR = 1e-5
"""Of outputs in float32, relative to the largest."""


def side_of(name: str) -> int:
    return 224 if name.split(":")[1].startswith(NEEDS_224) else 96


def randomise(model: nn.Module) -> None:
    """Random vectors: an untrained norm would hide what is wrong with it."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.dim() == 1 and tensor.is_floating_point():
                is_shift = name.endswith(("bias", "running_mean"))
                tensor.copy_(
                    torch.rand(tensor.shape) - 0.5 if is_shift else torch.rand(tensor.shape) + 0.5
                )


def random_units(groups: Sequence[ChannelGroup]) -> dict[str, list[int]]:
    chosen = random.Random(1)
    return {
        group.name: sorted(chosen.sample(range(group.num_units), max(1, group.num_units // 2)))
        for group in groups
    }


def examine(model: nn.Module, inputs: Sequence[Tensor]) -> dict[str, object]:
    """Find the groups of a model, remove half of each, compare."""
    start = time.perf_counter()
    found = find_channels(model, inputs)
    seconds = time.perf_counter() - start
    before = sum(item.numel() for item in model.parameters())
    result: dict[str, object] = {
        "num_groups": len(found.groups),
        "num_heads_groups": sum(group.kind == "head" for group in found.groups),
        "num_units": sum(group.num_units for group in found.groups),
        "num_left_out": len(found.left_out),
        "reasons": collections.Counter(item.reason for item in found.left_out),
        "seconds": seconds,
    }
    if not found.groups:
        return result
    kept = random_units(found.groups)
    smaller = remove_channels(model, found.groups, kept)
    left = sum(item.numel() for item in smaller.parameters())
    after = outputs_of(smaller, inputs)
    mask_channels(model, found.groups, kept)
    error = relative_error(outputs_of(model, inputs), after)
    return result | {"error_of_outputs": error, "parameters_left": left / before}


def line(name: str, item: dict[str, object]) -> str:
    if "failed" in item:
        return f"{name:38} failed: {item['failed']}"
    error = item.get("error_of_outputs")
    if error is None:
        return f"{name:38} no groups"
    return (
        f"{name:38} {item['num_groups']:6} {item['num_heads_groups']:6} {item['num_units']:7} "
        f"{item['num_left_out']:8} {item['parameters_left']:10.1%} {error:8.1e} "
        f"{'yes' if error <= ALLOWED_ERROR else 'NO':>5} {item['seconds']:7.1f}"
    )


HEADER = (
    f"{'model':38} {'groups':>6} {'heads':>6} {'units':>7} {'left out':>8} {'weights':>10} "
    f"{'error':>8} {'exact':>5} {'seconds':>7}"
)


def table(results: dict[str, dict[str, object]], versions: str) -> str:
    """Return the results as text, the reasons for what is left out below."""
    lines = [f"{versions}, random weights, half of the units of every group removed", HEADER]
    lines += [line(name, item) for name, item in results.items()]
    good = sum(item.get("error_of_outputs", 1.0) <= ALLOWED_ERROR for item in results.values())
    lines.append(f"{good} of {len(results)} with groups, all removed exactly")
    lines.append("\nLeft out for a reason beyond the model's output:")
    for name, item in results.items():
        for reason, count in sorted(item.get("reasons", {}).items()):
            if "output consists" not in reason:
                lines.append(f"{name:38} {count:4} {reason}")
    return "\n".join(lines) + "\n"


def all_models() -> list[str]:
    models = import_models("torchvision.models")
    names = models.list_models(module=models)
    sizes = {n: models.get_model_weights(n).DEFAULT.meta["num_params"] for n in names}
    ordered = sorted(names, key=sizes.__getitem__)
    return [*(f"timm:{name}" for name in TIMM), *(f"torchvision:{name}" for name in ordered)]


def examined_apart(name: str, timeout_s: float) -> dict[str, object]:
    """Examine a model in a process of its own; what goes wrong is told in ``failed``."""
    command = [sys.executable, __file__, name, "--one"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {timeout_s:g} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1][:300] if lines else f"ended with code {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def examine_one(name: str) -> None:
    torch.manual_seed(0)
    model = load_model(name).eval()
    randomise(model)
    side = side_of(name)
    print(json.dumps(examine(model, (torch.randn(1, 3, side, side),))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--again", action="store_true", help="also those with results")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds per model")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        examine_one(arguments.models[0])
        return
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / "channel_groups.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    print(HEADER)
    for name in arguments.models or all_models():
        if name in results and not arguments.again:
            continue
        results[name] = examined_apart(name, arguments.timeout)
        print(line(name, results[name]), flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
        versions = f"torch {torch.__version__}"
        path.with_suffix(".txt").write_text(table(results, versions))


if __name__ == "__main__":
    main()
