"""Work of layers by hand, and the times that facts and efficiencies give it."""

import math
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from builders import FACTS, conv_shape, linear_shape
from hypothesis import given
from hypothesis import strategies as st

from cost_models import (
    CostModelError,
    DeviceFacts,
    Fact,
    LayerShape,
    Layout,
    Roofline,
    RooflineClass,
)
from cost_models.layer_work import (
    LayerWork,
    is_lowerable,
    layer_class,
    layer_work,
    lowered_work,
    output_shape,
)
from cost_models.roofline import (
    dense_ms,
    lowered_ms,
    n_m_ms,
    roofline_class,
    roofline_ms,
    skips_zeros,
)
from spartan_planner.lowering import pack_convolution
from spartan_planner.runtimes.benchmark_network import dense_network

ROUNDING = 1e-12
"""Relative; a handful of float64 operations in another order."""

EMBEDDING = LayerShape("embedding", (1000, 16), (2, 5))
TRANSPOSED = LayerShape("conv_transpose2d", (8, 6, 4, 4), (1, 8, 5, 5), 2, (2, 2), (1, 1), (1, 1))
DEPTHWISE = conv_shape(12, 1, groups=12, input_shape=(2, 12, 9, 9), stride=(2, 2))
GROUPED = conv_shape(12, 3, groups=4, input_shape=(1, 12, 8, 8))
STRIDED_POINTWISE = conv_shape(10, 6, 1, stride=(2, 2), input_shape=(1, 6, 7, 9))
DILATED = LayerShape("conv1d", (5, 3, 3), (1, 3, 11), stride=(2,), padding=(1,), dilation=(2,))

# shape; class; output; FLOPs; bytes of weights, inputs and outputs, counted by hand
CASES = [
    (
        conv_shape(64, 3, 7, stride=(2, 2), input_shape=(1, 3, 224, 224)),
        "conv",
        (1, 64, 112, 112),
        2 * 64 * 3 * 49 * 112**2,
        (4 * 64 * 147, 4 * 3 * 224**2, 4 * 64 * 112**2),
    ),
    (
        STRIDED_POINTWISE,
        "pointwise",
        (1, 10, 4, 5),
        2 * 60 * 20,
        (4 * 60, 4 * 6 * 20, 4 * 10 * 20),
    ),
    (
        DEPTHWISE,
        "depthwise",
        (2, 12, 5, 5),
        2 * 108 * 50,
        (4 * 108, 4 * 2 * 12 * 81, 4 * 2 * 12 * 25),
    ),
    (GROUPED, "grouped", (1, 12, 8, 8), 2 * 324 * 64, (4 * 324, 4 * 768, 4 * 768)),
    (DILATED, "conv", (1, 5, 5), 2 * 45 * 5, (4 * 45, 4 * 33, 4 * 25)),
    (
        TRANSPOSED,
        "transposed",
        (1, 12, 10, 10),
        2 * 768 * 25,
        (4 * 768, 4 * 200, 4 * 1200),
    ),
    (linear_shape(10, 64), "vector", (1, 10), 2 * 640, (4 * 640, 4 * 64, 4 * 10)),
    (
        linear_shape(10, 64, (7,)),
        "linear",
        (1, 7, 10),
        2 * 640 * 7,
        (4 * 640, 4 * 448, 4 * 70),
    ),
    (
        replace(linear_shape(10, 64, (7,)), dtype="float16"),
        "linear",
        (1, 7, 10),
        2 * 640 * 7,
        (2 * 640, 2 * 448, 2 * 70),
    ),
    (EMBEDDING, "embedding", (2, 5, 16), 0, (4 * 160, 8 * 10, 4 * 160)),
]
IDS = [f"{case[1]} {case[0].label()}" for case in CASES]

ROOFLINE = Roofline(
    (RooflineClass("conv", 0.5, 0.25, 0.1), RooflineClass("any", 0.8, 0.5, 0.0)),
    is_calibrated=False,
    error_band=(0.5, 2.0),
)


@st.composite
def convolutions(draw) -> LayerShape:
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    num_dimensions = draw(st.integers(1, 3))

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(num_dimensions))

    kernel, dilation = sizes(1, 3), sizes(1, 2)
    inside = tuple(
        d * (k - 1) + 1 + extra for d, k, extra in zip(dilation, kernel, sizes(0, 5), strict=True)
    )
    per_group = draw(st.integers(1, 3))
    outputs = groups * draw(st.integers(1, 3))
    return LayerShape(
        f"conv{num_dimensions}d",
        (outputs, per_group, *kernel),
        (draw(st.integers(1, 2)), groups * per_group, *inside),
        groups,
        sizes(1, 3),
        sizes(0, 2),
        dilation,
    )


@pytest.mark.parametrize(("shape", "name", "output", "num_flops", "num_bytes"), CASES, ids=IDS)
def test_work_counted_by_hand(shape, name, output, num_flops, num_bytes):
    work = layer_work(shape)
    assert layer_class(shape) == name
    assert output_shape(shape) == output
    assert work.num_flops == num_flops
    assert (work.num_weight_bytes, work.num_input_bytes, work.num_output_bytes) == num_bytes
    assert work.num_bytes == sum(num_bytes)
    assert work.num_operations == 1


@pytest.mark.parametrize("shape", [case[0] for case in CASES], ids=IDS)
def test_output_is_the_one_that_a_runtime_computes(shape):
    shape = replace(shape, dtype="float32")
    session = onnxruntime.InferenceSession(dense_network([shape]).model)
    (value,) = session.get_inputs()
    made = np.zeros(value.shape, np.int64 if shape.op == "embedding" else np.float32)
    (result,) = session.run(None, {value.name: made})
    assert output_shape(shape) == result.shape


@given(convolutions())
def test_convolutions_do_what_their_loops_do(shape):
    """Every output position is a window that fits into the padded input; the next would not."""
    outputs = output_shape(shape)
    for index, count in enumerate(outputs[2:]):
        size = shape.input_shape[2 + index] + 2 * shape.padding[index]
        reach = shape.dilation[index] * (shape.weight_shape[2 + index] - 1) + 1
        starts = [start for start in range(0, size, shape.stride[index]) if start + reach <= size]
        assert count == len(starts)
    work = layer_work(shape)
    assert work.num_flops == 2 * math.prod(outputs) * math.prod(shape.weight_shape[1:])
    assert work.num_input_bytes <= 4 * math.prod(shape.input_shape)


@given(convolutions(), st.integers(1, 4))
def test_work_grows_with_the_batch_except_for_the_weights(shape, factor):
    batch, *rest = shape.input_shape
    one, many = layer_work(shape), layer_work(replace(shape, input_shape=(factor * batch, *rest)))
    assert many.num_flops == factor * one.num_flops
    assert many.num_weight_bytes == one.num_weight_bytes
    assert many.num_input_bytes == factor * one.num_input_bytes
    assert many.num_output_bytes == factor * one.num_output_bytes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                "op": "conv_transpose2d",
                "weight_shape": (64, 64, 2, 2),
                "input_shape": (1, 64, 1, 1),
                "stride": (2, 2),
            },
            "leave no output",  # unless output padding makes one
        ),
        ({"dtype": "complex64"}, "element type 'complex64' is not known; known are: float64"),
    ],
)
def test_shapes_without_a_known_amount_of_work_are_refused(changes, message):
    with pytest.raises(CostModelError, match=message):
        layer_work(replace(conv_shape(), **changes))


@pytest.mark.parametrize("text", ["tile:32x1@16", "tile:64x1@16", "tile:48x1", "tile:96x1@16"])
@pytest.mark.parametrize("num_kept", [16, 48])
def test_lowered_work_is_that_of_what_lowering_emits(text, num_kept):
    """The gather's and the grouped convolution's sizes, read off the packed weight."""
    shape, layout = conv_shape(128, 64, 3, 8, stride=(2, 2)), Layout.parse(text)
    kept = np.zeros((128, 64), np.float32)
    kept[:, :num_kept] = 1
    weight = np.broadcast_to(kept[:, :, None, None], shape.weight_shape)
    packed = pack_convolution(weight, layout.tile_outputs, 16)
    gathered = 4 * packed.inputs.size * 64
    output = 4 * packed.weight.shape[0] * 16
    cut = 4 * 128 * 16 if packed.has_padded_outputs else 0
    work = lowered_work(shape, layout, num_kept / 64)
    exact = {"rel": ROUNDING}
    assert work.num_flops == pytest.approx(2 * packed.weight.size * 16, **exact)
    assert work.num_weight_bytes == pytest.approx(4 * packed.weight.size, **exact)
    assert work.num_input_bytes == pytest.approx(2 * gathered + cut, **exact)
    assert work.num_output_bytes == pytest.approx(gathered + output + cut, **exact)
    assert work.num_operations == (3 if cut else 2)


def test_formula_with_round_numbers():
    # 2 us launch; 50 MFLOP at half of 100 GFLOP/s; 10 MB at a quarter of 10 GB/s; 0.1 ms.
    work = LayerWork(50e6, 4e6, 3e6, 3e6)
    expected = 0.002 + 0.1 + 1.0 + 4.0
    assert roofline_ms(work, ROOFLINE.classes[0], FACTS, "float32") == pytest.approx(expected)
    twice = replace(work, num_operations=2)
    assert roofline_ms(twice, ROOFLINE.classes[0], FACTS, "float32") == pytest.approx(
        expected + 0.002
    )


def test_what_computes_nothing_needs_no_peak():
    work = layer_work(replace(EMBEDDING, dtype="int8"))
    assert roofline_ms(work, ROOFLINE.classes[0], FACTS, "int8") > 0
    with pytest.raises(CostModelError, match="no peak rate for int8, only for float32"):
        dense_ms(replace(linear_shape(), dtype="int8"), ROOFLINE, FACTS)


def scaled_facts(factor: float) -> DeviceFacts:
    def faster(fact: Fact, by: float) -> Fact:
        return replace(fact, value=fact.value * by)

    return replace(
        FACTS,
        peak_gflop_per_s={k: faster(v, factor) for k, v in FACTS.peak_gflop_per_s.items()},
        bandwidth_gb_per_s=faster(FACTS.bandwidth_gb_per_s, factor),
        launch_overhead_us=faster(FACTS.launch_overhead_us, 1 / factor),
    )


@given(convolutions(), st.floats(0.01, 100))
def test_estimates_scale_with_the_facts(shape, factor):
    roofline = Roofline((RooflineClass("any", 0.8, 0.5, 0.0),), False, (0.5, 2.0))
    slow, fast = (dense_ms(shape, roofline, facts) for facts in (FACTS, scaled_facts(factor)))
    assert slow == pytest.approx(factor * fast, rel=ROUNDING)


@given(convolutions(), st.sampled_from(["tile:32x1@16", "tile:2x1", "tile:3x2"]))
def test_lowered_form_is_linear_in_what_is_kept(shape, text):
    shape = replace(
        shape,
        groups=1,
        weight_shape=(shape.weight_shape[0], shape.input_shape[1], *shape.weight_shape[2:]),
    )
    shares = np.linspace(0, 1, 5)
    times = [lowered_ms(shape, Layout.parse(text), s, ROOFLINE, FACTS) for s in shares]
    assert times[0] > 0
    assert np.all(np.diff(times) > 0)
    line = times[0] + (times[-1] - times[0]) * shares
    np.testing.assert_allclose(times, line, rtol=ROUNDING)


@pytest.mark.parametrize(
    ("known", "wanted", "found"),
    [
        (("conv", "any"), "conv", "conv"),
        (("conv", "any"), "lowered", "conv"),
        (("conv", "grouped", "any"), "lowered", "grouped"),
        (("conv", "any"), "depthwise", "conv"),
        (("linear", "any"), "vector", "linear"),
        (("linear", "any"), "embedding", "linear"),
        (("linear", "any"), "conv", "any"),
        (("any",), "transposed", "any"),
    ],
)
def test_unknown_classes_borrow_from_related_ones(known, wanted, found):
    classes = tuple(RooflineClass(name, 1.0, 1.0, 0.0) for name in known)
    assert roofline_class(Roofline(classes, False, (0.5, 2.0)), wanted).layer_class == found


def test_class_without_relatives_is_refused():
    roofline = Roofline((RooflineClass("depthwise", 1.0, 1.0, 0.0),), False, (0.5, 2.0))
    with pytest.raises(CostModelError, match="no efficiencies for layers of class conv"):
        roofline_class(roofline, "conv")


@pytest.mark.parametrize(
    ("shape", "text", "expected"),
    [
        (conv_shape(), "tile:32x1@16", True),
        (conv_shape(), "tile:4x4", False),
        (conv_shape(), "tile:32x1", False),
        (conv_shape(), "element", False),
        (GROUPED, "tile:4x1", False),
        (linear_shape(), "tile:32x1@16", True),
        (linear_shape(), "tile:32x1", False),
        (LayerShape("linear", (64, 64), (1, 2, 3, 64)), "tile:32x1@16", True),
        (LayerShape("linear", (64, 64), (1, 2, 3, 2, 2, 64)), "tile:32x1@16", False),
        (TRANSPOSED, "tile:2x1", False),
    ],
)
def test_only_balanced_tiles_of_what_is_lowered_are_skipped(shape, text, expected):
    assert skips_zeros(shape, Layout.parse(text)) is expected
    assert is_lowerable(shape) >= expected


def test_n_m_pattern_pays_where_the_device_knows_it():
    shape = linear_shape(4096, 4096, (512,))
    facts = replace(FACTS, sparse_speedups={"2:4": Fact(2.0, "data_sheet", "made up")})
    assert n_m_ms(shape, "2:4", ROOFLINE, FACTS) is None
    work, coefficients = layer_work(shape), roofline_class(ROOFLINE, "linear")
    pruned = LayerWork(
        work.num_flops / 2,
        work.num_weight_bytes / 2 * (1 + 2 / 32),
        work.num_input_bytes,
        work.num_output_bytes,
    )
    expected = roofline_ms(pruned, coefficients, FACTS, "float32")
    assert n_m_ms(shape, "2:4", ROOFLINE, facts) == pytest.approx(expected, rel=ROUNDING)
    assert expected < dense_ms(shape, ROOFLINE, facts)
