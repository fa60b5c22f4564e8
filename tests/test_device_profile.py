"""Device profiles: look-up, costs of a timing, round trip through the file."""

from dataclasses import replace
from typing import get_args

import pytest
from builders import TILE, conv_shape, linear_shape, profile_of, small_profile, timing_of

from cost_models import (
    DeviceProfile,
    LayerTiming,
    LinearCost,
    ModelTiming,
    RooflineClass,
    Sample,
    SparseTiming,
    UnknownNameError,
    read_document,
    write_document,
)
from cost_models.device_facts import LAYER_CLASSES
from cost_models.layer_work import LayerClass
from cost_models.roofline import ANY_CLASS


def test_profile_survives_its_file(tmp_path):
    path = tmp_path / "device.yaml"
    write_document(path, small_profile())
    assert read_document(path, DeviceProfile, "profile") == small_profile()


def test_timing_is_found_by_the_whole_shape():
    shape = conv_shape(64, 64)
    profile = profile_of(timing_of(linear_shape()), timing_of(shape))
    assert profile.timing(conv_shape(64, 64)) is profile.layers[1]
    for changed in (
        {"has_bias": True},
        {"stride": (2, 2)},
        {"dtype": "float16"},
        {"padding": (0, 0)},
    ):
        assert profile.timing(replace(shape, **changed)) is None


def test_linear_cost_has_the_figures_of_the_fit():
    sparse = SparseTiming(TILE, 0.25, 0.5, 0.0, (Sample(1, 0.75),))
    timing = LayerTiming(conv_shape(64, 64), 4.0, 0.0, (sparse,))
    assert timing.linear_cost(sparse) == LinearCost(4.0, 0.25, 0.5, "ms")


def test_break_even_density_of_a_timing():
    # Four rank slices: 1 + 2 * 4 > 5 = 1 + 2 * (0.5 * 4).
    sparse = SparseTiming(TILE, 1.0, 2.0, 0.0, (Sample(1, 3.0),))
    timing = LayerTiming(conv_shape(64, 64), 5.0, 0.0, (sparse,))
    assert timing.break_even_density(sparse) == pytest.approx(0.5)


def test_figures_that_no_measurement_gives_are_refused():
    with pytest.raises(ValueError, match="dense_ms must be positive"):
        LayerTiming(conv_shape(), 0.0, 0.0)
    with pytest.raises(ValueError, match="must not be negative"):
        SparseTiming(TILE, -0.1, 0.1, 0.0, ())
    with pytest.raises(UnknownNameError, match="'diagonal' is not known"):
        SparseTiming("diagonal", 0.1, 0.1, 0.0, ())


SAMPLE = (Sample(1, 0.75),)


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ((0.25, 0.5, 0.0, ()), "samples must hold what was measured"),
        ((0.0, 0.0, 0.0, SAMPLE), "off by more than a factor 3"),
        ((2.0, 0.5, 0.0, SAMPLE), "off by more than a factor 3"),
        ((0.1, 0.1, 0.0, SAMPLE), "off by more than a factor 3"),
    ],
)
def test_a_fit_that_is_not_its_samples_is_refused(figures, message):
    with pytest.raises(ValueError, match=message):
        SparseTiming(TILE, *figures)


def test_more_blocks_than_the_weight_has_are_refused():
    sparse = SparseTiming(TILE, 0.25, 0.5, 0.0, (Sample(5, 2.75),))
    with pytest.raises(ValueError, match="keeps 5 blocks, the weight has 4"):
        LayerTiming(conv_shape(64, 64), 4.0, 0.0, (sparse,))


@pytest.mark.parametrize(
    ("dense_ms", "layers_ms", "rest_ms", "is_sum"),
    [
        (5.0, 4.0, 1.0, True),
        (5.0, 4.0, 1.04, True),
        (5.0, 6.0, 0.0, True),  # timed apart, layers may take longer than the whole
        (5.0, 4.0, 2.0, False),
        (5.0, 4.0, 0.0, False),
        (5.0, 6.0, 1.0, False),
    ],
)
def test_a_model_takes_the_time_of_its_parts(dense_ms, layers_ms, rest_ms, is_sum):
    if is_sum:
        ModelTiming("small", "f" * 64, dense_ms, layers_ms, rest_ms)
    else:
        with pytest.raises(ValueError, match="must add up to dense_ms"):
            ModelTiming("small", "f" * 64, dense_ms, layers_ms, rest_ms)


def test_one_model_timed_twice_is_refused():
    timing = ModelTiming("small", "f" * 64, 5.0, 4.0, 1.0)
    with pytest.raises(ValueError, match="same fingerprint twice"):
        replace(small_profile(), models=(timing, timing))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"date": "yesterday"}, "date must be ISO 8601"),
        ({"date": ""}, "date must be ISO 8601"),
        ({"in_situ_factors": {"conv": 0.0}}, "in_situ_factors.conv must lie between"),
        ({"in_situ_factors": {"conv": -1.0}}, "in_situ_factors.conv must lie between"),
        ({"widest_half_width": -0.1}, "widest_half_width must not be negative"),
        ({"pinned_cores": (-1,)}, "numbers of cores, from 0"),
        ({"pinned_cores": (1, 1)}, "same core twice"),
        ({"median_fit_error": 0.5}, "must not exceed max_fit_error"),
    ],
)
def test_impossible_provenance_is_refused(changes, message):
    provenance = small_profile().measurement.provenance
    assert replace(provenance, date="unknown").date == "unknown"
    with pytest.raises(ValueError, match=message):
        replace(provenance, **changes)


def test_more_threads_than_any_machine_has_are_refused():
    device = small_profile().measurement.device
    assert replace(device, num_threads=device.num_cores + 1)
    with pytest.raises(ValueError, match="num_threads must be at most 65536"):
        replace(device, num_threads=2**20)


def test_classes_of_a_roofline_are_those_of_layers():
    assert set(LAYER_CLASSES) == {*get_args(LayerClass), ANY_CLASS}
    with pytest.raises(ValueError, match=r"layer_class must be one of conv, .* found 'convv'"):
        RooflineClass("convv", 0.5, 0.5, 0.0)
