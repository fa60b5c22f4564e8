"""Joining profiles and telling held-out errors."""

from dataclasses import replace

import pytest
from builders import conv_shape, linear_shape, profile_of, timing_of

from benchmarks.roofline import joined_facts, joined_layers, results_of, rows_of, table
from cost_models import CostModelError, DeviceProfile, Fact
from spartan_planner.profiling.roofline_fit import HeldOut

SHARED, FIRST, SECOND = conv_shape(64, 64), conv_shape(128, 64), linear_shape(10, 64)


def with_yardstick(profile: DeviceProfile, yardstick_ms: float) -> DeviceProfile:
    provenance = replace(profile.measurement.provenance, yardstick_ms=yardstick_ms)
    return replace(profile, measurement=replace(profile.measurement, provenance=provenance))


ONE = with_yardstick(profile_of(timing_of(SHARED), timing_of(FIRST, (), 2.0)), 1.0)
SLOWER = with_yardstick(profile_of(timing_of(SHARED, (), 9.0), timing_of(SECOND, (), 0.5)), 2.0)


def test_profiles_are_joined_at_the_speed_of_the_first():
    layers = {layer.shape: layer for layer in joined_layers([ONE, SLOWER])}
    assert {shape: layer.dense_ms for shape, layer in layers.items()} == {
        SHARED: 1.0,
        FIRST: 2.0,
        SECOND: 0.25,
    }
    assert layers[SHARED] == ONE.layers[0]
    (half,) = (item for item in joined_layers([SLOWER, ONE]) if item.shape == FIRST)
    assert half.dense_ms == 4.0


def test_facts_are_the_medians():
    fast = replace(SLOWER.facts, bandwidth_gb_per_s=Fact(30.0, "measured", "made up"))
    assert joined_facts([ONE, replace(SLOWER, facts=fast)]).bandwidth_gb_per_s.value == 20.0


def test_rows_by_hand():
    held_out = [
        HeldOut(SHARED, "conv", "", 1.0, 1.1),
        HeldOut(FIRST, "conv", "", 1.0, 0.7),
        HeldOut(FIRST, "lowered", "tile:32x1@16", 2.0, 3.0),
    ]
    rows = {row.layer_class: row for row in rows_of(held_out)}
    assert list(rows) == ["conv", "lowered", "all dense", "all"]
    assert (rows["conv"].num_shapes, rows["conv"].median_error) == (2, 0.2)
    assert (rows["all"].num_shapes, rows["all"].num_estimates) == (2, 3)
    assert (rows["all"].median_error, rows["all"].greatest_error) == (0.3, 0.5)
    assert rows["all dense"].greatest_error == 0.3


def test_the_table_tells_every_class():
    results = results_of([ONE, SLOWER])
    classes = [row["layer_class"] for row in results["rows"]]
    assert set(classes) == {"conv", "vector", "lowered", "all dense", "all"}
    text = table(results, rows_of([HeldOut(SHARED, "conv", "", 1.0, 1.1)]))
    assert "conv               1      1    10.0%     10.0%" in text


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (profile_of(), "holds no timings"),
        (
            replace(
                SLOWER,
                measurement=replace(
                    SLOWER.measurement, device=replace(SLOWER.measurement.device, num_threads=2)
                ),
            ),
            "2 thread.* give profiles of one device",
        ),
    ],
)
def test_profiles_that_do_not_belong_together_are_refused(profile, message):
    with pytest.raises(CostModelError, match=message):
        joined_layers([ONE, profile])
