"""Small workloads, profiles and graphs that several test files need."""

from dataclasses import replace

import numpy as np
from onnx import (
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    numpy_helper,
    shape_inference,
)

from cost_models import (
    Device,
    DeviceFacts,
    DeviceProfile,
    Fact,
    LayerShape,
    LayerTiming,
    LayerWorkload,
    Layout,
    LinearCost,
    Measurement,
    ModelTiming,
    Provenance,
    Roofline,
    RooflineClass,
    Runtime,
    Sample,
    SparseTiming,
    Workload,
)
from spartan_planner.planning import (
    Plan,
    PlanBudget,
    PlanLayer,
    PlanMeasurement,
    PlanProfile,
    Schedule,
)

FACTS = DeviceFacts(
    peak_gflop_per_s={"float32": Fact(100.0, "data_sheet", "made up")},
    bandwidth_gb_per_s=Fact(10.0, "data_sheet", "made up"),
    launch_overhead_us=Fact(2.0, "data_sheet", "made up"),
    energy_pj_per_mac={"float32": Fact(4.0, "data_sheet", "made up")},
    energy_pj_per_byte=Fact(100.0, "data_sheet", "made up"),
)

OPSET = 20
IR_VERSION = 10
TILE = "tile:32x1@16"


def conv_shape(outputs=64, inputs=64, kernel=3, side=8, **changes) -> LayerShape:
    """A two-dimensional convolution that keeps the size of its input."""
    pad = kernel // 2
    facts = {
        "op": "conv2d",
        "weight_shape": (outputs, inputs, kernel, kernel),
        "input_shape": (1, inputs * changes.get("groups", 1), side, side),
        "stride": (1, 1),
        "padding": (pad, pad),
        "dilation": (1, 1),
    }
    return LayerShape(**{**facts, **changes})


def linear_shape(outputs=10, inputs=64, tokens=()) -> LayerShape:
    return LayerShape("linear", (outputs, inputs), (1, *tokens, inputs), has_bias=True)


def workload_of(*layers: LayerWorkload, extra_parameters=0, model="small") -> Workload:
    num_weights = sum(layer.num_weights for layer in layers)
    return Workload(2, model, "f" * 64, num_weights + extra_parameters, layers)


def small_workload() -> Workload:
    """Two convolutions that can be lowered, a first one that cannot, and a classifier."""
    return workload_of(
        LayerWorkload("stem.weight", conv_shape(64, 3), 64),
        LayerWorkload("a.weight", conv_shape(64, 64), 64),
        LayerWorkload("b.weight", conv_shape(128, 64), 64),
        LayerWorkload("head.weight", linear_shape(10, 128), 1),
        extra_parameters=266,
    )


def timing_of(shape: LayerShape, layouts=(TILE,), dense_ms=1.0, fixed_ms=0.1) -> LayerTiming:
    """A made-up timing: keeping everything costs 1.2 times the dense form."""
    sparse = []
    for text in layouts:
        num_blocks = Layout.parse(text).num_whole_blocks(shape.weight_shape)
        per_block = (1.2 * dense_ms - fixed_ms) / num_blocks
        counts = sorted({1, min(2, Layout.parse(text).num_blocks(shape.weight_shape))})
        samples = tuple(Sample(count, fixed_ms + count * per_block) for count in counts)
        sparse.append(SparseTiming(text, fixed_ms, per_block, 0.0, samples))
    return LayerTiming(shape, dense_ms, 0.01, tuple(sparse))


def profile_of(*timings: LayerTiming, run_overhead_ms=0.05, name="made-up") -> DeviceProfile:
    return DeviceProfile(
        schema_version=2,
        name=name,
        category="x86 CPU",
        facts=FACTS,
        roofline=Roofline((RooflineClass("any", 0.5, 0.5, 0.01),), False, (0.5, 2.0)),
        measurement=Measurement(
            Device("a processor", "x86_64", 2, 1, "unknown", 0.25),
            Runtime("onnxruntime", "1.0", "CPUExecutionProvider"),
            Provenance(
                "measured", "2025-01-01T00:00:00+00:00", {"numpy": "2.0"}, 20, 1.5, 0.7, 0.01, 0.02
            ),
        ),
        run_overhead_ms=run_overhead_ms,
        layers=timings,
    )


def small_profile() -> DeviceProfile:
    """The profile of :func:`small_workload`, measured beside another whole model."""
    stem, a, b, head = (layer.shape for layer in small_workload().layers)
    profile = profile_of(
        timing_of(stem, (), 0.2),
        timing_of(a, (TILE, "tile:64x1@16"), 1.0),
        timing_of(b, (TILE,), 2.0),
        timing_of(head, (), 0.02),
    )
    assert profile.measurement is not None
    provenance = replace(
        profile.measurement.provenance,
        in_situ_factors={"conv": 0.9, "other": 1.1},
        widest_half_width=0.03,
        pinned_cores=(0, 1),
    )
    return replace(
        profile,
        measurement=replace(profile.measurement, provenance=provenance),
        models=(ModelTiming("another", "e" * 64, 5.0, 4.0, 1.0),),
    )


def small_plan() -> Plan:
    """One pruned and one dense layer; every figure is exact in binary."""

    def costs(dense: float, per_block: float) -> dict[str, LinearCost]:
        return {
            "latency": LinearCost(dense, 0.125, per_block, "ms"),
            "flops": LinearCost(1e3 * dense, 0.0, 1e3 * per_block, "FLOPs"),
        }

    return Plan(
        schema_version=4,
        model="small",
        model_fingerprint="f" * 64,
        weights_fingerprint="e" * 64,
        input_shapes=((1, 3, 8, 8),),
        input_dtypes=("float32",),
        profile=PlanProfile(
            "made-up", "0" * 64, PlanMeasurement("a processor", "onnxruntime 1.0", 1, 0.7)
        ),
        policy="cost",
        budgets=(PlanBudget("latency", "ms", 5.5, 3.0, 2.875, 0.5),),
        totals=(PlanBudget("flops", "FLOPs", 5e3, None, 2.25e3, 0.0),),
        not_priced={},
        unpriced_operations={},
        retained_value=0.75,
        duality_gap=0.0,
        warnings=(),
        schedule=Schedule(),
        layers=(
            PlanLayer("a.weight", "tile:32x1@16", 1000, 8, 3, 2.5, 0.3125, costs(4.0, 0.5)),
            PlanLayer("b.weight", "dense", 50, 0, 0, 0.0, 1.0, costs(1.0, 0.0)),
        ),
    )


def conv_node(weight="w", source="x", output="y", bias=None, **attributes) -> NodeProto:
    operands = [source, weight] + ([bias] if bias else [])
    return helper.make_node("Conv", operands, [output], name=f"conv_{output}", **attributes)


def onnx_model(nodes, constants, inputs, outputs) -> ModelProto:
    """A model of float inputs (name to shape), named outputs and constants (name to array)."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    return shape_inference.infer_shapes(model, strict_mode=True)
