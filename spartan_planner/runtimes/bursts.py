"""Bursts: a model is timed once it is warm.

After another model has run, the next few runs are up to a third slower than the later ones.  A
deployed model runs again and again, so the later ones count (docs/measurements.md).
"""

import statistics
import time
from collections.abc import Callable

WARM_UP_MS = 10.0
MIN_WARM_UP_RUNS, MAX_WARM_UP_RUNS = 2, 10
NUM_TIMED_RUNS = 3
SHORTEST_MS = 0.5e-3
"""Profilers count whole microseconds; what they count as none took about half of one."""


def warm_up(run: Callable[[], object]) -> int:
    """Call ``run`` for 10 ms, at least twice and at most ten times; return the number of calls."""
    deadline = time.perf_counter() + WARM_UP_MS * 1e-3
    for num_runs in range(1, MAX_WARM_UP_RUNS + 1):
        run()
        if num_runs >= MIN_WARM_UP_RUNS and time.perf_counter() >= deadline:
            break
    return num_runs


def time_ms(run: Callable[[], object]) -> float:
    """Call ``run`` once and return the time that it took."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def burst_ms(run: Callable[[], object]) -> float:
    """Call ``run`` until warm and return the median time of the next few calls."""
    warm_up(run)
    return statistics.median(time_ms(run) for _ in range(NUM_TIMED_RUNS))
