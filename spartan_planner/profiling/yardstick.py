"""A fixed small network whose time tells how fast the device is at this moment.

Clock frequency and neighbours change by tens of percent within minutes.  Every measurement is
taken beside the yardstick and told in its terms, so that figures of different moments compare.
"""

from cost_models import LayerShape
from spartan_planner.onnx_sessions import open_session, session_options
from spartan_planner.profiling.benchmark_network import dense_network

YARDSTICK_SHAPES = (
    LayerShape("conv2d", (128, 128, 3, 3), (1, 128, 14, 14), 1, (1, 1), (1, 1), (1, 1)),
    LayerShape("conv2d", (256, 256, 3, 3), (1, 256, 7, 7), 1, (1, 1), (1, 1), (1, 1)),
    LayerShape("conv2d", (256, 512, 1, 1), (1, 512, 14, 14), 1, (1, 1), (0, 0), (1, 1)),
)
"""Part of the meaning of every profile: changing it makes old profiles incomparable."""


class Yardstick:
    """The yardstick network, loaded.

    Args:
        num_threads: threads of the runtime.
    """

    def __init__(self, num_threads: int) -> None:
        network = dense_network(YARDSTICK_SHAPES)
        self._session = open_session(network.model, options=session_options(num_threads))

    def time_ms(self) -> float:
        """Return the present time of one run."""
        return self._session.burst_ms()
