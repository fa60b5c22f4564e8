import copy
from dataclasses import replace

import pytest
import torch
from networks import TinyNetwork, tiny_inputs, tiny_network, tiny_plan
from torch.nn.functional import cross_entropy

from cost_models import Layout
from spartan_planner.blocks import assign_blocks
from spartan_planner.errors import PlanError, TrainingError
from spartan_planner.export.kept_sizes import kept_sizes
from spartan_planner.plan_model import plan as make_plan
from spartan_planner.planning import parse_budget
from spartan_planner.training import Sparsifier
from spartan_planner.transport import SelectionStatus, SoftSelection, tile_values

NUM_STEPS = 20
GRADIENT_TOLERANCE = 2e-3
"""Against a central difference in float64 with a step of 1e-6 of a float32-free computation."""

BUDGET_LEFT = 0.03
"""Share of the tightest of several budgets that may be left: their blend is lowered until all hold,
and recovers by a percent a step."""

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-4),
}


def batch(seed=0, size=8):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 1, 8, 8, generator=generator)
    return images, torch.randint(0, 10, (size,), generator=generator)


def run(model, plan, optimizer, num_steps=NUM_STEPS, total_steps=NUM_STEPS, watch=None):
    sparsifier = Sparsifier(model, plan, optimizer, total_steps)
    images, labels = batch()
    for _ in range(num_steps):
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        if watch:
            watch(sparsifier)
    return sparsifier


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_budget_holds_at_the_end_whatever_the_optimizer(name):
    model = tiny_network()
    plan = tiny_plan(model)
    sparsifier = run(model, plan, OPTIMIZERS[name](model.parameters()))
    sparsifier.finalize()
    predicted = plan.predicted("flops", kept_sizes(model, plan))
    assert predicted <= plan.budget.asked
    one_block = max(layer.costs["flops"].per_block for layer in plan.sparse_layers)
    assert predicted > plan.budget.asked - one_block


def test_the_model_holds_sparse_weights_between_steps_within_the_budget():
    model = tiny_network()
    plan = tiny_plan(model)
    reached = int(NUM_STEPS * plan.schedule.budget_fraction)

    def watch(sparsifier):
        if sparsifier.num_steps_done >= reached:
            assert plan.predicted("flops", kept_sizes(model, plan)) <= plan.budget.asked

    run(model, plan, OPTIMIZERS["sgd"](model.parameters()), watch=watch)


def test_zeros_stay_zero_through_the_frozen_phase():
    model = tiny_network()
    plan = tiny_plan(model)
    masks = []

    def watch(sparsifier):
        if sparsifier.is_frozen:
            masks.append(model.body.weight.detach() != 0)

    sparsifier = run(model, plan, OPTIMIZERS["adamw"](model.parameters()), watch=watch)
    sparsifier.finalize()
    assert len(masks) == NUM_STEPS * plan.schedule.frozen_fraction + 1
    assert all(torch.equal(masks[0], mask) for mask in masks)
    assert not masks[0].all()


def test_the_gradient_is_the_derivative_of_the_soft_masked_loss():
    """dL/dtheta of L(theta * m(theta)) with h = 1, against central differences in float64."""
    model = tiny_network().double()
    plan = tiny_plan(tiny_network(), "30%")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsifier = Sparsifier(model, plan, optimizer, 1000)
    images, labels = (batch()[0].double(), batch()[1])

    def loss():
        return cross_entropy(model.eval()(images), labels)

    loss().backward()
    optimizer.step()
    point = sparsifier.method.point(plan.schedule, 1, 1000)
    latents = {w.name: w.latent.clone() for w in sparsifier._weights}
    for weight in sparsifier._weights:
        # The straight-through estimator differentiates as if the hard mask were 1.
        with torch.no_grad():
            weight.parameter.copy_(weight.latent * weight.assignment.expand(weight.soft))
    optimizer.zero_grad()
    loss().backward()
    with torch.no_grad():
        sparsifier.method.turn_gradients(sparsifier._competition)
    analytic = model.body.weight.grad.clone()

    def soft_loss(theta):
        with torch.no_grad():
            model.body.weight.copy_(theta)
            model.tail.weight.copy_(latents["tail.weight"])
            for weight in sparsifier._weights:
                weight.keep_latent()
            sparsifier._competition.soften(
                sparsifier._competition.select(point.budget_share), point
            )
            for weight in sparsifier._weights:
                soft = weight.assignment.expand(weight.soft)
                weight.parameter.copy_(latents_at(weight, theta) * soft)
            return float(loss())

    def latents_at(weight, theta):
        return theta if weight.name == "body.weight" else latents[weight.name]

    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(analytic.shape, generator=generator, dtype=torch.float64)
        step = 1e-6
        theta = latents["body.weight"]
        rise = soft_loss(theta + step * direction) - soft_loss(theta - step * direction)
        expected = rise / (2 * step)
        assert float((analytic * direction).sum()) == pytest.approx(
            expected, rel=GRADIENT_TOLERANCE
        )


def test_gradient_accumulation_equals_one_large_batch():
    plan = tiny_plan(tiny_network())
    images, labels = batch(size=8)
    results = []
    for parts in (1, 2):
        model = tiny_network().eval()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        Sparsifier(model, plan, optimizer, NUM_STEPS)
        for _ in range(6):
            optimizer.zero_grad()
            for chunk, target in zip(images.chunk(parts), labels.chunk(parts), strict=True):
                (cross_entropy(model(chunk), target) / parts).backward()
            optimizer.step()
        results.append(model.body.weight.detach().clone())
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


def test_two_runs_are_bit_for_bit_the_same():
    results = []
    for _ in range(2):
        model = tiny_network()
        run(model, tiny_plan(model), OPTIMIZERS["sgd"](model.parameters()))
        results.append(model.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_a_full_budget_changes_nothing():
    plan = tiny_plan(tiny_network(), "100%")
    assert not plan.sparse_layers
    sparse, dense = tiny_network(), tiny_network()
    run(sparse, plan, torch.optim.SGD(sparse.parameters(), lr=0.05))
    optimizer = torch.optim.SGD(dense.parameters(), lr=0.05)
    images, labels = batch()
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        cross_entropy(dense(images), labels).backward()
        optimizer.step()
    assert torch.equal(sparse.body.weight, dense.body.weight)


def test_the_kept_blocks_are_the_most_valuable_latent_ones():
    model = tiny_network()
    plan = tiny_plan(model)
    sparsifier = run(model, plan, OPTIMIZERS["sgd"](model.parameters()), num_steps=10)
    weight = next(w for w in sparsifier._weights if w.name == "body.weight")
    values, _ = assign_blocks(weight.latent, Layout.parse(plan.sparse_layers[0].layout))
    _, assignment = assign_blocks(weight.latent, Layout.parse(plan.sparse_layers[0].layout))
    hard = assignment.sum_tiles(tile_values(weight.parameter, assignment.tile)) > 0
    kept, dropped = values[hard], values[~hard]
    assert kept.numel()
    assert dropped.numel()
    assert kept.min() >= dropped.max()


@pytest.mark.parametrize("layout", ["tile:32x1", "tile:8x4", "element"])
def test_unbalanced_layouts_hold_the_budget_too(layout):
    model = tiny_network()
    plan = tiny_plan(model, "40%", layouts=[layout])
    sparsifier = run(model, plan, OPTIMIZERS["sgd"](model.parameters()))
    sparsifier.finalize()
    assert plan.predicted("flops", kept_sizes(model, plan)) <= plan.budget.asked


def test_a_plan_for_another_model_is_refused():
    plan = tiny_plan(tiny_network())
    other = TinyNetwork(width=32)
    with pytest.raises(PlanError, match="make a plan for this model"):
        Sparsifier(other, plan, torch.optim.SGD(other.parameters(), lr=0.1), 10)


def test_an_optimizer_without_a_planned_parameter_is_refused():
    model = tiny_network()
    optimizer = torch.optim.SGD(model.classifier.parameters(), lr=0.1)
    with pytest.raises(TrainingError, match="does not own parameter"):
        Sparsifier(model, tiny_plan(model), optimizer, 10)


def test_an_optimizer_that_is_never_stepped_is_detected():
    model = tiny_network()
    sparsifier = Sparsifier(
        model, tiny_plan(model), torch.optim.SGD(model.parameters(), lr=0.1), 10
    )
    with pytest.raises(TrainingError, match="never stepped"):
        sparsifier.finalize()


def test_more_steps_than_announced_are_refused():
    model = tiny_network()
    with pytest.raises(TrainingError, match="more than the announced 3 steps"):
        run(model, tiny_plan(model), OPTIMIZERS["sgd"](model.parameters()), 4, 3)


def test_no_steps_are_refused():
    model = tiny_network()
    with pytest.raises(TrainingError, match="at least 1"):
        Sparsifier(model, tiny_plan(model), torch.optim.SGD(model.parameters(), lr=0.1), 0)


def test_stats_are_figures_for_a_logger():
    model = tiny_network()
    plan = tiny_plan(model)
    stats = run(model, plan, OPTIMIZERS["sgd"](model.parameters())).stats()
    assert stats["step"] == NUM_STEPS
    assert stats["predicted"] <= plan.budget.asked
    assert set(stats["kept_sizes"]) == {layer.name for layer in plan.sparse_layers}


def test_copies_of_the_model_are_sparse_too():
    model = tiny_network()
    plan = tiny_plan(model)
    run(model, plan, OPTIMIZERS["sgd"](model.parameters()), num_steps=12)
    twin = copy.deepcopy(model)
    assert kept_sizes(twin, plan) == kept_sizes(model, plan)
    assert twin(tiny_inputs()[0]).shape == (1, 10)


def test_a_run_that_ends_early_is_cut_to_the_budget_with_a_warning():
    model = tiny_network()
    plan = tiny_plan(model)
    sparsifier = run(model, plan, OPTIMIZERS["sgd"](model.parameters()), 3, 100)
    with pytest.warns(UserWarning, match="ended after 3 of 100 announced steps"):
        sparsifier.finalize()
    assert plan.predicted("flops", kept_sizes(model, plan)) <= plan.budget.asked


def test_a_second_sparsifier_on_one_optimizer_is_refused_until_the_first_is_done():
    model = tiny_network()
    plan = tiny_plan(model)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sparsifier = run(model, plan, optimizer)
    with pytest.raises(TrainingError, match="already has a sparsifier"):
        Sparsifier(model, plan, optimizer, 10)
    sparsifier.finalize()
    Sparsifier(model, plan, optimizer, 10)


def test_soft_masks_that_miss_their_budget_are_warned_of_once(recwarn):
    model = tiny_network()
    sparsifier = run(model, tiny_plan(model), torch.optim.SGD(model.parameters(), lr=0.05))
    missed = SoftSelection((), 0.5, 400, 2e-3, SelectionStatus.NOT_CONVERGED)
    for selection in (replace(missed, status=SelectionStatus.CONVERGED), missed, missed):
        sparsifier._competition._warn_of_missed_budget(selection)
    assert [str(warning.message) for warning in recwarn] == [
        "the soft masks miss their budget by 2.0e-03 of it at a beta of "
        f"{sparsifier.stats()['beta']:g}; the hard masks keep it, but a smaller beta in the "
        "schedule would train better"
    ]


def two_budgets(model, layout, first="flops=45%", second="params=50%"):
    """Two limits of which neither keeps the other: convolutions of many and of few positions."""
    budgets = [parse_budget(first), parse_budget(second)]
    return make_plan(model, tiny_inputs(), budgets=budgets, layouts=[layout])


@pytest.mark.parametrize("layout", ["tile:64x1@16", "tile:24x3", "element"])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_every_one_of_several_budgets_holds_at_every_step_and_at_the_end(name, layout):
    model = tiny_network()
    plan = two_budgets(model, layout)
    reached = int(NUM_STEPS * plan.schedule.budget_fraction)
    watched = []

    def within():
        sizes = kept_sizes(model, plan)
        return [plan.predicted(b.cost, sizes) <= b.asked for b in plan.budgets]

    def watch(sparsifier):
        if sparsifier.num_steps_done >= reached:
            watched.append(all(within()))

    sparsifier = run(model, plan, OPTIMIZERS[name](model.parameters()), watch=watch)
    sparsifier.finalize()
    assert watched == [True] * (NUM_STEPS - reached + 1)
    assert all(within())
    costs, sizes = sparsifier.stats()["costs"], kept_sizes(model, plan)
    assert set(costs) == {"flops", "params"}
    for budget in plan.budgets:
        assert plan.predicted(budget.cost, sizes) <= costs[budget.cost] <= budget.asked
    if layout == "element":
        assert max(costs[b.cost] / b.asked for b in plan.budgets) > 1 - BUDGET_LEFT


def test_both_budgets_bind_where_that_is_said():
    plan = two_budgets(tiny_network(), "element")
    assert all(budget.price > 0 for budget in plan.budgets)
    for budget in plan.budgets:
        assert budget.predicted > budget.asked * (1 - BUDGET_LEFT)


def test_blocks_compete_by_the_blend_of_all_costs():
    model = tiny_network()
    plan = two_budgets(model, "element")
    sparsifier = Sparsifier(model, plan, torch.optim.SGD(model.parameters(), lr=0.1), 10)
    flops, params = plan.budgets
    for weight, layer in zip(sparsifier._weights, plan.sparse_layers, strict=True):
        expected = (
            flops.price * layer.costs["flops"].per_block
            + params.price * layer.costs["params"].per_block
        )
        assert weight.cost_per_block == pytest.approx(expected)


def test_a_run_with_several_budgets_that_ends_early_is_cut_to_all_of_them():
    model = tiny_network()
    plan = two_budgets(model, "element")
    sparsifier = run(model, plan, OPTIMIZERS["sgd"](model.parameters()), 3, 100)
    with pytest.warns(UserWarning, match="cut to the budget"):
        sparsifier.finalize()
    sizes = kept_sizes(model, plan)
    assert all(plan.predicted(b.cost, sizes) <= b.asked for b in plan.budgets)


def test_a_budget_that_starts_to_bind_in_training_is_kept():
    """Values that change sides: what was worth little at planning is worth most afterwards."""
    model = tiny_network()
    plan = two_budgets(model, "element")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsifier = Sparsifier(model, plan, optimizer, NUM_STEPS)
    images, labels = batch()
    for step in range(NUM_STEPS):
        if step == NUM_STEPS // 4:
            # Between steps the parameter holds the sparse weight and the latent one is aside.
            for weight in sparsifier._weights:
                weight.latent.mul_(100.0 if weight.name == "tail.weight" else 0.01)
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
    sparsifier.finalize()
    sizes = kept_sizes(model, plan)
    assert all(plan.predicted(b.cost, sizes) <= b.asked for b in plan.budgets)
    assert sizes["tail.weight"] == 128 * 64


def test_a_budget_that_leaves_nothing_keeps_what_is_protected_and_recovers():
    model = tiny_network()
    plan = two_budgets(model, "tile:64x1@16")
    sparsifier = run(model, plan, OPTIMIZERS["sgd"](model.parameters()), 10, 2 * NUM_STEPS)
    competition = sparsifier._competition
    whole = competition.budgets
    competition.budgets = replace(whole, limits=whole.limits * [1.0, 0.0])
    sparsifier._before_step()
    sparsifier._after_step()
    sizes = kept_sizes(model, plan)
    assert sizes == {layer.name: 1.0 for layer in plan.sparse_layers}
    competition.budgets = whole
    for _ in range(NUM_STEPS):
        sparsifier._before_step()
        sparsifier._after_step()
    costs = sparsifier.stats()["costs"]
    one_block = {
        b.cost: max(layer.costs[b.cost].per_block for layer in plan.sparse_layers)
        for b in plan.budgets
    }
    assert any(costs[b.cost] > b.asked - one_block[b.cost] for b in plan.budgets)
    assert all(costs[b.cost] <= b.asked for b in plan.budgets)
