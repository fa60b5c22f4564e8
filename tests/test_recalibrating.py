"""The profile behind a file, corrected by what verifying measured."""

from dataclasses import replace

import numpy as np
import pytest
from builders import TILE, small_profile

from spartan_planner.errors import PlanError, ProfileError, UsageError
from spartan_planner.export_metadata import ExportMetadata, LayerPromise
from spartan_planner.planning import PlanBudget, PlanProfile, profile_fingerprint
from spartan_planner.verification import Speedup, Verification
from spartan_planner.verification.layer_times import LayerTimes, judged_layers
from spartan_planner.verification.recalibrating import recalibrated_profile
from spartan_planner.verification.results import REST

PROFILE = small_profile()
LAYERS = (
    LayerPromise("a", TILE, 1.5, 3.0, ("n1",)),
    LayerPromise("b", "dense", 2.0, 2.0, ("n2",)),
)
METADATA = ExportMetadata(
    "m",
    "f",
    "lowered",
    0.5,
    {},
    (PlanBudget("latency", "ms", 10.0, 5.0, 4.0, 0.5, True),),
    PlanProfile(PROFILE.name, profile_fingerprint(PROFILE), None),
    layers=LAYERS,
)


def found(dense_ms=24.0, speedup=2.0, predicted_ms=8.0):
    """The device runs at half its speed: the dense file takes 12 ms at its speed in the profile."""
    measured = None if dense_ms is None else Speedup(2.5, speedup, (speedup, speedup))
    return Verification(12.0, dense_ms, 10.0, predicted_ms, measured, 2.0, 5, 1, False)


def test_the_profile_then_predicts_what_was_measured():
    """Dense 10 ms took 12: 1.2; of the 6 ms, 1.2 * 2.5 are dense and 3 are left for 1.5."""
    better = recalibrated_profile(PROFILE, METADATA, found())
    assert better.name == f"{PROFILE.name} (recalibrated)"
    for old, new in zip(PROFILE.layers, better.layers, strict=True):
        assert new.dense_ms == pytest.approx(1.2 * old.dense_ms)
        for one, other in zip(old.sparse, new.sparse, strict=True):
            assert other.per_block_ms == pytest.approx(2 * one.per_block_ms)
            assert other.fixed_ms == pytest.approx(2 * one.fixed_ms)


def test_a_file_without_lowered_layers_corrects_dense_times_alone():
    dense = replace(METADATA, layers=(LAYERS[1],))
    better = recalibrated_profile(PROFILE, dense, found())
    assert better.layers[1].sparse == PROFILE.layers[1].sparse
    assert better.run_overhead_ms == pytest.approx(1.2 * PROFILE.run_overhead_ms)


OTHER = replace(METADATA, profile=PlanProfile("other", "0" * 64, None))


@pytest.mark.parametrize(
    ("metadata", "measured", "error", "message"),
    [
        (None, found(), UsageError, "promises no latency"),
        (METADATA, found(predicted_ms=None), UsageError, "promises no latency on this runtime"),
        (METADATA, found(dense_ms=None), UsageError, "give --dense"),
        (OTHER, found(), PlanError, "not made with this profile"),
        (METADATA, found(speedup=5.0), ProfileError, "nothing is left for the lowered ones"),
    ],
)
def test_what_cannot_be_recalibrated(metadata, measured, error, message):
    with pytest.raises(error, match=message):
        recalibrated_profile(PROFILE, metadata, measured)


TIMES = LayerTimes(np.array([3.4, 4.0, 0.9]), (True, True, True))


def test_layers_are_held_against_predictions_at_the_present_speed():
    first, second, rest = judged_layers(TIMES, METADATA, 2.0, 0.1)
    assert (first.predicted_ms, first.ok, first.layout) == (3.0, False, TILE)
    assert first.excess_ms == pytest.approx(0.4)
    assert (second.predicted_ms, second.ok) == (4.0, True)
    assert (rest.name, rest.predicted_ms, rest.ok) == (REST, 1.0, True)


def test_what_cannot_be_told_apart_counts_among_the_rest_on_both_sides():
    times = LayerTimes(np.array([0.0, 4.0, 4.0]), (False, True, True))
    second, rest = judged_layers(times, METADATA, 2.0, 0.1)
    assert second.name == "b"
    assert (rest.predicted_ms, rest.measured_ms) == (2 * (0.5 + 1.5), 4.0)


def test_without_a_comparable_profile_layers_are_only_measured():
    assert {item.ok for item in judged_layers(TIMES, METADATA, None, 0.1)} == {None}


def test_missed_layers_come_with_the_greatest_excess_first():
    layers = judged_layers(LayerTimes(np.array([3.4, 9.0, 0.9]), (True,) * 3), METADATA, 2.0, 0.1)
    result = replace(found(), layers=layers)
    assert [item.name for item in result.missed_layers] == ["b", "a"]
