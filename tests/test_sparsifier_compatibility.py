"""The sparsifier in loops as people write them: optimizers, scalers, wrappers, averages."""

import inspect

import pytest
import torch
from accelerate import Accelerator
from networks import tiny_network, tiny_plan
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from spartan_planner.errors import TrainingError
from spartan_planner.export.kept_sizes import kept_sizes
from spartan_planner.plan_model import plan as make_plan
from spartan_planner.training import Sparsifier
from spartan_planner.training.stepping_watch import PATIENCE

NUM_STEPS = 10
NEEDS_CLOSURE = {"LBFGS"}
NEEDS_SPARSE_GRADIENTS = {"SparseAdam"}
ONLY_MATRICES = {"Muon"}


def optimizer_names():
    """All of torch.optim, so that a new one is tested the day it appears."""
    return [
        name
        for name, item in vars(torch.optim).items()
        if inspect.isclass(item)
        and issubclass(item, torch.optim.Optimizer)
        and item is not torch.optim.Optimizer
        and name not in NEEDS_CLOSURE | NEEDS_SPARSE_GRADIENTS
    ]


VARIANTS = [
    *((name, {}) for name in optimizer_names()),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}),
    ("SGD", {"momentum": 0.9, "fused": True}),
    ("AdamW", {"foreach": True, "weight_decay": 0.1}),
    ("AdamW", {"fused": True}),
    ("Adam", {"amsgrad": True}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
]


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 1, 8, 8, generator=generator)
    return images, torch.randint(0, 10, (4,), generator=generator)


def is_within(model, plan):
    return plan.predicted(plan.budget.cost, kept_sizes(model, plan)) <= plan.budget.asked


def steps(model, optimizer, num_steps=NUM_STEPS, watch=lambda: None):
    for seed in range(num_steps):
        images, labels = batch(seed)
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        watch()


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_every_optimizer_of_torch(name, options):
    if name in ONLY_MATRICES:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32, bias=False), nn.Linear(32, 10))
        model[2].bias.requires_grad_(False)
        plan = make_plan(
            model, (torch.zeros(1, 1, 8, 8),), budgets={"params": "40%"}, layouts=["element"]
        )
    else:
        model = tiny_network()
        plan = tiny_plan(model, layouts=["element"])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = getattr(torch.optim, name)(trained, lr=1e-3, **options)
    sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    steps(model, optimizer)
    sparsifier.finalize()
    assert is_within(model, plan)
    weight = plan.sparse_layers[0].name
    kept = model.state_dict()[weight] != 0
    assert not torch.equal(model.state_dict()[weight][kept], before[weight][kept])


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_a_gradient_scaler_skips_leave_sparse_weights(fused):
    model = tiny_network()
    plan = tiny_plan(model, layouts=["element"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    sparsifier = Sparsifier(model, plan, optimizer, 30)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(20):
        images, labels = batch(step)
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        scaler.scale(loss * (torch.inf if step == 8 else 1.0)).backward()
        before = {k: v.clone() for k, v in sparsifier.latent_weights().items()}
        scaler.step(optimizer)
        scaler.update()
        latents = sparsifier.latent_weights()
        moved = any(not torch.equal(before[k], latents[k]) for k in before)
        assert moved is (step != 8)
        assert all(torch.isfinite(p).all() for p in model.parameters())
        assert step < 6 or is_within(model, plan)


def test_a_clipped_gradient_is_that_of_the_sparse_weights():
    model = tiny_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Sparsifier(model, tiny_plan(model, layouts=["element"]), optimizer, NUM_STEPS)
    steps(model, optimizer, 3)
    images, labels = batch()
    optimizer.zero_grad()
    cross_entropy(model(images), labels).backward()
    twin = tiny_network()
    twin.load_state_dict(model.state_dict())
    cross_entropy(twin(images), labels).backward()
    assert torch.equal(model.body.weight.grad, twin.body.weight.grad)
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    optimizer.step()


def test_weight_decay_acts_on_the_latent_weights():
    model = tiny_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
    sparsifier = Sparsifier(model, tiny_plan(model, layouts=["element"]), optimizer, 100)
    steps(model, optimizer, 40)
    before = sparsifier.latent_weights()["body.weight"].clone()
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    after = sparsifier.latent_weights()["body.weight"]
    torch.testing.assert_close(after, before * (1 - 0.1 * 0.5))


def test_a_compiled_model_trains_the_same_parameters():
    model = tiny_network()
    plan = tiny_plan(model, layouts=["element"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS)
    twin = tiny_network()
    other = torch.optim.SGD(twin.parameters(), lr=0.05)
    Sparsifier(twin, plan, other, NUM_STEPS)
    steps(torch.compile(model, backend="aot_eager"), optimizer)
    steps(twin, other)
    sparsifier.finalize()
    torch.testing.assert_close(model.body.weight, twin.body.weight)


def test_channels_last_prunes_the_same_blocks():
    kept = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = tiny_network().to(memory_format=memory_format)
        plan = tiny_plan(model, layouts=["tile:24x5"])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        Sparsifier(model, plan, optimizer, NUM_STEPS)
        steps(model.to(memory_format=memory_format), optimizer, 4)
        kept.append(model.body.weight.detach() != 0)
    assert torch.equal(*kept)


def test_planned_parameters_may_be_in_several_groups_and_freeze_midway():
    model = tiny_network()
    plan = tiny_plan(model, layouts=["element"])
    others = [p for name, p in model.named_parameters() if not name.startswith("body")]
    groups = [{"params": list(model.body.parameters()), "lr": 0.2}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=0.05)
    sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS)
    steps(model, optimizer, 4)
    model.tail.weight.requires_grad_(False)
    latent = sparsifier.latent_weights()["tail.weight"].clone()
    steps(model, optimizer, 3)
    assert torch.equal(sparsifier.latent_weights()["tail.weight"], latent)
    assert is_within(model, plan)
    steps(model, optimizer, 3)
    assert is_within(model, plan)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16, bias=False)
        self.second = nn.Linear(16, 16, bias=False)
        self.second.weight = self.first.weight

    def forward(self, inputs):
        return self.second(torch.relu(self.first(inputs)))


def test_tied_weights_are_pruned_once():
    torch.manual_seed(0)
    model, inputs = Tied(), torch.randn(4, 16)
    plan = make_plan(model, (inputs,), budgets={"params": "40%"}, layouts=["element"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS)
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    sparsifier.finalize()
    assert is_within(model, plan)
    assert model.first.weight is model.second.weight


def test_a_moving_average_is_pruned_by_the_masks():
    model = tiny_network()
    plan = tiny_plan(model, layouts=["element"])
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS)
    steps(model, optimizer, watch=lambda: average.update_parameters(model))
    assert not is_within(average.module, plan)
    sparsifier.apply_to(average.module)
    assert is_within(average.module, plan)
    assert torch.equal(average.module.body.weight == 0, model.body.weight == 0)


def test_accelerates_optimizer_and_schedulers_step_the_one_inside():
    model = tiny_network()
    plan = tiny_plan(model, layouts=["element"])
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS)
    for seed in range(2 * NUM_STEPS):
        images, labels = batch(seed)
        with accelerator.accumulate(model):
            accelerator.backward(cross_entropy(model(images), labels))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    assert sparsifier.num_steps_done == NUM_STEPS
    sparsifier.finalize()
    assert is_within(model, plan)


def test_another_optimizer_on_the_same_parameters_is_told_at_its_first_step():
    model = tiny_network()
    sparsifier = Sparsifier(model, tiny_plan(model), torch.optim.SGD(model.parameters()), 10)
    other = torch.optim.Adam(model.parameters())
    with pytest.raises(TrainingError, match=r"another optimizer \(Adam\)"):
        steps(model, other, 1)
    sparsifier._watch.remove()
    steps(model, other, 1)


def test_a_loop_that_never_steps_is_told():
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    plan = make_plan(model, (torch.ones(1, 4),), budgets={"params": "50%"}, layouts=["element"])
    sparsifier = Sparsifier(model, plan, torch.optim.SGD(model.parameters()), 10)
    sparsifier._watch._num_backward = PATIENCE - 2
    model(torch.ones(1, 4)).sum().backward()
    with pytest.raises(TrainingError, match="without a step of the optimizer"):
        model(torch.ones(1, 4)).sum().backward()


def test_weights_written_between_steps_are_refused_not_lost():
    model = tiny_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    Sparsifier(model, tiny_plan(model, layouts=["element"]), optimizer, NUM_STEPS)
    steps(model, optimizer, 3)
    same = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(same)
    steps(model, optimizer, 1)
    model.load_state_dict(tiny_network(1).state_dict())
    with pytest.raises(TrainingError, match="was changed between two steps"):
        steps(model, optimizer, 1)
