"""The state of a sparsifier: saved, checked and restored."""

import copy
import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from cost_models.documents import dump_document
from spartan_planner.errors import TrainingError
from spartan_planner.planning import plan_fingerprint
from spartan_planner.training.competition import CompetitionState
from spartan_planner.training.planned_weight import PlannedWeight, assign_in_order

if TYPE_CHECKING:
    from spartan_planner.training.sparsifier import Sparsifier

_VERSION = 2
_TENSORS = ("latent", "soft", "kept", "kept_size")


class StateDict(TypedDict):
    """What :meth:`Sparsifier.state_dict` returns: numbers for JSON, and tensors by name."""

    numbers: dict[str, Any]
    tensors: dict[str, Tensor]


def saved(sparsifier: "Sparsifier") -> StateDict:
    """Return the state of a sparsifier after an optimizer step."""
    numbers = {
        **_identity(sparsifier),
        "num_steps_done": sparsifier.num_steps_done,
        "is_frozen": sparsifier.is_frozen,
        "competition": dataclasses.asdict(sparsifier._competition.state),
    }
    tensors = {
        f"{weight.name}.{kind}": tensor
        for weight in sparsifier._weights
        for kind, tensor in _tensors(weight).items()
    }
    channels = sparsifier._channels
    if channels:
        numbers["channels"] = channels.numbers()
        tensors.update(channels.tensors())
    return {"numbers": numbers, "tensors": tensors}


def _tensors(weight: PlannedWeight) -> dict[str, Tensor]:
    """Return what a weight holds beside its parameter, in the parameter's order of dimensions."""
    held = {
        "latent": None if weight.latent is None else weight.as_whole(weight.latent),
        "soft": weight.soft_grid,
        "kept": None if weight.kept is None else weight.as_whole(weight.kept),
        "kept_size": weight.kept_size,
    }
    return {kind: tensor for kind, tensor in held.items() if tensor is not None}


def restore(sparsifier: "Sparsifier", state: StateDict) -> None:
    """Bring a sparsifier to a saved state, whose tensors are copied; nothing changes on errors.

    Raises:
        TrainingError: the state belongs to another run, or the weights to another moment.
    """
    numbers = state["numbers"]
    _require_same_run(_identity(sparsifier), numbers)
    if sparsifier._channels:
        sparsifier._channels.restore(numbers.get("channels", {}), state["tensors"])
    weights = [_restored(weight, state["tensors"]) for weight in sparsifier._weights]
    for weight in weights:
        if not weight.is_untouched():
            raise TrainingError(
                f"parameter {weight.name!r} is not the sparse weight of the saved state; load the "
                "model's weights of the same moment first"
            )
    sparsifier._competition.weights = weights
    sparsifier._competition.state = CompetitionState(**copy.deepcopy(numbers["competition"]))
    sparsifier.num_steps_done = int(numbers["num_steps_done"])
    sparsifier._is_frozen = bool(numbers["is_frozen"])


def _identity(sparsifier: "Sparsifier") -> dict[str, Any]:
    """What a saved state and the sparsifier that it is loaded into have in common."""
    schedule = hashlib.sha256(dump_document(sparsifier.schedule).encode()).hexdigest()
    return {
        "version": _VERSION,
        "plan": plan_fingerprint(sparsifier.plan),
        "method": sparsifier.method.name,
        "schedule": schedule,
        "total_steps": sparsifier.total_steps,
    }


def _require_same_run(expected: dict[str, Any], found: dict[str, Any]) -> None:
    for key, value in expected.items():
        if found.get(key) != value:
            raise TrainingError(
                f"the saved state is of a run with {key} {found.get(key)}, this one has {value}; "
                "resume with the same plan, method, schedule and number of steps"
            )


def _restored(weight: PlannedWeight, tensors: dict[str, Tensor]) -> PlannedWeight:
    """Return a weight with the saved tensors, each in the memory order of the parameter."""
    held: dict[str, Tensor | None] = {}
    for kind in _TENSORS:
        tensor = tensors.get(f"{weight.name}.{kind}")
        held[kind] = None if tensor is None else _placed(weight, kind, tensor)
    restored = dataclasses.replace(weight, **held)  # type: ignore[arg-type]
    assignment = assign_in_order(restored.dense, restored.layout, restored.order)[1]
    return dataclasses.replace(restored, assignment=assignment)


def _placed(weight: PlannedWeight, kind: str, tensor: Tensor) -> Tensor:
    device = weight.local.device
    if kind == "soft":
        return weight.soft_of(tensor.detach()).to(device).clone()
    if kind == "kept_size":
        return tensor.detach().to(device).clone()
    if tensor.shape != weight.parameter.shape:
        raise TrainingError(
            f"the saved state holds a {kind} of shape {tuple(tensor.shape)} for parameter "
            f"{weight.name!r} of shape {tuple(weight.parameter.shape)}; it is of another model"
        )
    return torch.empty_like(weight.local).copy_(weight.part_of(tensor))
