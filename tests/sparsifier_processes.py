"""Training under a plan in one process, and in several with gloo, that records every mask."""

import copy
import pickle
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn.functional import cross_entropy

from spartan_planner.errors import TrainingError
from spartan_planner.plan_model import plan
from spartan_planner.planning import Bound
from spartan_planner.training import Sparsifier

NUM_STEPS, BATCH_SIZE = 50, 12
TWO_BUDGETS = {"flops": "45%", "params": "50%"}


@dataclass(frozen=True)
class Case:
    layout: str
    budgets: tuple[tuple[str, str], ...]
    method: str = "spartan"

    @property
    def name(self):
        return f"{self.layout} {self.method} {' '.join(share for _, share in self.budgets)}"


CASES = {
    case.name: case
    for case in (
        Case("element", (("flops", "40%"),)),
        Case("element", (("flops", "10%"),)),
        Case("element", tuple(TWO_BUDGETS.items())),
        Case("element", (("flops", "40%"),), "magnitude"),
        Case("tile:16x1", (("flops", "40%"),)),
        Case("tile:16x1", (("flops", "15%"),)),
        Case("tile:16x1", tuple(TWO_BUDGETS.items()), "dual_averaging"),
        Case("tile:16x1@16", (("flops", "55%"),)),
        Case("tile:16x1@16", (("flops", "70%"),), "magnitude"),
        Case("2:4", (("params", "60%"),)),
    )
}


class Network(nn.Module):
    """Weights of 64, 32, 7 and 1 outputs: two processes have even, uneven and empty parts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 64, 3, padding=1)
        self.body = nn.Conv2d(64, 32, 3, padding=1)
        self.classifier = nn.Linear(32, 7)
        self.scale = nn.Linear(32, 1)

    def forward(self, images):
        hidden = torch.relu(self.body(torch.relu(self.stem(images)))).mean((2, 3))
        return self.classifier(hidden) * (1 + self.scale(hidden))


def network():
    torch.manual_seed(0)
    return Network()


def plan_of(case):
    small = () if case.layout == "element" else ("classifier*", "scale*")
    images = torch.zeros(1, 1, 6, 6)
    return plan(
        network(),
        (images,),
        budgets=dict(case.budgets),
        layouts=[case.layout],
        bounds=[Bound(name, keep_dense=True) for name in small],
    )


def batch(step):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH_SIZE, 1, 6, 6, generator=generator)
    return images, torch.randint(0, 7, (BATCH_SIZE,), generator=generator)


class Run:
    """Training of a model, on the share of each batch that belongs to one process.

    Args:
        case: what to train to.
        wrap: what is called with the network to spread it over the processes.
        rank, num_processes: the share.
    """

    def __init__(self, case, wrap=lambda model: model, rank=0, num_processes=1):
        self.bare = network()
        self.called = wrap(self.bare)
        # The same rounding in all forms: with it one mask is another near a tie.
        self.optimizer = torch.optim.SGD(self.bare.parameters(), lr=0.05, momentum=0.9)
        self.sparsifier = Sparsifier(
            self.bare, plan_of(case), self.optimizer, NUM_STEPS, case.method
        )
        self.share = slice(rank, None, num_processes)
        self.losses, self.masks = [], []

    def step(self):
        images, labels = batch(len(self.losses))
        self.optimizer.zero_grad()
        loss = cross_entropy(self.called(images[self.share]), labels[self.share])
        loss.backward()
        self.optimizer.step()
        self.losses.append(mean_over_processes(loss.detach()))
        self.masks.append(self.present_masks())

    def present_masks(self):
        return {name: (p != 0).numpy() for name, p in whole(self.bare.state_dict()).items()}

    def finish(self):
        for _ in range(NUM_STEPS - len(self.losses)):
            self.step()
        self.sparsifier.finalize()
        return self

    def record(self):
        return self.losses, self.masks, self.sparsifier.stats()


def whole(state):
    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in state.items()
    }


def mean_over_processes(loss):
    if dist.is_initialized():
        dist.all_reduce(loss)
        loss /= dist.get_world_size()
    return float(loss)


def sharded(model):
    return fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))


def work(rank, num_processes, folder, job):
    """Join the processes, call ``job(rank)`` and keep what it returns."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=num_processes)
    result = job(rank)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))
    dist.destroy_process_group()


def refusal(act):
    try:
        act()
    except TrainingError as error:
        return str(error)
    return ""


def train_both_ways(rank):
    """Each case under DDP and under FSDP2."""
    ways = {"ddp": nn.parallel.DistributedDataParallel, "fsdp": sharded}
    return {
        (name, way): Run(case, wrap, rank, dist.get_world_size()).finish().record()
        for name, case in CASES.items()
        for way, wrap in ways.items()
    }
