"""What a checkpoint holds: all that the rest of a run depends on."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim import Optimizer

from spartan_planner.checkpoints import load_weights, save_tensors
from spartan_planner.errors import DocumentError
from spartan_planner.training.sharded_model import spread_alike
from spartan_planner.training.sharding import whole_tensors
from spartan_planner.training.state_files import read_state, write_state

MODEL, STATE = "model.safetensors", "state"
"""Names in a checkpoint's folder: the sparse weights; all the rest, as ``state.*``."""


def collect_weights(accelerator: Accelerator, model: nn.Module) -> dict[str, Tensor]:
    """Return the model's tensors, whole on the main process; called on every process."""
    weights: dict[str, Tensor] = whole_tensors(model.state_dict(), accelerator.is_main_process)
    return weights


def collect_state(accelerator: Accelerator, parts: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a run beside its model; called on every process.

    Args:
        accelerator: whose scaler and processes these are.
        parts: what has a ``state_dict``, by name: optimizer, scheduler, sparsifier.

    Returns:
        The state; of tensors that are spread over processes the main one has the whole.
    """
    held = {name: part.state_dict() for name, part in parts.items()}
    state = whole_tensors(held, accelerator.is_main_process)
    scaler = accelerator.scaler
    return {
        **state,
        "scaler": scaler.state_dict() if scaler else None,
        "generators": gather_object([_generator_states(accelerator.device)]),
    }


def write_run_state(folder: Path, weights: Mapping[str, Tensor], state: dict[str, Any]) -> None:
    """Write the model's tensors and the state into the folder of a checkpoint.

    Raises:
        DocumentError: a file cannot be written.
    """
    save_tensors(weights, folder / MODEL)
    write_state(folder, STATE, state)


def restore_state(
    folder: Path, accelerator: Accelerator, model: nn.Module, parts: dict[str, Any]
) -> dict[str, Any]:
    """Put the state of a checkpoint into model, parts, scaler and generators; on every process.

    Args:
        folder: of the checkpoint.
        accelerator: as in :func:`collect_state`.
        model: takes the weights.
        parts: as in :func:`collect_state`.

    Returns:
        The whole state, as it was written.

    Raises:
        DocumentError: the checkpoint cannot be read, or belongs to another run.
        ModelError: it holds the weights of another model.
    """
    load_weights(model, folder / MODEL, spread_alike)
    state: dict[str, Any] = read_state(folder, STATE)
    try:
        for name, part in parts.items():
            held = spread_state(part, state[name]) if isinstance(part, Optimizer) else state[name]
            part.load_state_dict(held)
        if accelerator.scaler:
            accelerator.scaler.load_state_dict(state["scaler"])
        _restore_generators(state["generators"][accelerator.process_index], accelerator.device)
    except (LookupError, ValueError, TypeError) as error:
        raise DocumentError(f"checkpoint {folder} belongs to another run: {error}") from error
    return state


def spread_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state with what is of a parameter's shape spread as that is."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    placed = {
        index: {
            key: spread_alike(parameters[index], item) if isinstance(item, Tensor) else item
            for key, item in items.items()
        }
        for index, items in state["state"].items()
    }
    return {**state, "state": placed}


def _generator_states(device: torch.device) -> dict[str, Any]:
    version, words, gauss = random.getstate()
    return {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 - transformations use it
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _restore_generators(states: dict[str, Any], device: torch.device) -> None:
    python = states["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(_as_arrays(states["numpy"]))  # noqa: NPY002 - as above
    torch.set_rng_state(states["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def _as_arrays(tree: Any) -> Any:  # noqa: ANN401 - NumPy's state
    if isinstance(tree, dict):
        return {key: _as_arrays(value) for key, value in tree.items()}
    return tree.numpy() if isinstance(tree, Tensor) else tree
