"""Inference runtimes that can be measured, by name; each is imported when it is asked for."""

import importlib
from collections.abc import Callable

from spartan_planner.errors import UnknownNameError, UsageError
from spartan_planner.runtimes.protocol import (
    LAYER_CLASSES,
    LayerSet,
    PartsOf,
    PartTimer,
    RunNode,
    Runtime,
    Session,
    layer_class,
)

__all__ = [
    "DEFAULT_RUNTIME",
    "LAYER_CLASSES",
    "RUNTIMES",
    "LayerSet",
    "PartTimer",
    "PartsOf",
    "RunNode",
    "Runtime",
    "Session",
    "layer_class",
    "load_runtime",
]

DEFAULT_RUNTIME = "onnxruntime"
RUNTIMES = {
    "onnxruntime": ("onnx_runtime", "OnnxRuntime", "onnxruntime"),
    "openvino": ("openvino_runtime", "OpenVinoRuntime", "spartan-planner[openvino]"),
    "torch": ("torch_runtime", "TorchRuntime", "torch"),
}
"""Name to module, class, and what to install."""


def load_runtime(name: str = DEFAULT_RUNTIME, provider: str = "") -> Runtime:
    """Return a runtime.

    Args:
        name: one of :data:`RUNTIMES`.
        provider: what of the runtime shall compute, in its own words; the CPU by default.

    Raises:
        UnknownNameError: nothing is known by the name, or the runtime has no such provider here.
        UsageError: the runtime is not installed.
    """
    if name not in RUNTIMES:
        raise UnknownNameError(f"runtime {name!r} is not known; choose {', '.join(RUNTIMES)}")
    module, class_name, package = RUNTIMES[name]
    try:
        room = importlib.import_module(f"{__name__}.{module}")
    except ImportError as error:
        raise UsageError(
            f"runtime {name} cannot be imported ({error}); install it: pip install '{package}'"
        ) from error
    make: Callable[[str], Runtime] = getattr(room, class_name)
    return make(provider)
