"""Training under a plan in one process, and in several with gloo, that records every mask."""

import copy
import pickle
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import Shard
from torch.nn.functional import cross_entropy

from spartan_planner.errors import TrainingError
from spartan_planner.plan_model import plan
from spartan_planner.planning import Bound
from spartan_planner.training import Sparsifier
from spartan_planner.training.run_state import spread_state
from spartan_planner.training.sharded_model import sharded_copy, spread_alike, take_whole
from spartan_planner.training.sharding import whole_tensors
from spartan_planner.training.stepping_watch import PATIENCE

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
        Case("element", (("flops", "10%"),), "dual_averaging"),
        Case("element", tuple(TWO_BUDGETS.items()), "magnitude"),
        Case("tile:16x1", (("flops", "50%"),)),
        Case("tile:16x1", (("flops", "15%"),)),
        Case("tile:16x1@16", (("flops", "45%"),)),
        Case("2:4", (("params", "60%"),)),
    )
}


class Network(nn.Module):
    """Weights of 64, 32, 7 and 1 outputs: two processes have even, uneven and empty parts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 64, 3, padding=1)
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
    """Tiles of 16 outputs do not fit into the parts of the small layers, so those stay dense."""
    bounds = [Bound("stem*", min_density=0.05)]
    if case.layout != "element":
        bounds += [Bound(name, keep_dense=True) for name in ("classifier*", "scale*")]
    images, budgets = torch.zeros(1, 4, 6, 6), dict(case.budgets)
    return plan(network(), images, budgets=budgets, layouts=[case.layout], bounds=bounds)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH_SIZE, 4, 6, 6, generator=generator)
    return images, torch.randint(0, 7, (BATCH_SIZE,), generator=generator)


class Run:
    """Training of a model, on the share of each batch that belongs to one process.

    Args:
        case: what to train to.
        wrap: what is called with the network to spread it over the processes.
        rank, num_processes: the share.
    """

    def __init__(
        self,
        case,
        wrap=lambda model: model,
        rank=0,
        num_processes=1,
        kind=torch.optim.SGD,
        **options,
    ):
        self.bare = network()
        self.called = wrap(self.bare)
        options = options or {"momentum": 0.9}
        self.optimizer = kind(self.bare.parameters(), lr=0.05, **options)
        self.sparsifier = Sparsifier(
            self.bare, plan_of(case), self.optimizer, NUM_STEPS, case.method
        )
        self.share = slice(rank, None, num_processes)
        self.losses, self.masks = [], []

    def step(self):
        self.note(self.evaluate(), self.optimizer.step())

    def step_with_closure(self):
        self.note(self.optimizer.step(self.evaluate))

    def evaluate(self):
        images, labels = batch(len(self.losses))
        self.optimizer.zero_grad()
        loss = cross_entropy(self.called(images[self.share]), labels[self.share])
        loss.backward()
        return loss

    def note(self, loss, _=None):
        self.losses.append(mean_over_processes(loss.detach()))
        self.masks.append(self.present_masks())

    def present_masks(self):
        return {n: (t != 0).numpy() for n, t in whole_tensors(self.bare.state_dict()).items()}

    def finish(self):
        for _ in range(NUM_STEPS - len(self.losses)):
            self.step()
        self.sparsifier.finalize()
        return self

    def states(self):
        parts = {"optimizer": self.optimizer, "sparsifier": self.sparsifier}
        state = {name: part.state_dict() for name, part in parts.items()}
        numbers = {"losses": self.losses, "masks": self.masks}
        return copy.deepcopy(whole_tensors({**numbers, **state, "model": self.bare.state_dict()}))

    def load(self, states):
        held = self.bare.state_dict()
        self.bare.load_state_dict(
            {name: spread_alike(held[name], tensor) for name, tensor in states["model"].items()}
        )
        self.optimizer.load_state_dict(spread_state(self.optimizer, states["optimizer"]))
        self.sparsifier.load_state_dict(states["sparsifier"])
        self.losses, self.masks = list(states["losses"]), list(states["masks"])

    def record(self):
        return self.losses, self.masks, self.sparsifier.stats()


def mean_over_processes(loss):
    if dist.is_initialized():
        dist.all_reduce(loss)
        loss /= dist.get_world_size()
    return float(loss)


def sharded(model):
    return fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))


def work(rank, num_processes, folder):
    """Join the processes, do all jobs and keep what they return, by name."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=num_processes)
    jobs = (sharded_copies, train_both_ways, resume_under_fsdp, corrupt, straddle, watch, closures)
    result = {job.__name__: job(rank) for job in jobs}
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


def resume_under_fsdp(rank):
    """Saved as whole tensors after 20 steps, and gone on with in new objects."""
    found = {}
    for name in RESUMED:
        first = Run(CASES[name], sharded, rank, dist.get_world_size())
        for _ in range(20):
            first.step()
        states = first.states()
        first.finish()
        again = Run(CASES[name], sharded, rank, dist.get_world_size())
        again.load(states)
        again.finish()
        found[name] = (first.record(), again.record(), states)
    return found


RESUMED = ("element spartan 40%", "tile:16x1 spartan 15%", "2:4 spartan 60%")


def corrupt(rank):
    """What is said when one process alone has other weights, by each way to train."""
    case = CASES["element spartan 40%"]
    copied = Run(case, nn.parallel.DistributedDataParallel, rank, 2)
    copied.step()
    weight = copied.sparsifier._weights[1]
    if rank:
        weight.latent[0] *= 100
    spread = Run(CASES["tile:16x1@16 spartan 45%"], sharded, rank, 2)
    for _ in range(NUM_STEPS):
        spread.step()
    if rank:
        spread.sparsifier._competition.state.price += 1e-9
    return refusal(copied.finish), refusal(spread.sparsifier.finalize)


def straddle(rank):
    """What is said of tiles of 64 outputs that two processes would cut, and of inputs cut."""
    case = Case("tile:64x1", (("flops", "40%"),))
    balanced = replace(case, layout="tile:16x1@16")
    return (
        refusal(lambda: Run(case, sharded, rank, 2)),
        refusal(lambda: Run(balanced, by_inputs, rank, 2)),
        Run(case, by_inputs, rank, 2).finish().record(),
    )


def by_inputs(model):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return fully_shard(
        model, mesh=mesh, shard_placement_fn=lambda p: Shard(1 if p.ndim == 4 else 0)
    )


def sharded_copies(rank):
    """A copy cut for a plan and one of a deeper model: cuts, what is gathered alone, outputs."""
    case, device = Case("tile:64x1", (("flops", "40%"),)), torch.device("cpu")
    balanced = replace(case, layout="tile:64x1@16")
    cut = sharded_copy(network(), plan_of(case), device)
    torch.manual_seed(1)
    parts = [nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)) for _ in range(2)]
    whole = nn.Sequential(*parts, nn.Flatten(), nn.Linear(16, 3))
    deep, taken = sharded_copy(whole, None, device), copy.deepcopy(whole)
    images = batch(rank)[0]
    deep(images).sum().backward()
    deep.eval()
    # All have the statistics that the first process saw, from the next forward pass on.
    outputs = deep(batch(0)[0]).detach()
    take_whole(taken, deep)
    taken.eval()
    whole(batch(0)[0])
    expected = whole.eval()(batch(0)[0]).detach()
    return (
        {name: p.placements[0].dim for name, p in cut.named_parameters()},
        [name for name, module in deep.named_modules() if isinstance(module, FSDPModule)],
        [(outputs - other).abs().max().item() for other in (expected, taken(batch(0)[0]))],
        refusal(lambda: sharded_copy(network(), plan_of(balanced), device)),
    )


def watch(rank):
    """What is said under FSDP2 of another optimizer, of none, and whether the right one is let be.

    Each on both processes at the same moment: neither is left waiting.
    """
    case = CASES["element spartan 40%"]
    other = Run(case, sharded, rank, 2)
    other.optimizer = torch.optim.Adam(other.bare.parameters())
    none = Run(case, sharded, rank, 2)
    none.optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    none.sparsifier._watch._num_backward = PATIENCE - 2
    none.step()
    right = Run(case, sharded, rank, 2)
    right.sparsifier._watch._num_backward = PATIENCE - 2
    for _ in range(3):
        right.step()
    return refusal(other.step), refusal(none.step), right.sparsifier.num_steps_done


def closures(rank):
    """Steps by closures under either way: losses as without, and L-BFGS where each holds all."""
    case = CASES["tile:16x1 spartan 50%"]
    plain, closed = (Run(case, sharded, rank, 2) for _ in range(2))
    for _ in range(12):
        plain.step()
        closed.step_with_closure()
    lbfgs = {
        "ddp": refusal(lambda: by_lbfgs(case, nn.parallel.DistributedDataParallel, rank)),
        "fsdp": refusal(lambda: by_lbfgs(case, sharded, rank)),
    }
    return plain.record(), closed.record(), lbfgs


def by_lbfgs(case, wrap, rank):
    run = Run(case, wrap, rank, 2, torch.optim.LBFGS, max_iter=2)
    for _ in range(4):
        run.step_with_closure()
    return run
