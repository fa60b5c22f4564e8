"""Workloads: what is counted, and what is refused."""

from dataclasses import replace

import pytest
from builders import conv_shape, linear_shape, workload_of

from cost_models import LayerShape, LayerWorkload, UnknownNameError, UnpricedOperation, Workload


def test_macs_of_a_convolution_are_the_published_ones():
    # The first convolution of ResNet-50: 7x7, 3 to 64, 112x112 positions, 118,013,952 MACs.
    shape = LayerShape("conv2d", (64, 3, 7, 7), (1, 3, 224, 224), 1, (2, 2), (3, 3), (1, 1))
    assert LayerWorkload("conv1.weight", shape, 112 * 112).macs == 118_013_952


def test_tied_weight_counts_positions_of_all_uses():
    tied = LayerWorkload("tied.weight", linear_shape(4, 8, (5,)), positions=5 + 7, num_uses=2)
    assert tied.macs == 4 * 8 * 12
    assert tied.num_weights == 32


def test_looking_up_costs_no_macs():
    assert LayerWorkload("e.weight", LayerShape("embedding", (10, 4), (1, 3)), 3).macs == 0


def test_totals_and_look_up():
    first = LayerWorkload("a", conv_shape(8, 4), 64)
    second = LayerWorkload("b", conv_shape(8, 4), 64, num_uses=3)
    third = LayerWorkload("c", linear_shape(2, 8), 1)
    workload = workload_of(first, second, third)
    assert workload.macs == first.macs + second.macs + third.macs
    assert workload.layer("b") is second
    assert workload.shape_counts() == {first.shape: 4, third.shape: 1}
    with pytest.raises(UnknownNameError, match="no layer 'd'"):
        workload.layer("d")


@pytest.mark.parametrize(
    ("shape", "label"),
    [
        (conv_shape(256, 128, 3, 8), "conv2d 256x128x3x3 @ 8x8"),
        (conv_shape(64, 3, 7, 32, stride=(2, 2)), "conv2d 64x3x7x7 /2 @ 32x32"),
        (conv_shape(64, 1, 3, 8, groups=64), "conv2d 64x1x3x3 in 64 groups @ 8x8"),
        (linear_shape(10, 64), "linear 10x64 @ 1"),
        (linear_shape(10, 64, (197,)), "linear 10x64 @ 1x197"),
        (LayerShape("conv1d", (4, 2, 3), (1, 2, 50)), "conv1d 4x2x3 @ 50"),
    ],
)
def test_label(shape, label):
    assert shape.label() == label


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_shape": (4,)}, "at least two dimensions"),
        ({"weight_shape": (4, 0)}, "weight_shape must hold positive sizes"),
        ({"input_shape": (-1, 2)}, "input_shape must hold positive sizes"),
        ({"stride": (0, 1)}, "stride must hold positive sizes"),
        ({"dilation": (1, 0)}, "dilation must hold positive sizes"),
        ({"padding": (-1, 0)}, "padding must not be negative"),
        ({"weight_shape": (64, 64)}, "weight_shape of conv2d must have 4 dimensions"),
        ({"input_shape": (1, 64, 8)}, "input_shape of conv2d must have 4 dimensions"),
        ({"stride": (1,) * 5}, "stride of conv2d must be empty or have 2 figures"),
        ({"padding": (1,)}, "padding of conv2d must be empty or have 2 figures"),
        ({"dilation": (1, 1, 1)}, "dilation of conv2d must be empty or have 2 figures"),
        ({"input_shape": (1, 7, 8, 8)}, "input_shape must have 64 channels"),
        ({"groups": 5, "input_shape": (1, 320, 8, 8)}, "groups must divide 64"),
        ({"op": "conv_transpose2d", "groups": 5}, "groups must divide 64"),
        ({"op": "conv_transpose2d", "weight_shape": (8, 4, 3, 3)}, "must have 8 channels"),
        ({"op": "conv_transpose2d", "padding": (99, 99)}, "leaves no output"),
        ({"input_shape": (1, 64, 1, 8), "padding": (0, 0)}, "does not fit an input of 1"),
        ({"dilation": (9, 9)}, "a kernel that reaches over 19 does not fit"),
        ({"op": "linear"}, "weight_shape of linear must have 2 dimensions"),
        ({"op": "embedding"}, "weight_shape of embedding must have 2 dimensions"),
        ({"dtype": "banana"}, "dtype 'banana' is not known; known are: bfloat16"),
    ],
)
def test_impossible_shape_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        conv_shape(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": (1, 7)}, "must end in 64, the inputs of its weight"),
        ({"input_shape": ()}, "at least one dimension"),
        ({"groups": 2}, "linear has no groups"),
        ({"stride": (1,)}, "linear has no groups, stride"),
    ],
)
def test_impossible_product_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(linear_shape(), **changes)


def test_no_group_is_no_number_of_groups():
    with pytest.raises(ValueError, match="groups must be at least 1"):
        replace(conv_shape(), groups=0)


@pytest.mark.parametrize("figures", [(0, 1), (-5, 1), (1, -1)])
def test_impossible_unpriced_operation_is_refused(figures):
    with pytest.raises(ValueError, match="num_calls must be at least 1 and num_output_elements"):
        UnpricedOperation("relu", *figures)


@pytest.mark.parametrize("changes", [{"positions": 0}, {"num_uses": 0}])
def test_impossible_use_is_refused(changes):
    with pytest.raises(ValueError, match="at least 1"):
        LayerWorkload(**{"name": "a", "shape": conv_shape(), "positions": 1, **changes})


def test_workload_that_contradicts_itself_is_refused():
    layer = LayerWorkload("a", linear_shape(2, 8), 1)
    with pytest.raises(ValueError, match="'a' appears twice"):
        workload_of(layer, layer)
    with pytest.raises(ValueError, match="more weights than num_parameters"):
        Workload(1, "small", "f", 15, (layer,))
