"""Shapes that channels leave, against networks built without those channels."""

from dataclasses import replace

import pytest
from builders import conv_shape, linear_shape, workload_of
from channel_workloads import attention, concatenation, part, residual_network, units, with_groups

from cost_models import ChannelGroup, CostModelError, LayerShape, LayerWorkload, SlicedWeight
from cost_models.channel_shapes import activation_share, cuts_of, reduced_workload


def only(layer: LayerWorkload, *slices, num_units):
    """A workload of one layer and one group."""
    group = ChannelGroup("g", "channel", num_units, slices)
    return with_groups(workload_of(layer), group)


def test_a_residual_network_becomes_the_narrower_one():
    kept = {"stem": 16, "a1": 32, "b1": 32}
    assert reduced_workload(residual_network(32, 64), kept).layers == (
        residual_network(16, 32).layers
    )
    left = reduced_workload(residual_network(32, 64), kept)
    assert left.num_parameters == residual_network(16, 32).num_parameters
    assert left.macs == residual_network(16, 32).macs
    assert left.channel_groups == ()


def test_branches_shrink_on_their_own():
    left = reduced_workload(concatenation(16, 32), {"left": 8})
    assert left.layers == concatenation(8, 32).layers
    left = reduced_workload(concatenation(16, 32), {"left": 8, "right": 8})
    assert left.layers == concatenation(8, 8).layers


def test_groups_that_are_not_named_stay():
    whole = residual_network()
    assert reduced_workload(whole, {}).layers == whole.layers
    assert reduced_workload(whole, {"a1": 64}).layers == whole.layers


def test_heads_take_their_products_along():
    whole = attention(num_heads=4, head_size=8, tokens=6, num_blocks=2)
    left = reduced_workload(whole, {"0.qkv": 3, "0.up": 64})
    assert left.layer("0.qkv").shape == linear_shape(72, 32, tokens=(6,))
    assert left.layer("0.proj").shape == linear_shape(32, 24, tokens=(6,))
    assert left.layer("0.up").shape == linear_shape(64, 32, tokens=(6,))
    assert left.layer("1.qkv").shape == whole.layer("1.qkv").shape
    assert [product.left_shape for product in left.products] == [
        (1, 3, 6, 8),
        (1, 4, 6, 8),
        (1, 3, 6, 6),
        (1, 4, 6, 6),
    ]
    per_head = 6 * 6 * 8
    assert left.product_macs == 2 * per_head * (3 + 4)
    # A bias of three times eight entries goes with the head.
    assert whole.num_parameters - left.num_parameters == 24 * 32 + 32 * 8 + 24 + 2 * 64 * 32


def test_products_that_cannot_be_told_stay():
    whole = attention()
    more_calls = tuple(replace(product, num_calls=4) for product in whole.products)
    left = reduced_workload(replace(whole, products=more_calls), {"0.qkv": 3})
    assert left.products == more_calls


GROUPED = conv_shape(64, 8, 3, groups=8)
CASES = [
    # depthwise: as many groups as channels fewer
    (conv_shape(32, 1, 3, groups=32), (part("w", 0, units(32)),), 32, 24, (24, 1, 3, 3), 24, 24),
    # two outputs per input: units of both
    (conv_shape(64, 1, 3, groups=32), (part("w", 0, units(32, 2)),), 32, 8, (16, 1, 3, 3), 8, 8),
    # whole groups of a grouped convolution
    (GROUPED, (part("w", 0, units(8, 8)),), 8, 3, (24, 8, 3, 3), 3, 24),
    # one output of each group: the groups stay
    (
        GROUPED,
        (part("w", 0, tuple(tuple(8 * g + i for g in range(8)) for i in range(8))),),
        *(8, 3, (24, 8, 3, 3), 8, 64),
    ),
    # one input of each group
    (GROUPED, (part("w", 1, units(8)),), 8, 3, (64, 3, 3, 3), 8, 24),
    # in and out at once
    (
        conv_shape(32, 32),
        (part("w", 0, units(32)), part("w", 1, units(32))),
        *(32, 8, (8, 8, 3, 3), 1, 8),
    ),
]


@pytest.mark.parametrize(
    ("shape", "slices", "num_units", "num_kept", "weight", "groups", "inputs"), CASES
)
def test_convolutions(shape, slices, num_units, num_kept, weight, groups, inputs):
    workload = only(LayerWorkload("w", shape, 64), *slices, num_units=num_units)
    left = reduced_workload(workload, {"g": num_kept}).layers[0].shape
    assert (left.weight_shape, left.groups, left.input_shape[1]) == (weight, groups, inputs)


def test_transposed_convolutions_embeddings_and_matrices_stored_the_other_way():
    transposed = LayerShape("conv_transpose2d", (16, 32, 2, 2), (1, 16, 4, 4), stride=(2, 2))
    rows = part("w", 1, units(32), "output")
    left = reduced_workload(only(LayerWorkload("w", transposed, 64), rows, num_units=32), {"g": 8})
    assert left.layers[0].shape.weight_shape == (16, 8, 2, 2)
    columns = part("w", 0, units(16), "input")
    workload = only(LayerWorkload("w", transposed, 64), columns, num_units=16)
    left = reduced_workload(workload, {"g": 4})
    assert left.layers[0].shape.input_shape == (1, 4, 4, 4)
    table = LayerWorkload("w", LayerShape("embedding", (100, 16), (1, 7)), 7)
    features = part("w", 1, units(16), "output")
    left = reduced_workload(only(table, features, num_units=16), {"g": 4})
    assert left.layers[0].shape.weight_shape == (100, 4)
    # GPT-2 stores [in, out]: the role says which axis of [out, in] goes.
    matrix = LayerWorkload("w", linear_shape(32, 16), 1)
    stored = part("w", 1, units(32), "output")
    left = reduced_workload(only(matrix, stored, num_units=32), {"g": 8})
    assert left.layers[0].shape == linear_shape(8, 16)


def test_every_use_of_a_layer_is_reduced():
    layer = LayerWorkload(
        "w", conv_shape(32, 16), 128, further_shapes=(conv_shape(32, 16, side=4),)
    )
    left = reduced_workload(only(layer, part("w", 0, units(32)), num_units=32), {"g": 8}).layers[0]
    assert [use.weight_shape[0] for use in left.uses] == [8, 8]


def test_share_of_activations():
    whole = residual_network(32, 64)
    left = reduced_workload(whole, {"stem": 16, "a1": 32, "b1": 32})
    # Every layer but the classifier writes half as much.
    written = 64 * (32 * 3 + 64 * 3)
    share = (written / 2 + 10) / (written + 10)
    assert activation_share(whole.layers, left.layers) == pytest.approx(share)
    assert left.unpriced[0].num_output_elements == pytest.approx(share * 64 * 32, abs=1)


@pytest.mark.parametrize(
    ("slices", "num_units", "message"),
    [
        ((part("w", 0, ((0,), (1, 2))),), 2, "must all take the same number"),
        ((part("w", 0, units(40)),), 40, "has no room for them"),
    ],
)
def test_groups_that_do_not_fit_are_refused(slices, num_units, message):
    workload = only(LayerWorkload("w", conv_shape(32, 16), 64), *slices, num_units=num_units)
    with pytest.raises(CostModelError, match=message):
        cuts_of(workload)


def test_slices_of_a_weight_are_refused():
    layer = LayerWorkload("w", linear_shape(32, 16), 1, sliced=SlicedWeight(512, 512))
    workload = only(layer, part("w", 0, units(32)), num_units=32)
    assert reduced_workload(workload, {}).layers == workload.layers
    with pytest.raises(CostModelError, match="used in slices"):
        reduced_workload(workload, {"g": 8})


def test_a_grouped_convolution_that_would_not_divide_is_refused():
    # Outputs 0 to 31 are the first four groups, but not whole ones per unit.
    layer = LayerWorkload("w", GROUPED, 64)
    workload = only(layer, part("w", 0, units(32)), num_units=32)
    with pytest.raises(CostModelError, match="cannot lose these channels"):
        reduced_workload(workload, {"g": 29})
