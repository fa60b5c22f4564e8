"""Times of shapes at channel counts that nobody measured, from shapes at others that were.

A profile often knows a layer of the same kind: the same operation, kernel, stride, place and type,
with other numbers of channels (the dense layer of a pruned one, or a channel point).  The roofline
tells how the time changes with the channels, what was measured tells its level:

    time(s) = roofline(s) * exp( sum_i w_i log(measured_i / roofline(s_i)) / sum_i w_i )

over the measured relatives ``s_i``, with ``w_i = 1 / d_i**2`` and ``d_i`` the sum of
``|log2|`` of the ratios of outputs and of inputs: one relative scales the roofline, several are
interpolated.  The roofline is taken at channels rounded up to the vector step, since runtimes
compute whole vectors: 24 channels cost as many as 32 (docs/roofline.md).
"""

import math
from collections.abc import Iterable, Sequence

from cost_models.channel_shapes import resized
from cost_models.device_facts import DeviceFacts, Roofline
from cost_models.layer_timing import LayerTiming
from cost_models.roofline import dense_ms
from cost_models.workload import LayerShape

VECTOR_STEP = 16
"""Channels that a runtime computes at once: one register of 512 bits, and the block in which ONNX
Runtime and OpenVINO store activations on such processors; a multiple of the 8 of narrower ones."""

LEAST_PADDED = 8
"""Fewer channels, such as the three of an image, take kernels of their own and are not padded."""


def on_step(shape: LayerShape, step: int = VECTOR_STEP) -> LayerShape:
    """Return the shape with its channels rounded up to whole vectors."""
    return resized(shape, lambda size: _up(size, step))


def relative_dense_ms(
    shape: LayerShape, relatives: Sequence[LayerTiming], roofline: Roofline, facts: DeviceFacts
) -> float | None:
    """Return the time of a shape by measured relatives: the formula at the top of this module.

    Args:
        shape: not measured itself.
        relatives: timings of its family.
        roofline: efficiencies of their profile.
        facts: of their profile.

    Returns:
        The time in ms; ``None`` without relatives.

    Raises:
        CostModelError: the layers cannot be estimated from these facts.
    """
    if not relatives:
        return None
    ratios = [item.dense_ms / dense_ms(on_step(item.shape), roofline, facts) for item in relatives]
    distances = [_distance(shape, item.shape) for item in relatives]
    return dense_ms(on_step(shape), roofline, facts) * _interpolated(ratios, distances)


def _interpolated(ratios: Iterable[float], distances: Sequence[float]) -> float:
    """Weighted geometric mean; relatives that differ in their bias only are at distance zero."""
    least = min(distances)
    if least == 0:
        weights = [float(distance == 0) for distance in distances]
    else:
        weights = [(least / distance) ** 2 for distance in distances]
    logs = (weight * math.log(ratio) for weight, ratio in zip(weights, ratios, strict=True))
    return math.exp(sum(logs) / sum(weights))


def _distance(left: LayerShape, right: LayerShape) -> float:
    pairs = zip(left.weight_shape[:2], right.weight_shape[:2], strict=True)
    return sum(abs(math.log2(one / other)) for one, other in pairs)


def _up(size: int, step: int) -> int:
    return size if size < LEAST_PADDED else -(-size // step) * step
