"""Layers at fewer channels: which are measured, and that they really are."""

from dataclasses import replace

import pytest
from builders import conv_shape, linear_shape, workload_of
from channel_workloads import residual_network

from cost_models import LayerShape, LayerWorkload
from spartan_planner.profiling import ProfileSettings, make_profile
from spartan_planner.profiling.measurement_plan import plan_measurements
from spartan_planner.profiling.treatments import channel_points

SETTINGS = ProfileSettings(name="tiny", num_rounds=2, min_rounds=2)


@pytest.mark.parametrize(
    ("shape", "points"),
    [
        (conv_shape(64, 64), [conv_shape(32, 32), conv_shape(16, 16)]),
        (conv_shape(256, 64, 1), [conv_shape(128, 32, 1), conv_shape(64, 16, 1)]),
        (conv_shape(64, 3), [conv_shape(32, 3), conv_shape(16, 3)]),
        (conv_shape(16, 16), []),
        (
            conv_shape(96, 1, groups=96),
            [conv_shape(48, 1, groups=48), conv_shape(32, 1, groups=32)],
        ),
        (conv_shape(64, 8, groups=8), []),
        (linear_shape(10, 64), [linear_shape(10, 32), linear_shape(10, 16)]),
        (LayerShape("embedding", (100, 64), (1, 3)), []),
    ],
)
def test_points_are_on_whole_steps(shape, points):
    assert list(channel_points(shape)) == points


def test_a_shape_is_measured_once():
    workload = workload_of(
        LayerWorkload("a", conv_shape(64, 64), 64),
        LayerWorkload("b", conv_shape(32, 32), 64),
        LayerWorkload("c", conv_shape(66, 66), 64),
    )
    batches = plan_measurements(workload, has_model=False, with_channels=True)
    dense = [form.shape for batch in batches for form in batch.forms if form.layout is None]
    assert len(set(dense)) == len(dense)
    assert set(dense) == {*workload.shape_counts(), conv_shape(16, 16)}
    assert plan_measurements(workload, has_model=False) == plan_measurements(
        replace(workload), has_model=False, with_channels=False
    )


def test_batches_hold_the_points_of_their_own_shapes():
    layers = [
        LayerWorkload(str(size), conv_shape(size, 2048, 3), 64) for size in (1024, 2048, 1536)
    ]
    batches = plan_measurements(workload_of(*layers), has_model=False, with_channels=True)
    assert len(batches) > 1
    for batch in batches:
        shapes, points = (set(network.shapes) for network in batch.networks[:2])
        assert points <= {point for shape in shapes for point in channel_points(shape)}


def test_points_are_measured_where_the_workload_names_groups_or_it_is_asked_for():
    named = residual_network(32, 32)
    nameless = replace(named, channel_groups=())
    expected = {point for shape in named.shape_counts() for point in channel_points(shape)}
    assert expected
    for workload, settings in (
        (named, SETTINGS),
        (nameless, replace(SETTINGS, with_channels=True)),
    ):
        profile = make_profile(workload, settings)
        assert {layer.shape for layer in profile.layers} == {*workload.shape_counts(), *expected}
        assert all(layer.dense_ms > 0 for layer in profile.layers)
    assert {layer.shape for layer in make_profile(nameless, SETTINGS).layers} == set(
        nameless.shape_counts()
    )
