"""Making a plan from a workload, made-up values and a made-up profile."""

from dataclasses import replace

import numpy as np
import pytest
from builders import (
    TILE,
    conv_shape,
    profile_of,
    small_profile,
    small_workload,
    timing_of,
    workload_of,
)
from hypothesis import given
from hypothesis import strategies as st

from cost_models import (
    CostModelError,
    DeviceProfile,
    LayerWorkload,
    Layout,
    ModelTiming,
    cost_model,
)
from cost_models.shapes_digest import shapes_digest
from spartan_planner.errors import InfeasibleBudgetError, PlanError, UsageError
from spartan_planner.planning import (
    Budget,
    LayerValues,
    PlanRequest,
    Schedule,
    make_plan,
    parse_budget,
    profile_fingerprint,
    value_curve,
)
from spartan_planner.profiling.treatments import candidate_layouts

ROUNDING = 1e-12
"""Relative; sums of a handful of float64 in another order."""


def block_values(layer: LayerWorkload, layout: Layout) -> np.ndarray:
    sizes = layout.block_sizes(layer.shape.weight_shape)
    return np.random.default_rng(len(sizes)).exponential(size=len(sizes)) * sizes


class MadeUpWeights:
    """The sum of the blocks of any layout is the layer's; one for layers without."""

    def stored_shape(self, layer) -> tuple[int, ...]:
        return layer.shape.weight_shape

    def values(self, layer, layouts) -> LayerValues:
        curves = tuple(
            value_curve(block_values(layer, layout), layout.block_sizes(layer.shape.weight_shape))
            for layout in layouts
        )
        return LayerValues(curves[0].value if curves else 1.0, curves, checksum=0)


def lowerable(layer: LayerWorkload):
    return [Layout.parse(TILE)] if candidate_layouts(layer.shape) else []


def plan_for(text, workload=None, profile=None, layouts=lowerable, **options):
    workload = workload or small_workload()
    budgets = [parse_budget(part) for part in text.split()]
    shapes = options.pop("input_shapes", ())
    request = PlanRequest(budgets, profile, layouts, **options)
    return make_plan(workload, MadeUpWeights(), request, input_shapes=shapes)


def counted(plan, cost: str, profile=None) -> float:
    """The plan's cost, counted anew from the cost models and the planned densities.

    All sparse layers are lowered: here that always pays.
    """
    workload, model = small_workload(), cost_model(cost)
    total = model.rest(workload, profile)
    for planned in plan.layers:
        layer = workload.layer(planned.name)
        if planned.is_sparse:
            layout = Layout.parse(planned.layout)
            blocks = planned.density * layout.num_whole_blocks(layer.shape.weight_shape)
            total += model.linear_cost(layer, layout, profile).best(blocks)
        else:
            total += model.dense_cost(layer, profile)
    return total


@pytest.mark.parametrize("budget", ["latency=60%", "latency=2.5ms", "flops=50%", "params=60K"])
def test_prediction_is_the_cost_of_what_is_planned(budget):
    profile = small_profile()
    plan = plan_for(budget, profile=profile)
    assert plan.budget.cost == budget.split("=")[0]
    told = {total.cost for total in (*plan.budgets, *plan.totals)}
    assert told == {"latency", "flops", "params", "memory", "energy"}
    for total in (*plan.budgets, *plan.totals):
        assert total.predicted == pytest.approx(counted(plan, total.cost, profile), rel=ROUNDING)
        assert total.predicted == pytest.approx(plan.predicted(total.cost), rel=ROUNDING)
        assert total.predicted <= total.dense


@given(st.floats(30, 120))
def test_predicted_is_never_above_asked_and_at_most_one_block_below(share):
    plan = plan_for(f"flops={share:.6f}%")
    budget = plan.budget
    assert budget.predicted <= budget.asked
    incomplete = [x for x in plan.sparse_layers if x.num_kept_blocks < x.num_blocks]
    if incomplete:
        block = max(layer.costs["flops"].per_block for layer in incomplete)
        assert budget.asked - budget.predicted <= block * (1 + ROUNDING)


@pytest.mark.parametrize("text", ["tile:48x1", "tile:7x3", "tile:32x1@24", "element"])
def test_ragged_blocks_are_predicted_for_what_they_hold(text):
    plan = plan_for("params=50%", layouts=lambda _: [Layout.parse(text)])
    assert plan.budget.predicted <= plan.budget.asked
    for layer in plan.sparse_layers:
        # The density is rounded once more than the kept size.
        expected = layer.density * layer.num_weights
        assert layer.predicted("params") == pytest.approx(expected, rel=ROUNDING)
    assert counted(plan, "params") == pytest.approx(plan.budget.predicted, rel=ROUNDING)


def test_without_a_profile_only_countable_costs_are_told():
    plan = plan_for("flops=50%")
    assert plan.profile is None
    assert [total.cost for total in plan.totals] == ["params", "memory"]


def test_plan_names_what_it_was_made_from():
    workload, profile = small_workload(), small_profile()
    schedule = Schedule(beta=20.0)
    plan = plan_for("latency=60%", profile=profile, schedule=schedule, input_shapes=((1, 3, 8, 8),))
    assert (plan.model, plan.model_fingerprint) == (workload.model, workload.fingerprint)
    assert [layer.name for layer in plan.layers] == [layer.name for layer in workload.layers]
    assert plan.profile.fingerprint == profile_fingerprint(profile)
    assert plan.profile.measurement.yardstick_ms == profile.measurement.provenance.yardstick_ms
    assert plan.schedule == schedule
    assert plan.input_shapes == ((1, 3, 8, 8),)
    assert 0 < plan.retained_value < 1


def test_fingerprint_changes_with_the_profile():
    profile = small_profile()
    slower = replace(profile, run_overhead_ms=1.0)
    assert profile_fingerprint(profile) == profile_fingerprint(small_profile())
    assert profile_fingerprint(profile) != profile_fingerprint(slower)


def test_same_question_same_plan():
    assert plan_for("flops=40%") == plan_for("flops=40%")


@pytest.mark.parametrize("text", ["flops=100%", "flops=250%", "flops=1T"])
def test_more_than_dense_keeps_all_value(text):
    plan = plan_for(text)
    assert plan.retained_value == pytest.approx(1, rel=ROUNDING)
    assert plan.budget.predicted <= plan.budget.dense <= plan.budget.asked


def test_layers_that_may_not_be_pruned_stay_dense():
    layers = [
        replace(layer, prunable=layer.name != "a.weight") for layer in small_workload().layers
    ]
    plan = plan_for("params=70%", workload_of(*layers))
    assert [layer.name for layer in plan.sparse_layers] == ["b.weight"]


def test_layer_where_no_layout_pays_stays_dense():
    """Its fixed part alone costs more than dense."""
    a, b = conv_shape(64, 64), conv_shape(128, 64)
    workload = workload_of(LayerWorkload("a", a, 64), LayerWorkload("b", b, 64))
    profile = profile_of(timing_of(a, (TILE,), 1.0, 1.1), timing_of(b, (TILE,), 2.0, 0.1))
    plan = plan_for("latency=60%", workload, profile)
    assert [layer.is_sparse for layer in plan.layers] == [False, True]


@pytest.mark.parametrize("text", ["flops=1%", "latency=1%", "latency=0.1ms", "params=1K"])
def test_infeasible_budget_asks_for_one_that_is_feasible(text):
    profile = small_profile()
    with pytest.raises(InfeasibleBudgetError, match="cannot be reached: the least") as caught:
        plan_for(text, profile=profile)
    hint = str(caught.value).rpartition("ask for ")[2].removesuffix(" or more")
    plan = plan_for(hint, profile=profile)
    assert plan.budget.predicted <= plan.budget.asked


def test_a_budget_is_needed_and_one_on_each_cost():
    for budgets in ([], [Budget("flops", 0.5, True), Budget("flops", 0.4, True)]):
        with pytest.raises(UsageError, match="at least one, and at most one on each cost"):
            make_plan(small_workload(), MadeUpWeights(), PlanRequest(budgets, layouts=lowerable))


def test_several_budgets_are_all_met():
    plan = plan_for("flops=60% params=55% latency=70%", profile=small_profile())
    assert [budget.cost for budget in plan.budgets] == ["flops", "params", "latency"]
    for budget in plan.budgets:
        assert budget.predicted <= budget.asked
        assert budget.predicted == pytest.approx(
            counted(plan, budget.cost, small_profile()), rel=ROUNDING
        )


def test_nothing_to_prune_is_refused():
    with pytest.raises(PlanError, match="no layer of small can be pruned"):
        plan_for("flops=50%", layouts=lambda _: [])


STORED = "it is stored transposed, as [in 64, out 64]"


def fixed(*names):
    return workload_of(
        *(
            replace(layer, prunable=False, not_prunable_because=STORED)
            if layer.name in names
            else layer
            for layer in small_workload().layers
        )
    )


def test_the_reason_why_nothing_can_be_pruned_is_told():
    everything = [layer.name for layer in small_workload().layers]
    with pytest.raises(PlanError) as caught:
        plan_for("flops=50%", fixed(*everything))
    assert "no layer of small can be pruned: it is stored transposed (such as b" in str(
        caught.value
    )
    with pytest.raises(PlanError, match=r"considered; 1 layer\(s\) never can, it is stored"):
        plan_for("flops=50%", fixed("a.weight"), layouts=lambda _: [])


def test_many_weights_that_cannot_be_pruned_are_told():
    (warning,) = plan_for("params=80%", fixed("a.weight")).warnings
    assert warning == (
        "1 of 4 layers with 32% of the weights cannot be pruned: it is stored transposed (such as "
        "a.weight)"
    )
    assert plan_for("params=80%", fixed("stem.weight")).warnings == ()


@pytest.mark.parametrize("latency", ["100%", "130%"])
def test_a_layout_that_never_pays_is_masked_for_the_cost_that_it_does_save(latency):
    """Lowered it would be slower than dense; for the operations alone it is kept, zeros and all."""
    shape = conv_shape(64, 64)
    workload = workload_of(LayerWorkload("a", shape, 64))
    profile = profile_of(timing_of(shape, (TILE,), 1.0, 1.1))
    plan = plan_for(f"latency={latency} flops=55%", workload, profile)
    time, flops = plan.budgets
    (layer,) = plan.sparse_layers
    assert plan.lowered_layers() == frozenset()
    assert time.predicted == time.dense <= time.asked
    assert flops.predicted <= flops.asked < flops.predicted + layer.costs["flops"].per_block


def test_latency_without_a_profile_is_refused():
    with pytest.raises(CostModelError, match="give a profile"):
        plan_for("latency=50%")


def measured_profile() -> DeviceProfile:
    """The layers and the whole model, measured."""
    workload = small_workload()
    whole = ModelTiming("small", workload.fingerprint, 5.0, 4.0, 1.0, shapes_digest(workload))
    return replace(small_profile(), models=(whole,))


def sources(plan) -> set[str]:
    return {layer.costs["latency"].source for layer in plan.layers}


@pytest.mark.parametrize("text", ["latency=60%", "flops=60%"])
def test_measured_layers_need_no_warning(text):
    plan = plan_for(text, profile=measured_profile())
    assert sources(plan) == {"measured"}
    assert plan.warnings == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapes_digest": "0" * 64}, "'made-up' ran the model at other input shapes"),
        ({"fingerprint": "0" * 64}, "'made-up' did not run the whole model"),
    ],
)
def test_a_rest_that_was_estimated_is_told(changes, message):
    profile = measured_profile()
    other = replace(profile, models=(replace(profile.models[0], **changes),))
    (warning,) = plan_for("latency=60%", profile=other).warnings
    assert warning.startswith("the latency of what belongs to no layer was estimated, since")
    assert message in warning


@pytest.mark.parametrize("text", ["latency=60%", "flops=60%"])
def test_facts_alone_make_a_plan_that_says_so(text):
    plan = plan_for(text, profile=profile_of())
    assert sources(plan) == {"estimated"}
    (warning,) = plan.warnings
    assert warning == (
        "the latency of every layer and of the rest of the model was estimated, since profile "
        "'made-up' did not measure it; expect 0.5 to 2 times the estimate, or profile this "
        "workload on the device"
    )


def test_layers_that_were_estimated_are_named():
    measured = [t for t in small_profile().layers if t.shape != conv_shape(128, 64)]
    plan = plan_for("latency=70%", profile=profile_of(*measured))
    (warning,) = plan.warnings
    assert "latency of 1 layer(s) (b.weight) and of the rest of the model was estimated" in warning
    assert "only at" not in warning


def test_a_layer_measured_at_another_batch_is_named_with_it():
    shape = conv_shape(128, 64)
    other = timing_of(replace(shape, input_shape=(8, 64, 8, 8)), (TILE,))
    measured = [t for t in small_profile().layers if t.shape != shape]
    (warning,) = plan_for("latency=70%", profile=profile_of(*measured, other)).warnings
    assert "at input (1, 64, 8, 8), only at (8, 64, 8, 8); expect" in warning


def test_a_layout_that_was_not_measured_is_named():
    def layouts(layer):
        return [Layout.parse("tile:16x1@16")] if candidate_layouts(layer.shape) else []

    plan = plan_for("latency=70%", profile=small_profile(), layouts=layouts)
    assert plan.sparse_layers
    (warning,) = plan.warnings
    assert "did not measure it in this layout; expect" in warning


def test_of_many_estimated_layers_some_are_named():
    shapes = [conv_shape(64, 32, side=side) for side in range(4, 14)]
    layers = [LayerWorkload(f"w{i}", shape, 1) for i, shape in enumerate(shapes)]
    measured = conv_shape(64, 64)
    workload = workload_of(*layers, LayerWorkload("known", measured, 64))
    plan = plan_for("latency=70%", workload, profile_of(timing_of(measured)))
    assert "10 layer(s) (w0, w1, w2, w3, w4, w5, w6, w7 and 2 more)" in plan.warnings[0]
