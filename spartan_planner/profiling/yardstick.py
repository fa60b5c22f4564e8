"""A fixed small network whose time tells how fast the device is at this moment.

Clock frequency and neighbours change by tens of percent within minutes.  Every measurement is
taken beside the yardstick and told in its terms, so that figures of different moments compare.
"""

import numpy as np
from numpy.typing import NDArray

from cost_models import LayerShape
from spartan_planner.runtimes import LayerSet, Runtime, load_runtime


def _convolution(outputs: int, inputs: int, kernel: int, side: int) -> LayerShape:
    pad = kernel // 2
    weight = (outputs, inputs, kernel, kernel)
    return LayerShape("conv2d", weight, (1, inputs, side, side), 1, (1, 1), (pad, pad), (1, 1))


YARDSTICK_SHAPES = (
    _convolution(256, 256, 3, 14),
    _convolution(512, 512, 3, 7),
    _convolution(512, 512, 3, 7),
    _convolution(1024, 256, 1, 14),
)
"""Like the later stages of ResNet-50, 22 MB of weights in all: a network that fits into a core's
own cache would not notice a busy memory bus, which models do.  Part of the meaning of every
profile: changing it makes old profiles incomparable."""


def quiet_rounds(yardstick_ms: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which rounds count: the half in which the yardstick was fastest.

    Other work on the machine slows models and yardstick, but not all alike.  Choosing by the
    yardstick alone leaves disturbed rounds out without favouring any figure.

    Args:
        yardstick_ms: ``[rounds]``.
    """
    quiet: NDArray[np.bool_] = yardstick_ms <= np.median(yardstick_ms)
    return quiet


class Yardstick:
    """The yardstick network, loaded.

    Args:
        num_threads: threads of the runtime.
        runtime: that runs it, ONNX Runtime by default; times of different runtimes do not compare.
    """

    def __init__(self, num_threads: int, runtime: Runtime | None = None) -> None:
        layers = LayerSet(YARDSTICK_SHAPES)
        self._session = (runtime or load_runtime()).open_layers(layers, num_threads)

    def time_ms(self) -> float:
        """Return the present time of one run."""
        return self._session.burst_ms()
