"""Bursts: a few runs to get warm, then a few that count."""

import time

from spartan_planner.runtimes.bursts import (
    LONG_RUN_MS,
    MAX_WARM_UP_RUNS,
    MIN_WARM_UP_RUNS,
    NUM_TIMED_RUNS,
    burst,
    burst_ms,
    time_ms,
    warm_up,
)


def test_warm_up_runs_a_few_times():
    calls = []
    count = warm_up(lambda: calls.append(None))
    assert MIN_WARM_UP_RUNS <= count == len(calls) <= MAX_WARM_UP_RUNS


def test_burst_counts_the_runs_after_the_warm_up():
    calls = []
    assert burst_ms(lambda: calls.append(None)) > 0
    assert MIN_WARM_UP_RUNS < len(calls) <= MAX_WARM_UP_RUNS + NUM_TIMED_RUNS


def test_one_call_is_timed():
    calls = []
    assert time_ms(lambda: calls.append(None)) > 0
    assert len(calls) == 1


def test_a_long_run_warms_up_once_and_is_timed_once():
    calls = []

    def long_run() -> int:
        time.sleep(LONG_RUN_MS * 1.1e-3)
        calls.append(None)
        return len(calls)

    assert burst(long_run) == (1, [2])


def test_what_the_calls_that_count_returned():
    calls = iter(range(100))
    num_warm_up_runs, results = burst(lambda: next(calls))
    assert results == list(range(num_warm_up_runs, num_warm_up_runs + NUM_TIMED_RUNS))
