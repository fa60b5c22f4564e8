"""Training to plans that remove channels and heads."""

import copy
import itertools

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from spartan_planner.channels import channel_groups, remove_channels
from spartan_planner.channels.planned import inputs_as_planned, planned_groups
from spartan_planner.errors import PlanError, TrainingError
from spartan_planner.export import prune_one_shot
from spartan_planner.plan_model import plan as make_plan
from spartan_planner.planning import Schedule
from spartan_planner.training import Fixed, Sparsifier
from spartan_planner.training.channel_competition import select, soften

NUM_STEPS = 20
SAME = 1e-5
"""Of outputs in float32: sums over fewer terms, in another order."""


class Residual(nn.Module):
    """A residual block of convolutions with normalisation, and a classifier."""

    def __init__(self, width=16, inner=24):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, inner, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.outer, self.outer_norm = nn.Conv2d(inner, width, 1), nn.BatchNorm2d(width)
        self.last = nn.Linear(width, 10)

    def forward(self, images):
        hidden = torch.relu(self.norm(self.stem(images)))
        inner = torch.sigmoid(self.depthwise(torch.relu(self.inner_norm(self.inner(hidden)))))
        return self.last(torch.relu(hidden + self.outer_norm(self.outer(inner))).mean((2, 3)))


class Attentive(nn.Module):
    """A block of attention with packed queries, keys and values, and an MLP, over four tokens."""

    def __init__(self, width=16):
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 32), nn.Linear(32, width)
        self.last = nn.Linear(width, 10)

    def attend(self, tokens):
        packed = self.qkv(tokens).unflatten(-1, (3, -1, 4)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(packed[0], packed[1], packed[2])
        return self.proj(attended.transpose(1, 2).flatten(2))

    def forward(self, images):
        tokens = images.flatten(1).unflatten(1, (4, 16))
        tokens = tokens + self.attend(self.norm(tokens))
        tokens = tokens + self.down(functional.gelu(self.up(tokens)))
        return self.last(tokens.mean(1))


NETWORKS = {"residual": Residual, "attention": Attentive}
METHODS = ("spartan", "dual_averaging", "magnitude")
LAYOUTS = {"channels": ("channel", "head"), "channels and tiles": ("channel", "head", "tile:4x1@2")}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=3e-3),
}


def batch(seed=0, size=16):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 1, 8, 8, generator=generator)
    return images, torch.randint(0, 10, (size,), generator=generator)


def network(name="residual", seed=0):
    torch.manual_seed(seed)
    return NETWORKS[name]()


def plan_of(model, layouts=LAYOUTS["channels"], budget=None, **options):
    with_tiles = layouts == LAYOUTS["channels and tiles"]
    budgets = ("40%", "8%") if isinstance(model, Residual) else ("65%", "15%")
    inputs = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    asked = {"flops": budget or budgets[with_tiles]}
    plan = make_plan(model, inputs, budgets=asked, layouts=layouts, **options)
    assert plan.kept_units
    assert any(layer.cut_by for layer in plan.sparse_layers) == with_tiles
    return plan


def train(model, sparsifier, optimizer, num_steps, watch=None, first=0):
    for step in range(first, first + num_steps):
        images, labels = batch(step)
        optimizer.zero_grad()
        cross_entropy(model.train()(images), labels).backward()
        optimizer.step()
        if watch:
            watch(sparsifier)
    return sparsifier


def run(model, plan, method=None, optimizer="sgd", watch=None, num_steps=NUM_STEPS):
    owner = OPTIMIZERS[optimizer](model.parameters())
    sparsifier = Sparsifier(model, plan, owner, NUM_STEPS, method)
    return train(model, sparsifier, owner, num_steps, watch)


def smaller(model, plan, sparsifier):
    kept = {group.name: group.kept for group in sparsifier._channels.groups}
    return remove_channels(model, planned_groups(model, plan), kept)


def difference(model, other):
    images, _ = batch(99)
    with torch.no_grad():
        one, two = model.eval()(images), other.eval()(images)
    return float((one - two).abs().max() / one.abs().max())


def unread(group, model):
    """Units whose readers hold nothing but zeros, in the order of their numbers."""
    parameters = dict(model.named_parameters())
    found = []
    for unit in range(group.num_units):
        parts = [part for part in group.slices if part.role == "input"]
        slices = (
            parameters[part.tensor].index_select(part.dim, torch.tensor(part.indices[unit]))
            for part in parts
        )
        if all(not bool(item.any()) for item in slices):
            found.append(unit)
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_counts_of_units_hold_at_every_step(name, method, optimizer):
    model = network(name)
    plan = plan_of(model)
    counts = []

    def watch(sparsifier):
        found = {g.name: g.num_units - len(unread(g, model)) for g in groups}
        assert found == sparsifier.stats()["kept_units"]
        counts.append(found)

    groups = planned_groups(model, plan)
    assert groups
    sparsifier = run(model, plan, method, optimizer, watch)
    reached = int(NUM_STEPS * sparsifier.schedule.budget_fraction)
    assert all(found == plan.kept_units for found in counts[reached:])
    assert all(
        before[group.name] >= after[group.name]
        for group in groups
        for before, after in itertools.pairwise(counts)
    )
    assert sparsifier.stats()["predicted"] <= plan.budget.asked
    sparsifier.finalize()


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_at_any_step_the_model_computes_what_the_smaller_one_does(name, method, layouts):
    model = network(name)
    plan = plan_of(model, LAYOUTS[layouts])

    def watch(sparsifier):
        assert difference(model, smaller(model, plan, sparsifier)) <= SAME

    sparsifier = run(model, plan, method, watch=watch)
    sparsifier.finalize()
    watch(sparsifier)


@pytest.mark.parametrize("method", METHODS)
def test_every_slice_of_a_removed_unit_is_zero_while_masks_stand_still(method):
    model = network()
    plan = plan_of(model)
    groups, frozen = planned_groups(model, plan), []

    def removed_is_zero(sparsifier):
        tensors = dict(model.named_parameters())
        for group, found in zip(groups, sparsifier._channels.groups, strict=True):
            gone = sorted(set(range(group.num_units)) - set(found.kept))
            assert gone
            for part in group.slices:
                if part.tensor in tensors:
                    index = torch.tensor(part.elements(gone))
                    assert not tensors[part.tensor].index_select(part.dim, index).any()

    def watch(sparsifier):
        if sparsifier.is_frozen:
            removed_is_zero(sparsifier)
            frozen.append([group.kept for group in sparsifier._channels.groups])

    sparsifier = run(model, plan, method, watch=watch)
    sparsifier.finalize()
    removed_is_zero(sparsifier)
    assert len(frozen) > 1
    assert all(kept == frozen[0] for kept in frozen)


def test_a_normalisation_is_neutral_where_channels_went():
    model = network()
    plan = plan_of(model)
    sparsifier = run(model, plan)
    sparsifier.finalize()
    by_name = {group.name: group for group in sparsifier._channels.groups}
    gone = sorted(set(range(24)) - set(by_name["inner.weight"].kept))
    norm = model.inner_norm
    assert not norm.running_mean[gone].any()
    assert bool((norm.running_var[gone] == 1).all())
    assert not norm.eval()(torch.zeros(1, 24, 2, 2))[:, gone].any()


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("at", [2, 11, 18])
def test_a_resumed_run_is_the_same_bit_for_bit(method, at, layouts):
    def start():
        model = network()
        optimizer = OPTIMIZERS["adamw"](model.parameters())
        sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS, method)
        return model, optimizer, sparsifier

    plan = plan_of(network(), LAYOUTS[layouts])
    model, optimizer, sparsifier = start()
    train(model, sparsifier, optimizer, at)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), sparsifier.state_dict()))
    train(model, sparsifier, optimizer, NUM_STEPS - at, first=at)
    sparsifier.finalize()

    other, second, resumed = start()
    other.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    train(other, resumed, second, NUM_STEPS - at, first=at)
    resumed.finalize()
    assert all(
        torch.equal(one, two)
        for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("layouts", LAYOUTS)
def test_densities_are_shares_of_the_whole_weights(layouts):
    model = network()
    plan = plan_of(model, LAYOUTS[layouts])
    sparsifier = run(model, plan)
    sparsifier.finalize()
    stats = sparsifier.stats()
    parameters = dict(model.named_parameters())
    pruned = {layer.name for layer in plan.layers if layer.cut_by or layer.is_sparse}
    assert set(stats["densities"]) == pruned
    for name, density in stats["densities"].items():
        found = float((parameters[name] != 0).float().mean())
        assert found == pytest.approx(density, rel=RAGGED)
    kept = sum(int((parameters[name] != 0).sum()) for name in pruned)
    whole = sum(parameters[name].numel() for name in pruned)
    assert stats["density"] == pytest.approx(kept / whole, rel=RAGGED)


RAGGED = 0.02
"""Balanced tiles count whole steps of inputs in every group."""


def test_an_average_of_the_weights_loses_the_same_channels():
    model, plan = network(), plan_of(network())
    sparsifier = run(model, plan)
    average = network(seed=5)
    sparsifier.apply_to(average)
    for group in sparsifier._channels.groups:
        gone = sorted(set(range(group.num_units)) - set(group.kept))
        assert unread(group.group, average) == gone
    sparsifier.finalize()


def test_latent_weights_are_those_behind_the_masks():
    model = network()
    plan = plan_of(model)
    sparsifier = run(model, plan, num_steps=10)
    latents = sparsifier.latent_weights()
    assert (model.outer.weight == 0).any()
    assert (latents["outer.weight"] != 0).all()
    with pytest.warns(UserWarning, match="after 10 of 20"):
        sparsifier.finalize()
    found = {g.name: g.num_units - len(unread(g, model)) for g in planned_groups(model, plan)}
    assert found == plan.kept_units


def test_weights_changed_between_steps_are_refused():
    model = network()
    plan = plan_of(model)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS)
    train(model, sparsifier, optimizer, 3)
    with torch.no_grad():
        model.outer.weight.add_(1.0)
    with pytest.raises(TrainingError, match=r"'outer.weight' was changed between two steps"):
        train(model, sparsifier, optimizer, 1)


def test_another_models_groups_are_refused():
    plan = plan_of(network())
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with pytest.raises(PlanError, match=r"no such group; plan again"):
        Sparsifier(model, plan, optimizer, NUM_STEPS, channel_groups=())


@pytest.mark.parametrize("layouts", LAYOUTS)
def test_fixed_masks_hold_what_is_pruned_already(layouts):
    model = network()
    plan = plan_of(model, LAYOUTS[layouts])
    prune_one_shot(model, plan)
    before = {name: item.detach() != 0 for name, item in model.named_parameters()}
    sparsifier = run(model, plan, "fixed")
    sparsifier.finalize()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            assert torch.equal(parameter != 0, before[name])
    assert sparsifier.stats()["kept_units"] == plan.kept_units


def test_fixed_masks_above_the_counts_are_refused():
    model = network()
    plan = plan_of(model)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with pytest.raises(TrainingError, match="the fixed masks keep"):
        Sparsifier(model, plan, optimizer, NUM_STEPS, "fixed")
    masks = {name: torch.ones(1) for name, _ in model.named_parameters()}
    with pytest.raises(TrainingError, match="needs a mask of shape"):
        Sparsifier(model, plan, optimizer, NUM_STEPS, Fixed(masks))


def test_groups_are_found_under_mixed_precision():
    """Accelerate puts its autocast around forward, and leaves it there when asked for the model."""
    model = network()
    plan = plan_of(model)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    prepared = accelerator.prepare_model(model)
    wrapped = prepared.forward
    expected = [group.name for group in planned_groups(network(), plan)]
    assert [group.name for group in planned_groups(prepared, plan)] == expected
    assert prepared.forward is wrapped


GRADIENT_TOLERANCE = 1e-4
"""Against central differences in float64 with a step of 1e-6, whose soft masks are solved to 1e-9
or so of their budget: seen 5e-6."""


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("layouts", LAYOUTS)
def test_the_gradient_is_the_derivative_of_the_softly_masked_loss(name, layouts):
    """dL/dtheta of L(theta m(theta)) with h = 1, in every parameter at once."""
    model = network(name).double().eval()
    schedule = Schedule(beta_rule="paper")  # the other rule lets beta depend on the weights
    plan = plan_of(network(name), LAYOUTS[layouts], schedule=schedule)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    groups = channel_groups(network(name), inputs_as_planned(plan))
    sparsifier = Sparsifier(model, plan, optimizer, 1000, channel_groups=groups)
    channels, competition = sparsifier._channels, sparsifier._competition
    images, labels = batch()[0].double(), batch()[1]
    point = sparsifier.method.point(sparsifier.schedule, 300, 1000)

    @torch.no_grad()
    def mask_softly():
        """Write theta m into the parameters, which hold theta."""
        for item in channels.rewritten:
            channels.latents[item] = channels.parameters[item].detach().clone()
        for group in channels.groups:
            soften(group, channels.dense, sparsifier.schedule, point)
        for weight in competition.weights:
            if weight.name in channels.tiled:
                weight.local.copy_(channels.tiled[weight.name].taken(channels.dense(weight.name)))
            weight.keep_latent()
        if competition.weights:
            competition.soften(competition.select(point.budget_share), point)
        for weight in competition.weights:
            weight.local.copy_(weight.latent * weight.expanded(weight.soft))
        for group in channels.groups:
            group.hard, group.saved = torch.ones_like(group.hard), group.hard
        for item in channels.rewritten:
            channels.parameters[item].detach().copy_(channels._sparse(item))
        for group in channels.groups:
            group.hard = group.saved

    for group in channels.groups:
        select(group, channels.dense, point)
    parameters = list(model.parameters())
    thetas = [parameter.detach().clone() for parameter in parameters]
    mask_softly()
    cross_entropy(model(images), labels).backward()
    with torch.no_grad():
        channels.turn_gradients(competition)
    gradients = [parameter.grad.clone() for parameter in parameters]

    @torch.no_grad()
    def soft_loss(step, directions):
        for parameter, theta, direction in zip(parameters, thetas, directions, strict=True):
            parameter.copy_(theta + step * direction)
        mask_softly()
        return float(cross_entropy(model(images), labels))

    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        directions = [torch.randn(p.shape, generator=generator).double() for p in parameters]
        rise = soft_loss(1e-6, directions) - soft_loss(-1e-6, directions)
        found = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
        assert found == pytest.approx(rise / 2e-6, rel=GRADIENT_TOLERANCE)


def test_closures_are_refused_while_channels_are_pruned():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Sparsifier(model, plan_of(model), optimizer, NUM_STEPS)
    images, labels = batch()
    with pytest.raises(TrainingError, match="not supported while channels are pruned; call"):
        optimizer.step(lambda: cross_entropy(model(images), labels))
