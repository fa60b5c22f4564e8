"""What a set of measured layers says about the bounds of a device."""

import math
from collections.abc import Sequence

from cost_models import DeviceFacts, Fact, LayerShape, LayerTiming, Roofline, RooflineClass
from cost_models.flops import FLOPS_PER_MAC

_BYTES_PER_NUMBER = 4


def facts_of_layers(layers: Sequence[LayerTiming], run_overhead_ms: float) -> DeviceFacts:
    """Return the greatest rates that any of the layers reached, dense."""
    flop_rate = max(_num_flops(layer.shape) / layer.dense_ms for layer in layers) * 1e-6
    byte_rate = max(_num_bytes(layer.shape) / layer.dense_ms for layer in layers) * 1e-6
    return DeviceFacts(
        peak_gflop_per_s={"float32": Fact(flop_rate, "measured", "fastest of the profiled layers")},
        bandwidth_gb_per_s=Fact(byte_rate, "measured", "fastest of the profiled layers"),
        launch_overhead_us=Fact(
            max(run_overhead_ms * 1e3, 1e-3), "measured", "run of a graph of one trivial node"
        ),
    )


def uncalibrated_roofline() -> Roofline:
    """Return efficiencies of 1 with a wide band."""
    return Roofline((RooflineClass("any", 1.0, 1.0, 0.0),), False, (0.5, 10.0))


def _num_flops(shape: LayerShape) -> float:
    positions = math.prod(shape.input_shape[2:]) if shape.is_convolution else 1
    return float(FLOPS_PER_MAC * max(1, shape.num_weights * positions))


def _num_bytes(shape: LayerShape) -> float:
    return float(_BYTES_PER_NUMBER * (shape.num_weights + math.prod(shape.input_shape)))
