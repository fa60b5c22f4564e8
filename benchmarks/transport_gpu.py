"""Soft and hard top-k on a GPU, in reads of the values; run it when one is at hand.

    python benchmarks/transport_gpu.py [--sizes 25502912 1000000000] [--json FILE]

A read is the bytes of the values over the bandwidth measured by copying them (a copy moves them
twice).  Runs the Triton tests on the device first, without the interpreter, and refuses to measure
kernels that fail them.  Writes benchmarks/results/transport_gpu.json.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transport import BETA, DENSITY, resnet50_sizes

from spartan_planner.transport import (
    HardSelection,
    SoftSelection,
    solve_hard_topk,
    solve_soft_topk,
)
from spartan_planner.transport.tiles import tile_layout

ROOT = Path(__file__).resolve().parent.parent
SIZES = (sum(resnet50_sizes()), 1_000_000_000)
ROUNDS = 20
#: The bar: soft solve, hard threshold, mask and gradient together.
BAR_READS = 8.0


@dataclass(frozen=True)
class Row:
    """One side: median seconds of wall clock, synchronised, and what that is in reads."""

    name: str
    values: int
    seconds: float
    reads: float
    peak_extra_bytes: int


def weights_of(total: int) -> list[Tensor]:
    """Return float32 weights in 54 tensors of ResNet-50's proportions."""
    generator = torch.Generator("cuda").manual_seed(0)
    sizes = [max(round(size * total / SIZES[0]), 1) for size in resnet50_sizes()]
    return [torch.randn(n, device="cuda", generator=generator).mul_(0.02) for n in sizes]


def timed(side: Callable[[], object]) -> tuple[float, int]:
    """Return the seconds of one call and the memory that it held beyond what was held before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, start = torch.cuda.memory_allocated(), time.perf_counter()
    side()
    torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() - before


class Step:
    """The parts of a training step over element layouts, on buffers made once."""

    def __init__(self, weights: list[Tensor]) -> None:
        self.weights = weights
        self.values = [weight.abs() for weight in weights]
        self.costs = [1.0] * len(weights)
        self.budget = DENSITY * sum(v.numel() for v in self.values)
        self.gradients = [torch.randn_like(weight) for weight in weights]
        self.outputs = [torch.empty_like(weight) for weight in weights]
        self.layouts = [tile_layout(weight.shape, (1,)) for weight in weights]
        self.soft_selection = self.soft(None)
        self.hard_selection = self.hard()

    def copy(self) -> None:
        for source, target in zip(self.values, self.outputs, strict=True):
            target.copy_(source)

    def soft(self, price: float | None) -> SoftSelection:
        return solve_soft_topk(self.values, self.costs, self.budget, BETA, initial_price=price)

    def warm(self) -> SoftSelection:
        return self.soft(self.soft_selection.price * 1.001)

    def hard(self) -> HardSelection:
        return solve_hard_topk(self.values, self.costs, self.budget)

    def mask(self, soft: SoftSelection, hard: HardSelection) -> None:
        from spartan_planner.transport.triton_tiles import tile_products

        tile_products(self.weights, soft.masks, hard.masks, self.layouts, self.outputs)

    def gradient(self, soft: SoftSelection) -> None:
        from spartan_planner.transport.triton_gradient import soft_gradients

        soft_gradients(
            soft.masks,
            self.gradients,
            self.costs,
            BETA,
            weights=self.weights,
            outputs=self.outputs,
        )

    def all_together(self) -> None:
        soft, hard = self.warm(), self.hard()
        self.mask(soft, hard)
        self.gradient(soft)


def measure(total: int) -> list[Row]:
    """Measure all sides in turn on one problem, after one round to warm up and compile."""
    step = Step(weights_of(total))
    sides: dict[str, Callable[[], object]] = {
        "copy": step.copy,
        "soft, warm start": step.warm,
        "soft, cold start": lambda: step.soft(None),
        "hard threshold and masks": step.hard,
        "mask applied": lambda: step.mask(step.soft_selection, step.hard_selection),
        "gradient dL/dtheta": lambda: step.gradient(step.soft_selection),
        "all together, warm": step.all_together,
    }
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in sides}
    for turn in range(ROUNDS + 1):
        for name, side in sides.items():
            result = timed(side)
            if turn:
                found[name].append(result)
    medians = {name: statistics.median(s for s, _ in runs) for name, runs in found.items()}
    read = medians["copy"] / 2.0
    blocks = sum(v.numel() for v in step.values)
    return [
        Row(name, blocks, seconds, seconds / read, max(peak for _, peak in found[name]))
        for name, seconds in medians.items()
    ]


def run_tests() -> None:
    """Run the Triton cases on the device; stop if any fails."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/triton_cases.py"]
    # Triton 3.9 warns when it compiles and this is not set; warnings are errors in tests.
    environment = os.environ | {"TRITON_DEFAULT_FP_FUSION": "1"}
    environment.pop("TRITON_INTERPRET", None)
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
        sys.exit("The kernels fail their tests on this device; nothing is measured.")


def environment() -> dict[str, object]:
    """Return what the figures depend on."""
    import triton

    properties = torch.cuda.get_device_properties(0)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "gpu": properties.name,
        "gpu_memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
    }


def main() -> None:
    """Test, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of values")
    parser.add_argument("--skip-tests", action="store_true", help="measure without testing")
    default = ROOT / "benchmarks" / "results" / "transport_gpu.json"
    parser.add_argument("--json", type=Path, default=default, help="write the figures here")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("transport_gpu.py measures a GPU, and torch sees none; run it where CUDA works.")
    if not options.skip_tests:
        run_tests()
    rows: list[Row] = []
    for total in options.sizes:
        rows += measure(total)
        torch.cuda.empty_cache()
        for row in rows[-7:]:
            print(f"{row.name:28}{row.values:>14,}{1e3 * row.seconds:>10.3f} ms", end="")
            print(f"{row.reads:>8.1f} reads{row.peak_extra_bytes / 2**20:>10.0f} MiB", flush=True)
        print(f"bar: {BAR_READS:g} reads; found {rows[-1].reads:.1f}")
    document = {
        "environment": environment(),
        "beta": BETA,
        "density": DENSITY,
        "bar_reads": BAR_READS,
        "rows": [asdict(row) for row in rows],
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
