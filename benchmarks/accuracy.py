"""Accuracy of the methods at equal density and equal epochs, dense networks beside them.

Every run is one line of results/accuracy.jsonl; what is there already is not run again, so the
benchmark can be stopped and started at will.  From scratch, and from weights that were trained
dense for the first half of the same number of epochs.

    python benchmarks/accuracy.py --data fashion_mnist --processes 2 --limit-minutes 45
    python benchmarks/accuracy.py --data fashion_mnist --only spartan --seeds 0 --starts scratch
    python benchmarks/accuracy.py --data fashion_mnist --only spartan --schedule beta=3
    python benchmarks/accuracy.py --table --into docs/accuracy.md

The data are a folder with train*.npz and test.npz (images, labels).
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from spartan_planner.checkpoints import load_weights, save_weights
from spartan_planner.plan_model import plan
from spartan_planner.planning import Budget, Plan, Policy, Schedule
from spartan_planner.training import DataSplit, TrainingSettings, load_data, train
from spartan_planner.training.methods import default_schedule
from spartan_planner.training.recipe_models import plain_cnn

RESULTS = Path(__file__).parent / "results"
METHODS = ("spartan", "dual_averaging", "magnitude")
PATTERNS = (
    ("element", 0.10),
    ("element", 0.05),
    ("element", 0.02),
    ("element", 0.01),
    ("tile:64x1", 0.20),
    ("tile:64x1", 0.10),
)
"""Layouts and densities: 90, 95, 98, 99 % unstructured, 80 and 90 % in blocks of 64 outputs."""
DENSE_WIDTHS = (1.0, 0.5, 0.25)
TABLE_STARTS, TABLE_ENDS = "<!-- table: benchmarks/accuracy.py --table -->", "<!-- end of table -->"
STARTS = ("scratch", "trained")
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Setting:
    """What all runs of one comparison have in common.

    Attributes:
        data: name of the folder.
        num_images: training images, the first of the set.
        num_epochs: passes in all, those of the dense start included.
        batch_size, learning_rate, weight_decay: as in TrainingSettings.
    """

    data: str
    num_images: int = 20_000
    num_epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 0.1
    weight_decay: float = 5e-4

    def training(self, num_epochs: int, seed: int) -> TrainingSettings:
        return TrainingSettings(
            num_epochs=num_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            seed=seed,
        )


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        method: of METHODS, or ``dense``.
        layout: of the blocks; ``dense`` without.
        density: of the prunable weights.
        start: of STARTS.
        seed: of weights and batches.
        width: of the network.
        schedule: what differs from the method's default schedule, ``beta=3 budget_fraction=0.5``.
        policy: of the plan.  Random weights say nothing about which layers need what, and the
            layers that a plan leaves dense do not compete in training: planned by cost, tiles
            keep the layer with the fewest inputs whole and all but cut the others off.  Single
            elements leave no layer dense, so that training does not depend on the policy.
    """

    method: str
    layout: str
    density: float
    start: str
    seed: int
    width: float = 1.0
    schedule: str = ""
    policy: str = "cost"

    @property
    def column(self) -> str:
        """Heading of the table's column."""
        return f"{self.method} {self.schedule}".strip()

    def full_schedule(self) -> Schedule:
        given = dict(pair.split("=") for pair in self.schedule.split())
        numbers = {key: float(text) for key, text in given.items() if text[0].isdigit()}
        default = default_schedule(self.method, is_trained=self.start == "trained")
        return replace(default, **{**given, **numbers})


def all_cells(given: argparse.Namespace) -> Iterator[Cell]:
    """All runs, one seed after the other, so that a table is complete as early as possible."""
    schedule = " ".join(given.schedule)
    for seed in given.seeds:
        if "dense" in given.only:
            for width in DENSE_WIDTHS:
                yield Cell("dense", "dense", 1.0, "scratch", seed, width)
        for start in given.starts:
            for layout, density in PATTERNS:
                if given.patterns and f"{layout}={density:g}" not in given.patterns:
                    continue
                for method in METHODS:
                    if method in given.only:
                        cell = Cell(method, layout, density, start, seed, schedule=schedule)
                        yield replace(cell, policy=policy_for(cell))


def policy_for(cell: Cell) -> str:
    is_scratch_tile = cell.start == "scratch" and cell.layout != "element"
    return "uniform" if is_scratch_tile else "cost"


@cache
def read_data(folder: Path, num_images: int) -> DataSplit:
    """The data in memory, normalised by the mean and deviation of the training images."""
    loaded = load_data(str(folder))
    images, labels = _tensors(loaded.train, num_images)
    test_images, test_labels = _tensors(loaded.test, None)
    mean, std = (f(images, (0, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
    return DataSplit(
        TensorDataset((images - mean) / std, labels),
        TensorDataset((test_images - mean) / std, test_labels),
    )


def _tensors(examples: object, limit: int | None) -> tuple[Tensor, Tensor]:
    count = len(examples) if limit is None else min(limit, len(examples))
    pairs = [examples[index] for index in range(count)]
    return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])


def network(data: DataSplit, width: float, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return plain_cnn(data.test[0][0].shape[0], width)


def density_budget(model: nn.Module, density: float) -> Budget:
    """A budget of parameters that keeps this share of the weights, and all norms and biases."""
    sizes = [(item.numel(), item.dim() >= 2) for item in model.parameters()]
    weights = sum(size for size, is_weight in sizes if is_weight)
    others = sum(size for size, is_weight in sizes if not is_weight)
    return Budget("params", others + density * weights, is_relative=False)


def plan_of(cell: Cell, model: nn.Module, data: DataSplit) -> Plan:
    return plan(
        model,
        data.test[0][0].unsqueeze(0),
        budgets=[density_budget(model, cell.density)],
        layouts=[cell.layout],
        schedule=cell.full_schedule(),
        policy=Policy(cell.policy),
    )


def run_cell(cell: Cell, setting: Setting, folder: Path, work: Path) -> dict[str, object]:
    """Train one cell and return its line."""
    torch.set_num_threads(1)
    started = time.process_time()
    data = read_data(folder, setting.num_images)
    model = network(data, cell.width, cell.seed)
    num_epochs = setting.num_epochs
    if cell.start == "trained":
        start_from_dense(model, data, setting, cell.seed, work)
        num_epochs -= num_dense_epochs(setting)
    made = None if cell.method == "dense" else plan_of(cell, model, data)
    settings = setting.training(num_epochs, cell.seed)
    if made is not None:
        settings = replace(settings, method=cell.method)
    result = train(model, data, settings, made)
    return {
        "cell": asdict(cell),
        "setting": asdict(setting),
        "accuracy": result.accuracy,
        "density": kept_share(model, made),
        "densities": kept_shares(model, made),
        "schedule": asdict(made.schedule) if made else None,
        "num_parameters": sum(item.numel() for item in model.parameters()),
        "loss": result.losses[-1],
        "cpu_s": round(time.process_time() - started, 1),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }


def num_dense_epochs(setting: Setting) -> int:
    return setting.num_epochs // 2


def start_from_dense(
    model: nn.Module, data: DataSplit, setting: Setting, seed: int, work: Path
) -> None:
    """Load the weights after the first half of the epochs, trained once per seed."""
    name = "_".join(str(value) for value in asdict(setting).values())
    path = work / f"dense_{name}_seed{seed}.safetensors"
    if not path.exists():
        train(model, data, setting.training(num_dense_epochs(setting), seed))
        save_weights(model, path)
    load_weights(model, path)


def kept_shares(model: nn.Module, made: Plan | None) -> dict[str, float]:
    """Nonzero share of each weight that the plan prunes."""
    weights = dict(model.named_parameters())
    layers = made.sparse_layers if made else ()
    return {
        layer.name: round(int(weights[layer.name].count_nonzero()) / layer.num_weights, 5)
        for layer in layers
    }


def kept_share(model: nn.Module, made: Plan | None) -> float:
    """Nonzero share of the weights that the plan prunes."""
    if made is None:
        return 1.0
    weights = dict(model.named_parameters())
    kept = sum(int(weights[layer.name].count_nonzero()) for layer in made.sparse_layers)
    return kept / sum(layer.num_weights for layer in made.sparse_layers)


def read_lines(path: Path) -> list[dict[str, object]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def missing(cells: Iterator[Cell], setting: Setting, path: Path) -> list[Cell]:
    """What is not in the file yet."""
    lines = read_lines(path)
    done = {Cell(**line["cell"]) for line in lines if line["setting"] == asdict(setting)}
    return [cell for cell in cells if cell not in done]


def run_all(cells: Sequence[Cell], setting: Setting, given: argparse.Namespace, path: Path) -> None:
    """Run the cells in processes of one thread each; a line is written when a run ends."""
    deadline = time.monotonic() + 60 * given.limit_minutes
    given.work.mkdir(parents=True, exist_ok=True)
    waiting, running = list(cells), set[Future[dict[str, object]]]()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.processes, context) as pool:
        while running or (waiting and time.monotonic() < deadline):
            while waiting and len(running) < given.processes and time.monotonic() < deadline:
                cell = waiting.pop(0)
                running.add(pool.submit(run_cell, cell, setting, given.data, given.work))
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                append(path, future.result())
    if waiting:
        print(f"{len(waiting)} runs are left; start again to go on")


def append(path: Path, line: dict[str, object]) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
    cell = line["cell"]
    print(*cell.values(), f"{line['accuracy']:.4f}", f"{line['cpu_s']} s", flush=True)


def table(lines: Sequence[dict[str, object]]) -> str:
    """Mean and deviation over the seeds, as Markdown: one table per setting."""
    settings = {json.dumps(line["setting"]): line["setting"] for line in lines}
    return "\n\n".join(
        _table(setting, [line for line in lines if line["setting"] == setting])
        for setting in settings.values()
    )


def _table(setting: dict[str, object], lines: Sequence[dict[str, object]]) -> str:
    found: dict[tuple[object, ...], list[float]] = {}
    for line in lines:
        cell = Cell(**line["cell"])
        row = ("dense", f"width {cell.width:g}", "")
        if cell.method != "dense":
            plan_text = "" if cell.policy == policy_for(cell) else f", plan by {cell.policy}"
            row = (cell.layout + plan_text, f"{1 - cell.density:.0%}", cell.start)
        found.setdefault((*row, cell.column), []).append(line["accuracy"])
    rows = sorted(dict.fromkeys(key[:3] for key in found), key=_place)
    columns = sorted(dict.fromkeys(key[3] for key in found), key=_rank)
    text = [
        ", ".join(f"{key} {value}" for key, value in setting.items()),
        "",
        f"| layout | sparsity | start | {' | '.join(columns)} |",
        "|---|---|---|" + "---|" * len(columns),
    ]
    for row in rows:
        cells = [_mean(found.get((*row, column), ())) for column in columns]
        text.append(f"| {' | '.join((*row, *cells))} |")
    return "\n".join(text)


def _place(row: tuple[str, str, str]) -> tuple[object, ...]:
    """Dense rows first, then by start and pattern, the sparser below."""
    return (row[0] != "dense", row[2], row[0], row[1])


def _rank(column: str) -> tuple[int, str]:
    return (*METHODS, "dense").index(column.split()[0]), column


def _mean(figures: Sequence[float]) -> str:
    if not figures:
        return ""
    mean = f"{100 * statistics.mean(figures):.2f}"
    if len(figures) == 1:
        return f"{mean} (one seed)"
    return f"{mean} ± {100 * statistics.stdev(figures):.2f} ({len(figures)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("fashion_mnist"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit-minutes", type=float, default=600.0)
    parser.add_argument("--only", nargs="+", default=["dense", *METHODS])
    parser.add_argument("--starts", nargs="+", default=STARTS, choices=STARTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--patterns", nargs="+", help="Of all, such as element=0.02 tile:64x1=0.1.")
    parser.add_argument(
        "--schedule", nargs="+", default=[], help="Not the default, such as beta=3 beta_rule=paper."
    )
    parser.add_argument("--num-images", type=int, default=Setting.num_images)
    parser.add_argument("--epochs", type=int, default=Setting.num_epochs)
    parser.add_argument("--max-runs", type=int, help="At most so many runs.")
    parser.add_argument("--out", type=Path, default=RESULTS / "accuracy.jsonl")
    parser.add_argument(
        "--work", type=Path, default=Path("build/accuracy"), help="For dense starts."
    )
    parser.add_argument("--into", type=Path, help="A page with marks to put the tables between.")
    parser.add_argument("--table", action="store_true", help="Only print the tables.")
    given = parser.parse_args()
    setting = Setting(given.data.name, given.num_images, given.epochs)
    if not given.table:
        cells = missing(all_cells(given), setting, given.out)
        run_all(cells[: given.max_runs], setting, given, given.out)
    text = table(read_lines(given.out))
    print(text)
    if given.into:
        insert(text, given.into)


def insert(text: str, page: Path) -> None:
    """Put the tables between the two marks of a page."""
    before, rest = page.read_text(encoding="utf-8").split(TABLE_STARTS)
    after = rest.split(TABLE_ENDS)[1]
    page.write_text(f"{before}{TABLE_STARTS}\n\n{text}\n\n{TABLE_ENDS}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
