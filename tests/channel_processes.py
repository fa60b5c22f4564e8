"""Training channels in one process, and in two with gloo."""

import pickle

import torch
import torch.distributed as dist
from test_channel_training import NUM_STEPS, Attentive, batch, plan_of
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from spartan_planner.errors import TrainingError
from spartan_planner.training import Sparsifier


def train(rank, num_parts):
    """Train on this process's part of every batch; return the units that are kept by step."""
    torch.manual_seed(0)
    model = Attentive()
    plan = plan_of(model)
    trained = DistributedDataParallel(model) if num_parts > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS)
    found = []
    for step in range(NUM_STEPS):
        images, labels = (item[rank::num_parts] for item in batch(step))
        optimizer.zero_grad()
        cross_entropy(trained(images), labels).backward()
        optimizer.step()
        found.append({group.name: group.kept for group in sparsifier._channels.groups})
    sparsifier.finalize()
    return found


def work(rank, folder):
    """Train in this of two processes and write down what was found."""
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    content = pickle.dumps(train(rank, 2))
    (folder / f"{rank}.pickle").write_bytes(content)
    dist.destroy_process_group()


def disagree(rank, folder):
    """Keep other units than the other process, and write down what is said of it."""
    torch.set_num_threads(1)
    store = f"file://{folder / 'second'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.manual_seed(0)
    model = Attentive()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    sparsifier = Sparsifier(model, plan_of(model), optimizer, NUM_STEPS)
    if rank:
        # This process alone trains other weights.
        torch.manual_seed(1)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
    said = ""
    for step in range(NUM_STEPS):
        images, labels = batch(step)
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        try:
            optimizer.step()
        except TrainingError as error:
            said = str(error)
            break
    del sparsifier
    (folder / f"said{rank}.txt").write_text(said, encoding="utf-8")
    dist.destroy_process_group()
