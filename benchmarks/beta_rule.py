"""How sharp should soft masks be?  Accuracy by rule, beta, layout and start.

    python benchmarks/beta_rule.py [--data train.npz,test.npz] --out beta_rule.jsonl

A small network on the digits, or on grey images averaged to 14 x 14; the same epochs for all.
Finished runs are lines of the output file and are not run again; ``--table`` prints their means.
"""

import argparse
import copy
import json
import statistics
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

import spartan_planner as sp
from spartan_planner.digits import digits_data
from spartan_planner.planning import Schedule

SIDE, NUM_TRAIN, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 14, 6_000, 64, 0.05, 5e-4


@dataclass(frozen=True)
class Cell:
    """One run: what is pruned how far, from which start, how, and with which seed."""

    layout: str
    percent: float
    is_trained: bool
    method: str
    beta_rule: str
    beta: float
    seed: int
    epochs: int
    budget_fraction: float = 0.2

    @property
    def schedule(self) -> Schedule:
        return Schedule(
            budget_fraction=self.budget_fraction,
            beta=self.beta,
            method=self.method,
            beta_rule=self.beta_rule,
        )


def network() -> nn.Module:
    """60,000 weights in four convolutions and a classifier."""

    def stage(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *stage(1, 16, 1),
        *stage(16, 32, 2),
        *stage(32, 64, 2),
        *stage(64, 64, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def load(paths: str) -> list[tuple[Tensor, Tensor]]:
    """Return images ``[n, 1, 14, 14]`` and labels of the training and the test file."""
    if paths == "digits":
        train, test = (split.tensors for split in digits_data())
        return [(train[0], train[1]), (test[0], test[1])]
    parts = []
    for path in paths.split(","):
        with np.load(path) as held:
            images, labels = held["images"], held["labels"]
        pixels = (
            torch.from_numpy(images).float().div_(255).reshape(len(images), 1, *images.shape[1:3])
        )
        pixels = avg_pool2d(pixels, pixels.shape[-1] // SIDE)
        parts.append(((pixels - 0.286) / 0.32, torch.from_numpy(labels.astype(np.int64))))
    (images, labels), test = parts
    return [(images[:NUM_TRAIN], labels[:NUM_TRAIN]), test]


def fit(
    model: nn.Module, data: tuple[Tensor, Tensor], epochs: int, seed: int, cell: Cell | None
) -> None:
    """Train; sparsely where a cell is given."""
    images, labels = data
    steps = (len(images) // BATCH_SIZE) * epochs
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others}]
    optimizer = SGD(groups, lr=LEARNING_RATE, momentum=0.9, nesterov=True)
    scheduler = OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    sparsifier = None
    if cell is not None and cell.method != "dense":
        plan = sp.plan(
            model.eval(),
            (images[:1],),
            budgets={"params": f"{cell.percent}%"},
            layouts=[cell.layout],
            schedule=cell.schedule,
        )
        sparsifier = sp.Sparsifier(model, plan, optimizer, steps)
    model.train()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for batch in order[: steps // epochs * BATCH_SIZE].split(BATCH_SIZE):
            optimizer.zero_grad()
            cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            scheduler.step()
    if sparsifier is not None:
        sparsifier.finalize()


@torch.no_grad()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Return the percentage of test images that are told apart."""
    images, labels = data
    model.eval()
    right = sum(
        int((model(part).argmax(1) == truth).sum())
        for part, truth in zip(images.split(500), labels.split(500), strict=True)
    )
    return 100 * right / len(labels)


def run(
    cell: Cell, data: list[tuple[Tensor, Tensor]], trained: dict[int, nn.Module]
) -> dict[str, object]:
    """Run one cell from scratch, or from a dense model that is trained once per seed."""
    torch.manual_seed(cell.seed)
    model = network()
    if cell.is_trained:
        if cell.seed not in trained:
            fit(model, data[0], cell.epochs, cell.seed, None)
            trained[cell.seed] = model
        model = copy.deepcopy(trained[cell.seed])
    start = time.perf_counter()
    fit(model, data[0], cell.epochs, cell.seed + 100, cell)
    return {**asdict(cell), "accuracy": accuracy(model, data[1]), "s": time.perf_counter() - start}


def cells(epochs: int, seeds: int) -> list[Cell]:
    """All runs, those of the first seed first."""
    treatments = [("dense", "paper", 1.0)]
    treatments += [("spartan", "spread", beta) for beta in (3.0, 1.0, 10.0)]
    treatments += [("spartan", "paper", beta) for beta in (10.0, 100.0)]
    treatments += [("magnitude", "paper", 1.0), ("dual_averaging", "paper", 1.0)]
    return [
        Cell(
            *problem, start, *treatment, seed, epochs, 0.75 if treatment[0] == "magnitude" else 0.2
        )
        for seed in range(seeds)
        for problem in (("element", 4), ("tile:16x1", 20))
        for start in (False, True)
        for treatment in treatments
        if treatment[0] != "dense" or problem[0] == "element"
    ]


def table(lines: list[dict[str, object]]) -> str:
    """Return means and deviations over seeds."""
    found: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for line in lines:
        keys = ("layout", "percent", "is_trained", "method", "beta_rule", "beta", "epochs")
        found[tuple(line[key] for key in keys)].append(float(line["accuracy"]))
    rows = []
    for key, figures in sorted(found.items(), key=str):
        deviation = statistics.stdev(figures) if len(figures) > 1 else float("nan")
        rows.append(
            f"{key!s:75} {statistics.mean(figures):6.2f} +- {deviation:.2f} ({len(figures)})"
        )
    return "\n".join(rows)


def main() -> None:
    """Run what is not in the output file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", default="digits", help="digits, or training and test file, comma between"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only print what was found")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = (
        [json.loads(text) for text in options.out.read_text().splitlines()]
        if options.out.exists()
        else []
    )
    if options.table:
        print(table(done))
        return
    finished = [{key: line[key] for key in asdict(cells(1, 1)[0])} for line in done]
    data, trained = load(options.data), {}
    for cell in cells(options.epochs, options.seeds):
        if asdict(cell) in finished:
            continue
        line = run(cell, data, trained)
        print(line, flush=True)
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
