"""Plans in which channels go against Torch-Pruning's global magnitude pruner, at equal latency.

    python -m benchmarks.channels                          # three models, 50 % and 30 % of dense
    python -m benchmarks.channels resnet50 --latency 50 --keep FOLDER

For each model: inspect with channels, profile here, plan channels (``channel``) and everything
(``auto``) for a share of the dense latency, prune random weights in one shot and export.  The ratio
of Torch-Pruning (magnitude of groups, global, one shot, counts on steps of 16) is then searched
until its model takes as long as the first.  In the end all files are timed in turn in one run, one
thread.  Retained is the sum of absolute weights of convolutions and linear layers that is left.
Run on a quiet machine.
"""

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
import torch_pruning
from torch import nn

from benchmarks.commands import (
    CASES,
    Case,
    add_common_options,
    plan_and_export,
    prepare,
    write_results,
)
from spartan_planner.export.torch_to_onnx import torch_to_onnx
from spartan_planner.model_names import load_model
from spartan_planner.onnx_sessions import Session, open_session, session_options
from spartan_planner.profiling.device import this_device

MODELS = ("resnet50", "mobilenet_v2", "vit_b_16")
INPUT_SHAPE = (1, 3, 224, 224)
STEP = 16
NUM_HALVINGS = 6
NEAR = 0.02
"""Latencies that differ by no more than this share are called equal."""


@dataclass(frozen=True)
class Row:
    """One file.

    Attributes:
        asked_percent: of the dense latency.
        side: who chose the channels.
        retained_value: share of the sum of absolute weights.
        predicted_ms: told by the plan, where there is one.
        measured_ms: median over the rounds.
    """

    model: str
    asked_percent: float
    side: str
    retained_value: float
    predicted_ms: float | None
    measured_ms: float
    dense_ms: float


def value_of(model: nn.Module) -> float:
    """Sum of absolute weights of everything with two or more dimensions that is multiplied."""
    return sum(
        float(p.detach().abs().sum(dtype=torch.float64))
        for name, p in model.named_parameters()
        if p.ndim >= 2 and name.endswith("weight")
    )


def rival(name: str, ratio: float) -> tuple[nn.Module, float]:
    """Return the model pruned by Torch-Pruning, and the share of the value that it retains."""
    torch.manual_seed(0)
    model = load_model(CASES[name].model).eval()
    before = value_of(model)
    example = torch.randn(INPUT_SHAPE)
    loose = (
        [(model.class_token, 2), (model.encoder.pos_embedding, 2)]
        if hasattr(model, "class_token")
        else None
    )
    heads = {
        module: module.num_heads
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
    }
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=1),
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=[last],
        round_to=STEP * max([1, *heads.values()]) if heads else STEP,
        num_heads=heads,
        unwrapped_parameters=loose,
    )
    pruner.step()
    return model, value_of(model) / before


def session_of(path: Path) -> Session:
    return open_session(path, None, session_options(1))


def equal_in_latency(target: Session, write: Callable[[float], Path]) -> float:
    """Return the ratio at which what ``write`` writes takes as long as the target."""
    low, high, ratio = 0.0, 0.95, 0.5
    for _ in range(NUM_HALVINGS):
        found = session_of(write(ratio))
        pairs = [(found.burst_ms(), target.burst_ms()) for _ in range(8)]
        share = statistics.median(ours / theirs for ours, theirs in pairs)
        if abs(math.log(share)) < NEAR:
            break
        low, high = (ratio, high) if share > 1 else (low, ratio)
        ratio = (low + high) / 2
    return ratio


def timed(sessions: Mapping[str, Session], num_rounds: int) -> dict[str, float]:
    """Return the median time of each, all in turn."""
    rounds = [
        {name: session.burst_ms() for name, session in sessions.items()} for _ in range(num_rounds)
    ]
    return {name: statistics.median(item[name] for item in rounds) for name in sessions}


def compare(name: str, case: Case, folder: Path, percent: float, rounds: int) -> list[Row]:
    """Plan, export, find the rival of equal latency, and time all."""
    plans = {}
    for layout in ("channel", "auto"):
        options = ("--layout", layout)
        plans[layout] = plan_and_export(case, folder, f"latency={percent:g}%", options=options)
        (folder / "model.onnx").replace(folder / f"{layout}.onnx")
    retained: dict[str, float] = {}

    def write(ratio: float) -> Path:
        model, retained["torch-pruning"] = rival(name, ratio)
        path = folder / "rival.onnx"
        ir.save(torch_to_onnx(model, (torch.randn(INPUT_SHAPE),)), path)
        return path

    equal_in_latency(session_of(folder / "channel.onnx"), write)
    files = {
        "dense": "dense.onnx",
        "channel": "channel.onnx",
        "auto": "auto.onnx",
        "torch-pruning": "rival.onnx",
    }
    for file in files.values():
        onnx.checker.check_model(folder / file)
    times = timed({side: session_of(folder / file) for side, file in files.items()}, rounds)
    retained |= {side: plan["retained_value"] for side, plan in plans.items()}
    predicted = {side: plan["budgets"][0]["predicted"] for side, plan in plans.items()}
    return [
        Row(name, percent, s, retained[s], predicted.get(s), times[s], times["dense"])
        for s in ("channel", "auto", "torch-pruning")
    ]


def table(rows: Sequence[Row]) -> str:
    device = this_device(1)
    lines = [
        f"{device.cpu}, one thread; torch-pruning {metadata.version('torch-pruning')}, torch "
        f"{torch.__version__}",
        f"{'model':13} {'asked':>6} {'side':14} {'retained':>9} {'predicted ms':>12} "
        f"{'measured ms':>11} {'of dense':>9}",
    ]
    for row in rows:
        predicted = f"{row.predicted_ms:12.2f}" if row.predicted_ms is not None else f"{'':12}"
        lines.append(
            f"{row.model:13} {row.asked_percent:5g}% {row.side:14} {row.retained_value:9.1%} "
            f"{predicted} {row.measured_ms:11.2f} {row.measured_ms / row.dense_ms:9.1%}"
        )
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS, choices=MODELS)
    parser.add_argument("--latency", type=float, nargs="+", default=[50, 30], help="percent")
    add_common_options(parser, num_rounds=30)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    rows: list[Row] = []
    for name in arguments.models:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as made:
            folder = (arguments.keep or Path(made)) / name
            prepare(case, folder, 1, arguments.max_seconds, with_channels=True)
            for percent in arguments.latency:
                rows += compare(name, case, folder, percent, arguments.rounds)
                write_results(
                    arguments.results, "channels", [asdict(row) for row in rows], table(rows)
                )
                print(table(rows[-3:]), flush=True)


if __name__ == "__main__":
    main()
