"""Latency: measured where it was, estimated elsewhere, and never silently."""

from dataclasses import replace

import pytest
import yaml
from builders import (
    FACTS,
    TILE,
    conv_shape,
    linear_shape,
    profile_of,
    small_profile,
    timing_of,
    workload_of,
)
from hypothesis import given
from hypothesis import strategies as st

from cost_models import (
    ActivationProduct,
    CostModelError,
    DeviceProfile,
    DocumentError,
    LayerShape,
    LayerWorkload,
    Layout,
    ModelTiming,
    RooflineClass,
    SpartanPlannerError,
    UnpricedOperation,
)
from cost_models.documents import dump_document, parse_document
from cost_models.latency import MOVES_PER_ELEMENT, LatencyCost, latency_source
from cost_models.roofline import dense_ms, lowered_ms
from cost_models.shapes_digest import shapes_digest

ROUNDING = 1e-12
"""Relative; a handful of float64 operations in another order."""

LATENCY = LatencyCost()
SHAPE = conv_shape(64, 64)
LAYER = LayerWorkload("a", SHAPE, 64)
OTHER_LAYOUT = Layout.parse("tile:64x1@16")
EMPTY = profile_of()
MEASURED = profile_of(timing_of(SHAPE, dense_ms=3.0))


def estimated(shape: LayerShape = SHAPE) -> float:
    return dense_ms(shape, EMPTY.roofline, EMPTY.facts)


def estimated_lowered(share: float) -> float:
    return lowered_ms(SHAPE, OTHER_LAYOUT, share, EMPTY.roofline, EMPTY.facts)


def test_measured_figures_are_those_of_the_profile():
    cost = LATENCY.linear_cost(LAYER, Layout.parse(TILE), MEASURED)
    sparse = MEASURED.layers[0].sparse[0]
    assert (cost.dense, cost.fixed, cost.per_block) == (3.0, sparse.fixed_ms, sparse.per_block_ms)
    assert (cost.unit, cost.source) == ("ms", "measured")


def test_shape_that_was_not_measured_is_estimated():
    cost = LATENCY.linear_cost(LAYER, OTHER_LAYOUT, EMPTY)
    assert cost.source == "estimated"
    assert cost.dense == estimated() == LATENCY.dense_cost(LAYER, EMPTY)
    for num_blocks in range(5):
        expected = estimated_lowered(num_blocks / 4)
        assert cost.sparse(num_blocks) == pytest.approx(expected, rel=ROUNDING)


def test_layout_that_was_not_measured_is_as_much_off_as_dense_was():
    cost = LATENCY.linear_cost(LAYER, OTHER_LAYOUT, MEASURED)
    scale = 3.0 / estimated()
    assert (cost.dense, cost.source) == (3.0, "estimated")
    assert cost.fixed == pytest.approx(scale * estimated_lowered(0), rel=ROUNDING)
    assert cost.sparse(4) == pytest.approx(scale * estimated_lowered(1), rel=ROUNDING)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (SHAPE, "element"),
        (SHAPE, "tile:32x1"),
        (SHAPE, "tile:32x4"),
        (LayerShape("linear", (64, 64), (1, 2, 3, 1, 1, 64)), "tile:32x1@16"),
        (linear_shape(64, 64), "element"),
        (conv_shape(64, 16, groups=4, input_shape=(1, 64, 8, 8)), "tile:16x1@16"),
        (LayerShape("conv_transpose2d", (64, 64, 2, 2), (1, 64, 4, 4)), "tile:32x1@16"),
    ],
)
@pytest.mark.parametrize("dense", [None, 0.5])
def test_zeros_that_nothing_skips_gain_nothing(shape, text, dense):
    profile = profile_of(*([] if dense is None else [timing_of(shape, (), dense)]))
    cost = LATENCY.linear_cost(LayerWorkload("a", shape, 1), Layout.parse(text), profile)
    assert cost.fixed == cost.dense == (dense or estimated(shape))
    assert cost.per_block == 0
    assert cost.break_even_density(100) == 0
    assert cost.source == ("measured" if dense else "estimated")


def test_one_estimated_use_makes_the_sum_estimated():
    known, unknown = conv_shape(64, 64, side=8), conv_shape(64, 64, side=4)
    layer = LayerWorkload("shared", known, 80, further_shapes=(unknown,))
    profile = profile_of(timing_of(known, dense_ms=1.0))
    assert LATENCY.dense_cost(layer, profile) == 1.0 + estimated(unknown)
    assert LATENCY.linear_cost(layer, Layout.parse(TILE), profile).source == "estimated"
    assert latency_source(layer, profile) == LATENCY.source(layer, profile) == "estimated"
    assert latency_source(LayerWorkload("a", known, 64), profile) == "measured"


@pytest.mark.parametrize("text", ["element", TILE, "tile:7x3", "tile:32x1@24"])
@given(st.floats(1e-3, 1e3), st.floats(0, 1), st.floats(0, 1))
def test_estimates_are_monotone_and_scale_with_the_facts(text, factor, some, other):
    def cost(by: float):
        facts = replace(
            FACTS,
            peak_gflop_per_s={
                "float32": replace(FACTS.peak_gflop_per_s["float32"], value=100 / by)
            },
            bandwidth_gb_per_s=replace(FACTS.bandwidth_gb_per_s, value=10 / by),
            launch_overhead_us=replace(FACTS.launch_overhead_us, value=2 * by),
        )
        ideal = replace(EMPTY.roofline, classes=(RooflineClass("any", 0.5, 0.5, 0.0),))
        slower = replace(EMPTY, facts=facts, roofline=ideal)
        return LATENCY.linear_cost(LAYER, Layout.parse(text), slower)

    num_blocks = Layout.parse(text).num_whole_blocks(SHAPE.weight_shape)
    fewer, more = sorted((some, other))
    assert 0 < cost(1).sparse(fewer * num_blocks) <= cost(1).sparse(more * num_blocks)
    assert cost(factor).dense == pytest.approx(factor * cost(1).dense, rel=ROUNDING)
    assert cost(factor).break_even_density(num_blocks) == pytest.approx(
        cost(1).break_even_density(num_blocks), rel=1e-9
    )


def test_rest_of_a_measured_model_is_what_was_measured():
    workload = workload_of(LAYER)
    digest = shapes_digest(workload)
    timing = ModelTiming("small", workload.fingerprint, 5.0, 4.0, 1.0, digest)
    measured = replace(MEASURED, models=(timing,))
    assert LATENCY.rest(workload, measured) == 1.0
    assert LATENCY.rest_source(workload, measured) == "measured"
    for change in ({"fingerprint": "0" * 64}, {"shapes_digest": ""}):
        other = replace(MEASURED, models=(replace(timing, **change),))
        assert LATENCY.rest(workload, other) == 0.05
        assert LATENCY.rest_source(workload, other) == "estimated"


@pytest.mark.parametrize("input_shape", [(8, 64, 8, 8), (1, 64, 16, 16)])
def test_rest_measured_at_another_batch_or_size_is_not_taken(input_shape):
    workload = workload_of(LAYER)
    timing = ModelTiming("small", workload.fingerprint, 5.0, 4.0, 1.0, shapes_digest(workload))
    larger = workload_of(replace(LAYER, shape=replace(SHAPE, input_shape=input_shape)))
    assert larger.fingerprint == workload.fingerprint
    assert LATENCY.rest(larger, replace(MEASURED, models=(timing,))) == 0.05


@pytest.mark.parametrize(
    ("torch_name", "onnx_name"),
    [
        ("relu_", "Relu"),
        ("relu", "Relu"),
        ("hardtanh_", "Clip"),
        ("clamp", "Clip"),
        ("batch_norm", "BatchNormalization"),
        ("_native_batch_norm_legit_no_training", "BatchNormalization"),
        ("native_dropout", "Dropout"),
        ("add_", "Add"),
        ("gelu", "Gelu"),
    ],
)
@pytest.mark.parametrize("layer", [LAYER, LayerWorkload("a", linear_shape(64, 64), 1)])
def test_an_operation_costs_the_same_by_the_name_that_torch_and_onnx_give_it(
    torch_name, onnx_name, layer
):
    costs = [
        LATENCY.rest(
            replace(workload_of(layer), unpriced=(UnpricedOperation(name, 3, 10**6),)), EMPTY
        )
        for name in (torch_name, onnx_name)
    ]
    assert costs[0] == costs[1]


def test_additions_are_folded_into_convolutions_only():
    addition = (UnpricedOperation("Add", 3, 10**6),)
    convolutional = replace(workload_of(LAYER), unpriced=addition)
    linear = replace(workload_of(LayerWorkload("a", linear_shape(), 1)), unpriced=addition)
    assert LATENCY.rest(convolutional, EMPTY) == 0.05
    assert LATENCY.rest(linear, EMPTY) > 1


def test_rest_of_another_model_is_estimated_by_hand():
    # Facts: 100 GFLOP/s, 10 GB/s, 2 us; efficiencies 0.5; class overhead 0.01 ms.
    product = ActivationProduct("bmm", (12, 100, 64), (12, 64, 100), 3, 1)
    gelu = UnpricedOperation("gelu", 4, 1000)
    relu = UnpricedOperation("relu", 9, 10**9)
    workload = replace(workload_of(LAYER), products=(product,), unpriced=(gelu, relu))
    num_flops, num_bytes = 2 * 12 * 100 * 64 * 100, 4 * 12 * (2 * 100 * 64 + 100 * 100)
    products = 3 * (0.002 + 0.01 + num_flops / 50e6 + num_bytes / 5e6)
    gelus = 4 * 0.002 + 1000 * 4 * MOVES_PER_ELEMENT / 10e6
    assert LATENCY.rest(workload, EMPTY) == pytest.approx(0.05 + products + gelus, rel=ROUNDING)


def test_rest_is_never_zero():
    facts_only = replace(EMPTY, measurement=None, run_overhead_ms=0.0)
    assert LATENCY.rest(workload_of(LAYER), facts_only) == FACTS.launch_overhead_us.value * 1e-3


def test_layer_that_cannot_be_estimated_is_named():
    layer = LayerWorkload("body.weight", replace(SHAPE, dtype="float16"), 64)
    with pytest.raises(CostModelError, match=r"layer body\.weight: .* no peak rate for float16"):
        LATENCY.dense_cost(layer, EMPTY)


def test_figures_beyond_reason_are_refused():
    with pytest.raises(ValueError, match="compute_efficiency must be positive"):
        RooflineClass("any", 1e-320, 1.0, 0.0)


PROFILE_TREE = yaml.safe_load(dump_document(small_profile()))
FIGURES = st.floats(allow_nan=True) | st.integers(-3, 10**9) | st.sampled_from(["", "conv", None])
PLACES = st.sampled_from(
    [
        ("facts", "bandwidth_gb_per_s", "value"),
        ("facts", "launch_overhead_us", "value"),
        ("facts", "peak_gflop_per_s", "float32", "value"),
        ("facts", "peak_gflop_per_s"),
        ("roofline", "classes", 0, "compute_efficiency"),
        ("roofline", "classes", 0, "bandwidth_efficiency"),
        ("roofline", "classes", 0, "overhead_ms"),
        ("roofline", "classes", 0, "layer_class"),
        ("roofline", "error_band", 0),
        ("layers", 1, "shape", "op"),
        ("layers", 1, "shape", "stride"),
        ("layers", 1, "dense_ms"),
        ("run_overhead_ms",),
    ]
)
SHAPES = (
    SHAPE,
    conv_shape(96, 40),
    linear_shape(10, 20, (3,)),
    LayerShape("embedding", (10, 4), (1, 3)),
    LayerShape("conv_transpose2d", (8, 4, 2, 2), (1, 8, 4, 4)),
    LayerShape("conv1d", (8, 4, 2), (1, 8, 5), 2),
)


@given(PLACES, FIGURES, st.sampled_from(SHAPES), st.sampled_from(["element", TILE, "tile:7x3"]))
def test_hostile_profiles_never_crash_and_never_price_at_zero(place, figure, shape, text):
    tree = yaml.safe_load(yaml.safe_dump(PROFILE_TREE))
    inner = tree
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = figure
    try:
        profile = parse_document(yaml.safe_dump(tree), DeviceProfile, "profile")
    except DocumentError:
        return
    layer = LayerWorkload("a", shape, 1)
    try:
        cost = LATENCY.linear_cost(layer, Layout.parse(text), profile)
        rest = LATENCY.rest(workload_of(layer), profile)
    except SpartanPlannerError:
        return
    assert cost.dense > 0
    assert cost.fixed > 0
    assert rest > 0
