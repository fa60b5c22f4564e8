"""OpenVINO as a runtime to measure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from spartan_planner.errors import ModelError, UnknownNameError
from spartan_planner.runtimes.benchmark_network import network_of
from spartan_planner.runtimes.bursts import SHORTEST_MS, burst, burst_ms, time_ms
from spartan_planner.runtimes.one_by_one import OneByOne, single_layers
from spartan_planner.runtimes.protocol import (
    LAYER_CLASSES,
    Inputs,
    LayerSet,
    PartsOf,
    PartTimer,
    RunNode,
)
from spartan_planner.runtimes.protocol import Session as AnySession

CPU = "CPU"
_FEEDER = ".fed"
_CLASS_OF_TYPE = {
    "Convolution": "conv",
    "Deconvolution": "conv",
    "FullyConnected": "linear",
    "MatMul": "linear",
    "Gather": "embedding",
}
_WEIGHT_INPUT = {"Gather": 0}
_USUAL_WEIGHT_INPUT = 1
_CONSTANT = "Const"
_NOT_RUN = frozenset({"Input", "Output"})
_ORIGINS = "originalLayersNames"

Parts = Sequence[Sequence[str]]
"""For each part the names of its nodes."""


@dataclass(frozen=True)
class OpenVinoSession:
    """A compiled model with inputs set."""

    request: Any

    def run(self) -> list[NDArray[np.generic]]:
        """Run once and return the outputs."""
        self.request.infer()
        return [np.array(tensor.data) for tensor in self.request.output_tensors]

    def time_ms(self) -> float:
        """Run once and return the time that it took."""
        return time_ms(self.request.infer)

    def burst_ms(self) -> float:
        """Run until warm and return the median time of the next few runs."""
        return burst_ms(self.request.infer)


class CountedNetwork:
    """A compiled model whose nodes are timed by the runtime's performance counters.

    Args:
        compiled: model compiled with ``PERF_COUNT``.
        parts: the nodes of each part.
        inputs: to run it on; made up by default.
    """

    def __init__(self, compiled: Any, parts: Parts, inputs: Inputs | None = None) -> None:  # noqa: ANN401 - no stubs
        self._request = _request(compiled, inputs)
        self._parts = parts
        self._bursts: list[NDArray[np.float64]] = []

    def burst(self) -> None:
        """Run until warm, then a few times more; the counters of those are kept."""
        self._bursts.append(np.median(np.array(burst(self._run)[1]), axis=0))

    def times_ms(self) -> NDArray[np.float64]:
        """Return the times, ``[bursts, parts]``, medians over each burst.

        Raises:
            ModelError: the counters do not hold every node.
        """
        return np.stack(self._bursts)

    def _run(self) -> list[float]:
        self._request.infer()
        return self._times_of_run()

    def _times_of_run(self) -> list[float]:
        durations: dict[str, float] = {}
        for counter in self._request.get_profiling_info():
            durations[counter.node_name] = counter.real_time.total_seconds() * 1e3
        missing = [name for part in self._parts for name in part if name not in durations]
        if missing:
            raise ModelError(
                f"OpenVINO's counters left out node {missing[0]}; use a version of openvino that "
                "this project is tested with"
            )
        return [
            max(SHORTEST_MS, sum(durations[name] for name in part)) if part else 0.0
            for part in self._parts
        ]


class OpenVinoRuntime:
    """OpenVINO on one of its devices, in float32.

    Args:
        provider: device, such as ``CPU`` (the default) or ``GPU``.

    Raises:
        UnknownNameError: the installed runtime has no such device.
    """

    name = "openvino"
    runs_onnx = True

    def __init__(self, provider: str = "") -> None:
        self.version: str = openvino.__version__
        self.provider = provider or CPU
        self._core = openvino.Core()
        known = self._core.available_devices
        if self.provider not in known:
            raise UnknownNameError(
                f"OpenVINO has no device {self.provider!r} here; choose {', '.join(known)}"
            )

    def open(
        self,
        model: bytes | Path,
        num_threads: int,
        inputs: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> AnySession:
        """Load an ONNX model.

        Raises:
            ModelError: the runtime cannot load the model.
        """
        return OpenVinoSession(_request(self._compile(model, num_threads, False), inputs))

    def open_layers(self, layers: LayerSet, num_threads: int) -> AnySession:
        """Load layers to be timed as a whole.

        Raises:
            CostModelError: a layer of an element type that is not measured.
        """
        return self.open(network_of(layers).model, num_threads)

    def time_layers(self, layers: LayerSet, num_threads: int) -> PartTimer:
        """Load layers whose parts are the layers, in order.

        Where the compiled graph does not show which nodes a layer became (and on other devices
        than the CPU), each layer is timed as a network of its own.

        Raises:
            CostModelError: a layer of an element type that is not measured.
        """
        if self.provider == CPU:
            network = network_of(layers)
            compiled = self._compile(network.model, num_threads, True)
            parts = [nodes_of_layer(_graph(compiled), output) for output in network.outputs]
            if all(parts):
                return CountedNetwork(compiled, parts)
        return OneByOne([self.open_layers(one, num_threads) for one in single_layers(layers)])

    def time_classes(self, model: bytes, num_threads: int) -> PartTimer | None:
        """Load a model whose parts are the classes of layers; on the CPU only.

        Raises:
            ModelError: the runtime cannot load the model.
        """
        if self.provider != CPU:
            return None
        compiled = self._compile(model, num_threads, True)
        return CountedNetwork(compiled, nodes_of_classes(_graph(compiled)))

    def time_parts(
        self, model: Path, num_threads: int, inputs: Inputs, parts_of: PartsOf
    ) -> PartTimer | None:
        """Load an ONNX file whose parts are told by the caller; on the CPU only.

        Raises:
            ModelError: the runtime cannot load the model.
        """
        if self.provider != CPU:
            return None
        compiled = self._compile(model, num_threads, True)
        return CountedNetwork(compiled, parts_of(_run_nodes(compiled)), inputs)

    def _compile(self, model: bytes | Path, num_threads: int, is_counted: bool) -> Any:  # noqa: ANN401
        options = {
            # The processor's own half precision would be the default; profiles are of float32.
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "PERF_COUNT": is_counted,
        }
        if self.provider == CPU:
            options |= {"INFERENCE_NUM_THREADS": num_threads, "NUM_STREAMS": 1}
        try:
            return self._core.compile_model(self._core.read_model(model), self.provider, options)
        except Exception as error:
            named = model if isinstance(model, Path) else "a generated model"
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"OpenVINO cannot load {named}: {reason}") from error


@dataclass(frozen=True)
class CompiledNode:
    """A node of a compiled graph.

    Attributes:
        name: by which the counters know it.
        kind: the runtime's word for what it does.
        inputs: names of the nodes that it reads.
        rank: dimensions of its output.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    rank: int


Graph = Mapping[str, CompiledNode]


def nodes_of_layer(graph: Graph, output: str) -> list[str]:
    """Names of the nodes between the feeder (or the input) and a graph output.

    Reorderings behind the last node are left out, as inside a network the next layer reads the
    blocked form directly.  Empty when the output cannot be found.
    """
    result = graph.get(f"{output}/sink_port_0")
    node = graph.get(result.inputs[0]) if result else graph.get(output)
    while node is not None and node.kind == "Reorder":
        node = graph.get(node.inputs[0])
    names: list[str] = []
    while node is not None and node.inputs and not node.name.endswith(_FEEDER):
        names.append(node.name)
        node = next((graph[name] for name in node.inputs if not _is_constant(graph, name)), None)
    return names


def nodes_of_classes(graph: Graph) -> list[list[str]]:
    """Names of the nodes of each of :data:`LAYER_CLASSES` that read a constant weight."""
    names: dict[str, list[str]] = {name: [] for name in LAYER_CLASSES}
    for node in graph.values():
        kind = _CLASS_OF_TYPE.get(node.kind)
        place = _WEIGHT_INPUT.get(node.kind, _USUAL_WEIGHT_INPUT)
        if kind and len(node.inputs) > place:
            weight = node.inputs[place]
            if graph[weight].rank >= 2 and _is_constant(graph, weight):
                names[kind].append(node.name)
    return list(names.values())


def _is_constant(graph: Graph, name: str) -> bool:
    """Whether a node is a constant or is computed of constants alone, once and for all."""
    node = graph[name]
    if node.kind == _CONSTANT:
        return True
    return bool(node.inputs) and all(_is_constant(graph, source) for source in node.inputs)


def _run_nodes(compiled: Any) -> list[RunNode]:  # noqa: ANN401 - the runtime has no type stubs
    """The nodes that are run with every inference: no constants, inputs and outputs."""
    graph, nodes = _graph(compiled), []
    for operation in compiled.get_runtime_model().get_ordered_ops():
        node, facts = graph[operation.get_friendly_name()], operation.get_rt_info()
        if node.kind in _NOT_RUN or _is_constant(graph, node.name):
            continue
        replaced = facts[_ORIGINS].astype(str).split(",") if _ORIGINS in facts else []
        # A bias that is split off leaves "NAME/WithoutBiases" behind.
        origins = {node.name, node.name.partition("/")[0], *replaced} - {""}
        nodes.append(RunNode(node.name, node.kind, frozenset(origins), node.inputs))
    return nodes


def _graph(compiled: Any) -> Graph:  # noqa: ANN401 - the runtime has no type stubs
    nodes: dict[str, CompiledNode] = {}
    for operation in compiled.get_runtime_model().get_ordered_ops():
        name = operation.get_friendly_name()
        facts = operation.get_rt_info()
        kind = facts["layerType"].astype(str) if "layerType" in facts else ""
        inputs = tuple(
            item.get_source_output().get_node().get_friendly_name() for item in operation.inputs()
        )
        rank = operation.get_output_partial_shape(0).rank
        nodes[name] = CompiledNode(name, kind, inputs, rank.get_length() if rank.is_static else 0)
    return nodes


def _request(compiled: Any, inputs: Mapping[str, NDArray[np.generic]] | None) -> Any:  # noqa: ANN401
    request = compiled.create_infer_request()
    generator = np.random.default_rng(0)
    for index, port in enumerate(compiled.inputs):
        names = port.get_names()
        given = next((inputs[name] for name in names if name in inputs), None) if inputs else None
        array = _made_up(port, generator) if given is None else given
        request.set_input_tensor(index, openvino.Tensor(np.ascontiguousarray(array)))
    return request


def _made_up(port: Any, generator: np.random.Generator) -> NDArray[np.generic]:  # noqa: ANN401
    shape = [size.get_length() if size.is_static else 1 for size in port.get_partial_shape()]
    dtype = port.get_element_type().to_dtype()
    if np.issubdtype(dtype, np.floating):
        return generator.standard_normal(shape).astype(dtype)
    return np.ones(shape, dtype) if dtype == np.bool_ else np.zeros(shape, dtype)
