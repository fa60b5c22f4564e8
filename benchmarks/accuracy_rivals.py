"""Accuracy at equal measured latency: sparse by a latency plan, pruned by Torch-Pruning, narrower.

Everything starts from the same dense weights, trained for half of the epochs, except the narrower
networks, which are trained for all of them.  Every file is timed by ONNX Runtime on one thread,
interleaved with the dense one; widths and pruning ratios are searched until the measured share of
the dense latency is the one that is asked for.  Run on a quiet machine, one process, with a profile
of it:

    python benchmarks/accuracy_rivals.py --write-workload cnn.yaml --data fashion_mnist
    spartan-planner profile cnn.yaml -o cnn_profile.yaml
    python benchmarks/accuracy_rivals.py --data fashion_mnist --profile cnn_profile.yaml

Torch-Pruning is taken from PyPI (pip install torch-pruning); without it that rival is left out.
"""

import argparse
import copy
import importlib.util
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accuracy import RESULTS, Setting, network, num_dense_epochs, read_data, start_from_dense
from torch import Tensor, nn

from cost_models import write_document
from spartan_planner.bundled_profiles import load_profile
from spartan_planner.export import export_onnx
from spartan_planner.export.embedded_graph import embedded_graph
from spartan_planner.extraction import extract_workload
from spartan_planner.onnx_sessions import open_session, session_options
from spartan_planner.plan_model import plan
from spartan_planner.planning import Plan
from spartan_planner.training import DataSplit, evaluate, train

SHARES = (0.5, 0.3)
SEEDS = (0, 1, 2)
NUM_BISECTIONS = 7
NUM_ROUNDS = 41
NUM_PRUNING_STEPS = 3
CLOSE_ENOUGH = 0.03
"""Relative distance from the latency asked for at which the search ends."""


@dataclass(frozen=True)
class Latencies:
    """Times files against the dense one.

    Attributes:
        dense: the exported dense network.
        example: a batch of one.
    """

    dense: Path
    example: Tensor

    def share(self, path: Path) -> float:
        """Median over rounds of a file's time by the dense one's, measured in turns."""
        sessions = [open_session(item, options=session_options(1)) for item in (path, self.dense)]
        rows = [[session.burst_ms() for session in sessions] for _ in range(NUM_ROUNDS)]
        return float(np.median([own / dense for own, dense in rows]))

    def share_of(self, model: nn.Module, made: Plan | None = None) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(copy.deepcopy(model).eval(), made, self.example, path)
            return self.share(path)


def nearest(
    build: Callable[[float], nn.Module], latencies: Latencies, share: float, rises: bool
) -> tuple[float, nn.Module]:
    """The parameter in (0, 1) whose network comes nearest to a share of the dense latency."""
    low, high = 0.02, 0.98
    tried = []
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        model = build(middle)
        found = latencies.share_of(model)
        tried.append((abs(found / share - 1), middle, model))
        if tried[-1][0] < CLOSE_ENOUGH:
            break
        low, high = (middle, high) if (found < share) == rises else (low, middle)
    _, value, model = min(tried, key=lambda item: item[0])
    return value, model


@dataclass(frozen=True)
class Bench:
    """What the rivals have in common for one seed."""

    data: DataSplit
    setting: Setting
    seed: int
    latencies: Latencies
    start: nn.Module

    @property
    def num_epochs_left(self) -> int:
        return self.setting.num_epochs - num_dense_epochs(self.setting)


def narrower(bench: Bench, share: float) -> tuple[nn.Module, Plan | None, float]:
    """The same architecture with fewer channels, trained dense for all epochs."""
    width, model = nearest(
        lambda value: network(bench.data, value, bench.seed), bench.latencies, share, rises=True
    )
    train(model, bench.data, bench.setting.training(bench.setting.num_epochs, bench.seed))
    return model, None, width


def torch_pruned(bench: Bench, share: float) -> tuple[nn.Module, Plan | None, float]:
    """Channels pruned by Torch-Pruning: global magnitude, in steps with training in between."""
    ratio, _ = nearest(
        lambda value: next(prune_in_steps(bench, value, 1)), bench.latencies, share, rises=False
    )
    # Where there are fewer epochs than steps, they come last: nothing is pruned after training.
    epochs = np.array_split(range(bench.num_epochs_left), NUM_PRUNING_STEPS)[::-1]
    steps = prune_in_steps(bench, ratio, NUM_PRUNING_STEPS)
    for model, part in zip(steps, epochs, strict=True):
        if len(part):
            train(model, bench.data, bench.setting.training(len(part), bench.seed))
    return model, None, ratio


def prune_in_steps(bench: Bench, ratio: float, num_steps: int):  # noqa: ANN201 - of networks
    """The network after each step towards a ratio of pruned channels."""
    import torch_pruning

    model = copy.deepcopy(bench.start)
    classifiers = [item for item in model.modules() if isinstance(item, nn.Linear)]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        bench.latencies.example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=ratio,
        iterative_steps=num_steps,
        ignored_layers=classifiers,
    )
    for _ in range(num_steps):
        pruner.step()
        yield model


def spartan(bench: Bench, share: float, profile: str) -> tuple[nn.Module, Plan | None, float]:
    """Blocks pruned to a latency plan; the budget is moved until the measured share is right."""
    device = load_profile(profile)

    def made_for(asked: float) -> Plan:
        return plan(
            copy.deepcopy(bench.start),
            bench.latencies.example,
            budgets={"latency": f"{100 * asked:.4f}%"},
            profile=device,
        )

    asked = share
    for _ in range(NUM_BISECTIONS):
        made = made_for(asked)
        found = bench.latencies.share_of(one_shot(bench.start, made), made)
        if abs(found / share - 1) < CLOSE_ENOUGH:
            break
        asked = min(0.98, asked * share / found)
    model = copy.deepcopy(bench.start)
    train(model, bench.data, bench.setting.training(bench.num_epochs_left, bench.seed), made)
    return model, made, asked


def one_shot(model: nn.Module, made: Plan) -> nn.Module:
    from spartan_planner.export.one_shot import prune_one_shot

    pruned = copy.deepcopy(model)
    prune_one_shot(pruned, made)
    return pruned


def bench_of(given: argparse.Namespace, setting: Setting, seed: int, folder: Path) -> Bench:
    data = read_data(given.data, setting.num_images)
    example = data.test[0][0].unsqueeze(0)
    start = network(data, 1.0, seed)
    start_from_dense(start, data, setting, seed, given.work)
    export_onnx(copy.deepcopy(start).eval(), None, example, folder / "dense.onnx")
    return Bench(data, setting, seed, Latencies(folder / "dense.onnx", example), start)


def write_workload(path: Path, given: argparse.Namespace, setting: Setting) -> None:
    """What to profile: the dense network with the graph of the whole."""
    data = read_data(given.data, setting.num_images)
    model, example = network(data, 1.0, 0).eval(), (data.test[0][0].unsqueeze(0),)
    workload = extract_workload(model, example, "plain_cnn")
    from dataclasses import replace

    write_document(path, replace(workload, graph=embedded_graph(model, example, workload)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("fashion_mnist"))
    parser.add_argument("--profile", help="Of this machine; without it no sparse networks.")
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--num-images", type=int, default=Setting.num_images)
    parser.add_argument("--epochs", type=int, default=Setting.num_epochs)
    parser.add_argument("--out", type=Path, default=RESULTS / "accuracy_rivals.jsonl")
    parser.add_argument("--work", type=Path, default=Path("build/accuracy"))
    parser.add_argument("--write-workload", type=Path, help="Only write what to profile.")
    given = parser.parse_args()
    setting = Setting(given.data.name, given.num_images, given.epochs)
    torch.set_num_threads(1)
    if given.write_workload:
        write_workload(given.write_workload, given, setting)
        return
    rivals = {"narrower": narrower}
    if importlib.util.find_spec("torch_pruning"):
        rivals["torch_pruning"] = torch_pruned
    else:
        print("torch_pruning is not installed and left out")
    if given.profile:
        rivals["spartan"] = lambda bench, share: spartan(bench, share, given.profile)
    given.work.mkdir(parents=True, exist_ok=True)
    run_rivals(rivals, given, setting)


def run_rivals(rivals: dict[str, Callable], given: argparse.Namespace, setting: Setting) -> None:
    """Run what is not in the file yet; a line is written when a run ends."""
    lines = given.out.read_text("utf-8").splitlines() if given.out.exists() else []
    done = [{**json.loads(line)["cell"], **json.loads(line)["setting"]} for line in lines]
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as folder:
            bench = None
            for share in given.shares:
                for name, run in rivals.items():
                    cell = {"rival": name, "share": share, "seed": seed}
                    if {**cell, **asdict(setting)} in done:
                        continue
                    bench = bench or bench_of(given, setting, seed, Path(folder))
                    append(given.out, cell, run_rival(bench, share, run))


def run_rival(bench: Bench, share: float, run: Callable) -> dict[str, object]:
    model, made, parameter = run(bench, share)
    return {
        "setting": asdict(bench.setting),
        "accuracy": evaluate(model, bench.data.test),
        "dense_accuracy_at_half": evaluate(bench.start, bench.data.test),
        "latency_share": bench.latencies.share_of(model, made),
        "parameter": parameter,
        "torch": torch.__version__,
    }


def append(path: Path, cell: dict[str, object], line: dict[str, object]) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"cell": cell, **line}) + "\n")
    print(*cell.values(), f"{line['accuracy']:.4f} at {line['latency_share']:.3f}", flush=True)


if __name__ == "__main__":
    main()
