"""Bounds per layer: how they are written, how they join, and that plans keep them."""

import numpy as np
import pytest
from builders import small_workload
from hypothesis import given
from hypothesis import strategies as st

from cost_models import Layout, UnknownNameError
from spartan_planner.errors import InfeasibleBudgetError, UsageError
from spartan_planner.planning import (
    ArrayWeights,
    Bound,
    PlanRequest,
    Policy,
    make_plan,
    parse_budget,
)
from spartan_planner.planning.bounds import bounds_of, parse_bounds, require_matches

WORKLOAD = small_workload()
ELEMENT, TILE = Layout.parse("element"), Layout.parse("tile:32x1")
POLICIES = list(Policy)


def plan_with(bounds, budget="params=40%", policy=Policy.COST):
    generator = np.random.default_rng(0)
    arrays = {
        layer.name: generator.standard_normal(layer.shape.weight_shape, np.float32)
        for layer in WORKLOAD.layers
    }
    request = PlanRequest(
        [parse_budget(budget)], layouts=[ELEMENT, TILE], bounds=bounds, policy=policy
    )
    return make_plan(WORKLOAD, ArrayWeights(arrays), request)


def layer_of(plan, name):
    return next(layer for layer in plan.layers if layer.name == name)


@pytest.mark.parametrize("policy", POLICIES)
def test_layers_stay_dense_where_that_is_asked(policy):
    assert layer_of(plan_with([], policy=policy), "a.weight").is_sparse
    plan = plan_with([Bound("a.*", keep_dense=True)], "params=60%", policy)
    assert not layer_of(plan, "a.weight").is_sparse
    assert layer_of(plan, "b.weight").is_sparse


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("density", [0.5, 0.801])
def test_layers_keep_their_minimum_density(policy, density):
    plan = plan_with([Bound("b*", min_density=density)], "params=60%", policy)
    assert layer_of(plan, "b.weight").density >= density
    assert plan.budget.predicted <= plan.budget.asked


@pytest.mark.parametrize("policy", POLICIES)
def test_layers_have_an_allowed_layout(policy):
    plan = plan_with([Bound("b*", layouts=(TILE,))], policy=policy)
    assert layer_of(plan, "b.weight").layout == "tile:32x1"


def test_a_minimum_of_everything_leaves_a_layer_whole():
    layer = layer_of(plan_with([Bound("b*", min_density=1.0)], "params=80%"), "b.weight")
    assert layer.density == 1.0


def test_bounds_that_leave_no_plan_are_refused_with_the_least_achievable():
    with pytest.raises(InfeasibleBudgetError, match=r"least achievable .* held up by"):
        plan_with([Bound("*", min_density=0.9)])


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ([], (False, 0.0, None)),
        ([Bound("other*", keep_dense=True)], (False, 0.0, None)),
        ([Bound("a*", min_density=0.2), Bound("*", min_density=0.5)], (False, 0.5, None)),
        ([Bound("*", keep_dense=True), Bound("a*", min_density=0.1)], (True, 0.1, None)),
        ([Bound("a*", layouts=(ELEMENT,))], (False, 0.0, {ELEMENT})),
        (
            [Bound("a*", layouts=(ELEMENT, TILE)), Bound("*t", layouts=(TILE,))],
            (False, 0.0, {TILE}),
        ),
        ([Bound("a*", layouts=(ELEMENT,)), Bound("*", layouts=(TILE,))], (False, 0.0, set())),
    ],
)
def test_the_strictest_bound_counts(bounds, expected):
    joint = bounds_of("a.weight", bounds)
    assert (joint.keep_dense, joint.min_density, joint.allowed) == expected
    for layout in (ELEMENT, TILE):
        allowed = expected[2] is None or layout in expected[2]
        assert joint.allows(layout) == (allowed and not expected[0])


@given(st.lists(st.floats(0, 1), min_size=1), st.randoms())
def test_the_order_of_bounds_does_not_matter(densities, random):
    bounds = [Bound("*", keep_dense=d > 0.9, min_density=d) for d in densities]
    shuffled = random.sample(bounds, len(bounds))
    assert bounds_of("a", bounds) == bounds_of("a", shuffled)


def test_patterns_tell_capitals_apart():
    assert not bounds_of("a.weight", [Bound("A*", keep_dense=True)]).keep_dense


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(UsageError, match=r"no layer matches 'haed\*'; the layers are stem"):
        plan_with([Bound("haed*", keep_dense=True)])
    require_matches(WORKLOAD.layers, [Bound("head*")])
    many = WORKLOAD.layers * 2
    with pytest.raises(UsageError, match="and others"):
        require_matches(many, [Bound("none")])


def test_bounds_as_users_write_them():
    assert parse_bounds(
        ["head*"], ["a=b*=50%", "b*=0.25"], ["c*=element, tile:32x1", "d=tile:8x1@16"]
    ) == (
        Bound("head*", keep_dense=True),
        Bound("a=b*", min_density=0.5),
        Bound("b*", min_density=0.25),
        Bound("c*", layouts=(ELEMENT, TILE)),
        Bound("d", layouts=(Layout.parse("tile:8x1@16"),)),
    )
    assert parse_bounds((), (), ()) == ()


@pytest.mark.parametrize("text", ["a*", "=50%", "", "50%"])
def test_a_bound_without_pattern_or_value_is_refused(text):
    for given_texts in (([], [text], []), ([], [], [text])):
        with pytest.raises(UsageError, match="write PATTERN=VALUE"):
            parse_bounds(*given_texts)


@pytest.mark.parametrize("text", ["a*=half", "a*=", "a*=%", "a*=50%%"])
def test_a_density_that_is_no_share_is_refused(text):
    with pytest.raises(UsageError, match="write a share such as 50% or"):
        parse_bounds([], [text], [])


@pytest.mark.parametrize("text", ["a*=150%", "a*=-0.1", "a*=nan", "a*=inf"])
def test_a_density_out_of_range_is_refused(text):
    with pytest.raises(UsageError, match="must lie between 0% and 100%"):
        parse_bounds([], [text], [])


def test_an_unknown_layout_is_refused():
    with pytest.raises(UnknownNameError, match="layout 'diagonal' is not known"):
        parse_bounds([], [], ["a*=diagonal"])
