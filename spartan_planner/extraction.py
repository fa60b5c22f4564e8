"""From a torch model to a workload: every weight found through the operation that consumes it."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cost_models import LayerShape, LayerWorkload, UnpricedOperation, Workload
from cost_models.workload import Op, SlicedWeight
from spartan_planner.errors import ModelError

_aten = torch.ops.aten
_DATA_MOVEMENT = frozenset({"clone", "copy_", "_to_copy", "contiguous", "empty", "zeros", "ones"})


def model_fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 over the names and shapes of all parameters, in order.

    It stays the same while the model is trained and differs for another architecture.
    """
    lines = [f"{name} {tuple(parameter.shape)}" for name, parameter in model.named_parameters()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def extract_workload(
    model: nn.Module, example_inputs: Sequence[Tensor] | Tensor, model_name: str
) -> Workload:
    """Run the model once and describe what each weight did.

    Args:
        model: any module that runs on ``example_inputs``.
        example_inputs: one tensor or the positional arguments; their first dimension is the
            batch.
        model_name: what the user calls the model.

    Raises:
        ModelError: the model does not run, or no operation consumes a weight.
    """
    inputs = inputs_for(model, example_inputs)
    recorder = _Recorder(model, _batch_size(inputs))
    was_training = model.training
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # The fused attention kernels hide the products that consume the weights.
    torch.backends.mha.set_fastpath_enabled(False)
    model.eval()
    try:
        with torch.no_grad(), recorder:
            model(*inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(item.shape)) for item in inputs)
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{model_name} does not run on inputs of shape {shapes}: {reason}; check --input-shape"
        ) from error
    finally:
        model.train(was_training)
        torch.backends.mha.set_fastpath_enabled(fast_path)
    if not recorder.uses:
        raise ModelError(f"{model_name} has no weight that a convolution or product consumes")
    return Workload(
        schema_version=2,
        model=model_name,
        fingerprint=model_fingerprint(model),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=tuple(_layer(name, uses) for name, uses in recorder.uses.items()),
        unpriced=tuple(
            UnpricedOperation(op, len(sizes), sum(sizes))
            for op, sizes in sorted(recorder.unpriced.items())
        ),
    )


def inputs_for(model: nn.Module, example_inputs: Sequence[Tensor] | Tensor) -> tuple[Tensor, ...]:
    """Return example inputs as positional arguments on the model's device."""
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    parameter = next(model.parameters(), None)
    return inputs if parameter is None else tuple(item.to(parameter.device) for item in inputs)


def _batch_size(example_inputs: Sequence[Tensor]) -> int:
    if not example_inputs or example_inputs[0].dim() == 0:
        raise ModelError("example inputs need at least one tensor with a batch dimension")
    return int(example_inputs[0].shape[0])


@dataclass(frozen=True)
class _Use:
    """One operation that consumed a weight: its shape there and its multiply-adds per sample."""

    shape: LayerShape
    num_parameter_elements: int
    positions: float


@dataclass
class _Recorder(TorchDispatchMode):
    """Watches the operations of a forward pass."""

    model: nn.Module
    batch_size: int
    uses: dict[str, list[_Use]] = field(default_factory=dict)
    unpriced: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = {
            _storage(parameter): (name, parameter)
            for name, parameter in self.model.named_parameters()
        }

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self,
        func,  # noqa: ANN001
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        output = func(*args, **(kwargs or {}))
        reader = _READERS.get(func.overloadpacket)
        consumed = reader(args, output) if reader else None
        if consumed is None or not self._record(*consumed):
            self._note_unpriced(func, output)
        return output

    def _record(self, weight: Tensor, shape: LayerShape, rows: int) -> bool:
        known = self._names.get(_storage(weight))
        if known is None:
            return False
        name, parameter = known
        positions = rows * weight.numel() / (self.batch_size * parameter.numel())
        self.uses.setdefault(name, []).append(_Use(shape, parameter.numel(), positions))
        return True

    def _note_unpriced(self, func: Any, output: object) -> None:  # noqa: ANN401
        name = func.overloadpacket.__name__
        if func.is_view or name in _DATA_MOVEMENT:
            return
        outputs = output if isinstance(output, tuple | list) else (output,)
        size = sum(item.numel() for item in outputs[:1] if isinstance(item, Tensor))
        self.unpriced.setdefault(name, []).append(size)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _layer(name: str, uses: list[_Use]) -> LayerWorkload:
    shape, num_elements = uses[0].shape, uses[0].num_parameter_elements
    is_sliced = any(use.shape.num_weights != num_elements for use in uses)
    positions = sum(use.positions for use in uses)
    return LayerWorkload(
        name=name,
        shape=shape,
        positions=max(1, math.ceil(positions)),
        num_uses=sum(use.shape == shape for use in uses),
        prunable=not is_sliced and shape.op != "embedding",
        further_shapes=tuple(use.shape for use in uses if use.shape != shape),
        sliced=SlicedWeight(num_elements, round(positions * num_elements)) if is_sliced else None,
    )


_Consumed = tuple[Tensor, LayerShape, int]


def _read_convolution(args: Sequence[Any], output: Tensor) -> _Consumed:
    source, weight, bias, stride, padding, dilation, transposed, _, groups = args[:9]
    num_dimensions = weight.dim() - 2
    names: dict[tuple[int, bool], Op] = {
        (1, False): "conv1d",
        (2, False): "conv2d",
        (3, False): "conv3d",
        (1, True): "conv_transpose1d",
        (2, True): "conv_transpose2d",
        (3, True): "conv_transpose3d",
    }
    shape = LayerShape(
        op=names[num_dimensions, bool(transposed)],
        weight_shape=tuple(weight.shape),
        input_shape=tuple(source.shape),
        groups=groups,
        stride=_per_dimension(stride, num_dimensions),
        padding=_per_dimension(padding, num_dimensions),
        dilation=_per_dimension(dilation, num_dimensions),
        has_bias=bias is not None,
        dtype=_dtype(weight),
    )
    places = source if transposed else output
    return weight, shape, places.shape[0] * math.prod(places.shape[2:])


def _per_dimension(figures: Sequence[int], num_dimensions: int) -> tuple[int, ...]:
    return tuple(figures) if len(figures) == num_dimensions else (figures[0],) * num_dimensions


def _read_addmm(args: Sequence[Any], output: Tensor) -> _Consumed | None:
    return _product(args[1], args[2], has_bias=True, output=output)


def _read_product(args: Sequence[Any], output: Tensor) -> _Consumed | None:
    return _product(args[0], args[1], has_bias=False, output=output)


def _product(left: Tensor, right: Tensor, has_bias: bool, output: Tensor) -> _Consumed | None:
    # Activations stand on the left of a linear layer's product; a weight on the left is rare but
    # real, and is told by being a parameter itself.
    if isinstance(left, nn.Parameter):
        left, right = right.mT, left.mT
    if right.dim() != 2:
        return None
    shape = LayerShape(
        op="linear",
        weight_shape=(right.shape[1], right.shape[0]),
        input_shape=tuple(left.shape),
        has_bias=has_bias,
        dtype=_dtype(right),
    )
    return right, shape, output.numel() // right.shape[1]


def _read_embedding(args: Sequence[Any], output: Tensor) -> _Consumed:  # noqa: ARG001
    weight, indices = args[:2]
    shape = LayerShape(
        op="embedding",
        weight_shape=tuple(weight.shape),
        input_shape=tuple(indices.shape),
        dtype=_dtype(weight),
    )
    return weight, shape, indices.numel()


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


_READERS: dict[Any, Callable[[Sequence[Any], Any], _Consumed | None]] = {
    _aten.convolution: _read_convolution,
    _aten.addmm: _read_addmm,
    _aten.mm: _read_product,
    _aten.embedding: _read_embedding,
}
"""How to read each operation that can consume a weight."""
