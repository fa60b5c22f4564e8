"""The time of each layer of a benchmark network, by the runtime's own profiler."""

import json
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from spartan_planner.errors import ModelError
from spartan_planner.onnx_sessions import (
    NUM_TIMED_RUNS,
    Session,
    open_session,
    session_options,
    warm_up,
)
from spartan_planner.profiling.benchmark_network import FEEDER_OP, BenchmarkNetwork

_KERNEL_SUFFIX = "_kernel_time"
_SHORTEST_MS = 0.5e-3
"""The profiler counts whole microseconds; what it counts as none took about half of one."""


class ProfiledNetwork:
    """A benchmark network under the runtime's profiler.

    Args:
        network: the network.
        num_threads: threads of the runtime.

    Raises:
        ModelError: the runtime cannot load the network.
    """

    def __init__(self, network: BenchmarkNetwork, num_threads: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="spartan-planner-")
        optimized = Path(self._folder.name) / "optimized.onnx"
        options = session_options(num_threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(self._folder.name) / "profile")
        options.optimized_model_filepath = str(optimized)
        try:
            self._session: Session = open_session(network.model, options=options)
        except ModelError:
            self._folder.cleanup()
            raise
        graph = onnx.load(optimized, load_external_data=False).graph
        self._nodes = [_nodes_of_layer(graph, output) for output in network.outputs]
        optimized.unlink()
        self._num_runs = 0
        self._timed_runs: list[slice] = []

    def burst(self) -> None:
        """Run until warm, then a few times more; the profiler keeps the times of those."""
        start = self._num_runs + warm_up(self._session.run)
        for _ in range(NUM_TIMED_RUNS):
            self._session.run()
        self._num_runs = start + NUM_TIMED_RUNS
        self._timed_runs.append(slice(start, self._num_runs))

    def layer_times_ms(self) -> NDArray[np.float64]:
        """Stop profiling and return the times, ``[bursts, layers]``, medians over each burst.

        Raises:
            ModelError: the profiler's record does not hold every layer in every run.
        """
        path = Path(self._session.inference.end_profiling())
        events = json.loads(path.read_text(encoding="utf-8"))
        self._folder.cleanup()
        durations: dict[str, list[float]] = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_KERNEL_SUFFIX):
                durations[event["name"].removesuffix(_KERNEL_SUFFIX)].append(event["dur"] * 1e-3)
        if any(name not in durations for nodes in self._nodes for name in nodes):
            raise ModelError("ONNX Runtime's profiler left out a node; its version is not known")
        layers = [np.sum([durations[name] for name in nodes], axis=0) for nodes in self._nodes]
        runs = np.maximum(np.stack(layers, axis=1), _SHORTEST_MS)
        return np.stack([np.median(runs[timed], axis=0) for timed in self._timed_runs])


def _nodes_of_layer(graph: onnx.GraphProto, output: str) -> list[str]:
    """Names of the nodes between the feeder (or the input) and a graph output.

    The reordering behind the last node is left out: inside a network the next layer reads the
    blocked form directly.
    """
    producers = {name: node for node in graph.node for name in node.output}
    node = producers.get(output)
    if node is not None and node.op_type == "ReorderOutput":
        node = producers.get(node.input[0])
    names = []
    while node is not None and node.op_type != FEEDER_OP:
        names.append(node.name)
        node = next((producers[name] for name in node.input if name in producers), None)
    return names
