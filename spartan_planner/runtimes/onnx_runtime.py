"""ONNX Runtime as a runtime to measure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from spartan_planner.errors import UnknownNameError
from spartan_planner.onnx_sessions import PROVIDER, Session, open_session, session_options
from spartan_planner.runtimes.benchmark_network import network_of
from spartan_planner.runtimes.bursts import burst_ms, time_ms
from spartan_planner.runtimes.node_times import profiled_classes, profiled_layers, profiled_parts
from spartan_planner.runtimes.one_by_one import OneByOne, single_layers
from spartan_planner.runtimes.protocol import Inputs, LayerSet, PartsOf, PartTimer
from spartan_planner.runtimes.protocol import Session as AnySession

_MEMORY_OF_PROVIDER = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "NvTensorRTRTXExecutionProvider": "cuda",
    "ROCMExecutionProvider": "cuda",
    "MIGraphXExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
}
"""Providers that compute beside the CPU, and where their arrays lie."""


@dataclass(frozen=True)
class BoundSession:
    """A session whose inputs and outputs stay on the device that computes.

    Copying them to and fro would be timed with every run, which no pipeline on the device pays.
    """

    inference: onnxruntime.InferenceSession
    binding: onnxruntime.IOBinding

    def run(self) -> None:
        """Run once and wait until the device is done."""
        self.inference.run_with_iobinding(self.binding)
        self.binding.synchronize_outputs()

    def time_ms(self) -> float:
        """Run once and return the time that it took."""
        return time_ms(self.run)

    def burst_ms(self) -> float:
        """Run until warm and return the median time of the next few runs."""
        return burst_ms(self.run)


def bind(session: Session, memory: str) -> BoundSession:
    """Return the session with its arrays moved to a device's memory.

    Args:
        session: with inputs in the memory of the CPU.
        memory: of the device, as the runtime names it (``cuda``).
    """
    binding = session.inference.io_binding()
    for name, array in session.inputs.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, memory))
    for output in session.inference.get_outputs():
        binding.bind_output(output.name, memory)
    return BoundSession(session.inference, binding)


class OnnxRuntime:
    """ONNX Runtime with one execution provider.

    On the CPU, parts are timed inside the whole by the runtime's profiler.  Other providers run
    their operations beside the profiler's clock, so there each layer is timed as a network of its
    own, and the parts of a whole model are not told.

    Args:
        provider: execution provider; the CPU's by default.

    Raises:
        UnknownNameError: the installed runtime has no such provider.
    """

    name = "onnxruntime"
    runs_onnx = True

    def __init__(self, provider: str = "") -> None:
        self.version: str = onnxruntime.__version__
        self.provider = provider or PROVIDER
        known = onnxruntime.get_available_providers()
        if self.provider not in known:
            raise UnknownNameError(
                f"ONNX Runtime has no provider {self.provider!r} here; choose {', '.join(known)}, "
                "or install a build of onnxruntime that has it"
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
        session = open_session(model, inputs, session_options(num_threads), self.provider)
        memory = _MEMORY_OF_PROVIDER.get(self.provider)
        return bind(session, memory) if memory else session

    def open_layers(self, layers: LayerSet, num_threads: int) -> AnySession:
        """Load layers to be timed as a whole.

        Raises:
            CostModelError: a layer of an element type that is not measured.
        """
        return self.open(network_of(layers).model, num_threads)

    def time_layers(self, layers: LayerSet, num_threads: int) -> PartTimer:
        """Load layers whose parts are the layers, in order.

        Raises:
            CostModelError: a layer of an element type that is not measured.
        """
        if self.provider == PROVIDER:
            return profiled_layers(network_of(layers), num_threads)
        return OneByOne([self.open_layers(one, num_threads) for one in single_layers(layers)])

    def time_classes(self, model: bytes, num_threads: int) -> PartTimer | None:
        """Load a model whose parts are the classes of layers; on the CPU only.

        Raises:
            ModelError: the runtime cannot load the model.
        """
        return profiled_classes(model, num_threads) if self.provider == PROVIDER else None

    def time_parts(
        self, model: Path, num_threads: int, inputs: Inputs, parts_of: PartsOf
    ) -> PartTimer | None:
        """Load an ONNX file whose parts are told by the caller; on the CPU only.

        Raises:
            ModelError: the runtime cannot load the model.
        """
        if self.provider != PROVIDER:
            return None
        return profiled_parts(model, parts_of, num_threads, inputs)
