"""What the sparsifier adds to a training step, interleaved with the dense step.

    python benchmarks/engine.py [--threads N] [--compile] [--batch N] [--rounds N] [--json FILE]
    python benchmarks/engine.py --device cuda      # ResNet-50, batch 256, bfloat16

Two copies of one model take turns, one dense and one with a sparsifier.  The share is the time
inside the sparsifier's two hooks over that of the dense step beside it (on a noisy machine the
steadier figure), and the ratio of whole steps.  Memory is what the sparsifier holds between steps,
in copies of the pruned weights.
"""

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

import spartan_planner as sp
from spartan_planner.planning import Schedule
from spartan_planner.profiling.device import this_device
from spartan_planner.torchvision_operators import prepare_torchvision

CASES = (
    ("spartan", "element", 0.0),
    ("spartan", "tile:64x1@16", 0.0),
    ("dual_averaging", "element", 0.0),
    ("magnitude", "element", 0.0),
    ("spartan", "element", 1.0),
)
"""Method, layout, and the share of the steps for which masks stand still."""


@dataclass(frozen=True)
class Row:
    """What one case adds to a step."""

    method: str
    layout: str
    is_frozen: bool
    dense_s: float
    hooks_s: float
    share: float
    step_ratio: float
    memory_copies: float


def resnet(device: str) -> tuple[nn.Module, tuple[int, ...]]:
    """ResNet-18 for 32 x 32 images on a CPU, ResNet-50 for 224 x 224 ones on a GPU."""
    prepare_torchvision()
    from torchvision import models

    if device == "cuda":
        return models.resnet50(), (3, 224, 224)
    model = models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model, (3, 32, 32)


class Side:
    """A model in training, with a clock that waits for the device."""

    def __init__(self, model: nn.Module, options: argparse.Namespace) -> None:
        self.model = model.to(options.device, memory_format=torch.channels_last)
        self.runs = torch.compile(self.model) if options.compile else self.model
        self.optimizer = SGD(self.model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
        self.device = options.device

    def step(self, images: Tensor, labels: Tensor) -> float:
        """Take one step and return its seconds."""
        start = self.now()
        self.optimizer.zero_grad()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            loss = cross_entropy(self.runs(images), labels)
        loss.backward()
        self.optimizer.step()
        return self.now() - start

    def now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def timed(side: Side, call: Callable[[], None], spent: list[float]) -> Callable[[], None]:
    """Wrap a hook so that its seconds are noted."""

    def wrapped() -> None:
        start = side.now()
        call()
        spent.append(side.now() - start)

    return wrapped


def measure(case: tuple[str, str, float], options: argparse.Namespace) -> Row:
    """Let a dense and a sparse model take turns."""
    method, layout, frozen = case
    torch.manual_seed(0)
    model, shape = resnet(options.device)
    dense, sparse = Side(copy.deepcopy(model), options), Side(model, options)
    schedule = Schedule(0.0, 1.0, frozen, method=method)
    if method == "magnitude":
        schedule = Schedule(0.9, 1.0, 0.0, method=method)
    plan = sp.plan(
        sparse.model,
        (torch.zeros(1, *shape, device=options.device),),
        budgets={"params": "10%"},
        layouts=[layout],
        schedule=schedule,
    )
    spent: list[float] = []
    sparsifier = sp.Sparsifier(sparse.model, plan, sparse.optimizer, 10_000)
    sparsifier._before_step = timed(sparse, sparsifier._before_step, spent)
    sparsifier._after_step = timed(sparse, sparsifier._after_step, spent)
    images = torch.randn(options.batch, *shape, device=options.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (options.batch,), device=options.device)
    for _ in range(options.warm_up):
        dense.step(images, labels)
        sparse.step(images, labels)
    spent.clear()
    turns = [
        (dense.step(images, labels), sparse.step(images, labels)) for _ in range(options.rounds)
    ]
    hooks = [sum(spent[i : i + 2]) for i in range(0, len(spent), 2)]
    # Minima: what else runs on the machine can only add.
    dense_s, hooks_s = min(turn[0] for turn in turns), min(hooks)
    return Row(
        method,
        layout,
        sparsifier.is_frozen,
        dense_s,
        hooks_s,
        hooks_s / dense_s,
        statistics.median(turn[1] / turn[0] for turn in turns),
        memory_copies(sparsifier),
    )


def memory_copies(sparsifier: sp.Sparsifier) -> float:
    """Return the bytes that a sparsifier holds between steps over those of the pruned weights."""
    held = sparsifier.state_dict()["tensors"].values()
    pruned = [weight.parameter for weight in sparsifier._weights]
    held_bytes, pruned_bytes = (
        sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        for tensors in (held, pruned)
    )
    return held_bytes / pruned_bytes


def main() -> None:
    """Measure all cases and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)))
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    options.batch = options.batch or (256 if options.device == "cuda" else 128)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU is available: nothing is measured")
    torch.set_num_threads(options.threads)
    rows = []
    print(f"{'method':16}{'layout':14}{'frozen':>7}{'dense s':>9}{'hooks s':>9}", end="")
    print(f"{'share':>8}{'ratio':>8}{'copies':>8}")
    for index in options.cases:
        row = measure(CASES[index], options)
        rows.append(row)
        print(f"{row.method:16}{row.layout:14}{row.is_frozen!s:>7}{row.dense_s:9.3f}", end="")
        print(f"{row.hooks_s:9.3f}{row.share:8.1%}{row.step_ratio:8.3f}", end="")
        print(f"{row.memory_copies:8.2f}", flush=True)
    if options.json:
        environment = {
            "cpu": this_device(options.threads).cpu,
            "gpu": torch.cuda.get_device_name() if options.device == "cuda" else None,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": options.threads,
            "batch": options.batch,
            "compiled": options.compile,
        }
        document = {"environment": environment, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
