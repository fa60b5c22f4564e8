"""ONNX Runtime sessions with the threads and the silence that measuring needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from spartan_planner.errors import ModelError
from spartan_planner.runtimes.bursts import burst_ms, time_ms

PROVIDER = "CPUExecutionProvider"
_ERRORS_ONLY = 3


@dataclass(frozen=True)
class Session:
    """A loaded model and inputs to run it on."""

    inference: onnxruntime.InferenceSession
    inputs: Mapping[str, NDArray[np.generic]]

    def run(self) -> list[NDArray[np.generic]]:
        """Run once and return the outputs."""
        try:
            outputs: list[NDArray[np.generic]] = self.inference.run(None, self.inputs)
        except Exception as error:
            shapes = ", ".join(str(array.shape) for array in self.inputs.values())
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"ONNX Runtime cannot run the model on inputs of shape {shapes}: {reason}"
            ) from error
        return outputs

    def time_ms(self) -> float:
        """Run once and return the time that it took."""
        return time_ms(self.run)

    def burst_ms(self) -> float:
        """Run until warm and return the median time of the next few runs."""
        return burst_ms(self.run)


def session_options(num_threads: int) -> onnxruntime.SessionOptions:
    """Return the runtime's default options, pinned to a number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    return options


def open_session(
    model: bytes | Path,
    inputs: Mapping[str, NDArray[np.generic]] | None = None,
    options: onnxruntime.SessionOptions | None = None,
    provider: str = PROVIDER,
) -> Session:
    """Load a model, from memory or a file.

    Args:
        model: serialized model or its path.
        inputs: what :meth:`Session.run` feeds; standard normal noise of batch 1 by default.
        options: session options; one thread by default.
        provider: execution provider.

    Raises:
        ModelError: the runtime cannot load the model.
    """
    source = str(model) if isinstance(model, Path) else model
    try:
        inference = onnxruntime.InferenceSession(
            source, options or session_options(1), providers=[provider]
        )
    except Exception as error:
        named = model if isinstance(model, Path) else "a generated model"
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"ONNX Runtime cannot load {named}: {reason}") from error
    return Session(inference, inputs if inputs is not None else random_inputs(inference))


def random_inputs(
    inference: onnxruntime.InferenceSession,
    shapes: Sequence[Sequence[int]] = (),
    seed: int = 0,
) -> dict[str, NDArray[np.generic]]:
    """Return standard normal (or, for integers, zero) inputs.

    Args:
        inference: the loaded model.
        shapes: one per input; without them sizes that the model leaves open become 1.
        seed: of the generator.

    Raises:
        ModelError: an input has an element type that cannot be made up.
    """
    generator = np.random.default_rng(seed)
    inputs: dict[str, NDArray[np.generic]] = {}
    for index, item in enumerate(inference.get_inputs()):
        shape = [size if isinstance(size, int) and size > 0 else 1 for size in item.shape]
        if shapes:
            shape = list(shapes[index])
        match item.type:
            case "tensor(float)":
                inputs[item.name] = generator.standard_normal(shape, np.float32)
            case "tensor(float16)":
                inputs[item.name] = generator.standard_normal(shape, np.float32).astype(np.float16)
            case "tensor(double)":
                inputs[item.name] = generator.standard_normal(shape)
            case "tensor(int64)":
                inputs[item.name] = np.zeros(shape, np.int64)
            case "tensor(int32)":
                inputs[item.name] = np.zeros(shape, np.int32)
            case "tensor(bool)":
                inputs[item.name] = np.ones(shape, np.bool_)
            case other:
                raise ModelError(f"input {item.name} of type {other} cannot be made up; give one")
    return inputs
