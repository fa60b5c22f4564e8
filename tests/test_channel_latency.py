"""Times at other channel counts: relatives, vector steps, and the formula by hand."""

import math
from dataclasses import replace

import pytest
from builders import FACTS, conv_shape, linear_shape, profile_of, timing_of

from cost_models import LayerShape, LayerWorkload
from cost_models.channel_latency import on_step, relative_dense_ms
from cost_models.latency import LatencyCost
from cost_models.roofline import dense_ms
from cost_models.shape_family import family

ROOFLINE = profile_of().roofline
EXACT = 1e-12
"""Relative: the same formula in another order."""


def roofline(shape):
    return dense_ms(shape, ROOFLINE, FACTS)


@pytest.mark.parametrize(
    ("left", "right", "is_related"),
    [
        (conv_shape(64, 64), conv_shape(32, 16), True),
        (conv_shape(64, 64), conv_shape(64, 64, has_bias=True), True),
        (conv_shape(64, 64), conv_shape(64, 64, 1), False),
        (conv_shape(64, 64), conv_shape(64, 64, side=16), False),
        (conv_shape(64, 64), conv_shape(64, 64, stride=(2, 2)), False),
        (conv_shape(64, 64), conv_shape(64, 64, dtype="float16"), False),
        (conv_shape(64, 1, groups=64), conv_shape(32, 1, groups=32), True),
        (conv_shape(64, 1, groups=64), conv_shape(64, 64), False),
        (conv_shape(64, 8, groups=8), conv_shape(32, 4, groups=8), True),
        (conv_shape(64, 8, groups=8), conv_shape(32, 8, groups=4), False),
        (linear_shape(10, 64), linear_shape(1000, 16), True),
        (linear_shape(10, 64), linear_shape(10, 64, tokens=(5,)), False),
    ],
)
def test_relatives(left, right, is_related):
    assert (family(left) == family(right)) == is_related


@pytest.mark.parametrize(
    ("shape", "stepped"),
    [
        (conv_shape(24, 40), conv_shape(32, 48)),
        (conv_shape(64, 3), conv_shape(64, 3)),
        (conv_shape(24, 1, groups=24), conv_shape(32, 1, groups=32)),
        (conv_shape(24, 12, groups=2), conv_shape(24, 12, groups=2)),
        (linear_shape(10, 100), linear_shape(16, 112)),
        (
            LayerShape("conv_transpose2d", (20, 24, 2, 2), (1, 20, 4, 4)),
            LayerShape("conv_transpose2d", (32, 32, 2, 2), (1, 32, 4, 4)),
        ),
        (LayerShape("embedding", (100, 20), (1, 7)), LayerShape("embedding", (100, 20), (1, 7))),
    ],
)
def test_channels_are_rounded_up_to_the_step(shape, stepped):
    assert on_step(shape) == stepped


def test_one_relative_scales_the_roofline():
    whole, half = conv_shape(64, 64), conv_shape(32, 64)
    relatives = [timing_of(whole, (), 3.0)]
    found = relative_dense_ms(half, relatives, ROOFLINE, FACTS)
    assert found == pytest.approx(3.0 * roofline(half) / roofline(whole), rel=EXACT)


def test_counts_between_steps_cost_as_the_next_step():
    relatives = [timing_of(conv_shape(64, 64), (), 3.0)]
    between, step = (
        relative_dense_ms(conv_shape(size, 64), relatives, ROOFLINE, FACTS) for size in (33, 48)
    )
    assert between == step


def test_several_relatives_are_interpolated():
    shapes = conv_shape(64, 64), conv_shape(16, 64)
    relatives = [timing_of(shape, (), time) for shape, time in zip(shapes, (4.0, 2.0), strict=True)]
    found = relative_dense_ms(conv_shape(32, 64), relatives, ROOFLINE, FACTS)
    # One doubling from either: both count the same.
    ratios = [4.0 / roofline(shapes[0]), 2.0 / roofline(shapes[1])]
    expected = math.sqrt(ratios[0] * ratios[1]) * roofline(conv_shape(32, 64))
    assert found == pytest.approx(expected, rel=EXACT)
    low, high = (ratio * roofline(conv_shape(48, 64)) for ratio in sorted(ratios))
    assert low < relative_dense_ms(conv_shape(48, 64), relatives, ROOFLINE, FACTS) < high


def test_no_relatives_no_time():
    assert relative_dense_ms(conv_shape(), [], ROOFLINE, FACTS) is None


def test_the_cost_takes_measured_points_then_relatives_then_the_roofline():
    whole, half = conv_shape(64, 64), conv_shape(32, 64)
    layer = LayerWorkload("w", half, 64)
    cost = LatencyCost()
    measured = profile_of(timing_of(whole, (), 3.0), timing_of(half, (), 2.5))
    assert cost.dense_cost(layer, measured) == 2.5
    assert cost.source(layer, measured) == "measured"
    relative = profile_of(timing_of(whole, (), 3.0))
    expected = 3.0 * roofline(half) / roofline(whole)
    assert cost.dense_cost(layer, relative) == pytest.approx(expected, rel=EXACT)
    assert cost.source(layer, relative) == "estimated"
    unrelated = profile_of(timing_of(linear_shape(), (), 3.0))
    assert cost.dense_cost(layer, unrelated) == pytest.approx(roofline(half), rel=EXACT)


def test_a_bias_more_or_less_is_no_distance():
    shape = conv_shape(64, 64, has_bias=True)
    relatives = [timing_of(conv_shape(64, 64), (), 3.0), timing_of(conv_shape(32, 64), (), 9.0)]
    expected = 3.0 * roofline(shape) / roofline(replace(shape, has_bias=False))
    assert relative_dense_ms(shape, relatives, ROOFLINE, FACTS) == pytest.approx(
        expected, rel=EXACT
    )
