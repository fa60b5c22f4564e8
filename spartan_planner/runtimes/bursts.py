"""Bursts: a model is timed once it is warm.

After another model has run, the next few runs are up to a third slower than the later ones.  A
deployed model runs again and again, so the later ones count (docs/measurements.md).  A run that
lasts long warms itself up for most of its time: one before it and one that counts are enough.
"""

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

WARM_UP_MS = 10.0
MIN_WARM_UP_RUNS, MAX_WARM_UP_RUNS = 2, 10
NUM_TIMED_RUNS = 3
LONG_RUN_MS = 50.0
"""From here on a burst is two runs: rounds beside the yardstick tell more than runs in a row."""

SHORTEST_MS = 0.5e-3
"""Profilers count whole microseconds; what they count as none took about half of one."""


def warm_up(run: Callable[[], object]) -> int:
    """Call ``run`` for 10 ms, at most ten times and at least twice; once where that lasts 50 ms.

    Returns:
        The number of calls.
    """
    start = time.perf_counter()
    for num_runs in range(1, MAX_WARM_UP_RUNS + 1):
        run()
        elapsed_ms = (time.perf_counter() - start) * 1e3
        if elapsed_ms >= (WARM_UP_MS if num_runs >= MIN_WARM_UP_RUNS else LONG_RUN_MS):
            break
    return num_runs


def time_ms(run: Callable[[], object]) -> float:
    """Call ``run`` once and return the time that it took."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def burst(run: Callable[[], Result]) -> tuple[int, list[Result]]:
    """Call ``run`` until warm, then three times more; once where a call lasts 50 ms.

    Returns:
        The number of calls that warmed up, and what the calls that count returned.
    """
    num_warm_up_runs = warm_up(run)
    results: list[Result] = []
    start = time.perf_counter()
    while len(results) < NUM_TIMED_RUNS:
        results.append(run())
        if (time.perf_counter() - start) * 1e3 >= LONG_RUN_MS * len(results):
            break
    return num_warm_up_runs, results


def burst_ms(run: Callable[[], object]) -> float:
    """Call ``run`` until warm and return the median time of the calls that count."""
    return statistics.median(burst(lambda: time_ms(run))[1])
