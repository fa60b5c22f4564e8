"""Profiles of a tiny workload, really measured; no test asserts how long anything takes."""

import datetime
from dataclasses import replace

import numpy as np
import pytest
from builders import conv_shape, linear_shape, workload_of

from cost_models import (
    DeviceProfile,
    LayerShape,
    LayerWorkload,
    Layout,
    Workload,
    cost_model,
    read_document,
    write_document,
)
from cost_models.layer_work import layer_class
from spartan_planner.errors import CostModelError, ProfileError
from spartan_planner.profiling import (
    ProfileSettings,
    Yardstick,
    make_profile,
    measurement_plan,
    quiet_rounds,
)
from spartan_planner.profiling.facts import device_category
from spartan_planner.profiling.treatments import candidate_layouts, kept_block_counts

SETTINGS = ProfileSettings(name="tiny", num_rounds=3, min_rounds=3)
FIVE_DIGITS = 1e-4
"""Relative: profiles keep five significant digits of each figure."""


def tiny_workload() -> Workload:
    """A tied convolution, one that cannot be lowered, one with a single block to choose from."""
    return workload_of(
        LayerWorkload("a.weight", conv_shape(64, 64, 3, 4), 16, num_uses=2),
        LayerWorkload("same.weight", conv_shape(64, 64, 3, 4), 16),
        LayerWorkload("stem.weight", conv_shape(8, 3, 3, 4), 16),
        LayerWorkload("small.weight", conv_shape(32, 32, 1, 1), 1),
        LayerWorkload("table.weight", LayerShape("embedding", (10, 4), (1, 3)), 3),
        LayerWorkload("head.weight", linear_shape(3, 5, (4,)), 4),
    )


@pytest.fixture(scope="module")
def measured() -> DeviceProfile:
    return make_profile(tiny_workload(), SETTINGS)


def test_every_distinct_shape_is_measured_once(measured):
    shapes = [layer.shape for layer in measured.layers]
    assert len(set(shapes)) == len(shapes)
    assert set(shapes) == set(tiny_workload().shape_counts())


def test_every_layout_that_can_be_lowered_is_measured(measured):
    for layer in measured.layers:
        layouts = tuple(Layout.parse(sparse.layout) for sparse in layer.sparse)
        assert layouts == candidate_layouts(layer.shape)
        for layout, sparse in zip(layouts, layer.sparse, strict=True):
            counts = tuple(sample.num_kept_blocks for sample in sparse.samples)
            assert counts == tuple(sorted(set(kept_block_counts(layer.shape, layout))))


def test_figures_are_positive(measured):
    assert measured.run_overhead_ms > 0
    assert measured.measurement.provenance.yardstick_ms > 0
    for layer in measured.layers:
        assert layer.dense_ms > 0
        assert layer.relative_spread >= 0
        for sparse in layer.sparse:
            assert sparse.fixed_ms + sparse.per_block_ms > 0
            assert all(sample.latency_ms > 0 for sample in sparse.samples)


def test_fit_errors_are_those_of_the_samples(measured):
    largest = 0.0
    for layer in measured.layers:
        for sparse in layer.sparse:
            errors = [
                abs((sparse.fixed_ms + sparse.per_block_ms * s.num_kept_blocks) / s.latency_ms - 1)
                for s in sparse.samples
            ]
            assert sparse.max_fit_error == pytest.approx(max(errors), abs=FIVE_DIGITS)
            largest = max(largest, *errors)
    # Lines through as many points as they have free figures add next to nothing.
    assert measured.measurement.provenance.max_fit_error == pytest.approx(largest, abs=FIVE_DIGITS)
    assert (
        0
        <= measured.measurement.provenance.median_fit_error
        <= measured.measurement.provenance.max_fit_error
    )


def test_profile_says_where_it_comes_from(measured):
    assert measured.name == "tiny"
    assert measured.measurement.device.num_threads == SETTINGS.num_threads
    assert measured.measurement.device.num_cores >= 1
    assert measured.measurement.runtime.name == "onnxruntime"
    assert measured.measurement.provenance.num_rounds == 3
    assert measured.measurement.provenance.versions["numpy"]
    assert (
        datetime.datetime.fromisoformat(measured.measurement.provenance.date).tzinfo == datetime.UTC
    )


def test_profile_holds_facts_and_a_calibrated_roofline(measured):
    assert measured.facts.peak_gflop_per_s["float32"].source == "measured"
    assert measured.category == device_category()
    assert measured.roofline.is_calibrated
    assert measured.roofline.median_error is not None
    known = {item.layer_class for item in measured.roofline.classes}
    assert known >= {layer_class(layer.shape) for layer in measured.layers} | {"any"}


def test_measured_profile_survives_its_file(measured, tmp_path):
    write_document(tmp_path / "tiny.yaml", measured)
    assert read_document(tmp_path / "tiny.yaml", DeviceProfile, "profile") == measured


def test_latency_of_the_workload_can_be_told(measured):
    model, total = cost_model("latency"), 0.0
    for layer in tiny_workload().layers:
        total += model.dense_cost(layer, measured)
        for layout in candidate_layouts(layer.shape):
            assert model.linear_cost(layer, layout, measured).dense > 0
    assert total > 0


def test_large_workloads_are_measured_in_batches(monkeypatch):
    """Two batches of one shape each give the same profile as one batch would, times aside."""
    workload = workload_of(
        LayerWorkload("a", linear_shape(3, 5), 1), LayerWorkload("b", linear_shape(4, 5), 1)
    )
    monkeypatch.setattr(measurement_plan, "MAX_BATCH_BYTES", 90)
    made = make_profile(workload, SETTINGS)
    assert [layer.shape for layer in made.layers] == list(workload.shape_counts())


def test_progress_is_told_after_each_round():
    told = []
    make_profile(workload_of(LayerWorkload("a", linear_shape(3, 5), 1)), SETTINGS, told.append)
    assert len(told) == SETTINGS.num_rounds


def test_rounds_end_when_time_is_up_but_not_before_the_least():
    settings = ProfileSettings(num_rounds=1000, min_rounds=2, max_duration_s=1e-9)
    made = make_profile(workload_of(LayerWorkload("a", linear_shape(3, 5), 1)), settings)
    assert made.measurement.provenance.num_rounds == 2


def test_workload_without_layers_is_refused():
    with pytest.raises(ProfileError, match="small has no layer to measure"):
        make_profile(workload_of(extra_parameters=1), SETTINGS)


def test_element_type_that_is_not_measured_is_refused():
    layer = LayerWorkload("a", replace(linear_shape(), dtype="float16"), 1)
    with pytest.raises(CostModelError, match="only float32 is measured"):
        make_profile(workload_of(layer), SETTINGS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_threads": 0}, "must be positive"),
        ({"min_rounds": 0}, "must be positive"),
        ({"max_duration_s": 0.0}, "must be positive"),
        ({"num_rounds": 2, "min_rounds": 3}, "at least 3 rounds"),
    ],
)
def test_settings_that_measure_nothing_are_refused(changes, message):
    with pytest.raises(ProfileError, match=message):
        ProfileSettings(**changes)


@pytest.mark.parametrize(
    ("shape", "texts"),
    [
        (conv_shape(128, 64), ["tile:32x1@16", "tile:64x1@16", "tile:128x1@16"]),
        (conv_shape(64, 64), ["tile:32x1@16", "tile:64x1@16"]),
        (conv_shape(96, 32), ["tile:32x1@16"]),
        (conv_shape(48, 64), []),
        (conv_shape(64, 16), []),
        (conv_shape(64, 40), []),
        (conv_shape(64, 32, groups=2), []),
        (linear_shape(64, 64), ["tile:64x1@16"]),
        (linear_shape(256, 64), ["tile:64x1@16", "tile:128x1@16", "tile:256x1@16"]),
        (LayerShape("linear", (64, 64), (1, 2, 3, 64)), ["tile:64x1@16"]),
        (LayerShape("linear", (64, 64), (1, 2, 3, 1, 1, 64)), []),
        (LayerShape("conv1d", (64, 32, 3), (1, 32, 9)), ["tile:32x1@16", "tile:64x1@16"]),
        (LayerShape("conv_transpose2d", (64, 64, 2, 2), (1, 64, 4, 4)), []),
    ],
)
def test_layouts_that_lower_without_padding(shape, texts):
    assert [str(layout) for layout in candidate_layouts(shape)] == texts


def test_yardstick_runs():
    assert Yardstick(1).time_ms() > 0


def test_rounds_in_which_the_yardstick_was_slow_do_not_count():
    yardstick_ms = np.array([1.0, 3.0, 1.1, 2.0, 1.2])
    assert quiet_rounds(yardstick_ms).tolist() == [True, False, True, False, True]
    assert quiet_rounds(np.ones(4)).all()
