"""Weights on disk: safetensors, written whole or not at all."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cost_models.documents import write_atomically
from spartan_planner.errors import DocumentError, ModelError


def save_weights(model: nn.Module, path: Path) -> None:
    """Write parameters and buffers as safetensors.

    Raises:
        DocumentError: the file cannot be written.
    """
    save_tensors(model.state_dict(), path)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write named tensors as safetensors.

    Raises:
        DocumentError: the file cannot be written.
    """
    # Tied tensors share memory, which the format refuses; each name gets its own copy.
    state = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    try:
        write_atomically(path, lambda temporary: save_file(state, temporary))
    except SafetensorError as error:
        raise DocumentError(f"{path} cannot be written: {error}") from error


def load_weights(
    model: nn.Module, path: Path, place: Callable[[Tensor, Tensor], Tensor] | None = None
) -> None:
    """Load a ``.safetensors`` file, or a torch file that holds nothing but tensors.

    Args:
        model: takes the weights.
        path: the file.
        place: called with a tensor of the model and its weights from the file, to bring the latter
            to where and how the former is.

    Raises:
        DocumentError: the file is missing or cannot be read.
        ModelError: the file holds the weights of another model.
    """
    state = _read_state(path)
    if place:
        held = model.state_dict()
        state = {name: place(held[name], t) if name in held else t for name, t in state.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        problem = str(error).split("\n\t")[-1].strip()
        raise ModelError(f"checkpoint {path} does not fit the model: {problem}") from error


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DocumentError(f"checkpoint {path} does not exist; check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise DocumentError(
            f"checkpoint {path} is not a safetensors file, or it is cut off ({error}); save it or "
            "copy it again"
        ) from error
    except OSError as error:
        raise DocumentError(f"checkpoint {path} cannot be read: {error}") from error
    except Exception as error:
        raise DocumentError(_not_of_tensors(path)) from error
    if not isinstance(state, dict):
        raise DocumentError(f"checkpoint {path} holds {type(state).__name__}, not named tensors")
    nested = state.get("state_dict", state)
    return {str(name): tensor for name, tensor in nested.items()}


def _not_of_tensors(path: Path) -> str:
    """Torch's own words would recommend to run what the file holds."""
    if not zipfile.is_zipfile(path):
        return (
            f"checkpoint {path} is neither a safetensors nor a torch file of tensors, or it is cut "
            "off; write it with safetensors, or with torch.save(model.state_dict(), PATH)"
        )
    return (
        f"checkpoint {path} holds more than tensors (a whole model, or an optimizer's state); save "
        "the weights alone: torch.save(model.state_dict(), PATH)"
    )
