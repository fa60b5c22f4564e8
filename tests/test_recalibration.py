"""A profile corrected by two measurements: it then predicts exactly these."""

from dataclasses import replace

import numpy as np
import pytest
from builders import TILE, profile_of, small_profile, small_workload
from hypothesis import given
from hypothesis import strategies as st

from cost_models import Layout, ModelTiming
from spartan_planner.errors import ProfileError
from spartan_planner.planning import ArrayWeights, PlanRequest, make_plan, parse_budget
from spartan_planner.profiling.treatments import candidate_layouts
from spartan_planner.recalibration import (
    Factors,
    averaged,
    calibrated,
    dense_ms,
    file_ms,
    recalibrated,
)

ROUNDING = 1e-9
"""Relative; a handful of float64 sums and one quotient of differences."""

WORKLOAD = small_workload()
WHOLE = replace(small_profile(), models=(ModelTiming("small", "f" * 64, 3.52, 3.22, 0.3),))
PROFILES = {"measured": WHOLE, "rest estimated": small_profile(), "estimated": profile_of()}
FACTORS = st.floats(0.5, 2.0)


def weights() -> ArrayWeights:
    generator = np.random.default_rng(0)
    return ArrayWeights(
        {
            layer.name: generator.standard_normal(layer.shape.weight_shape, np.float32)
            for layer in WORKLOAD.layers
        }
    )


def plan_by(profile, budget="latency=60%"):
    request = PlanRequest(
        [parse_budget(budget)],
        profile,
        lambda layer: [Layout.parse(TILE)] if candidate_layouts(layer.shape) else [],
    )
    return make_plan(WORKLOAD, weights(), request)


PLANS = {name: plan_by(profile) for name, profile in PROFILES.items()}


def kept(plan):
    return {layer.name: layer.kept_size for layer in plan.sparse_layers}


def predicted(name, profile):
    return file_ms(WORKLOAD, PLANS[name], kept(PLANS[name]), profile)


@pytest.mark.parametrize("name", PROFILES)
def test_the_file_of_a_plan_takes_what_the_plan_predicts(name):
    plan, profile = PLANS[name], PROFILES[name]
    assert plan.sparse_layers
    assert predicted(name, profile) == pytest.approx(plan.budget.predicted, rel=ROUNDING)
    assert dense_ms(WORKLOAD, profile) == pytest.approx(plan.budget.dense, rel=ROUNDING)


@pytest.mark.parametrize("name", PROFILES)
@given(FACTORS, FACTORS)
def test_the_recalibrated_profile_predicts_what_was_measured(name, dense_factor, sparse_factor):
    """Of the file exactly, whatever the device was like; of dense where the rest is measured."""
    plan, profile = PLANS[name], PROFILES[name]
    truth = calibrated(profile, dense_factor, sparse_factor)
    measured_dense_ms, measured_ms = dense_ms(WORKLOAD, truth), predicted(name, truth)
    found = recalibrated(profile, WORKLOAD, plan, kept(plan), measured_dense_ms, measured_ms)
    assert predicted(name, found) == pytest.approx(measured_ms, rel=ROUNDING)
    if name == "measured":
        assert dense_ms(WORKLOAD, found) == pytest.approx(measured_dense_ms, rel=ROUNDING)
        for layer, true in zip(found.layers, truth.layers, strict=True):
            assert layer.dense_ms == pytest.approx(true.dense_ms, rel=ROUNDING)
            for sparse, right in zip(layer.sparse, true.sparse, strict=True):
                assert sparse.fixed_ms == pytest.approx(right.fixed_ms, rel=ROUNDING)
                assert sparse.per_block_ms == pytest.approx(right.per_block_ms, rel=ROUNDING)


@given(FACTORS, FACTORS)
def test_every_time_moves_by_its_factor_and_nothing_else_moves(dense_factor, sparse_factor):
    found = calibrated(WHOLE, dense_factor, sparse_factor)
    assert found.run_overhead_ms == WHOLE.run_overhead_ms * dense_factor
    assert (found.facts, found.measurement) == (WHOLE.facts, WHOLE.measurement)
    (model,), (before,) = found.models, WHOLE.models
    assert (model.dense_ms, model.layers_ms, model.rest_ms) == (
        before.dense_ms * dense_factor,
        before.layers_ms * dense_factor,
        before.rest_ms * dense_factor,
    )
    for layer, old in zip(found.layers, WHOLE.layers, strict=True):
        assert (layer.shape, layer.dense_ms) == (old.shape, old.dense_ms * dense_factor)
        for sparse, was in zip(layer.sparse, old.sparse, strict=True):
            assert sparse.fixed_ms == was.fixed_ms * sparse_factor
            assert sparse.per_block_ms == was.per_block_ms * sparse_factor
            assert [s.latency_ms for s in sparse.samples] == [
                s.latency_ms * sparse_factor for s in was.samples
            ]
    classes = {item.layer_class: item for item in found.roofline.classes}
    (any_class,) = WHOLE.roofline.classes
    assert set(classes) == {"any", "lowered", "lowered_linear"}
    factors = dict.fromkeys(classes, sparse_factor) | {"any": dense_factor}
    for name, factor in factors.items():
        assert classes[name].compute_efficiency == any_class.compute_efficiency / factor
        assert classes[name].bandwidth_efficiency == any_class.bandwidth_efficiency / factor
        assert classes[name].overhead_ms == any_class.overhead_ms * factor


def test_the_profile_says_once_that_it_was_recalibrated():
    plan = PLANS["measured"]
    profile = WHOLE
    for _ in range(2):
        profile = recalibrated(profile, WORKLOAD, plan, kept(plan), 4.0, 2.0)
    assert profile.name == "made-up (recalibrated)"


def test_where_nothing_is_lowered_only_dense_times_move():
    plan = plan_by(WHOLE, "latency=100%")
    found = recalibrated(WHOLE, WORKLOAD, plan, {}, 2 * plan.budget.dense, 1.0)
    assert file_ms(WORKLOAD, plan, {}, found) == pytest.approx(2 * plan.budget.dense, rel=ROUNDING)
    assert [layer.sparse for layer in found.layers] == [layer.sparse for layer in WHOLE.layers]


def test_a_file_faster_than_its_dense_layers_alone_is_refused():
    plan = PLANS["measured"]
    with pytest.raises(ProfileError, match="nothing is left for the lowered ones"):
        recalibrated(WHOLE, WORKLOAD, plan, kept(plan), plan.budget.dense, 0.1)


@pytest.mark.parametrize("factors", [(0.0, 1.0), (1.0, -1.0), (1.0, float("nan"))])
def test_factors_that_are_not_positive_are_refused(factors):
    with pytest.raises(ProfileError, match="factors must be positive"):
        calibrated(WHOLE, *factors)


def test_times_that_no_device_has_are_refused():
    with pytest.raises(ProfileError, match=r"cannot be recalibrated: .* must be positive"):
        calibrated(WHOLE, 1e20, 1.0)


def test_factors_are_averaged_where_they_are_known():
    assert averaged([Factors(2.0, None)]) == Factors(2.0, None)
    both = averaged([Factors(1.0, 4.0), Factors(4.0, None), Factors(2.0, 1.0)])
    assert both.dense == pytest.approx(2.0, rel=ROUNDING)
    assert both.sparse == pytest.approx(2.0, rel=ROUNDING)
