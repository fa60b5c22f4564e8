"""Accuracy at equal measured latency: sparse by a latency plan, pruned by Torch-Pruning, narrower.

Everything starts from the same dense weights, trained for half of the epochs, except the narrower
networks, which are trained dense for all of them.  Steps of their own, so that only those that time
anything need a quiet machine; each goes on where it was stopped:

    python benchmarks/accuracy_rivals.py workload --data cifar10     # writes workload.yaml
    spartan-planner profile build/accuracy/workload.yaml -o build/accuracy/profile.yaml  # quiet
    python benchmarks/accuracy_rivals.py start --data cifar10        # any time: the dense weights
    python benchmarks/accuracy_rivals.py choose --data cifar10       # quiet, a few minutes
    python benchmarks/accuracy_rivals.py train --data cifar10        # any time
    python benchmarks/accuracy_rivals.py measure                     # quiet, a minute
    python benchmarks/accuracy_rivals.py table

``choose`` finds the largest width, the smallest ratio of pruned channels and the largest latency
asked of the plan at which ONNX Runtime, one thread, needs no more than the share of the dense
network's time that is asked for.
``measure`` times all trained files in turn with the dense one; its shares are what the table says.
Torch-Pruning is taken from PyPI (pip install torch-pruning).
"""

import argparse
import copy
import json
import platform
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from accuracy import RESULTS, Setting, network, num_dense_epochs, read_data, read_lines
from accuracy import start_from_dense as load_dense_start
from torch import Tensor, nn

from cost_models import write_document
from spartan_planner.bundled_profiles import load_profile
from spartan_planner.errors import InfeasibleBudgetError
from spartan_planner.export import export_onnx
from spartan_planner.export.embedded_graph import embedded_graph
from spartan_planner.export.one_shot import prune_one_shot
from spartan_planner.extraction import extract_workload
from spartan_planner.onnx_sessions import open_session, session_options
from spartan_planner.plan_model import plan
from spartan_planner.planning import Plan
from spartan_planner.training import DataSplit, evaluate, train

SHARES = (0.5, 0.3)
SEEDS = (0, 1, 2)
NUM_ROUNDS, NUM_SEARCH_ROUNDS = 101, 21
NUM_PRUNING_STEPS = 3
CLOSE_ENOUGH = 0.02
"""Share by which a choice may be slower than asked: what a measurement is certain to."""
CHANNELS_ROUNDED_TO = 8
"""Torch-Pruning keeps multiples of it, as its users do for speed; channels of the narrower
networks are multiples of 2 to 8."""


@dataclass(frozen=True)
class Bench:
    """What the rivals have in common for one seed.

    Attributes:
        data: training and test images.
        setting: of all runs.
        width: of the dense network.
        seed: of weights and batches.
        start: the dense network after half of the epochs; never changed.
        profile: path of the profile of this machine, or the name of a bundled one.
    """

    data: DataSplit
    setting: Setting
    width: float
    seed: int
    start: nn.Module
    profile: str

    @property
    def example(self) -> Tensor:
        return self.data.test[0][0].unsqueeze(0)

    @property
    def num_epochs_left(self) -> int:
        return self.setting.num_epochs - num_dense_epochs(self.setting)

    def train(self, model: nn.Module, num_epochs: int, made: Plan | None = None) -> None:
        train(model, self.data, self.setting.training(num_epochs, self.seed), made)


class Rival:
    """A way to be faster, with one parameter in (0, 1) that says how much.

    Attributes:
        name: in results.
        rises: whether latency rises with the parameter.
        candidates: parameters to choose from.
    """

    name: str
    rises = True
    candidates: tuple[float, ...] = tuple(step / 20 for step in range(2, 20))

    def build(self, bench: Bench, parameter: float) -> tuple[nn.Module, Plan | None]:
        """Return a network of the right shape, not trained any further."""
        raise NotImplementedError

    def train(self, bench: Bench, parameter: float) -> tuple[nn.Module, Plan | None]:
        raise NotImplementedError


class Narrower(Rival):
    """The same architecture with fewer channels, trained dense for all epochs."""

    name = "narrower"
    candidates = tuple(step / 16 for step in range(2, 16))

    def build(self, bench: Bench, parameter: float) -> tuple[nn.Module, None]:
        return network(bench.data, bench.width * parameter, bench.seed), None

    def train(self, bench: Bench, parameter: float) -> tuple[nn.Module, None]:
        model, _ = self.build(bench, parameter)
        bench.train(model, bench.setting.num_epochs)
        return model, None


class TorchPruned(Rival):
    """Channels pruned by Torch-Pruning: global magnitude, in steps with training in between."""

    name = "torch_pruning"
    rises = False

    def build(self, bench: Bench, parameter: float) -> tuple[nn.Module, None]:
        return next(prune_in_steps(bench, parameter, 1)), None

    def train(self, bench: Bench, parameter: float) -> tuple[nn.Module, None]:
        # Where there are fewer epochs than steps, they come last: nothing is pruned after training.
        epochs = np.array_split(range(bench.num_epochs_left), NUM_PRUNING_STEPS)[::-1]
        steps = prune_in_steps(bench, parameter, NUM_PRUNING_STEPS)
        for model, part in zip(steps, epochs, strict=True):
            if len(part):
                bench.train(model, len(part))
        return model, None


def prune_in_steps(bench: Bench, ratio: float, num_steps: int) -> Iterator[nn.Module]:
    """The network after each step towards a ratio of pruned channels."""
    import torch_pruning

    model = copy.deepcopy(bench.start)
    pruner = torch_pruning.pruner.BasePruner(
        model,
        bench.example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=ratio,
        round_to=CHANNELS_ROUNDED_TO,
        iterative_steps=num_steps,
        ignored_layers=[item for item in model.modules() if isinstance(item, nn.Linear)],
    )
    for _ in range(num_steps):
        pruner.step()
        yield model


class Spartan(Rival):
    """Blocks pruned to a latency plan; the parameter is the share of latency asked for."""

    name = "spartan"

    def made_for(self, bench: Bench, parameter: float) -> Plan:
        return plan(
            copy.deepcopy(bench.start),
            bench.example,
            budgets={"latency": f"{100 * parameter:.4f}%"},
            profile=load_profile(bench.profile),
        )

    def build(self, bench: Bench, parameter: float) -> tuple[nn.Module, Plan]:
        made, model = self.made_for(bench, parameter), copy.deepcopy(bench.start)
        prune_one_shot(model, made)
        return model, made

    def train(self, bench: Bench, parameter: float) -> tuple[nn.Module, Plan]:
        made, model = self.made_for(bench, parameter), copy.deepcopy(bench.start)
        bench.train(model, bench.num_epochs_left, made)
        return model, made


RIVALS = {rival.name: rival for rival in (Narrower(), TorchPruned(), Spartan())}


def shares_of(files: Sequence[Path], dense: Path, num_rounds: int) -> list[float]:
    """Median over rounds of each file's time by the dense one's, all timed in turn."""
    sessions = [open_session(path, options=session_options(1)) for path in (dense, *files)]
    rounds = [[session.burst_ms() for session in sessions] for _ in range(num_rounds)]
    return [float(np.median([row[i] / row[0] for row in rounds])) for i in range(1, len(sessions))]


def write_onnx(bench: Bench, built: tuple[nn.Module, Plan | None], path: Path) -> None:
    model, made = built
    export_onnx(copy.deepcopy(model).eval(), made, bench.example, path)


def curve(rival: Rival, bench: Bench) -> list[tuple[float, float]]:
    """Each candidate's parameter and share of the dense latency; what cannot be built is left out.

    All are timed in turn, so that a machine that slows down slows all of them.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, parameters = Path(name), []
        write_onnx(bench, (bench.start, None), folder / "dense.onnx")
        for parameter in rival.candidates:
            with suppress(InfeasibleBudgetError):
                built = rival.build(bench, parameter)
                write_onnx(bench, built, folder / f"{len(parameters)}.onnx")
                parameters.append(parameter)
        files = [folder / f"{index}.onnx" for index in range(len(parameters))]
        shares = shares_of(files, folder / "dense.onnx", NUM_SEARCH_ROUNDS)
    return list(zip(parameters, shares, strict=True))


def largest_within(
    found: Sequence[tuple[float, float]], share: float, rises: bool
) -> dict[str, float]:
    """The largest network that is as fast as asked; nothing where none is.

    The largest, not the one that comes nearest: latency rises with the channels in steps, because
    the runtime pads them to its blocks.
    """
    fast = [item for item in found if item[1] <= share * (1 + CLOSE_ENOUGH)]
    if not fast:
        return {}
    parameter, chosen = max(fast) if rises else min(fast)
    return {"parameter": parameter, "chosen_share": round(chosen, 4)}


def bench_of(given: argparse.Namespace, setting: Setting, seed: int) -> Bench:
    data = read_data(given.data, setting.num_images)
    start = network(data, given.width, seed)
    work = given.work / f"width_{given.width:g}"
    work.mkdir(parents=True, exist_ok=True)
    load_dense_start(start, data, setting, seed, work)
    profile = str(given.profile or given.work / "profile.yaml")
    return Bench(data, setting, given.width, seed, start, profile)


def cells(given: argparse.Namespace) -> Iterator[dict[str, object]]:
    """One seed after the other, so that a table is complete as early as possible."""
    for seed in given.seeds:
        for share in given.shares:
            for rival in given.rivals:
                yield {"rival": rival, "share": share, "seed": seed}


def missing(given: argparse.Namespace, setting: Setting, path: Path) -> list[dict[str, object]]:
    """What is not in the file yet."""
    same = {"setting": asdict(setting), "width": given.width}
    lines = [line for line in read_lines(path) if {key: line[key] for key in same} == same]
    done = [line["cell"] for line in lines]
    return [cell for cell in cells(given) if cell not in done]


def append(path: Path, line: dict[str, object]) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
    print(
        *line["cell"].values(), {key: line.get(key) for key in PRINTED if key in line}, flush=True
    )


PRINTED = ("parameter", "chosen_share", "accuracy")


def start(given: argparse.Namespace, setting: Setting) -> None:
    """Train the dense weights from which all but the narrower networks start."""
    for seed in given.seeds:
        bench = bench_of(given, setting, seed)
        print("dense start", seed, evaluate(bench.start, bench.data.test), flush=True)


def choose(given: argparse.Namespace, setting: Setting) -> None:
    """Find the parameter of each rival; the narrower networks' does not depend on the seed."""
    path, curves = given.work / "choices.jsonl", dict[object, list[tuple[float, float]]]()
    for cell in missing(given, setting, path):
        rival = RIVALS[cell["rival"]]
        key = (rival.name, None if rival.name == "narrower" else cell["seed"])
        if key not in curves:
            curves[key] = curve(rival, bench_of(given, setting, cell["seed"]))
            print(*key, *(f"{item[0]:.3f}: {item[1]:.3f}" for item in curves[key]), flush=True)
        found = largest_within(curves[key], cell["share"], rival.rises)
        append(path, {"cell": cell, "setting": asdict(setting), "width": given.width, **found})


def train_all(given: argparse.Namespace, setting: Setting) -> None:
    """Train each rival with the parameter that was chosen for it, and keep its file."""
    wanted = missing(given, setting, given.out)
    for line in read_lines(given.work / "choices.jsonl"):
        same = line["setting"] == asdict(setting) and line["width"] == given.width
        if not same or line["cell"] not in wanted:
            continue
        append(given.out, {**line, **trained(given, setting, line)})


def trained(
    given: argparse.Namespace, setting: Setting, line: dict[str, object]
) -> dict[str, object]:
    cell = line["cell"]
    if "parameter" not in line:
        return {"accuracy": None, "why": "no plan is that fast"}
    bench = bench_of(given, setting, cell["seed"])
    built = RIVALS[cell["rival"]].train(bench, line["parameter"])
    name = f"width_{given.width:g}/{'_'.join(map(str, cell.values()))}.onnx"
    write_onnx(bench, built, given.work / name)
    dense = Path(f"width_{given.width:g}/dense_{cell['seed']}.onnx")
    write_onnx(bench, (bench.start, None), given.work / dense)
    return {
        "accuracy": evaluate(built[0], bench.data.test),
        "dense_start_accuracy": evaluate(bench.start, bench.data.test),
        "num_parameters": sum(int(item.count_nonzero()) for item in built[0].parameters()),
        "file": name,
        "dense_file": str(dense),
        "torch": torch.__version__,
    }


def measure(given: argparse.Namespace) -> None:
    """Time all files in turn with the dense one, and write their shares into the results."""
    lines = read_lines(given.out)
    timed = [line for line in lines if "file" in line]
    if not timed:
        raise SystemExit(f"{given.out} holds no trained file; run the step train first")
    for dense in {line["dense_file"] for line in timed}:
        mine = [line for line in timed if line["dense_file"] == dense]
        files = [given.work / line["file"] for line in mine]
        found = shares_of(files, given.work / dense, NUM_ROUNDS)
        for line, share in zip(mine, found, strict=True):
            line["latency_share"] = round(share, 4)
            line["onnxruntime"] = onnxruntime.__version__
            line["machine"] = platform.processor() or platform.machine()
    given.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def table(lines: Sequence[dict[str, object]]) -> str:
    """Accuracy and measured share of latency, mean and deviation over seeds, as Markdown."""
    text = [
        "| data | asked of dense latency | rival | measured | accuracy | seeds |",
        "|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for line in lines:
        cell = line["cell"]
        key = (line["setting"]["data"], f"{cell['share']:.0%}", cell["rival"])
        groups.setdefault(key, []).append(line)
    for key, mine in groups.items():
        shares = [100 * line["latency_share"] for line in mine if "latency_share" in line]
        hits = [100 * line["accuracy"] for line in mine if line["accuracy"] is not None]
        figures = (_mean(shares) + " %" if shares else "", _mean(hits) or "no plan is that fast")
        text.append(f"| {' | '.join((*key, *figures, str(len(mine))))} |")
    return "\n".join(text)


def _mean(figures: Sequence[float]) -> str:
    if len(figures) < 2:
        return "".join(f"{figure:.1f}" for figure in figures)
    return f"{statistics.mean(figures):.1f} ± {statistics.stdev(figures):.1f}"


def write_workload(given: argparse.Namespace, setting: Setting) -> None:
    """What to profile: the dense network with the graph of the whole."""
    data = read_data(given.data, setting.num_images)
    model, example = network(data, given.width, 0).eval(), (data.test[0][0].unsqueeze(0),)
    workload = extract_workload(model, example, "plain_cnn")
    whole = replace(workload, graph=embedded_graph(model, example, workload))
    write_document(given.work / "workload.yaml", whole)


STEPS = {"workload": write_workload, "start": start, "choose": choose, "train": train_all}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=(*STEPS, "measure", "table"))
    parser.add_argument("--data", type=Path, default=Path("fashion_mnist"))
    parser.add_argument("--profile", help="Of this machine; by default profile.yaml in --work.")
    parser.add_argument("--rivals", nargs="+", default=list(RIVALS), choices=RIVALS)
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--width", type=float, default=1.0, help="Of the dense network.")
    parser.add_argument("--num-images", type=int, default=Setting.num_images)
    parser.add_argument("--epochs", type=int, default=Setting.num_epochs)
    parser.add_argument("--out", type=Path, default=RESULTS / "accuracy_rivals.jsonl")
    parser.add_argument("--work", type=Path, default=Path("build/accuracy"))
    given = parser.parse_args()
    setting = Setting(given.data.name, given.num_images, given.epochs)
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    if given.step in STEPS:
        STEPS[given.step](given, setting)
        return
    if given.step == "measure":
        measure(given)
    print(table(read_lines(given.out)))


if __name__ == "__main__":
    main()
