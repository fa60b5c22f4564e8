"""Torch's own operations as a runtime to measure: eager, without gradients."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from cost_models import CostModelError, LayerShape, Layout
from spartan_planner.errors import ModelError, UnknownNameError
from spartan_planner.runtimes.bursts import burst_ms, time_ms
from spartan_planner.runtimes.one_by_one import OneByOne
from spartan_planner.runtimes.protocol import Inputs, LayerSet, PartsOf, PartTimer, Session

CPU = "cpu"

_CONVOLUTIONS: dict[str, Callable[..., Tensor]] = {
    "conv1d": functional.conv1d,
    "conv2d": functional.conv2d,
    "conv3d": functional.conv3d,
    "conv_transpose1d": functional.conv_transpose1d,
    "conv_transpose2d": functional.conv_transpose2d,
    "conv_transpose3d": functional.conv_transpose3d,
}

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class TorchSession:
    """Operations to run one after another.

    Attributes:
        runs: the operations.
        num_threads: threads of torch, set anew before each run since it is the process's figure.
        device: where they compute.
    """

    runs: Sequence[Run]
    num_threads: int
    device: torch.device

    def run(self) -> None:
        """Run once and wait until the device is done."""
        if torch.get_num_threads() != self.num_threads:
            torch.set_num_threads(self.num_threads)
        with torch.inference_mode():
            for run in self.runs:
                run()
        if self.device.type != CPU:
            torch.accelerator.synchronize()

    def time_ms(self) -> float:
        """Run once and return the time that it took."""
        return time_ms(self.run)

    def burst_ms(self) -> float:
        """Run until warm and return the median time of the next few runs."""
        return burst_ms(self.run)


class TorchRuntime:
    """Torch's operations, eager, in float32.

    A layer's time holds the call from Python, as it does in an eager model.

    Args:
        provider: device, such as ``cpu`` (the default) or ``cuda``.

    Raises:
        UnknownNameError: torch has no such device here.
    """

    name = "torch"
    runs_onnx = False

    def __init__(self, provider: str = "") -> None:
        self.version = str(torch.__version__)
        self.provider = provider or CPU
        known = available_devices()
        if self.provider not in known:
            raise UnknownNameError(
                f"torch has no device {self.provider!r} here; choose {', '.join(known)}"
            )
        self._device = torch.device(self.provider)

    def open(self, model: bytes | Path, num_threads: int, inputs: Inputs | None = None) -> Session:  # noqa: ARG002
        """Refuse: torch runs no ONNX file.

        Raises:
            ModelError: always.
        """
        raise ModelError("torch runs no ONNX model; choose runtime onnxruntime or openvino")

    def time_classes(self, model: bytes, num_threads: int) -> PartTimer | None:  # noqa: ARG002
        """Refuse: torch runs no ONNX file.

        Raises:
            ModelError: always.
        """
        raise ModelError("torch runs no ONNX model; choose runtime onnxruntime or openvino")

    def time_parts(
        self,
        model: Path,  # noqa: ARG002
        num_threads: int,  # noqa: ARG002
        inputs: Inputs,  # noqa: ARG002
        parts_of: PartsOf,  # noqa: ARG002
    ) -> PartTimer | None:
        """Refuse: torch runs no ONNX file.

        Raises:
            ModelError: always.
        """
        raise ModelError("torch runs no ONNX model; choose runtime onnxruntime or openvino")

    def open_layers(self, layers: LayerSet, num_threads: int) -> Session:
        """Load layers to be timed as a whole.

        Raises:
            CostModelError: a layer of an element type that is not measured.
        """
        return TorchSession(self.operations(layers), num_threads, self._device)

    def time_layers(self, layers: LayerSet, num_threads: int) -> PartTimer:
        """Load layers whose parts are the layers, in order.

        Raises:
            CostModelError: a layer of an element type that is not measured.
        """
        return OneByOne(
            [TorchSession([run], num_threads, self._device) for run in self.operations(layers)]
        )

    def operations(self, layers: LayerSet) -> list[Run]:
        """Return the operation of each layer.

        Raises:
            CostModelError: a layer of an element type that is not measured.
        """
        generator = torch.Generator().manual_seed(0)
        kept = layers.num_kept_blocks or (0,) * len(layers.shapes)
        return [
            _operation(shape, layers.layout, count, generator, self._device)
            for shape, count in zip(layers.shapes, kept, strict=True)
        ]


def available_devices() -> list[str]:
    """Return the devices that torch can compute on here."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return [CPU, *([accelerator.type] if accelerator else [])]


def _operation(
    shape: LayerShape,
    layout: Layout | None,
    num_kept_blocks: int,
    generator: torch.Generator,
    device: torch.device,
) -> Run:
    if shape.dtype != "float32":
        raise CostModelError(
            f"layer shape {shape.label()} has weights of type {shape.dtype}; "
            "only float32 is measured"
        )
    if layout is not None:
        num_kept_inputs = num_kept_blocks * layout.balanced_step
        if num_kept_inputs < shape.weight_shape[1]:
            return _lowered(shape, layout.tile_outputs, num_kept_inputs, generator, device)
    weight = _noise(shape.weight_shape, generator, device)
    if shape.op == "embedding":
        indices = torch.zeros(shape.input_shape, dtype=torch.int64, device=device)
        return lambda: functional.embedding(indices, weight)
    source = _noise(shape.input_shape, generator, device)
    if shape.op == "linear":
        bias = _bias(shape, shape.weight_shape[0], device)
        return lambda: functional.linear(source, weight, bias)
    return _convolution(shape, source, weight, shape.groups)


def _lowered(
    shape: LayerShape,
    group_size: int,
    num_kept_inputs: int,
    generator: torch.Generator,
    device: torch.device,
) -> Run:
    """The channels of each group of outputs gathered, then one convolution with as many groups."""
    outputs, inputs, *kernel = shape.weight_shape
    num_groups = math.ceil(outputs / group_size)
    chosen = [
        torch.randperm(inputs, generator=generator)[:num_kept_inputs].sort().values
        for _ in range(num_groups)
    ]
    channels = torch.cat(chosen).to(device)
    weight = _noise((outputs, num_kept_inputs, *kernel), generator, device)
    source = _noise(shape.input_shape, generator, device)

    def run() -> Tensor:
        return _convolve(shape, source.index_select(1, channels), weight, num_groups, bias)

    bias = _bias(shape, outputs, device)
    return run


def _convolution(shape: LayerShape, source: Tensor, weight: Tensor, groups: int) -> Run:
    transposed = shape.op.startswith("conv_transpose")
    num_outputs = weight.shape[1] * groups if transposed else weight.shape[0]
    bias = _bias(shape, num_outputs, weight.device)
    return lambda: _convolve(shape, source, weight, groups, bias)


def _convolve(
    shape: LayerShape, source: Tensor, weight: Tensor, groups: int, bias: Tensor | None
) -> Tensor:
    return _CONVOLUTIONS[shape.op](
        source,
        weight,
        bias,
        stride=shape.stride or 1,
        padding=shape.padding or 0,
        dilation=shape.dilation or 1,
        groups=groups,
    )


def _noise(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randn(tuple(shape), generator=generator).to(device)


def _bias(shape: LayerShape, num_outputs: int, device: torch.device) -> Tensor | None:
    return torch.zeros(num_outputs, device=device) if shape.has_bias else None
