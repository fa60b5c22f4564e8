"""Calibration of a roofline: planted coefficients come back, held-out errors are honest."""

from dataclasses import replace

import numpy as np
import pytest
from builders import FACTS, TILE, conv_shape, linear_shape
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models import (
    CostModelError,
    LayerShape,
    LayerTiming,
    Layout,
    Roofline,
    RooflineClass,
    Sample,
    SparseTiming,
)
from cost_models.layer_work import layer_class
from cost_models.roofline import dense_ms, lowered_ms
from spartan_planner.profiling.roofline_fit import (
    MAX_BANDWIDTH_EFFICIENCY,
    MAX_COMPUTE_EFFICIENCY,
    MIN_SHAPES,
    TYPICAL_BAND,
    fit_roofline,
    held_out_estimates,
)

RECOVERED = 0.03
"""Relative; the pull towards the pooled fit moves coefficients of clean data by about 1 %."""

PULLED = 0.06
"""The same for times of a class whose few shapes leave a coefficient nearly open."""

WELL_ESTIMATED = 0.02
"""Relative error of held-out layers on clean data; the same pull, on one shape less."""

PLANTED = Roofline(
    (
        RooflineClass("conv", 0.8, 0.5, 0.02),
        RooflineClass("pointwise", 0.6, 0.9, 0.01),
        RooflineClass("depthwise", 0.3, 0.7, 0.015),
        RooflineClass("lowered", 0.5, 0.4, 0.03),
    ),
    is_calibrated=True,
    error_band=(0.5, 2.0),
)


def shapes(kernel: int) -> list[LayerShape]:
    """Limited by arithmetic, by bytes and by overhead, so that every coefficient shows."""
    sizes = [(64, 64, 28), (256, 256, 7), (32, 32, 56), (8, 8, 4), (16, 16, 8), (512, 256, 2)]
    return [conv_shape(out, inputs, kernel, side) for out, inputs, side in sizes]


def depthwise_shapes() -> list[LayerShape]:
    return [
        conv_shape(c, 1, groups=c, input_shape=(1, c, side, side))
        for c, side in [(32, 56), (64, 28), (16, 8), (128, 14), (8, 4)]
    ]


ALL_SHAPES = [*shapes(3), *shapes(1), *depthwise_shapes()]


def timing(shape: LayerShape, factor: float = 1.0, with_lowered: bool = False) -> LayerTiming:
    sparse = []
    if with_lowered:
        samples = tuple(
            Sample(kept, factor * lowered_ms(shape, Layout.parse(TILE), kept / 4, PLANTED, FACTS))
            for kept in (1, 2, 3)
        )
        slope = samples[1].latency_ms - samples[0].latency_ms
        fixed = samples[0].latency_ms - slope
        sparse = [SparseTiming(TILE, fixed, slope, 0.0, samples)]
    return LayerTiming(shape, factor * dense_ms(shape, PLANTED, FACTS), 0.0, tuple(sparse))


def coefficients(roofline: Roofline, name: str) -> RooflineClass:
    return next(item for item in roofline.classes if item.layer_class == name)


@pytest.mark.parametrize("name", ["conv", "pointwise"])
def test_planted_coefficients_are_recovered(name):
    fitted = coefficients(fit_roofline([timing(s) for s in ALL_SHAPES], FACTS), name)
    planted = coefficients(PLANTED, name)
    assert not fitted.is_pooled
    assert fitted.compute_efficiency == pytest.approx(planted.compute_efficiency, rel=RECOVERED)
    assert fitted.bandwidth_efficiency == pytest.approx(planted.bandwidth_efficiency, rel=RECOVERED)
    assert fitted.overhead_ms == pytest.approx(planted.overhead_ms, rel=RECOVERED)


def test_clean_layers_are_estimated_though_left_out():
    layers = [timing(shape) for shape in ALL_SHAPES]
    roofline = fit_roofline(layers, FACTS)
    assert roofline.is_calibrated
    assert roofline.median_error < WELL_ESTIMATED
    held_out = held_out_estimates(layers, FACTS)
    assert [item.shape for item in held_out] == ALL_SHAPES
    assert [item.layer_class for item in held_out] == [layer_class(s) for s in ALL_SHAPES]


def test_lowered_forms_calibrate_their_own_class():
    plain = [conv_shape(64, 64, 3, side) for side in (4, 8, 14, 28, 56)]
    layers = [timing(shape, with_lowered=True) for shape in plain]
    fitted = fit_roofline(layers, FACTS)
    for shape in plain:
        for share in (0.25, 0.75):
            expected = lowered_ms(shape, Layout.parse(TILE), share, PLANTED, FACTS)
            found = lowered_ms(shape, Layout.parse(TILE), share, fitted, FACTS)
            assert found == pytest.approx(expected, rel=PULLED)
    forms = [item.layout for item in held_out_estimates(layers, FACTS)]
    assert forms == ["", TILE] * len(plain)


@pytest.mark.parametrize("noise", [0.05, 0.15])
def test_held_out_error_is_that_of_the_noise(noise):
    generator = np.random.default_rng(0)
    factors = np.exp(generator.normal(0, noise, len(ALL_SHAPES)))
    layers = [timing(s, f) for s, f in zip(ALL_SHAPES, factors, strict=True)]
    roofline = fit_roofline(layers, FACTS)
    # The median of |normal| is 0.67 of its standard deviation; a fit of a few shapes adds its own.
    assert 0.67 * noise / 2 < roofline.median_error < 0.67 * noise * 3
    low, high = roofline.error_band
    assert 0.4 < low < 1 < high < 2.5


def test_one_disturbed_layer_moves_the_others_little():
    layers = [timing(shape) for shape in ALL_SHAPES]
    layers[0] = replace(layers[0], dense_ms=5 * layers[0].dense_ms)
    fitted = fit_roofline(layers, FACTS)
    errors = [dense_ms(t.shape, fitted, FACTS) / t.dense_ms - 1 for t in layers[1:]]
    assert np.median(np.abs(errors)) < 0.05


def test_classes_with_few_shapes_are_pooled_and_marked():
    few = [linear_shape(100, 200), linear_shape(300, 200)]
    layers = [timing(s) for s in shapes(3)] + [LayerTiming(s, 0.5, 0.0) for s in few]
    fitted = fit_roofline(layers, FACTS)
    marks = {item.layer_class: item.is_pooled for item in fitted.classes}
    assert marks == {"conv": False, "vector": True, "any": True}
    pooled, vector = coefficients(fitted, "any"), coefficients(fitted, "vector")
    shares = [
        pooled.compute_efficiency / vector.compute_efficiency,
        pooled.bandwidth_efficiency / vector.bandwidth_efficiency,
    ]
    assert shares[0] == pytest.approx(shares[1], rel=1e-3)
    estimates = [dense_ms(shape, fitted, FACTS) for shape in few]
    assert min(estimates) < 0.5 < max(estimates)


def test_a_single_layer_is_estimated_with_a_wide_band():
    fitted = fit_roofline([LayerTiming(conv_shape(64, 64), 1.0, 0.0)], FACTS)
    low, high = fitted.error_band
    assert MIN_SHAPES > 1
    assert low <= TYPICAL_BAND[0]
    assert high >= TYPICAL_BAND[1]
    assert dense_ms(conv_shape(64, 64), fitted, FACTS) == pytest.approx(1.0, rel=0.2)


def test_nothing_measured_is_refused():
    with pytest.raises(ValueError, match="at least one measured layer"):
        fit_roofline([], FACTS)


def test_element_type_without_a_peak_is_refused():
    shape = replace(conv_shape(), dtype="float16")
    with pytest.raises(CostModelError, match="no peak rate for float16"):
        fit_roofline([LayerTiming(shape, 1.0, 0.0)], FACTS)


TIMES = st.floats(1e-6, 1e6)


@given(st.lists(st.tuples(st.sampled_from(ALL_SHAPES), TIMES), min_size=1, max_size=9))
def test_any_times_give_a_roofline_that_its_file_accepts(measured):
    layers = [LayerTiming(shape, ms, 0.0) for shape, ms in dict(measured).items()]
    fitted = fit_roofline(layers, FACTS)
    for item in fitted.classes:
        assert 0 < item.compute_efficiency <= MAX_COMPUTE_EFFICIENCY
        assert 0 < item.bandwidth_efficiency <= MAX_BANDWIDTH_EFFICIENCY
    for shape in ALL_SHAPES:
        assert dense_ms(shape, fitted, FACTS) > 0


@settings(max_examples=10)  # each fits the roofline two dozen times over
@given(st.permutations(range(len(ALL_SHAPES))), st.floats(0.1, 10))
def test_order_does_not_matter_and_slower_is_slower(order, factor):
    layers = [timing(ALL_SHAPES[index], factor) for index in order]
    straight = fit_roofline([timing(shape, factor) for shape in ALL_SHAPES], FACTS)
    fitted = fit_roofline(layers, FACTS)
    for shape in ALL_SHAPES:
        assert dense_ms(shape, fitted, FACTS) == pytest.approx(
            dense_ms(shape, straight, FACTS), rel=1e-2
        )
