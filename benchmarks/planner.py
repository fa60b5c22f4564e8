"""Speed and memory of the planner: a sweep over a ResNet-50, and a checkpoint larger than memory.

    python benchmarks/planner.py                     # 14 GB of random shards, if the disk has room
    python benchmarks/planner.py --num-gigabytes 1   # a smaller one

The checkpoint holds the weights of a LLaMA of seven billion parameters (or of its first layers) as
random bfloat16, in shards that are deleted afterwards.  It is planned in a process of its own,
whose peak memory is read, with budgets on params and FLOPs; then it is read with numpy, in pieces
of the same size, for the sum of absolute values.  Bars: 10 s for the sweep; 2 GB, and a third of
the speed.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
FREE_GIGABYTES = 15
SHARD_BYTES = 2 * 10**9
LAYOUTS = ("tile:32x1@16", "tile:64x1@16", "tile:128x1@16")
NUM_POINTS = 100


def sweep_resnet50() -> dict[str, float]:
    """Time reading the weights of a ResNet-50 and planning for 100 latency budgets."""
    from spartan_planner.bundled_profiles import load_profile
    from spartan_planner.extraction import extract_workload
    from spartan_planner.model_names import example_inputs, load_model
    from spartan_planner.plan_model import TorchWeights
    from spartan_planner.planning import PlanRequest, parse_budget, prepare
    from spartan_planner.planning.request import read_layouts
    from spartan_planner.planning.sweep import sweep

    model = load_model("torchvision:resnet50")
    workload = extract_workload(model, example_inputs("1,3,224,224", None), "resnet50")
    profile = load_profile("amd-epyc-9654")
    weights = TorchWeights(dict(model.named_parameters()))
    start = time.perf_counter()
    request = PlanRequest([parse_budget("latency=30%")], profile, read_layouts(LAYOUTS)[0])
    problem = prepare(workload, weights, request)
    read = time.perf_counter()
    curve = sweep(problem, profile, num_points=NUM_POINTS)
    done = time.perf_counter()
    return {
        "read_s": read - start,
        "sweep_s": done - read,
        "total_s": done - start,
        "greatest_duality_gap": max(point.duality_gap for point in curve.points),
    }


def write_checkpoint(folder: Path, num_bytes: int) -> None:
    """Write the workload of a LLaMA of at most so many bytes, and its weights in shards."""
    import torch
    import transformers
    from accelerate import init_empty_weights

    from cost_models import write_document
    from spartan_planner.extraction import extract_workload

    num_layers = max(1, min(32, round((num_bytes / 2 - 2 * 32000 * 4096) / 202.4e6)))
    config = transformers.LlamaConfig(num_hidden_layers=num_layers)
    with init_empty_weights():
        model = transformers.LlamaForCausalLM(config)
    model = model.to("meta").to(torch.bfloat16)
    inputs = (torch.zeros((1, 128), dtype=torch.int64),)
    write_document(folder / "workload.yaml", extract_workload(model, inputs, "llama"))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for index, shard in enumerate(shards(shapes)):
        write_shard(folder / f"model-{index:05}.safetensors", shard, index)


def shards(shapes: dict[str, tuple[int, ...]]) -> Iterator[dict[str, tuple[int, ...]]]:
    """Split tensors into runs of about ``SHARD_BYTES``."""
    held: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        held[name] = shape
        if 2 * sum(int(np.prod(item)) for item in held.values()) >= SHARD_BYTES:
            yield held
            held = {}
    if held:
        yield held


def write_shard(path: Path, shapes: dict[str, tuple[int, ...]], seed: int) -> None:
    """Write normal values cut to bfloat16, a few million at a time."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        num_bytes = 2 * int(np.prod(shape))
        places = [offset, offset + num_bytes]
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": places}
        offset += num_bytes
    text = json.dumps(header).encode()
    generator = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, offset // 2, 2**22):
            count = min(2**22, offset // 2 - start)
            values = generator.standard_normal(count, np.float32) * np.float32(0.02)
            file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())


def plan_checkpoint(folder: Path) -> dict[str, float]:
    """Plan with budgets on params and FLOPs; peak memory is that of this process."""
    from cost_models import Workload, read_document
    from spartan_planner.planning import (
        SafetensorsWeights,
        parse_budget,
        plan_workload,
        read_index,
    )

    start = time.perf_counter()
    workload = read_document(folder / "workload.yaml", Workload, "workload")
    weights = SafetensorsWeights(read_index(folder))
    budgets = [parse_budget("params=50%"), parse_budget("flops=50%")]
    plan = plan_workload(workload, weights, budgets)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "plan_s": seconds,
        "peak_gigabytes": peak / 1e9,
        "retained_value": plan.retained_value,
        "duality_gap": plan.duality_gap,
    }


def sum_checkpoint(folder: Path) -> dict[str, float]:
    """Read all tensors of the layers with numpy and take the sum of absolute values."""
    from cost_models import Workload, read_document
    from spartan_planner.planning import read_index
    from spartan_planner.planning.weights import PIECE_ELEMENTS

    names = [layer.name for layer in read_document(folder / "workload.yaml", Workload, "").layers]
    start, total, num_bytes = time.perf_counter(), 0.0, 0
    tensors = read_index(folder)
    for name in names:
        flat = tensors[name].rows().reshape(-1)
        num_bytes += flat.nbytes
        for first in range(0, flat.size, PIECE_ELEMENTS):
            wide = flat[first : first + PIECE_ELEMENTS].astype(np.uint32) << np.uint32(16)
            total += float(np.abs(wide.view(np.float32)).sum(dtype=np.float64))
    return {"sum_s": time.perf_counter() - start, "num_gigabytes": num_bytes / 1e9, "sum": total}


def in_a_process(step: str, folder: Path) -> dict[str, float]:
    """Run a step of this script in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def largest_that_fits(folder: Path, wanted: float) -> float:
    """Return the gigabytes to write so that enough of the disk stays free."""
    return min(wanted, shutil.disk_usage(folder).free / 1e9 - FREE_GIGABYTES)


def measure_checkpoint(parent: Path, wanted: float, num_repeats: int) -> dict[str, float]:
    """Write the checkpoint, then sum and plan in turn; the best of each counts."""
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder, gigabytes = Path(name), largest_that_fits(parent, wanted)
        write_checkpoint(folder, int(gigabytes * 1e9))
        sums, plans = [], []
        for _ in range(num_repeats):
            sums.append(in_a_process("sum", folder))
            plans.append(in_a_process("plan", folder))
    best_sum = min(item["sum_s"] for item in sums)
    best_plan = min(item["plan_s"] for item in plans)
    return {
        **plans[0],
        "num_gigabytes": sums[0]["num_gigabytes"],
        "sum_s": best_sum,
        "plan_s": best_plan,
        "peak_gigabytes": max(item["peak_gigabytes"] for item in plans),
        "share_of_sum_speed": best_sum / best_plan,
    }


def report(results: dict[str, Any]) -> str:
    """Return the results as lines that people read."""
    sweep, stream = results["resnet50"], results["checkpoint"]
    return (
        f"{results['cpu']}, {results['num_cores']} cores, numpy {results['numpy']}\n"
        f"ResNet-50, {len(LAYOUTS)} layouts, {NUM_POINTS} latency budgets: {sweep['total_s']:.1f} "
        f"s (of which reading the weights {sweep['read_s']:.1f} s); duality gap at most "
        f"{sweep['greatest_duality_gap']:.2%}; bar 10 s\n"
        f"LLaMA-like checkpoint of {stream['num_gigabytes']:.1f} GB, budgets on params and flops: "
        f"planned in {stream['plan_s']:.1f} s with at most {stream['peak_gigabytes']:.2f} GB of "
        f"memory (bar 2 GB); read and summed by numpy in {stream['sum_s']:.1f} s: "
        f"{stream['share_of_sum_speed']:.0%} of its speed (bar 33 %)\n"
    )


def main() -> None:
    """Run a step, or all of them and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-gigabytes", type=float, default=14.0)
    parser.add_argument("--num-repeats", type=int, default=2)
    parser.add_argument("--parent", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--step", choices=("plan", "sum"))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.step:
        step = plan_checkpoint if options.step == "plan" else sum_checkpoint
        sys.stdout.write(json.dumps(step(options.folder)))
        return
    results = {
        "cpu": platform.processor() or platform.machine(),
        "num_cores": os.cpu_count(),
        "numpy": np.__version__,
        "resnet50": sweep_resnet50(),
        "checkpoint": measure_checkpoint(
            options.parent, options.num_gigabytes, options.num_repeats
        ),
    }
    options.results.mkdir(exist_ok=True)
    (options.results / "planner.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.results / "planner.txt").write_text(report(results))
    sys.stdout.write(report(results))


if __name__ == "__main__":
    main()
