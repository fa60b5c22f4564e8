"""The times of parts of a network, by ONNX Runtime's own profiler."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from spartan_planner.errors import ModelError
from spartan_planner.onnx_sessions import Session, open_session, session_options
from spartan_planner.runtimes.benchmark_network import FEEDER_OP, BenchmarkNetwork
from spartan_planner.runtimes.bursts import SHORTEST_MS, burst
from spartan_planner.runtimes.protocol import LAYER_CLASSES, Inputs, PartsOf, RunNode

_KERNEL_SUFFIX = "_kernel_time"
_WEIGHTS_FILE_ENTRY = "session.optimized_model_external_initializers_file_name"
_BLOCKED_SUFFIX = "_nchwc"
"""What the runtime adds to an output's name to name the node that computes it in blocked form."""

_CLASS_OF_OP = {
    "Conv": "conv",
    "FusedConv": "conv",
    "NhwcFusedConv": "conv",
    "ConvTranspose": "conv",
    "Gemm": "linear",
    "FusedGemm": "linear",
    "MatMul": "linear",
    "FusedMatMul": "linear",
    "Attention": "linear",
    "Gather": "embedding",
}
"""What the runtime's optimizer makes of layers.  ``Attention`` holds a packed in-projection."""

_WEIGHT_INPUT = {"Gather": 0}
_USUAL_WEIGHT_INPUT = 1

Parts = Sequence[Sequence[str]]
"""For each part the names of its nodes."""


class ProfiledNetwork:
    """A network under the runtime's profiler.

    Args:
        model: serialized ONNX model, or its path.
        parts_of: reads the parts to time off the graph as the runtime has optimized it.
        num_threads: threads of the runtime.
        inputs: to run it on; made up by default.

    Raises:
        ModelError: the runtime cannot load the network.
    """

    def __init__(
        self,
        model: bytes | Path,
        parts_of: Callable[[onnx.GraphProto], Parts],
        num_threads: int,
        inputs: Inputs | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="spartan-planner-")
        optimized = Path(self._folder.name) / "optimized.onnx"
        options = session_options(num_threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(self._folder.name) / "profile")
        options.optimized_model_filepath = str(optimized)
        # Only the graph is wanted; above 2 GB it could not be written with its weights inside.
        options.add_session_config_entry(_WEIGHTS_FILE_ENTRY, f"{optimized.name}.data")
        try:
            self._session: Session = open_session(model, inputs, options)
        except ModelError:
            self._folder.cleanup()
            raise
        self._parts = parts_of(onnx.load(optimized, load_external_data=False).graph)
        optimized.unlink()
        optimized.with_name(f"{optimized.name}.data").unlink(missing_ok=True)
        self._num_runs = 0
        self._timed_runs: list[slice] = []

    def burst(self) -> None:
        """Run until warm, then a few times more; the profiler keeps the times of those."""
        num_warm_up_runs, timed = burst(self._session.run)
        start = self._num_runs + num_warm_up_runs
        self._num_runs = start + len(timed)
        self._timed_runs.append(slice(start, self._num_runs))

    def times_ms(self) -> NDArray[np.float64]:
        """Stop profiling and return the times, ``[bursts, parts]``, medians over each burst.

        Raises:
            ModelError: the profiler's record does not hold every node in every run.
        """
        path = Path(self._session.inference.end_profiling())
        durations = _durations_ms(path)
        self._folder.cleanup()
        names = {name for part in self._parts for name in part}
        if any(len(durations[name]) != self._num_runs for name in names):
            raise ModelError(
                "ONNX Runtime's profiler left out a run of a node; use a version of onnxruntime "
                "that this project is tested with"
            )
        runs = np.zeros((self._num_runs, len(self._parts)))
        for index, part in enumerate(self._parts):
            for name in part:
                runs[:, index] += durations[name]
        return np.stack([np.median(runs[timed], axis=0) for timed in self._timed_runs])


def profiled_layers(network: BenchmarkNetwork, num_threads: int) -> ProfiledNetwork:
    """Return a benchmark network whose parts are its layers.

    Raises:
        ModelError: the runtime cannot load the network.
    """
    return ProfiledNetwork(
        network.model,
        lambda graph: [nodes_of_layer(graph, output) for output in network.outputs],
        num_threads,
    )


def profiled_classes(model: bytes, num_threads: int) -> ProfiledNetwork:
    """Return a whole model whose parts are the classes of its layers.

    Raises:
        ModelError: the runtime cannot load the model.
    """
    return ProfiledNetwork(model, nodes_of_classes, num_threads)


def profiled_parts(
    model: Path, parts_of: PartsOf, num_threads: int, inputs: Inputs
) -> ProfiledNetwork:
    """Return a file whose parts the caller tells.

    Raises:
        ModelError: the runtime cannot load the file.
    """
    return ProfiledNetwork(model, lambda graph: parts_of(run_nodes(graph)), num_threads, inputs)


def run_nodes(graph: onnx.GraphProto) -> list[RunNode]:
    """Return what each node of an optimized graph computes of the original one."""
    producers = {value: node.name for node in graph.node for value in node.output}
    return [
        RunNode(
            node.name,
            node.op_type,
            # A blocked convolution is named after the value that it computes.
            frozenset({node.name, node.name.partition(_BLOCKED_SUFFIX)[0], *node.output}),
            tuple(producers[value] for value in node.input if value in producers),
        )
        for node in graph.node
    ]


def nodes_of_layer(graph: onnx.GraphProto, output: str) -> list[str]:
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


def nodes_of_classes(graph: onnx.GraphProto) -> list[list[str]]:
    """Names of the nodes of each of :data:`LAYER_CLASSES` that read a constant weight."""
    weights = {item.name for item in graph.initializer if len(item.dims) >= 2}
    names: dict[str, list[str]] = {name: [] for name in LAYER_CLASSES}
    for node in graph.node:
        kind = _CLASS_OF_OP.get(node.op_type)
        place = _WEIGHT_INPUT.get(node.op_type, _USUAL_WEIGHT_INPUT)
        if kind and len(node.input) > place and node.input[place] in weights:
            names[kind].append(node.name)
    return list(names.values())


def _durations_ms(path: Path) -> dict[str, list[float]]:
    """Kernel times by node, in the order of the runs."""
    durations: dict[str, list[float]] = defaultdict(list)
    for event in json.loads(path.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL_SUFFIX):
            milliseconds = max(event["dur"] * 1e-3, SHORTEST_MS)
            durations[event["name"].removesuffix(_KERNEL_SUFFIX)].append(milliseconds)
    return durations
