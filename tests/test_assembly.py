"""From rounds to figures: the sum of the layers and the rest is the whole."""

from dataclasses import replace

import numpy as np
import pytest
from builders import conv_shape, linear_shape, timing_of, workload_of
from hypothesis import given
from hypothesis import strategies as st

from cost_models import LayerShape, LayerTiming, LayerWorkload, Layout, Sample, SparseTiming
from spartan_planner.profiling.assembly import compose, fit_errors, layer_timings, scaled
from spartan_planner.profiling.measurement_plan import Form, plan_measurements
from spartan_planner.profiling.rounds import Round, figures_of, half_widths_that_count

CONV, LINEAR = conv_shape(32, 32, 1), linear_shape()
WORKLOAD = workload_of(
    LayerWorkload("a", CONV, 64, num_uses=2),
    LayerWorkload("b", LINEAR, 1),
)
FIVE_DIGITS = 1e-4
"""Relative: profiles keep five significant digits of each figure."""

times = st.floats(1e-3, 1e3)


def timings(conv_ms: float, linear_ms: float) -> list[LayerTiming]:
    samples = (Sample(1, conv_ms / 2), Sample(2, conv_ms))
    sparse = SparseTiming("tile:32x1@16", 0.0, conv_ms / 2, 0.0, samples)
    return [LayerTiming(CONV, conv_ms, 0.01, (sparse,)), LayerTiming(LINEAR, linear_ms, 0.01)]


def sum_of(layers) -> float:
    dense = {layer.shape: layer.dense_ms for layer in layers}
    return sum(count * dense[shape] for shape, count in WORKLOAD.shape_counts().items())


@given(
    apart=st.tuples(times, times),
    whole=times,
    inside=st.tuples(st.just(0.0) | times, st.just(0.0) | times, st.just(0.0) | times),
    least=st.just(0.0) | times,
)
def test_layers_and_rest_are_the_whole(apart, whole, inside, least):
    """Whatever the runtime tells, classes that match or not, more than the whole or nothing."""
    layers = timings(*apart)
    by_class = dict(zip(("conv", "linear", "embedding"), inside, strict=True))
    result = compose(WORKLOAD, layers, whole, by_class, least)
    fitted = [scaled(layer, result.factors) for layer in layers]
    assert result.timing.rest_ms >= 0
    assert sum_of(fitted) + result.timing.rest_ms == pytest.approx(whole, rel=FIVE_DIGITS)
    assert sum_of(fitted) == pytest.approx(result.timing.layers_ms, rel=FIVE_DIGITS)
    assert result.timing.rest_ms >= min(least, whole / 2) * (1 - FIVE_DIGITS)
    if 0 < sum(inside) <= whole - least:
        assert result.timing.layers_ms == pytest.approx(sum(inside), rel=FIVE_DIGITS)


def test_classes_get_factors_of_their_own():
    result = compose(WORKLOAD, timings(2.0, 1.0), 10.0, {"conv": 2.0, "linear": 3.0})
    assert result.factors == {"conv": 0.5, "linear": 3.0}
    conv, linear = (scaled(layer, result.factors) for layer in timings(2.0, 1.0))
    assert (conv.dense_ms, linear.dense_ms) == (1.0, 3.0)
    assert conv.sparse[0].per_block_ms == 0.5
    assert [item.latency_ms for item in conv.sparse[0].samples] == [0.5, 1.0]
    assert conv.break_even_density(conv.sparse[0]) == timings(2.0, 1.0)[0].break_even_density(
        timings(2.0, 1.0)[0].sparse[0]
    )


def test_classes_that_do_not_match_share_one_factor():
    """A runtime may run a linear layer as a convolution."""
    result = compose(WORKLOAD, timings(2.0, 1.0), 20.0, {"conv": 10.0, "linear": 0.0})
    assert result.factors == {"all": 2.0}
    assert result.timing.rest_ms == 10.0


def test_nothing_told_leaves_the_layers_as_they_are_while_there_is_room():
    assert compose(WORKLOAD, timings(2.0, 1.0), 20.0, {}).factors == {"all": 1.0}
    assert compose(WORKLOAD, timings(2.0, 1.0), 2.5, {}).factors == {"all": 0.5}


def test_parts_beyond_the_whole_leave_the_least_rest_and_are_told():
    inside = {"conv": 8.0, "linear": 4.0}
    result = compose(WORKLOAD, timings(2.0, 1.0), 10.0, inside, least_rest_ms=0.5)
    assert (result.timing.layers_ms, result.timing.rest_ms) == (9.5, 0.5)
    assert "take 12 ms together" in result.note
    assert "scaled to 9.5 ms, so that 0.5 ms stay" in result.note
    fitting = compose(WORKLOAD, timings(2.0, 1.0), 13.0, inside, least_rest_ms=0.5)
    assert (fitting.timing.rest_ms, fitting.note) == (1.0, "")


def test_the_least_rest_never_takes_more_than_half():
    result = compose(WORKLOAD, timings(1.0, 1.0), 10.0, {}, least_rest_ms=99.0)
    assert result.timing.layers_ms == 3.0
    short = compose(WORKLOAD, timings(20.0, 10.0), 10.0, {}, least_rest_ms=99.0)
    assert short.timing.layers_ms == 5.0


def test_a_line_through_two_points_has_no_error_to_tell():
    wide = conv_shape(32, 64, 1)
    layer, sparse = timing_of(wide), timing_of(wide).sparse[0]
    assert fit_errors([layer]) == []
    met = sparse.fixed_ms + 4 * sparse.per_block_ms
    three = replace(sparse, samples=(*sparse.samples, Sample(4, met / 1.2)))
    assert fit_errors([replace(layer, sparse=(three,))]) == pytest.approx([0.0, 0.0, 0.2])


def test_a_line_held_at_zero_has_an_error():
    samples = (Sample(1, 2.0), Sample(2, 1.0))
    held = SparseTiming("tile:32x1@16", 1.25, 0.0, 0.375, samples)
    assert fit_errors([replace(timing_of(CONV), sparse=(held,))]) == [0.375, 0.25]


def test_figures_are_medians_of_quiet_rounds_in_terms_of_the_yardstick():
    (batch,) = plan_measurements(workload_of(LayerWorkload("b", LINEAR, 1)), has_model=False)
    assert batch.forms == (Form(LINEAR),)
    rounds = [Round(0, y, (t,), 1.0) for y, t in [(1, 3), (2, 8), (9, 900), (1, 5), (9, 9)]]
    figures = figures_of(rounds)
    np.testing.assert_array_equal(figures.relative, [[3], [4], [5]])
    (timing,) = layer_timings([batch], [figures], yardstick_ms=2.0)
    assert timing.dense_ms == 8.0
    assert timing.relative_spread == 0.125


def test_copies_of_a_shape_are_one_figure():
    (batch,) = plan_measurements(WORKLOAD, has_model=False)
    assert batch.networks[0].shapes == (CONV, CONV, LINEAR)
    assert batch.places[0] == (0, 0, 1)
    assert batch.forms[:2] == (Form(CONV), Form(LINEAR))
    assert {form.num_kept_blocks for form in batch.forms[2:]} == {1, 2}
    assert {form.layout for form in batch.forms[2:]} == {Layout.parse("tile:32x1@16")}


def test_figures_that_carry_little_do_not_have_to_be_certain():
    """The second layer takes a thousandth of the time and is all noise."""
    workload = workload_of(
        LayerWorkload("a", LayerShape("linear", (8, 8), (1, 8)), 1),
        LayerWorkload("b", LINEAR, 1),
    )
    (batch,) = plan_measurements(workload, has_model=False)
    noise = np.random.default_rng(0).uniform(0, 0.002, 40)
    figures = figures_of([Round(0, 1.0, (1.0, float(item)), 1.0) for item in noise])
    assert half_widths_that_count(batch, figures).tolist() == [0.0]


def test_the_whole_model_has_to_be_certain():
    (batch,) = plan_measurements(workload_of(LayerWorkload("b", LINEAR, 1)), has_model=True)
    rows = [Round(0, 1.0, (1.0, 2.0 + i % 2, 1.0, 0.0, 0.0), 1.0) for i in range(40)]
    widths = half_widths_that_count(batch, figures_of(rows))
    assert widths.tolist() == [0.0, pytest.approx(0.2), 0.0]
