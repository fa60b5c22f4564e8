"""Bursts: a few runs to get warm, then a few that count."""

from spartan_planner.runtimes.bursts import (
    MAX_WARM_UP_RUNS,
    MIN_WARM_UP_RUNS,
    NUM_TIMED_RUNS,
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
