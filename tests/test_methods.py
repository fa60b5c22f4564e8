"""What each method promises, and one Spartan step against plain autograd."""

from dataclasses import replace

import pytest
import torch
from networks import tiny_inputs, tiny_network, tiny_plan
from torch import nn
from torch.nn.functional import cross_entropy

from cost_models import Layout
from spartan_planner.blocks import assign_blocks
from spartan_planner.errors import NotFiniteError, TrainingError, UnknownNameError
from spartan_planner.export.kept_sizes import kept_sizes
from spartan_planner.plan_model import plan as make_plan
from spartan_planner.planning import Schedule
from spartan_planner.training import Sparsifier, default_schedule, method_named
from spartan_planner.transport import soft_topk

NUM_STEPS = 20
METHODS = ["spartan", "dual_averaging", "magnitude"]
LAYOUTS = ["tile:64x1@16", "tile:24x5", "element", "2:4"]
FLOAT64 = 1e-6
"""Of the largest slope: the price is found to 1e-9 of the budget and differentiated in float64."""


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, 1, 8, 8, generator=generator)
    return images, torch.randint(0, 10, (8,), generator=generator)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def train(model, sparsifier, optimizer, num_steps=NUM_STEPS, watch=lambda: None):
    images, labels = batch()
    for _ in range(num_steps):
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        watch()
    return sparsifier


def pattern_plan(model):
    return make_plan(model, tiny_inputs(), budgets={"params": "55%"}, layouts=["2:4"])


def plan_in(model, layout):
    return pattern_plan(model) if layout == "2:4" else tiny_plan(model, "40%", layouts=[layout])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_budget_in_every_layout(method, layout, memory_format):
    model = tiny_network().to(memory_format=memory_format)
    plan = plan_in(model, layout)
    optimizer = sgd(model)
    sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS, method)
    budget, within = plan.budget, []

    def watch():
        if sparsifier.stats()["phase"] in ("searching", "frozen"):
            sizes = kept_sizes(model, plan)
            stats = sparsifier.stats()
            assert plan.predicted(budget.cost, sizes) <= stats["predicted"] * (1 + 1e-9)
            within.append(stats["predicted"] <= budget.asked)

    train(model, sparsifier, optimizer, watch=watch).finalize()
    assert within
    assert all(within)
    assert plan.predicted(budget.cost, kept_sizes(model, plan)) <= budget.asked
    assert plan.sparse_layers


@pytest.mark.parametrize("method", METHODS)
def test_zeros_stay_zero_in_the_frozen_phase_under_momentum_and_decay(method):
    model = tiny_network()
    plan = tiny_plan(model, layouts=["element"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS, method)
    masks = []

    def watch():
        if sparsifier.is_frozen:
            masks.append(model.body.weight.detach() != 0)

    train(model, sparsifier, optimizer, watch=watch)
    assert len(masks) >= 5
    assert all(torch.equal(masks[0], mask) for mask in masks)


def test_magnitude_never_brings_a_block_back():
    model = tiny_network()
    plan = tiny_plan(model, layouts=["element"])
    optimizer = sgd(model)
    sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS, "magnitude")
    alive = [torch.ones_like(model.body.weight, dtype=torch.bool)]

    def watch():
        now = model.body.weight.detach() != 0
        assert not (now & ~alive[-1]).any()
        alive.append(now)

    train(model, sparsifier, optimizer, watch=watch)
    assert alive[1].sum() > alive[-1].sum()


def test_magnitude_falls_by_the_cube():
    point = method_named("magnitude").point(default_schedule("magnitude"), 30, 80)
    assert point.budget_share == pytest.approx((1 - 30 / 60) ** 3)
    assert method_named("magnitude").point(default_schedule("magnitude"), 60, 80).is_frozen


def test_dual_averaging_passes_dense_gradients_to_the_latent_weights():
    model = tiny_network()
    plan = tiny_plan(model, layouts=["element"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(model, plan, optimizer, 100, "dual_averaging")
    train(model, sparsifier, optimizer, 30)
    before = sparsifier.latent_weights()["body.weight"].clone()
    images, labels = batch()
    optimizer.zero_grad()
    cross_entropy(model(images), labels).backward()
    gradient = model.body.weight.grad.clone()
    pruned = model.body.weight.detach() == 0
    assert gradient[pruned].abs().max() > 0
    optimizer.step()
    after = sparsifier.latent_weights()["body.weight"]
    torch.testing.assert_close(after, before - 0.1 * gradient)
    kept = model.body.weight.detach() != 0
    assert torch.equal(model.body.weight.detach()[kept], after[kept])


def test_a_spartan_step_is_that_of_plain_autograd():
    """One layer, elements: theta -> theta m(theta) h, h as the identity, unrolled by autograd."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 9, bias=False)).double()
    example = torch.randn(5, 12, dtype=torch.float64)
    plan = make_plan(model, (example,), budgets={"params": "40%"}, layouts=["element"])
    lr, num_steps = 0.3, 10
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    theta = model[0].weight.detach().clone()
    target = torch.randn(5, 9, dtype=torch.float64)
    schedule = Schedule(budget_fraction=0.0, beta=10.0, frozen_fraction=0.0, beta_rule="paper")
    Sparsifier(model, plan, optimizer, num_steps, schedule=schedule)
    kept, beta, masked = int(0.4 * theta.numel()), 1.0, theta
    budget = plan.budget.asked * (1 - 1e-12) - plan.budget.rest
    for step in range(6):
        optimizer.zero_grad()
        ((model(example) - target) ** 2).mean().backward()
        weight = masked.detach().requires_grad_()
        ((example @ weight.T - target) ** 2).mean().backward()
        torch.testing.assert_close(model[0].weight.grad, weight.grad, rtol=FLOAT64, atol=FLOAT64)
        if step == 0:
            slope = weight.grad
        else:
            latent = theta.clone().requires_grad_()
            soft = latent * soft_topk(latent.abs().flatten(), 1.0, budget, beta).view_as(latent)
            (slope,) = torch.autograd.grad(soft, latent, weight.grad)
        theta = theta - lr * slope
        optimizer.step()
        beta = 1 + 9 * min(1.0, (step + 1) / num_steps / 0.8)
        soft = soft_topk(theta.abs().flatten(), 1.0, budget, beta).view_as(theta)
        hard = torch.zeros_like(theta).flatten()
        hard[theta.abs().flatten().topk(kept).indices] = 1
        masked = theta * soft * hard.view_as(theta)
        torch.testing.assert_close(model[0].weight.detach(), masked, rtol=FLOAT64, atol=FLOAT64)


def with_least(plan, least):
    """The plan, with so many protected blocks in every sparse layer, as far as they are kept."""
    layers = [
        replace(layer, min_kept_blocks=min(least, layer.num_kept_blocks)) for layer in plan.layers
    ]
    return replace(plan, layers=tuple(layers))


@pytest.mark.parametrize("layout", ["tile:24x5", "element", "tile:64x1@16"])
@pytest.mark.parametrize("method", METHODS)
def test_the_best_blocks_are_protected_whatever_the_price(method, layout):
    model = tiny_network()
    budget = "32%" if "@" in layout else "15%"
    plan = with_least(tiny_plan(model, budget, "params", layouts=[layout]), 7)
    # A layer worth nothing beside the others loses all that is not protected.
    with torch.no_grad():
        model.tail.weight.mul_(1e-6)
    values, _ = assign_blocks(model.tail.weight, Layout.parse(layout))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsifier = Sparsifier(model, plan, optimizer, 10, method)
    train(model, sparsifier, optimizer, 10)
    least = {layer.name: layer.min_kept_blocks for layer in plan.sparse_layers}
    assert least["tail.weight"] > 1 or "@" in layout
    assert sparsifier.stats()["kept_sizes"]["tail.weight"] == least["tail.weight"]
    if "@" not in layout:
        kept = assign_blocks(model.tail.weight, Layout.parse(layout))[0] > 0
        assert set(kept.nonzero().flatten().tolist()) == set(
            values.topk(least["tail.weight"]).indices.tolist()
        )
    assert plan.predicted(plan.budget.cost, kept_sizes(model, plan)) <= plan.budget.asked


def test_a_fixed_mask_holds_from_the_start():
    model = tiny_network()
    plan = tiny_plan(model, layouts=["element"])
    pruned = tiny_network()
    optimizer = sgd(pruned)
    train(pruned, Sparsifier(pruned, plan, optimizer, NUM_STEPS), optimizer)
    mask = {layer.name: dict(pruned.named_parameters())[layer.name] != 0 for layer in plan.layers}
    other = sgd(pruned)
    sparsifier = Sparsifier(pruned, plan, other, NUM_STEPS, "fixed")
    assert sparsifier.stats()["phase"] == "frozen"
    train(pruned, sparsifier, other).finalize()
    for layer in plan.sparse_layers:
        assert torch.equal(dict(pruned.named_parameters())[layer.name] != 0, mask[layer.name])


def test_a_fixed_mask_beyond_the_budget_is_refused_and_nothing_is_touched():
    model = tiny_network()
    before = model.body.weight.detach().clone()
    with pytest.raises(TrainingError, match="prune the weights in one shot first"):
        Sparsifier(model, tiny_plan(model), sgd(model), 10, "fixed")
    assert torch.equal(model.body.weight, before)


def test_an_unknown_method_is_refused_by_name():
    model = tiny_network()
    with pytest.raises(UnknownNameError, match="use one of spartan, dual_averaging"):
        Sparsifier(model, tiny_plan(model), sgd(model), 10, "lottery")


@pytest.mark.parametrize("method", [*METHODS, "fixed"])
def test_every_method_has_a_schedule_for_either_start(method):
    for is_trained in (False, True):
        assert default_schedule(method, is_trained).method == method


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", METHODS)
def test_a_weight_that_is_not_finite_is_named_and_nothing_is_written(method, layout, bad):
    model = tiny_network()
    optimizer, stepped = sgd(model), {}
    # Before the sparsifier's own hook.
    optimizer.register_step_post_hook(
        lambda *_: stepped.update({k: v.clone() for k, v in model.named_parameters()})
    )
    plan = plan_in(model, layout)
    sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS, method)
    weight = sparsifier._weights[-1]
    images, labels = batch()
    cross_entropy(model(images), labels).backward()
    with torch.no_grad():
        weight.parameter.view(-1)[:2] = torch.tensor([-1.0, bad])
    with pytest.raises(NotFiniteError, match=f"weights of layer {weight.name} are NaN or infinite"):
        optimizer.step()
    assert not stepped[weight.name].isfinite().all()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, stepped[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("method", METHODS)
def test_training_neither_starts_nor_ends_with_weights_that_are_not_finite(method):
    model = tiny_network()
    plan, optimizer = tiny_plan(model), sgd(model)
    sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS, method)
    train(model, sparsifier, optimizer)
    with torch.no_grad():
        model.body.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(NotFiniteError, match=r"layer body\.weight are NaN or infinite"):
        sparsifier.finalize()
    with pytest.raises(NotFiniteError, match=r"layer body\.weight are NaN or infinite"):
        Sparsifier(model, plan, optimizer, NUM_STEPS, method)
