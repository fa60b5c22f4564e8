"""Trying a plan: on devices that are known exactly, and on this one."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import FACTS, Device, profile_of, timing_of
from networks import tiny_inputs, tiny_network, tiny_plan
from test_recalibration import WHOLE, WORKLOAD, kept, plan_by

from cost_models import Measurement, Runtime
from spartan_planner.errors import InfeasibleBudgetError, PlanError, UsageError
from spartan_planner.extraction import extract_workload
from spartan_planner.profiling.device import this_device, this_runtime
from spartan_planner.recalibration import calibrated, dense_ms, file_ms
from spartan_planner.trial import (
    MeasuredPlan,
    TrialSettings,
    converge,
    try_plan,
    why_not_comparable,
)
from spartan_planner.verification import VerifySettings

ROUNDING = 1e-9
"""Relative; a handful of float64 sums."""
MEAN_OF_NOISE = 0.03
"""Three standard errors of 49 measurements of a file that scatter by 5 %, a little more in what is
left of it for the lowered layers."""
QUICK = VerifySettings(num_rounds=5)


def steady(_):
    return 1.0


def device(truth, dense_scale=steady, sparse_scale=steady):
    """A device of which a profile says everything, but for factors by the number of the round."""
    rounds = []

    def measure(plan):
        rounds.append(plan)
        number = len(rounds)
        dense = dense_ms(WORKLOAD, truth) * dense_scale(number)
        sparse = file_ms(WORKLOAD, plan, kept(plan), truth) * sparse_scale(number)
        return MeasuredPlan(dense, dense / sparse, kept(plan), 0.001, 1.0)

    return measure


def test_a_device_that_is_as_profiled_needs_one_round():
    trial = converge(plan_by, device(WHOLE), WORKLOAD, WHOLE, TrialSettings())
    assert trial.agrees
    assert trial.profile is WHOLE
    (only,) = trial.rounds
    assert only.error == pytest.approx(0.0, abs=ROUNDING)
    assert only.asked_ms == trial.plan.budget.asked


@pytest.mark.parametrize("factors", [(1.4, 1.4), (0.8, 0.9), (1.1, 1.0), (1.5, 0.8)])
def test_a_device_with_other_factors_is_found_in_two_rounds(factors):
    truth = calibrated(WHOLE, *factors)
    trial = converge(plan_by, device(truth), WORKLOAD, WHOLE, TrialSettings())
    assert trial.agrees
    first, second = trial.rounds
    assert first.worst_error > 0.05
    assert second.worst_error == pytest.approx(0.0, abs=ROUNDING)
    assert second.measured_ms <= second.asked_ms
    assert trial.profile.layers[1].dense_ms == pytest.approx(truth.layers[1].dense_ms)
    assert trial.plan == plan_by(trial.profile)


def test_a_budget_on_another_cost_is_tried_too():
    truth = calibrated(WHOLE, 1.5, 1.5)
    trial = converge(
        lambda profile: plan_by(profile, "flops=60%"),
        device(truth),
        WORKLOAD,
        WHOLE,
        TrialSettings(),
    )
    assert trial.agrees
    assert [item.asked_ms for item in trial.rounds] == [None, None]


def test_a_device_whose_layers_do_not_move_together_ends_with_the_reason():
    measure = device(WHOLE, sparse_scale=lambda number: 0.8 if number % 2 else 1.0)
    trial = converge(plan_by, measure, WORKLOAD, WHOLE, TrialSettings(max_rounds=4))
    assert len(trial.rounds) == 4
    assert not trial.agrees
    assert "do not move together" in trial.reason
    assert trial.plan == plan_by(trial.profile)


@pytest.mark.parametrize("share", [0.03, 0.05])
def test_measurements_to_and_fro_are_averaged(share):
    """By the last measurement alone no round would agree: it is off by twice the share."""
    measure = device(WHOLE, sparse_scale=lambda n: 1 + share if n % 2 else 1 - share)
    settings = TrialSettings(tolerance=1.1 * share)
    trial = converge(plan_by, measure, WORKLOAD, calibrated(WHOLE, 1.0, 1.3), settings)
    assert trial.agrees
    assert len(trial.rounds) >= 3
    assert file_ms(WORKLOAD, trial.plan, kept(trial.plan), trial.profile) == pytest.approx(
        file_ms(WORKLOAD, trial.plan, kept(trial.plan), WHOLE), rel=share
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_more_rounds_the_nearer_the_profile(seed):
    noise = np.random.default_rng(seed).normal(0, 0.05, 50)
    measure = device(WHOLE, sparse_scale=lambda number: math.exp(noise[number - 1]))
    settings = TrialSettings(tolerance=1e-9, max_rounds=50)
    trial = converge(plan_by, measure, WORKLOAD, calibrated(WHOLE, 1.0, 1.3), settings)
    assert len(trial.rounds) == 50
    found = trial.profile.layers[1].sparse[0].per_block_ms
    assert found == pytest.approx(WHOLE.layers[1].sparse[0].per_block_ms, rel=MEAN_OF_NOISE)


def test_a_device_that_scatters_is_told_apart():
    measure = device(WHOLE, *(2 * [lambda number: 2.0 if number % 2 else 1.0]))
    trial = converge(plan_by, measure, WORKLOAD, WHOLE, TrialSettings(max_rounds=3))
    assert not trial.agrees
    assert trial.rounds[1].measured_dense_ms == pytest.approx(1.5 * dense_ms(WORKLOAD, WHOLE))
    assert trial.rounds[-1].scatter == pytest.approx(0.25)
    assert "the figures scatter by 25.0%" in trial.reason


def test_a_budget_that_measuring_shows_to_be_out_of_reach_keeps_the_last_plan():
    measure = device(calibrated(WHOLE, 1.0, 10.0))
    trial = converge(plan_by, measure, WORKLOAD, WHOLE, TrialSettings())
    assert trial.plan == plan_by(WHOLE)
    assert trial.profile is WHOLE
    assert "by what was measured the budget cannot be met: latency of" in trial.reason


def test_measurements_that_contradict_themselves_are_a_reason():
    measure = device(WHOLE, sparse_scale=lambda _: 0.01)
    trial = converge(plan_by, measure, WORKLOAD, WHOLE, TrialSettings())
    assert "nothing is left for the lowered ones" in trial.reason


def test_a_first_plan_that_is_infeasible_is_refused():
    with pytest.raises(InfeasibleBudgetError):
        converge(
            lambda profile: plan_by(profile, "latency=1%"),
            device(WHOLE),
            WORKLOAD,
            WHOLE,
            TrialSettings(),
        )


def test_a_plan_that_tells_no_latency_is_refused():
    def measure(plan):
        return MeasuredPlan(1.0, 1.0, kept(plan), 0.0, 1.0)

    with pytest.raises(PlanError, match="its latency cannot be told"):
        converge(lambda _: plan_by(None, "flops=60%"), measure, WORKLOAD, WHOLE, TrialSettings())


def profile_here(model, **changes):
    """A made-up profile that says it is of this device."""
    workload = extract_workload(model, tiny_inputs(), "tiny")
    timings = [
        timing_of(layer.shape, ("tile:64x1@16",) if layer.name in LOWERABLE else ())
        for layer in workload.layers
    ]
    profile = profile_of(*timings)
    here, runtime = this_device(1), this_runtime()
    provenance = profile.measurement.provenance
    return replace(profile, measurement=Measurement(here, runtime, provenance), **changes)


LOWERABLE = ("body.weight", "tail.weight")


def tried(model, profile, **settings):
    return try_plan(
        model,
        tiny_inputs(),
        lambda known: tiny_plan(model, "70%", "latency", profile=known),
        profile,
        TrialSettings(**{"verify": QUICK, **settings}),
    )


def test_on_this_device_with_a_tolerance_that_anything_meets():
    model = tiny_network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trial = tried(model, profile_here(model), tolerance=1e9)
    (only,) = trial.rounds
    assert trial.agrees
    assert only.measured_ms > 0
    assert only.measured_dense_ms > 0
    assert only.predicted_ms <= only.asked_ms == pytest.approx(0.7 * only.predicted_dense_ms)
    assert trial.plan.sparse_layers
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_on_this_device_with_a_tolerance_that_nothing_meets():
    model = tiny_network()
    trial = tried(model, profile_here(model), tolerance=1e-12, max_rounds=2)
    assert 1 <= len(trial.rounds) <= 2
    assert not trial.agrees
    assert trial.reason
    assert trial.to_json()["reason"] == trial.reason
    if len(trial.rounds) == 2:
        first, second = trial.rounds
        assert second.predicted_dense_ms == pytest.approx(first.measured_dense_ms, rel=0.5)
        assert trial.profile.name == "made-up (recalibrated)"


OTHER_DEVICE = Device("another processor", "x86_64", 2, 1, "unknown", 0.0)
OTHER_RUNTIME = Runtime("openvino", "2025.0", "CPU")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device": OTHER_DEVICE}, "is of another device (another processor; this is"),
        ({"runtime": OTHER_RUNTIME}, "is of openvino with CPU and a trial runs onnxruntime"),
    ],
)
def test_a_profile_of_another_device_or_runtime_is_a_reason_not_to_measure(change, reason):
    model = tiny_network()
    profile = profile_here(model)
    assert why_not_comparable(profile) is None
    other = replace(profile, measurement=replace(profile.measurement, **change))
    trial = tried(model, other)
    assert reason in trial.reason
    assert (trial.rounds, trial.agrees, trial.profile) == ((), False, other)
    assert trial.plan.sparse_layers


def test_another_version_of_the_runtime_does_compare():
    profile = profile_here(tiny_network())
    older = replace(this_runtime(), version="1.0")
    measured = replace(profile.measurement, runtime=older)
    assert why_not_comparable(replace(profile, measurement=measured)) is None


def test_facts_alone_are_a_reason_not_to_measure():
    facts = replace(profile_of(), measurement=None, facts=FACTS)
    assert "holds facts and no measurement" in why_not_comparable(facts)


def test_what_cannot_be_tried_is_refused():
    model = tiny_network()
    with pytest.raises(UsageError, match="give the profile of this device"):
        tried(model, None)
    with pytest.raises(UsageError, match="only torch models can be tried"):
        try_plan("model.onnx", tiny_inputs(), plan_by, WHOLE)


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"tolerance": -1.0}, {"max_rounds": 0}])
def test_settings_that_prove_nothing_are_refused(options):
    with pytest.raises(UsageError, match=r"positive share|at least 1 round"):
        TrialSettings(**options)
