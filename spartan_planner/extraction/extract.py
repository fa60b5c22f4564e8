"""One forward pass, watched, becomes a workload."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from cost_models import UnpricedOperation, Workload
from spartan_planner.errors import ModelError
from spartan_planner.extraction.layers import layer_of, products_of
from spartan_planner.extraction.recorder import Recorder
from spartan_planner.lazy_parameters import with_known_shapes
from spartan_planner.torchvision_operators import operators_hint

ASKS_FOR_IDS = "scalar types: Long, Int"
"""What torch says where real numbers are looked up in a table."""


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

    Parameters may be on the meta device or fake tensors: then nothing is computed, and a model too
    large for memory is described as well.

    Args:
        model: any module that runs on ``example_inputs``.
        example_inputs: one tensor or the positional arguments; their first dimension is the
            batch.
        model_name: what the user calls the model.

    Raises:
        ModelError: the model does not run, or no operation consumes a weight.
    """
    with_known_shapes(model, model_name)
    inputs = inputs_for(model, example_inputs)
    batch_size = _batch_size(inputs)
    recorder = Recorder(model)
    try:
        with everything_visible(model), recorder:
            model(*inputs)
    except (Exception, SystemExit) as error:
        raise ModelError(_does_not_run(model, model_name, inputs, error)) from error
    if not recorder.uses:
        raise ModelError(f"{model_name} has no weight that a convolution or product consumes")
    return Workload(
        schema_version=2,
        model=model_name,
        fingerprint=model_fingerprint(model),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=tuple(layer_of(name, uses, batch_size) for name, uses in recorder.uses.items()),
        unpriced=tuple(
            UnpricedOperation(op, len(sizes), sum(sizes))
            for op, sizes in sorted(recorder.unpriced.items())
        ),
        products=products_of(recorder.products, batch_size),
    )


def _does_not_run(
    model: nn.Module, model_name: str, inputs: Sequence[Tensor], error: BaseException
) -> str:
    shapes = " and ".join(
        f"{tuple(item.shape)} ({str(item.dtype).removeprefix('torch.')})" for item in inputs
    )
    reason = " ".join(str(error).split())[:300]
    if isinstance(error, SystemExit):
        reason = f"it ends the program with {error!r}"
    advice = operators_hint(reason) or _advice(reason, inputs)
    meta = _META_HINT if _is_on_meta(model) else ""
    return f"{model_name} does not run on inputs of shape {shapes}: {reason}; {advice}{meta}"


def _advice(reason: str, inputs: Sequence[Tensor]) -> str:
    """What to change about example inputs, by what torch says of them."""
    if ASKS_FOR_IDS in reason and any(item.is_floating_point() for item in inputs):
        return "it looks its inputs up in a table: give ids, int64, with --inputs"
    if "missing" in reason and "argument" in reason:
        return "give an input for each argument: --input-shape '1,16;1,16', or an .npz of --inputs"
    if any(text in reason for text in ("scalar type", "dtype", "same type")):
        return "check the element types of its inputs (--inputs)"
    return "check the shapes of its inputs (--input-shape or --inputs)"


_META_HINT = ", or leave out --meta: what a model decides by values does not run without them"


def _is_on_meta(model: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in model.parameters())


def inputs_for(model: nn.Module, example_inputs: Sequence[Tensor] | Tensor) -> tuple[Tensor, ...]:
    """Return example inputs as positional arguments on the model's device, fake if it is fake."""
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    parameter: Any = next(model.parameters(), None)
    if isinstance(parameter, FakeTensor):
        mode = parameter.fake_mode
        inputs = tuple(
            item if isinstance(item, FakeTensor) else mode.from_tensor(item) for item in inputs
        )
    return inputs if parameter is None else tuple(item.to(parameter.device) for item in inputs)


def _batch_size(example_inputs: Sequence[Tensor]) -> int:
    if not example_inputs or example_inputs[0].dim() == 0:
        raise ModelError("example inputs need at least one tensor with a batch dimension")
    return int(example_inputs[0].shape[0])


@contextmanager
def everything_visible(model: nn.Module) -> Iterator[None]:
    """Evaluate without gradients and with no kernel that hides the products inside it."""
    parameter: Any = next(model.parameters(), None)
    were_training = [module for module in model.modules() if module.training]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    backends: Any = torch.backends
    mkldnn, cudnn = backends.mkldnn.enabled, backends.cudnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    # These two run a whole LSTM in one kernel.
    backends.mkldnn.enabled = backends.cudnn.enabled = False
    model.eval()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if isinstance(parameter, FakeTensor):
                stack.enter_context(parameter.fake_mode)
            elif parameter is not None and parameter.is_meta:
                # Tensors that the model makes on the way belong there too.
                stack.enter_context(torch.device("meta"))
            yield
    finally:
        for module in were_training:
            module.training = True
        torch.backends.mha.set_fastpath_enabled(fast_path)
        backends.mkldnn.enabled, backends.cudnn.enabled = mkldnn, cudnn
