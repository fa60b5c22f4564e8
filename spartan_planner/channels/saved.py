"""Smaller models on disk: one safetensors file from which the original class rebuilds them."""

import copy
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cost_models.documents import write_atomically
from spartan_planner.channels.attributes import is_settable
from spartan_planner.channels.record import ChannelRecord, KeptPlaces, keep_record, record_of
from spartan_planner.channels.removal import cut, narrow_attention, state_sizes
from spartan_planner.channels.selection import tensors_of
from spartan_planner.errors import DocumentError, ModelError

_KEY = "spartan_planner_channels"
_RECORDS = TypeAdapter(ChannelRecord)


def save_pruned(model: nn.Module, path: Path) -> None:
    """Write a model with what was removed from it, whole or not at all.

    The file is a safetensors file of the model's parameters and buffers; its metadata holds the
    :class:`~spartan_planner.channels.record.ChannelRecord` as JSON.

    Args:
        model: as :func:`remove_channels` made it, fine-tuned or not.
        path: the file.

    Raises:
        DocumentError: the file cannot be written.
    """
    state = {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in model.state_dict().items()
    }
    metadata = {_KEY: _RECORDS.dump_json(record_of(model)).decode()}
    try:
        write_atomically(path, lambda temporary: save_file(state, temporary, metadata))
    except SafetensorError as error:
        raise DocumentError(f"{path} cannot be written: {error}") from error


def load_pruned(model: nn.Module, path: Path) -> nn.Module:
    """Return the saved smaller model, rebuilt from a fresh one of the original class.

    Args:
        model: of the class and sizes that the saved model was made from, nothing removed; stays as
            it is.
        path: a file that :func:`save_pruned` wrote.

    Raises:
        DocumentError: the file is missing, cut off, or not one that :func:`save_pruned` wrote.
        ModelError: the file was made from another model.
    """
    record, state = _read(path)
    _require_original(model, record, path)
    smaller = copy.deepcopy(model)
    narrow_attention(smaller, record.narrowed)
    cut(smaller, record.places)
    state_sizes(smaller, {(item.module, item.attribute): item.value for item in record.sizes})
    keep_record(smaller, record)
    try:
        smaller.load_state_dict(state)
    except RuntimeError as error:
        problem = str(error).split("\n\t")[-1].strip()
        raise ModelError(f"{path} was not made from this model: {problem}") from error
    return smaller


def _read(path: Path) -> tuple[ChannelRecord, dict[str, Tensor]]:
    if not path.is_file():
        raise DocumentError(f"{path} does not exist; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DocumentError(
            f"{path} is not a safetensors file, or it is cut off ({error}); save it or copy it "
            "again"
        ) from error
    if text is None:
        raise DocumentError(
            f"{path} does not say which channels are left; write it with save_pruned"
        )
    try:
        return _RECORDS.validate_json(text), state
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DocumentError(
            f"{path} does not say properly which channels are left: {first['msg']}; write it with "
            "save_pruned of this version"
        ) from error


def _require_original(model: nn.Module, record: ChannelRecord, path: Path) -> None:
    """Refuse a model that is not what the saved one was made from."""
    if record_of(model).places:
        raise ModelError("channels were removed from this model before; load into a fresh one")
    tensors = tensors_of(model)
    for item in record.places:
        if not _fits(tensors, item):
            raise ModelError(
                f"{path} was not made from this model: it asks for {item.tensor!r} with "
                f"{item.original_size} places along dimension {item.dim}"
            )
    _require_sizes(model, record, path)


def _fits(tensors: dict[str, Tensor], item: KeptPlaces) -> bool:
    tensor = tensors.get(item.tensor)
    return (
        tensor is not None
        and item.dim < tensor.dim()
        and tensor.shape[item.dim] == item.original_size
    )


def _require_sizes(model: nn.Module, record: ChannelRecord, path: Path) -> None:
    modules = dict(model.named_modules())
    stated: Sequence[tuple[str, str]] = [(item.module, item.attribute) for item in record.sizes]
    for module, attribute in stated:
        held = getattr(modules.get(module), attribute, None) if is_settable(attribute) else None
        if type(held) is not int:
            raise ModelError(
                f"{path} was not made from this model: it states {attribute!r} of {module!r}"
            )
    for name in record.narrowed:
        if not isinstance(modules.get(name), nn.MultiheadAttention):
            raise ModelError(
                f"{path} was not made from this model: {name!r} is no multi-head attention"
            )
