"""Device profiles: look-up, costs of a timing, round trip through the file."""

from dataclasses import replace

import pytest
from builders import TILE, conv_shape, linear_shape, profile_of, small_profile, timing_of

from cost_models import (
    DeviceProfile,
    LayerTiming,
    LinearCost,
    SparseTiming,
    UnknownNameError,
    read_document,
    write_document,
)


def test_profile_survives_its_file(tmp_path):
    path = tmp_path / "device.yaml"
    write_document(path, small_profile())
    assert read_document(path, DeviceProfile, "profile") == small_profile()


def test_timing_is_found_by_the_whole_shape():
    shape = conv_shape(64, 64)
    profile = profile_of(timing_of(linear_shape()), timing_of(shape))
    assert profile.timing(conv_shape(64, 64)) is profile.layers[1]
    for changed in ({"has_bias": True}, {"stride": (2, 2)}, {"dtype": "float16"}, {"groups": 2}):
        assert profile.timing(replace(shape, **changed)) is None


def test_linear_cost_has_the_figures_of_the_fit():
    sparse = SparseTiming(TILE, 0.25, 0.5, 0.0, ())
    timing = LayerTiming(conv_shape(64, 64), 4.0, 0.0, (sparse,))
    assert timing.linear_cost(sparse) == LinearCost(4.0, 0.25, 0.5, "ms")


def test_break_even_density_of_a_timing():
    # Four rank slices: 1 + 2 * 4 > 5 = 1 + 2 * (0.5 * 4).
    sparse = SparseTiming(TILE, 1.0, 2.0, 0.0, ())
    timing = LayerTiming(conv_shape(64, 64), 5.0, 0.0, (sparse,))
    assert timing.break_even_density(sparse) == pytest.approx(0.5)


def test_figures_that_no_measurement_gives_are_refused():
    with pytest.raises(ValueError, match="dense_ms must be positive"):
        LayerTiming(conv_shape(), 0.0, 0.0)
    with pytest.raises(ValueError, match="must not be negative"):
        SparseTiming(TILE, -0.1, 0.1, 0.0, ())
    with pytest.raises(UnknownNameError, match="'diagonal' is not known"):
        SparseTiming("diagonal", 0.1, 0.1, 0.0, ())
