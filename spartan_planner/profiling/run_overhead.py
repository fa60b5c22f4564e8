"""The time that one call of the runtime takes besides its operations."""

import statistics

from cost_models import LayerShape
from spartan_planner.runtimes import LayerSet, Runtime, load_runtime

_NUM_RUNS = 300
_TRIVIAL = LayerShape("linear", (1, 1), (1, 1))


def measure_run_overhead_ms(num_threads: int, runtime: Runtime | None = None) -> float:
    """Return the median time of running a single multiplication, to four digits.

    Args:
        num_threads: threads of the runtime.
        runtime: that runs it; ONNX Runtime by default.
    """
    session = (runtime or load_runtime()).open_layers(LayerSet((_TRIVIAL,)), num_threads)
    median_ms = statistics.median(session.time_ms() for _ in range(_NUM_RUNS))
    return float(f"{median_ms:.4g}")
