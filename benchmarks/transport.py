"""Soft and hard top-k against a textbook implementation and against copying the values once.

    python benchmarks/transport.py [--quick] [--json FILE]

All sides run interleaved in one process; medians and ratios are what to read.  The textbook
sorts the values and runs Sinkhorn's iteration in the log domain, at most 100 times, stopping when
the objective changes by less than 1 %, as is common.
"""

import argparse
import datetime
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from spartan_planner.profiling.device import this_device
from spartan_planner.transport import (
    soft_topk_gradient,
    solve_hard_topk,
    solve_price,
    solve_soft_topk,
)

# ResNet-50's 53 convolutions and its classifier: 25,502,912 weights.
_STAGES = ((64, 64, 3), (128, 256, 4), (256, 512, 6), (512, 1024, 3))
BETA, DENSITY = 100.0, 0.1
GROWTH_SIZES = (10**5, 10**6, 10**7, 10**8)
GROWTH_SIDES = ("copy once", "soft, warm start", "soft, cold start", "hard threshold and masks")


def resnet50_sizes() -> list[int]:
    """Return the number of weights of each of ResNet-50's 54 prunable tensors."""
    sizes = [64 * 3 * 49]
    for width, channels, blocks in _STAGES:
        for block in range(blocks):
            inputs = channels if block == 0 else 4 * width
            sizes += [inputs * width, 9 * width * width, 4 * width * width]
            sizes += [inputs * 4 * width] if block == 0 else []
    return [*sizes, 2048 * 1000]


def segments_of(total: int) -> list[Tensor]:
    """Return positive float32 values in 54 segments of ResNet-50's proportions."""
    generator = torch.Generator().manual_seed(0)
    sizes = resnet50_sizes()
    scaled = [max(round(size * total / sum(sizes)), 1) for size in sizes]
    return [torch.randn(n, generator=generator).abs_().mul_(0.02) for n in scaled]


def textbook(values: Sequence[Tensor], budget: float, beta: float) -> Tensor:
    """Sort, then Sinkhorn in the log domain between blocks (mass 1 each) and keep/drop."""
    joined = torch.cat([v.flatten() for v in values])
    order = joined.sort(descending=True).values
    # Start from the price at the hard threshold, as the sort offers it.
    keep_potential = -float(order[min(int(budget), order.numel() - 1)])
    keep, drop = beta * joined, torch.zeros_like(joined)
    log_keep, log_drop = math.log(budget), math.log(order.numel() - budget)
    keep_potential, drop_potential, previous = beta * keep_potential, 0.0, math.inf
    for _ in range(100):
        block = -torch.logaddexp(keep + keep_potential, drop + drop_potential)
        keep_potential = log_keep - float(torch.logsumexp(keep + block, 0))
        drop_potential = log_drop - float(torch.logsumexp(drop + block, 0))
        mask = (keep + block + keep_potential).exp()
        objective = float((mask * joined).sum())
        if abs(objective - previous) <= 0.01 * abs(objective):
            break
        previous = objective
    return mask


@dataclass(frozen=True)
class Row:
    """One side of one comparison: seconds and multiples of copying the values once."""

    name: str
    values: int
    seconds: float
    copies: float
    budget_error: float | None = None


def interleaved(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time all sides in turn, ``rounds`` times after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def compare(total: int, rounds: int, with_textbook: bool) -> list[Row]:
    """Measure all sides on one problem."""
    values = segments_of(total)
    costs = [1.0] * len(values)
    blocks = sum(v.numel() for v in values)
    budget = DENSITY * blocks
    copies = [torch.empty_like(v) for v in values]
    soft = solve_soft_topk(values, costs, budget, BETA)
    warm = {"initial_price": soft.price * 1.001}
    gradients = [torch.ones_like(v) for v in values]

    def copy_once() -> None:
        for source, target in zip(values, copies, strict=True):
            target.copy_(source)

    sides: dict[str, Callable[[], object]] = {
        "copy once": copy_once,
        "soft, warm start": lambda: solve_soft_topk(values, costs, budget, BETA, **warm),
        "soft, cold start": lambda: solve_soft_topk(values, costs, budget, BETA),
        "price alone, warm": lambda: solve_price(values, costs, budget, BETA, **warm),
        "hard threshold and masks": lambda: solve_hard_topk(values, costs, budget),
        "gradient of soft": lambda: soft_topk_gradient(soft.masks, costs, BETA, gradients),
    }
    if with_textbook:
        sides["textbook"] = lambda: textbook(values, budget, BETA)
    times = interleaved(sides, rounds)
    copy = statistics.median(times["copy once"])
    spent = sum(float(mask.double().sum()) for mask in soft.masks)
    errors: dict[str, float] = {"soft, cold start": abs(spent / budget - 1)}
    if with_textbook:
        mass = float(textbook(values, budget, BETA).double().sum())
        errors["textbook"] = abs(mass / budget - 1)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return [Row(n, blocks, s, s / copy, errors.get(n)) for n, s in medians.items()]


def extra_memory(total: int) -> dict[str, float]:
    """Return the peak of tensor memory beyond input and output, as a fraction of the values."""
    values = segments_of(total)
    costs, budget = [1.0] * len(values), DENSITY * sum(v.numel() for v in values)
    size = sum(v.numel() * v.element_size() for v in values)
    found = {}
    for name, solve, output in (
        ("soft", lambda: solve_soft_topk(values, costs, budget, BETA), size),
        ("hard", lambda: solve_hard_topk(values, costs, budget), size // 4),
    ):
        found[name] = (_peak_allocation(solve) - output) / size
    return found


def _peak_allocation(call: Callable[[], object]) -> int:
    """Return the greatest sum of live allocations that torch reports during a call."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        kept = call()
    del kept
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def report(rows: Sequence[Row]) -> str:
    """Return a table to read."""
    lines = [f"{'':28}{'values':>12}{'ms':>10}{'copies':>9}{'budget error':>15}"]
    for row in rows:
        error = "" if row.budget_error is None else f"{row.budget_error:.1e}"
        lines.append(
            f"{row.name:28}{row.values:>12,}{1e3 * row.seconds:>10.1f}{row.copies:>9.1f}{error:>15}"
        )
    return "\n".join(lines)


def environment() -> dict[str, object]:
    """Return what the figures depend on."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": this_device(torch.get_num_threads()).cpu,
        "num_cores": this_device(torch.get_num_threads()).num_cores,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "not measured",
    }


def main() -> None:
    """Run the comparisons and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a million values, no growth series")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--threads", type=int, help="threads of torch, all sides alike")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    main_size = 1_000_000 if options.quick else sum(resnet50_sizes())
    rows = compare(main_size, rounds=3 if options.quick else 5, with_textbook=True)
    print(report(rows), flush=True)
    by_name = {row.name: row.seconds for row in rows}
    ratio = by_name["textbook"] / by_name["soft, warm start"]
    print(f"soft, warm start: {ratio:.0f} times faster than the textbook")
    memory = extra_memory(main_size)
    print("extra memory / values:", {name: round(part, 3) for name, part in memory.items()})
    growth: list[Row] = []
    for size in () if options.quick else GROWTH_SIZES:
        growth += [
            r for r in compare(size, rounds=3, with_textbook=False) if r.name in GROWTH_SIDES
        ]
    print(report(growth) if growth else "growth with size: left out (--quick)")
    if options.json:
        document = {
            "environment": environment(),
            "beta": BETA,
            "density": DENSITY,
            "rows": [asdict(row) for row in rows],
            "times_faster_than_textbook": ratio,
            "extra_memory": memory,
            "growth": [asdict(row) for row in growth],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
