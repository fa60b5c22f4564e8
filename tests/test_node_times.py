"""Times of layers by the runtime's profiler: every layer is found, in every run."""

import numpy as np
import pytest
from builders import conv_shape, linear_shape
from test_benchmark_network import SHAPES

from cost_models import Layout
from spartan_planner.errors import ModelError
from spartan_planner.profiling.run_overhead import measure_run_overhead_ms
from spartan_planner.runtimes.benchmark_network import (
    BenchmarkNetwork,
    dense_network,
    lowered_network,
)
from spartan_planner.runtimes.node_times import profiled_layers

NUM_BURSTS = 2


def times_of(network: BenchmarkNetwork) -> np.ndarray:
    profiled = profiled_layers(network, num_threads=1)
    for _ in range(NUM_BURSTS):
        profiled.burst()
    return profiled.times_ms()


@pytest.mark.parametrize("name", SHAPES)
def test_every_kind_of_layer_is_timed(name):
    times = times_of(dense_network([SHAPES[name]]))
    assert times.shape == (NUM_BURSTS, 1)
    assert np.all(np.isfinite(times) & (times > 0))


def test_layers_of_one_network_are_told_apart():
    shapes = [*SHAPES.values(), *SHAPES.values()]
    times = times_of(dense_network(shapes))
    assert times.shape == (NUM_BURSTS, len(shapes))
    assert np.all(times > 0)


@pytest.mark.parametrize("side", [1, 4])
def test_lowered_layers_are_timed_with_their_gather(side):
    shapes = [conv_shape(64, 64, 3, side), conv_shape(32, 32, 1, side, has_bias=True)]
    times = times_of(lowered_network(shapes, Layout.parse("tile:32x1@16"), [1, 1]))
    assert times.shape == (NUM_BURSTS, 2)
    assert np.all(times > 0)


def test_nothing_stays_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    times_of(dense_network([linear_shape()]))
    assert list(tmp_path.iterdir()) == []


def test_what_the_runtime_cannot_load_is_refused():
    with pytest.raises(ModelError, match="cannot load a generated model"):
        profiled_layers(BenchmarkNetwork(b"nonsense", ()), num_threads=1)


def test_overhead_of_a_run_is_a_time():
    assert 0 < measure_run_overhead_ms(1) < np.inf
